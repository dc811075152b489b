//! The simulation: all machines, one event after another, and when it ends.

use anyhow::{Context, Result};
use peer::liveness::LOOK_MS;
use protocol::{
    manifest::Membership,
    signature::{Ed25519Signer, Signer as _},
};
use std::{io::Write, time::Instant};

use crate::{
    adversary::Adversary,
    event::{Event, Frame, Number},
    event_log::EventLog,
    machine::Machine,
    objective::{Language, Objective, Quadratic},
    queue::Micros,
    scenario::{Members, Scenario, Strategy},
    schedule::Schedule,
    summary::Summary,
    swarm::{Sabotage, Swarm},
};

/// Whether all is done is looked at this often.
const WATCH_INTERVAL: Micros = 500_000;
/// All ends of connections are looked at this often. Who is there has sent a ping by the look after the next.
pub(crate) const LOOK_INTERVAL: Micros = 1_000 * LOOK_MS;
/// Looks at the swarm in the time that a run is expected to take.
const LOOKS: f64 = 60.0;
/// The same with a language model, whose loss takes real time to measure.
const LOOKS_AT_LANGUAGE: f64 = 16.0;
/// A frame that takes the downlink no longer than this is received at once.
const DOWNLINK_GRAIN: Micros = 1_000;
/// A run is given up after this many times the time that its gradients should take, and ten minutes.
const PATIENCE: f64 = 6.0;

/// What the run is called, and how it is made again.
#[derive(Clone, Debug)]
pub struct Label {
    /// Name of the scenario.
    pub scenario: String,
    /// Command line.
    pub reproduce: String,
}

/// How far a run is.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    /// Gradients made by honest machines.
    pub made: u64,
    /// Gradients that they are to make.
    pub expected: u64,
    /// Virtual time, seconds.
    pub seconds: f64,
    /// Machines that are up.
    pub machines: usize,
}

/// See the module's documentation.
pub struct World {
    /// Honest machines first, then adversaries, then those who join later.
    pub machines: Vec<Machine>,
    /// What they share.
    pub swarm: Swarm,
    /// Faults to come; grows while the run goes on.
    pub schedule: Schedule,
    /// Machines that are to start.
    pub starting: usize,
    looks_every: Micros,
    expected_seconds: f64,
    /// When the last gradient or fault was over.
    pub(crate) settled: Option<Micros>,
    /// When all machines were equal after that.
    pub(crate) converged: Option<Micros>,
    pub(crate) begun: Instant,
}

impl World {
    /// Everything in place, nothing begun. `log` receives the event log, if there is one.
    pub fn new(scenario: Scenario, seed: u64, log: Option<Box<dyn Write>>) -> Result<Self> {
        let begun = Instant::now();
        scenario.check()?;
        let authority = Ed25519Signer::from_seed(&Machine::new(0, seed, 0, 0.0).secret).key();
        let objective: Box<dyn Objective> = match &scenario.language {
            Some(settings) => Box::new(Language::new(settings, scenario.replay_budget, Some(authority), seed)?),
            None => {
                let membership = match scenario.members {
                    Members::Open => Membership::Open,
                    Members::ByAuthority => Membership::ByAuthority,
                };
                Box::new(Quadratic::new(
                    &scenario.quadratic,
                    scenario.replay_budget,
                    Some(authority),
                    membership,
                    seed,
                )?)
            }
        };
        let slowest = scenario.speed.gradients_per_second / scenario.speed.spread;
        let expected_seconds = scenario.joins_over_seconds + scenario.gradients as f64 / slowest;
        let looks = if scenario.language.is_some() { LOOKS_AT_LANGUAGE } else { LOOKS };
        let mut world = Self {
            machines: Vec::new(),
            swarm: Swarm::new(scenario, objective, seed, EventLog::new(log))?,
            schedule: Schedule::default(),
            starting: 0,
            looks_every: ((1e6 * expected_seconds / looks) as Micros).max(100_000),
            expected_seconds,
            settled: None,
            converged: None,
            begun,
        };
        world.populate();
        world.schedule_faults();
        Ok(world)
    }

    /// The machines of the beginning.
    fn populate(&mut self) {
        let scenario = self.swarm.scenario.clone();
        for index in 0..scenario.machines {
            let at = match index {
                0 => 0,
                _ => (1e6 * (0.2 + scenario.joins_over_seconds * index as f64 / scenario.machines as f64)) as Micros,
            };
            self.add_machine(None, at);
        }
        for group in &scenario.adversaries {
            for _ in 0..group.machines {
                self.add_machine(Some(group.strategy), (1e6 * group.at_seconds.max(0.5)) as Micros);
            }
        }
        self.swarm.queue.schedule(WATCH_INTERVAL, Event::Watch);
        self.swarm.queue.schedule(0, Event::Observe);
        self.swarm.queue.schedule(LOOK_INTERVAL, Event::Look);
    }

    /// A new machine that starts at `at`.
    pub fn add_machine(&mut self, strategy: Option<Strategy>, at: Micros) -> Number {
        let number = self.machines.len() as Number;
        let speed = &self.swarm.scenario.speed;
        // Evenly over the log scale, in an order that looks random: the golden ratio's multiples.
        let place = 2.0 * (f64::from(number) * 0.618_033_988_749_895).fract() - 1.0;
        let step_us = 1e6 / (speed.gradients_per_second * speed.spread.powf(place));
        let sender = self.swarm.scenario.sender(number);
        let goal = sender.gradients.unwrap_or(self.swarm.scenario.gradients);
        let mut machine = Machine::new(number, self.swarm.seed, goal, step_us / sender.speed);
        machine.router = self.swarm.scenario.router(number);
        machine.replay_us = speed.replay_us / sender.replay_speed;
        machine.sender = sender;
        machine.adversary = strategy.map(|strategy| Adversary::new(strategy, &machine.secret, self.swarm.seed, number));
        if machine.adversary.as_ref().is_some_and(Adversary::is_idle) {
            machine.goal = 0;
        }
        if machine.adversary.is_some() {
            self.swarm.truth.adversaries.insert(machine.key());
        }
        self.swarm.keys.push(machine.key());
        self.machines.push(machine);
        self.boot_at(number, at);
        number
    }

    /// Lets a machine start at `at`.
    pub fn boot_at(&mut self, number: Number, at: Micros) {
        self.starting += 1;
        self.swarm.queue.schedule(at, Event::Boot { machine: number });
    }

    /// Runs to the end, and tells how far it is now and then. False ends it early, without a summary.
    pub fn run(mut self, label: &Label, mut progress: impl FnMut(Progress) -> bool) -> Result<Option<Summary>> {
        let expected: u64 = self.machines.iter().filter(|m| m.is_honest()).map(|machine| machine.goal).sum();
        let patience = PATIENCE * self.expected_seconds + 600.0 + self.swarm.scenario.converge_seconds_max;
        let end = (1e6 * patience) as Micros + self.faults_end();
        while let Some(event) = self.swarm.queue.take() {
            let is_watch = matches!(event, Event::Watch);
            self.dispatch(event)?;
            self.follow_up()?;
            if is_watch {
                let up = self.swarm.up.len();
                let seconds = self.swarm.queue.now() as f64 / 1e6;
                let expected = expected.max(self.swarm.truth.made);
                if !progress(Progress { made: self.swarm.truth.made, expected, seconds, machines: up }) {
                    return Ok(None);
                }
                if self.watch()? || self.swarm.queue.now() > end {
                    break;
                }
            }
        }
        self.observe()?;
        self.summarize(label).map(Some)
    }

    fn dispatch(&mut self, event: Event) -> Result<()> {
        if let Some(until) = event.machine().and_then(|machine| self.swarm.lines.sleeps_until(machine)) {
            self.swarm.queue.schedule(until, event);
            return Ok(());
        }
        match event {
            Event::Arrived { to, from, frame, bytes } => self.arrived(to, from, frame, bytes),
            Event::Received { to, from, frame, bytes } => self.received(to, from, frame, bytes),
            Event::ReadOn { machine, session } => self.with(machine, session, |m, swarm| m.read_on(swarm)),
            Event::Tick { machine, session } => self.with(machine, session, |m, swarm| m.tick(swarm)),
            Event::Heartbeat { machine, session } => self.with(machine, session, |m, swarm| m.heartbeat(swarm)),
            Event::Upkeep { machine, session } => self.with(machine, session, |m, swarm| m.upkeep(swarm)),
            Event::Measured { machine, session } => self.with(machine, session, |m, swarm| m.measured(swarm)),
            Event::Swept { machine, session } => self.with(machine, session, |m, swarm| m.swept(swarm)),
            Event::Synced { machine, session } => self.with(machine, session, |m, swarm| m.synced(swarm)),
            Event::Validated { machine, session, message, verdict } => {
                self.with(machine, session, |m, swarm| m.validated(message, verdict, swarm))
            }
            Event::TimedOut { machine, session, question } => {
                self.with(machine, session, |m, swarm| m.timed_out(question, swarm))
            }
            Event::Called { caller, session, called } => self.called(caller, session, called),
            Event::Closed { machine, by } => self.closed(machine, by),
            Event::Boot { machine } => self.boot(machine),
            Event::Fault(number) => self.take_step(number),
            Event::Look => self.look(),
            Event::Observe => {
                self.observe()?;
                self.swarm.queue.schedule(self.swarm.queue.now() + self.looks_every, Event::Observe);
                Ok(())
            }
            Event::Watch => {
                self.swarm.queue.schedule(self.swarm.queue.now() + WATCH_INTERVAL, Event::Watch);
                Ok(())
            }
        }
    }

    /// Does something with a machine, if it is still in the same session.
    pub(crate) fn with(
        &mut self,
        number: Number,
        session: u32,
        f: impl FnOnce(&mut Machine, &mut Swarm) -> Result<()>,
    ) -> Result<()> {
        let machine = self.machines.get_mut(number as usize);
        match machine.filter(|machine| machine.session == session && machine.is_up()) {
            Some(machine) => f(machine, &mut self.swarm).with_context(|| format!("machine {number}")),
            None => Ok(()),
        }
    }

    fn arrived(&mut self, to: Number, from: Number, frame: Frame, bytes: u32) -> Result<()> {
        let now = self.swarm.queue.now();
        let is_there = !self.swarm.lines.is_off(to);
        let machine = self.machines.get_mut(to as usize).filter(|machine| is_there && machine.is_up());
        let Some(machine) = machine else { return Ok(()) };
        let takes = (f64::from(bytes) * 8.0 / self.swarm.scenario.link.down_mbps) as Micros;
        machine.downlink_free = machine.downlink_free.max(now) + takes;
        if machine.downlink_free <= now + DOWNLINK_GRAIN {
            return self.received(to, from, frame, bytes);
        }
        self.swarm.queue.schedule(machine.downlink_free, Event::Received { to, from, frame, bytes });
        Ok(())
    }

    fn received(&mut self, to: Number, from: Number, frame: Frame, bytes: u32) -> Result<()> {
        let Some(machine) = self.machines.get_mut(to as usize) else { return Ok(()) };
        machine.receive(from, frame, bytes, &mut self.swarm).with_context(|| format!("machine {to}"))
    }

    /// The end of a connection has come through the network, and through the downlink.
    fn closed(&mut self, number: Number, by: Number) -> Result<()> {
        let machine = &mut self.machines[number as usize];
        if machine.downlink_free > self.swarm.queue.now() {
            self.swarm.queue.schedule(machine.downlink_free, Event::Closed { machine: number, by });
            return Ok(());
        }
        if self.swarm.is_silent(number, by, None) {
            return Ok(());
        }
        machine.disconnected(by, &mut self.swarm).with_context(|| format!("machine {number}"))
    }

    fn boot(&mut self, number: Number) -> Result<()> {
        self.starting -= 1;
        let machine = &mut self.machines[number as usize];
        if machine.is_up() || machine.has_left {
            return Ok(());
        }
        // Its first machine may have gone meanwhile: then people give it another.
        let bootstrap_is_up = self.swarm.up.binary_search(&machine.bootstrap).is_ok();
        if !bootstrap_is_up && machine.session == 0 {
            machine.bootstrap = self.swarm.up.first().copied().unwrap_or(number);
        }
        machine.boot(&mut self.swarm).with_context(|| format!("machine {number}"))?;
        if self.machines[number as usize].is_up()
            && let Err(place) = self.swarm.up.binary_search(&number)
        {
            self.swarm.up.insert(place, number);
        }
        Ok(())
    }

    /// Stops a machine at once; its neighbours notice.
    pub fn stop(&mut self, number: Number, crashed: bool) -> Result<()> {
        let machine = &mut self.machines[number as usize];
        let neighbours: Vec<Number> =
            machine.running.as_ref().map(|r| r.neighbours.numbers().collect()).unwrap_or_default();
        machine.stop(&mut self.swarm, crashed)?;
        self.remove(number);
        for neighbour in neighbours {
            if !self.swarm.is_silent(number, neighbour, None) {
                self.machines[neighbour as usize].disconnected(number, &mut self.swarm)?;
            }
        }
        Ok(())
    }

    /// Discovery finds the machine no more.
    fn remove(&mut self, number: Number) {
        self.swarm.up.retain(|up| *up != number);
    }

    /// What an event left to be done to other machines than its own.
    fn follow_up(&mut self) -> Result<()> {
        while let Some((a, b)) = self.swarm.to_disconnect.pop() {
            self.disconnect(a, b)?;
        }
        while let Some(number) = self.swarm.to_remove.pop() {
            self.remove(number);
        }
        self.judge_signed_again();
        Ok(())
    }

    /// Honest machines that are up.
    pub fn honest_up(&self) -> impl Iterator<Item = &Machine> {
        self.machines.iter().filter(|machine| machine.is_honest() && machine.is_up())
    }

    /// Commits a deliberate fault. For tests of the checkers.
    pub fn sabotage(&mut self, sabotage: Sabotage) {
        self.swarm.sabotage = Some(sabotage);
    }

    /// Puts a fault into the rules of every peer. For tests of the checkers.
    #[cfg(feature = "planted")]
    pub fn plant(&mut self, fault: peer::planted::Fault) {
        self.swarm.planted = Some(fault);
    }
}
