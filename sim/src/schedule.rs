//! The schedule of faults: what the scenario says, spelled out in time.

use anyhow::Result;

use crate::{
    disk::Contents,
    event::{Event, Number},
    event_log::Kind,
    queue::Micros,
    random::uniform,
    scenario::What,
    world::World,
};

/// One fault, or a later part of one.
#[derive(Clone)]
pub enum Step {
    /// A fault of the scenario begins.
    Begin(What),
    /// A partition has lasted so long that connections across it break.
    Cut,
    /// A partition heals.
    Heal,
    /// Disks have room again.
    MakeRoom(Vec<Number>),
    /// Disks that lied are found out; the machines come back after so long.
    PowerFails(Vec<Number>, Micros),
    /// Disks are remembered as they are; after a time the machines are killed, and come back with what was remembered.
    RememberDisks {
        /// How many.
        machines: usize,
        /// How much later they are rolled back.
        rolled_back_in: Micros,
        /// How long the machines are down then.
        down_for: Micros,
    },
    /// Machines are killed, and come back with these disks.
    RollBack {
        /// The disks, and whose.
        disks: Vec<(Number, Contents)>,
        /// How long the machines are down.
        down_for: Micros,
    },
}

/// Steps by number; those that were taken have gone.
#[derive(Default)]
pub struct Schedule {
    steps: Vec<Option<Step>>,
    open: usize,
}

impl Schedule {
    /// Whether nothing is left.
    pub fn is_over(&self) -> bool {
        self.open == 0
    }

    fn add(&mut self, step: Step) -> usize {
        self.open += 1;
        self.steps.push(Some(step));
        self.steps.len() - 1
    }

    fn take(&mut self, number: usize) -> Option<Step> {
        let step = self.steps.get_mut(number)?.take()?;
        self.open -= 1;
        Some(step)
    }
}

pub(crate) fn micros(seconds: f64) -> Micros {
    (1e6 * seconds.max(0.0)) as Micros
}

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
    pub(crate) fn schedule_in(&mut self, after: Micros, step: Step) {
        self.schedule_at(self.swarm.queue.now() + after, step);
    }

    /// When the last fault is over, as far as the scenario tells.
    pub(crate) fn faults_end(&self) -> Micros {
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

    /// The step of this number is due.
    pub(crate) fn take_step(&mut self, number: usize) -> Result<()> {
        let Some(step) = self.schedule.take(number) else { return Ok(()) };
        self.swarm.note(Kind::Injected, 0, 0, number as u64)?;
        self.inject(step)
    }
}
