//! What befalls the machines, and when: the scenario's faults, spelled out.

use anyhow::{Context, Result};
use protocol::{
    revocation::Revocation,
    signature::{Ed25519Signer, Signer as _},
};

use crate::{
    disk::{Contents, Disk, Shared},
    event::{Event, Number},
    event_log::Kind,
    queue::Micros,
    random::{below, sample, uniform},
    scenario::{Malice, What},
    world::World,
};

/// Neighbours across a partition are given up after this long.
const KEEP_ALIVE_MAX: Micros = 20_000_000;
/// The authority's node is stopped for so long to write a revocation.
const REVOCATION_TAKES: Micros = 500_000;

/// One thing that happens at one time.
#[derive(Clone, Debug)]
pub enum Fate {
    /// A fault of the scenario begins.
    Begin(What),
    /// A partition has lasted so long that connections across it break.
    Cut,
    /// A partition heals.
    Heal,
    /// Disks have room again.
    MakeRoom(Vec<Number>),
    /// Disks that lied are found out.
    PowerFails(Vec<Number>, Micros),
    /// Disks as they are now are remembered.
    Remember(usize, Vec<Number>),
    /// Machines are killed and come back with the disk that was remembered.
    RollBack(Vec<Number>, Micros),
}

fn micros(seconds: f64) -> Micros {
    (1e6 * seconds.max(0.0)) as Micros
}

impl World {
    /// Puts the scenario's faults on the calendar, each up to a tenth earlier or later than it says.
    pub(crate) fn foresee(&mut self) {
        for fault in self.swarm.scenario.faults.clone() {
            let at = fault.at_seconds * (0.9 + 0.2 * uniform(&mut self.swarm.random));
            match fault.what {
                What::Churn { machines, times, every_seconds } => {
                    for turn in 0..times {
                        let at = micros(at + turn as f64 * every_seconds);
                        let (leave, crash) = (machines / 2, machines - machines / 2);
                        self.foresee_at(at, Fate::Begin(What::Leave { machines: leave }));
                        self.foresee_at(at, Fate::Begin(What::Crash { machines: crash, back_after_seconds: None }));
                        self.foresee_at(at, Fate::Begin(What::Join { machines, over_seconds: 0.5 * every_seconds }));
                    }
                }
                What::DiskRolledBack { machines, by_seconds, back_after_seconds } => {
                    let at = at.max(by_seconds + 1.0);
                    let rolled = self.foresee_at(micros(at), Fate::RollBack(Vec::new(), micros(back_after_seconds)));
                    self.foresee_at(micros(at - by_seconds), Fate::Remember(rolled, Vec::from([machines as Number])));
                }
                what => {
                    self.foresee_at(micros(at), Fate::Begin(what));
                }
            }
        }
    }

    fn foresee_at(&mut self, at: Micros, fate: Fate) -> usize {
        self.fates.push(fate);
        self.fates_open += 1;
        self.swarm.queue.schedule(at, Event::Fate(self.fates.len() - 1));
        self.fates.len() - 1
    }

    fn foresee_in(&mut self, after: Micros, fate: Fate) {
        self.foresee_at(self.swarm.queue.now() + after, fate);
    }

    /// When the last fault of the calendar is over, as far as the scenario tells.
    pub(crate) fn fates_end(&self) -> Micros {
        let end = |what: &What, at: f64| match what {
            What::Churn { times, every_seconds, .. } => at + *times as f64 * every_seconds,
            What::Partition { lasts_seconds, .. } | What::DiskFull { lasts_seconds, .. } => at + lasts_seconds,
            What::DiskLies { lasts_seconds, back_after_seconds, .. } => at + lasts_seconds + back_after_seconds,
            What::Crash { back_after_seconds, .. } => at + back_after_seconds.unwrap_or_default(),
            _ => at,
        };
        let faults = &self.swarm.scenario.faults;
        micros(faults.iter().map(|fault| end(&fault.what, 1.1 * fault.at_seconds)).fold(0.0, f64::max))
    }

    /// Honest machines that are up, without the one that started the run.
    fn pick(&mut self, count: usize) -> Vec<Number> {
        let leaves = |number: &Number| {
            let machine = &self.machines[*number as usize];
            machine.is_honest() && machine.running.as_ref().is_some_and(|r| r.leaving.is_none()) && *number != 0
        };
        let pool: Vec<Number> = self.swarm.up.iter().copied().filter(leaves).collect();
        sample(&mut self.swarm.random, &pool, count)
    }

    /// Fate number `index` comes.
    pub(crate) fn befall(&mut self, index: usize) -> Result<()> {
        self.fates_open -= 1;
        self.swarm.note(Kind::Befell, 0, 0, index as u64)?;
        match self.fates[index].clone() {
            Fate::Begin(what) => self.begin(what),
            Fate::Cut => self.cut(),
            Fate::Heal => {
                self.swarm.parts.clear();
                Ok(())
            }
            Fate::MakeRoom(machines) => {
                self.each_disk(&machines, |disk| disk.set_full(false));
                Ok(())
            }
            Fate::PowerFails(machines, back) => self.crash(&machines, Some(back)),
            Fate::Remember(rolled, wanted) => {
                let picked = self.pick(wanted.first().map_or(0, |count| *count as usize));
                for number in &picked {
                    let machine = &mut self.machines[*number as usize];
                    machine.remembered = machine.disk().cloned();
                }
                if let Some(Fate::RollBack(machines, _)) = self.fates.get_mut(rolled) {
                    *machines = picked;
                }
                Ok(())
            }
            Fate::RollBack(machines, back) => {
                for number in machines {
                    self.fall(number, true)?;
                    let machine = &mut self.machines[number as usize];
                    machine.left_behind = machine.remembered.take().or_else(|| machine.left_behind.take());
                    machine.disk_history.lost_acknowledged = true;
                    self.rise_at(number, self.swarm.queue.now() + back);
                }
                Ok(())
            }
        }
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
                Ok(())
            }
            What::Leave { machines } => {
                for number in self.pick(machines) {
                    if let Some(running) = &mut self.machines[number as usize].running {
                        running.leaving = Some(now);
                    }
                }
                Ok(())
            }
            What::Crash { machines, back_after_seconds } => {
                let picked = self.pick(machines);
                self.crash(&picked, back_after_seconds.map(micros))
            }
            What::Partition { parts, lasts_seconds } => {
                // Machines that join meanwhile are in the first part.
                let drawn: Vec<u8> =
                    self.machines.iter().map(|_| below(&mut self.swarm.random, parts.min(255)) as u8).collect();
                self.swarm.parts = drawn;
                let lasts = micros(lasts_seconds);
                if lasts > KEEP_ALIVE_MAX {
                    self.foresee_in(KEEP_ALIVE_MAX, Fate::Cut);
                }
                self.foresee_in(lasts, Fate::Heal);
                Ok(())
            }
            What::ClockJump { machines, by_seconds } => {
                for number in self.pick(machines) {
                    if let Some(running) = &mut self.machines[number as usize].running {
                        running.jump((1e3 * by_seconds) as i64);
                    }
                }
                Ok(())
            }
            What::Revoke { whose } => self.revoke(whose),
            What::Churn { .. } | What::DiskRolledBack { .. } => Ok(()),
            disk => self.begin_with_disk(disk),
        }
    }

    fn begin_with_disk(&mut self, what: What) -> Result<()> {
        match what {
            What::DiskFull { machines, lasts_seconds } => {
                let picked = self.pick(machines);
                self.each_disk(&picked, |disk| disk.set_full(true));
                self.foresee_in(micros(lasts_seconds), Fate::MakeRoom(picked));
            }
            What::DiskLies { machines, lasts_seconds, back_after_seconds } => {
                let picked = self.pick(machines);
                self.each_disk(&picked, Disk::lie);
                for number in &picked {
                    self.machines[*number as usize].disk_history.lost_acknowledged = true;
                }
                self.foresee_in(micros(lasts_seconds), Fate::PowerFails(picked, micros(back_after_seconds)));
            }
            What::DiskLost { machines, back_after_seconds } => {
                let picked = self.pick(machines);
                self.crash(&picked, Some(micros(back_after_seconds)))?;
                for number in picked {
                    let machine = &mut self.machines[number as usize];
                    machine.disk_history.lost_acknowledged = true;
                    if let Some(contents) = &mut machine.left_behind {
                        *contents =
                            Contents { incarnation: contents.incarnation, knows_peers: true, ..Contents::default() };
                    }
                }
            }
            What::DiskCopied { machines } => {
                for original in self.pick(machines) {
                    let copy = self.add_machine(None, self.swarm.queue.now() + 1_000_000);
                    let (secret, contents) = {
                        let original = &self.machines[original as usize];
                        (original.secret, original.disk().cloned())
                    };
                    let machine = &mut self.machines[copy as usize];
                    machine.secret = secret;
                    // The file system knows the copied database by another number: a new incarnation.
                    machine.left_behind = contents.map(|contents| Contents { incarnation: 0, ..contents });
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn crash(&mut self, machines: &[Number], back: Option<Micros>) -> Result<()> {
        for number in machines {
            if !self.machines[*number as usize].is_up() {
                continue;
            }
            self.fall(*number, true)?;
            let machine = &mut self.machines[*number as usize];
            machine.sabotage_disk(&self.swarm);
            match back {
                Some(back) => self.rise_at(*number, self.swarm.queue.now() + back),
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

    /// Connections across a partition break.
    fn cut(&mut self) -> Result<()> {
        let up = self.swarm.up.clone();
        for a in &up {
            for b in up.iter().filter(|b| *b > a && self.swarm.is_cut(*a, **b)).copied().collect::<Vec<_>>() {
                self.disconnect(*a, b)?;
            }
        }
        Ok(())
    }

    /// As `node revoke` does it: the authority's node is stopped, the revocation written, the node started again.
    fn revoke(&mut self, whose: Malice) -> Result<()> {
        let authority = Ed25519Signer::from_seed(&self.machines[0].secret);
        let run = self.swarm.objective.run();
        let is_meant = |machine: &&crate::machine::Machine| {
            machine.hostility.as_ref().is_some_and(|hostility| hostility.malice() == whose)
        };
        let keys: Vec<[u8; 32]> = self
            .machines
            .iter()
            .filter(is_meant)
            .map(|machine| Ed25519Signer::from_seed(&machine.secret).key())
            .collect();
        let known: Vec<_> = self.machines[0].running.as_ref().map_or_else(Vec::new, |running| {
            running.replica.machines().map(|(machine, ..)| *machine).filter(|m| keys.contains(&m.key)).collect()
        });
        self.fall(0, false)?;
        let contents = self.machines[0].left_behind.take().context("the authority has no disk")?;
        let mut disk = Disk::with(contents);
        for machine in known {
            disk.submit(vec![Shared::Revocation(Revocation::sign(&run, machine, 0, &authority))], None);
            disk.complete();
            disk.complete();
        }
        self.machines[0].left_behind = Some(disk.crash());
        self.rise_at(0, self.swarm.queue.now() + REVOCATION_TAKES);
        Ok(())
    }
}
