//! Faults: put on the schedule, and injected into machines, disks, clocks and links when they are due.

use anyhow::Result;
use peer::{Input, leave::Departure};
use protocol::{
    machine::MachineId,
    member::{Admission, Withdrawal},
    revocation::Revocation,
    signature::Ed25519Signer,
    statement::Statement,
};

use crate::{
    disk::{Contents, Disk},
    event::{Event, Number},
    event_log::Kind,
    machine::Machine,
    queue::Micros,
    random::{below, sample, uniform},
    scenario::{Strategy, What},
    schedule::{Step, micros},
    summary::Mark,
    swarm::Sabotage,
    world::World,
};

/// After this long, machines that were restarted have what they missed.
const CAUGHT_UP: Micros = 15_000_000;
/// A copied directory is started after this long.
const COPYING_TAKES: Micros = 1_000_000;

impl World {
    /// Puts the scenario's faults on the schedule, each up to a tenth earlier or later than it says.
    pub(crate) fn schedule_faults(&mut self) {
        for fault in self.swarm.scenario.faults.clone() {
            let at = fault.at_seconds * (0.9 + 0.2 * uniform(&mut self.swarm.random));
            match fault.what {
                What::Churn { machines, times, every_seconds } => {
                    for turn in 0..times {
                        let at = micros(at + turn as f64 * every_seconds);
                        let (leave, crash) = (machines / 2, machines - machines / 2);
                        self.schedule_at(at, Step::Begin(What::Leave { machines: leave }));
                        self.schedule_at(at, Step::Begin(What::Crash { machines: crash, back_after_seconds: None }));
                        self.schedule_at(at, Step::Begin(What::Join { machines, over_seconds: 0.5 * every_seconds }));
                    }
                }
                What::DiskRolledBack { machines, by_seconds, back_after_seconds } => {
                    let (rolled_back_in, down_for) = (micros(by_seconds), micros(back_after_seconds));
                    let remember = Step::RememberDisks { machines, rolled_back_in, down_for };
                    self.schedule_at(micros((at - by_seconds).max(1.0)), remember);
                }
                what => self.schedule_at(micros(at), Step::Begin(what)),
            }
        }
    }

    fn schedule_at(&mut self, at: Micros, step: Step) {
        let number = self.schedule.add(step);
        self.swarm.queue.schedule(at, Event::Fault(number));
    }

    /// Takes a step after so long.
    fn schedule_in(&mut self, after: Micros, step: Step) {
        self.schedule_at(self.swarm.queue.now() + after, step);
    }

    /// When the last fault is over, as far as the scenario tells.
    pub(crate) fn faults_end(&self) -> Micros {
        let end = |what: &What, at: f64| match what {
            What::Churn { times, every_seconds, .. } => at + *times as f64 * every_seconds,
            What::Partition { lasts_seconds, .. }
            | What::LinkLoss { lasts_seconds, .. }
            | What::AddressChange { lasts_seconds, .. }
            | What::FirstAway { lasts_seconds }
            | What::Sleep { lasts_seconds, .. }
            | What::DiskFull { lasts_seconds, .. } => at + lasts_seconds,
            What::DiskLies { lasts_seconds, back_after_seconds, .. } => at + lasts_seconds + back_after_seconds,
            What::Crash { back_after_seconds, .. } => at + back_after_seconds.unwrap_or_default(),
            _ => at,
        };
        let faults = &self.swarm.scenario.faults;
        micros(faults.iter().map(|fault| end(&fault.what, 1.1 * fault.at_seconds)).fold(0.0, f64::max))
    }

    /// The step of this number is due.
    pub(crate) fn take_step(&mut self, number: usize) -> Result<()> {
        let Some(step) = self.schedule.take(number) else { return Ok(()) };
        self.swarm.note(Kind::Injected, 0, 0, number as u64)?;
        self.inject(step)
    }

    fn inject(&mut self, step: Step) -> Result<()> {
        match step {
            Step::Begin(what) => {
                self.mark(match what {
                    What::Join { .. } => "join",
                    What::Leave { .. } => "leave",
                    What::Crash { .. } => "crash",
                    What::Partition { .. } => "partition",
                    What::LinkLoss { .. } => "link loss",
                    What::AddressChange { .. } => "new address",
                    What::FirstAway { .. } => "first away",
                    What::Sleep { .. } => "sleep",
                    _ => "",
                });
                return self.begin(what);
            }
            Step::LinksUp(machines) => self.set_links(&machines, false),
            Step::Moved(machines) => return self.moved(&machines),
            Step::Wake(machines) => return self.wake(&machines),
            Step::CountAnew => self.swarm.metrics.after_restart = Some(self.swarm.metrics.cost()),
            Step::Heal => {
                self.mark("heal");
                self.swarm.parts.clear();
            }
            Step::MakeRoom(machines) => self.each_disk(&machines, |disk| disk.set_full(false)),
            Step::PowerFails(machines, back) => return self.crash(&machines, Some(back)),
            Step::RememberDisks { machines, rolled_back_in, down_for } => {
                let picked = self.pick(machines);
                let disk = |number: Number| Some((number, self.machines[number as usize].disk()?.clone()));
                let disks = picked.into_iter().filter_map(disk).collect();
                self.schedule_in(rolled_back_in, Step::RollBack { disks, down_for });
            }
            Step::RollBack { disks, down_for } => {
                for (number, contents) in disks {
                    self.stop(number, true)?;
                    let machine = &mut self.machines[number as usize];
                    machine.resting_disk = Some(contents);
                    machine.disk_history.lost_acknowledged = true;
                    self.boot_at(number, self.swarm.queue.now() + down_for);
                }
            }
        }
        Ok(())
    }

    /// What happens now is marked on the curves, if it has a name there.
    fn mark(&mut self, what: &'static str) {
        let seconds = self.swarm.queue.now() as f64 / 1e6;
        if !what.is_empty() {
            self.swarm.metrics.marks.push(Mark { seconds, what });
        }
    }

    /// Honest machines that are up, without the one that started the run.
    fn pick(&mut self, count: usize) -> Vec<Number> {
        let stays = |number: &Number| {
            let machine = &self.machines[*number as usize];
            machine.is_honest() && machine.running.as_ref().is_some_and(|r| !r.is_leaving) && *number != 0
        };
        let pool: Vec<Number> = self.swarm.up.iter().copied().filter(stays).collect();
        sample(&mut self.swarm.random, &pool, count)
    }

    fn begin(&mut self, what: What) -> Result<()> {
        let now = self.swarm.queue.now();
        match what {
            What::Join { machines, over_seconds } => {
                for index in 0..machines {
                    let at = now + micros(over_seconds * index as f64 / machines as f64);
                    let number = self.add_machine(None, at);
                    let place = below(&mut self.swarm.random, self.swarm.up.len());
                    self.machines[number as usize].bootstrap = self.swarm.up.get(place).copied().unwrap_or_default();
                }
            }
            What::Leave { machines } => {
                for number in self.pick(machines) {
                    self.leave(number)?;
                }
            }
            What::Crash { machines, back_after_seconds } => {
                let picked = self.pick(machines);
                if let Some(back) = back_after_seconds {
                    let cost = self.swarm.metrics.cost();
                    self.swarm.metrics.before_restart.get_or_insert(cost);
                    self.schedule_in(micros(back) + CAUGHT_UP, Step::CountAnew);
                }
                return self.crash(&picked, back_after_seconds.map(micros));
            }
            What::Partition { parts, lasts_seconds } => {
                // Machines that join meanwhile are in the first part.
                let drawn: Vec<u8> =
                    self.machines.iter().map(|_| below(&mut self.swarm.random, parts.min(255)) as u8).collect();
                self.swarm.parts = drawn;
                self.schedule_in(micros(lasts_seconds), Step::Heal);
            }
            What::ClockJump { machines, by_seconds } => {
                for number in self.pick(machines) {
                    if let Some(running) = &mut self.machines[number as usize].running {
                        running.jump((1e3 * by_seconds) as i64);
                    }
                }
            }
            What::LinkLoss { .. } | What::AddressChange { .. } | What::FirstAway { .. } | What::Sleep { .. } => {
                self.begin_with_links(what);
            }
            What::Revoke { whose } => return self.revoke(whose),
            What::Admit { machines } => return self.admit(machines),
            What::Withdraw { machines } => return self.withdraw(machines),
            What::DiskFull { .. } | What::DiskLies { .. } | What::DiskLost { .. } | What::DiskCopied { .. } => {
                return self.begin_with_disk(what);
            }
            // Spelled out by the schedule.
            What::Churn { .. } | What::DiskRolledBack { .. } => {}
        }
        Ok(())
    }

    fn begin_with_links(&mut self, what: What) {
        match what {
            What::LinkLoss { machines, lasts_seconds } => {
                let picked = self.pick(machines);
                self.set_links(&picked, true);
                self.schedule_in(micros(lasts_seconds), Step::LinksUp(picked));
            }
            What::FirstAway { lasts_seconds } => {
                self.set_links(&[0], true);
                self.schedule_in(micros(lasts_seconds), Step::LinksUp(vec![0]));
            }
            What::AddressChange { machines, lasts_seconds } => {
                let picked = self.pick(machines);
                self.set_links(&picked, true);
                self.schedule_in(micros(lasts_seconds), Step::Moved(picked));
            }
            What::Sleep { machines, lasts_seconds } => {
                let (picked, lasts) = (self.pick(machines), micros(lasts_seconds));
                let until = self.swarm.queue.now() + lasts;
                picked.iter().for_each(|number| self.swarm.lines.sleep(*number, until));
                self.schedule_in(lasts, Step::Wake(picked));
            }
            _ => {}
        }
    }

    fn set_links(&mut self, machines: &[Number], are_down: bool) {
        machines.iter().for_each(|number| self.swarm.lines.set_down(*number, are_down));
    }

    /// Machines are on the network again, elsewhere: nobody comes to them over connections from before.
    fn moved(&mut self, machines: &[Number]) -> Result<()> {
        self.set_links(machines, false);
        for number in machines {
            let running = self.machines[*number as usize].running.as_ref();
            let others: Vec<Number> = running.map_or_else(Vec::new, |running| running.neighbours.numbers().collect());
            // Others may hold an end of what this one has given up.
            let holds =
                |other: &Machine| other.running.as_ref().is_some_and(|running| running.neighbours.contains(*number));
            let holding = self.machines.iter().filter(|other| holds(other)).map(|other| other.number);
            let all: Vec<Number> = holding.chain(others).collect();
            all.into_iter().for_each(|other| self.swarm.lines.kill(*number, other));
            self.machines[*number as usize].tell(Input::Moved, &mut self.swarm)?;
        }
        Ok(())
    }

    fn wake(&mut self, machines: &[Number]) -> Result<()> {
        for number in machines {
            self.swarm.lines.wake(*number);
            let machine = &mut self.machines[*number as usize];
            if let Some(running) = &mut machine.running {
                running.neighbours.woke();
            }
            machine.tell(Input::Moved, &mut self.swarm)?;
        }
        Ok(())
    }

    fn begin_with_disk(&mut self, what: What) -> Result<()> {
        match what {
            What::DiskFull { machines, lasts_seconds } => {
                let picked = self.pick(machines);
                self.each_disk(&picked, |disk| disk.set_full(true));
                self.schedule_in(micros(lasts_seconds), Step::MakeRoom(picked));
            }
            What::DiskLies { machines, lasts_seconds, back_after_seconds } => {
                let picked = self.pick(machines);
                self.each_disk(&picked, Disk::lie);
                for number in &picked {
                    self.machines[*number as usize].disk_history.lost_acknowledged = true;
                }
                self.schedule_in(micros(lasts_seconds), Step::PowerFails(picked, micros(back_after_seconds)));
            }
            What::DiskLost { machines, back_after_seconds } => {
                let picked = self.pick(machines);
                self.crash(&picked, Some(micros(back_after_seconds)))?;
                for number in picked {
                    let machine = &mut self.machines[number as usize];
                    machine.disk_history.lost_acknowledged = true;
                    // The key is kept, and whom it knew.
                    machine.resting_disk = machine.resting_disk.take().map(|contents| Contents {
                        incarnation: contents.incarnation,
                        known: contents.known,
                        ..Contents::default()
                    });
                }
            }
            What::DiskCopied { machines } => {
                for original in self.pick(machines) {
                    let copy = self.add_machine(None, self.swarm.queue.now() + COPYING_TAKES);
                    let original = &self.machines[original as usize];
                    let (secret, contents) = (original.secret, original.disk().cloned());
                    let machine = &mut self.machines[copy as usize];
                    machine.take_key(secret);
                    self.swarm.keys[copy as usize] = machine.key();
                    // The file system knows the copied database by another number: a new incarnation.
                    machine.resting_disk = contents.map(|contents| Contents { incarnation: 0, ..contents });
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn leave(&mut self, number: Number) -> Result<()> {
        let (machine, swarm) = (&mut self.machines[number as usize], &mut self.swarm);
        if let Some(running) = &mut machine.running {
            running.is_leaving = true;
        }
        match swarm.sabotage {
            Some(Sabotage::LeaveAtOnce) => machine.left(Departure::Clean, swarm),
            _ => machine.tell(Input::Leave, swarm),
        }
    }

    fn crash(&mut self, machines: &[Number], back: Option<Micros>) -> Result<()> {
        for number in machines {
            if !self.machines[*number as usize].is_up() {
                continue;
            }
            self.stop(*number, true)?;
            let machine = &mut self.machines[*number as usize];
            if self.swarm.sabotage == Some(Sabotage::LoseRecords)
                && let Some(contents) = &mut machine.resting_disk
            {
                contents.chunks.clear();
                contents.checkpoint = None;
            }
            match back {
                Some(back) => self.boot_at(*number, self.swarm.queue.now() + back),
                None => machine.has_left = true,
            }
        }
        Ok(())
    }

    fn each_disk(&mut self, machines: &[Number], f: impl Fn(&mut Disk)) {
        for number in machines {
            if let Some(running) = &mut self.machines[*number as usize].running {
                f(&mut running.disk);
            }
        }
    }

    /// As `node revoke` does it, for machines that the authority's own node knows.
    fn revoke(&mut self, whose: Strategy) -> Result<()> {
        let authority = Ed25519Signer::from_seed(&self.machines[0].secret);
        let run = self.swarm.run.id;
        let is_meant = |machine: &&Machine| machine.adversary.as_ref().is_some_and(|a| a.strategy() == whose);
        let keys: Vec<[u8; 32]> = self.machines.iter().filter(is_meant).map(Machine::key).collect();
        let known = self.known_to_authority().into_iter().filter(|(machine, _)| keys.contains(&machine.key));
        let revoke = |(machine, _)| Statement::Revocation(Revocation::sign(&run, machine, 0, &authority));
        self.state(known.map(revoke).collect())
    }

    /// The machines whose ledgers the authority's node holds, and the heights.
    fn known_to_authority(&self) -> Vec<(MachineId, u64)> {
        self.machines[0].replica().map_or_else(Vec::new, |replica| {
            replica.machines().map(|(machine, ledger, _)| (*machine, ledger.height())).collect()
        })
    }

    /// As `node admit` does it.
    fn admit(&mut self, count: usize) -> Result<()> {
        let authority = Ed25519Signer::from_seed(&self.machines[0].secret);
        let is_new = |key: &[u8; 32]| !self.swarm.truth.admitted.contains(key);
        let keys: Vec<[u8; 32]> = self.machines[1..].iter().map(Machine::key).filter(is_new).collect();
        let keys = sample(&mut self.swarm.random, &keys, count);
        let admit = |key: &[u8; 32]| Statement::Admission(Admission::sign(&self.swarm.run.id, *key, &authority));
        let statements = keys.iter().map(admit).collect();
        self.swarm.truth.admitted.extend(keys);
        self.state(statements)
    }

    /// As `node withdraw` does it.
    fn withdraw(&mut self, count: usize) -> Result<()> {
        let authority = Ed25519Signer::from_seed(&self.machines[0].secret);
        let truth = &self.swarm.truth;
        let is_left = |key: &&[u8; 32]| !truth.withdrawn.contains_key(*key);
        let keys: Vec<[u8; 32]> = truth.admitted.iter().filter(is_left).copied().collect();
        let known = self.known_to_authority();
        let mut statements = Vec::new();
        for key in sample(&mut self.swarm.random, &keys, count) {
            let of_key = known.iter().filter(|(machine, _)| machine.key == key);
            let mut floors: Vec<(u64, u64)> =
                of_key.map(|(machine, height)| (machine.incarnation, height / 2)).collect();
            if floors.len() > 1 {
                floors.pop();
            }
            floors.retain(|(_, floor)| *floor > 0);
            statements.push(Statement::Withdrawal(Withdrawal::sign(&self.swarm.run.id, key, &floors, &authority)));
            self.swarm.truth.withdrawn.insert(key, floors.into_iter().collect());
        }
        self.state(statements)
    }

    /// The authority's node is given statements while it runs.
    fn state(&mut self, statements: Vec<Statement>) -> Result<()> {
        let (authority, swarm) = (&mut self.machines[0], &mut self.swarm);
        statements.into_iter().try_for_each(|statement| authority.tell(Input::Stated(statement), swarm))
    }
}
