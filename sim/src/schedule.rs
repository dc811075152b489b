//! The schedule of faults: what the scenario says, spelled out in time.

use crate::{disk::Contents, event::Number, queue::Micros, scenario::What};

/// One fault, or a later part of one.
#[derive(Clone)]
pub enum Step {
    /// A fault of the scenario begins.
    Begin(What),
    /// Links are up again.
    LinksUp(Vec<Number>),
    /// Machines with other addresses than before are on the network again.
    Moved(Vec<Number>),
    /// Machines wake up.
    Wake(Vec<Number>),
    /// What a gradient costs is counted from now on: those that were restarted have caught up.
    CountAnew,
    /// A partition heals.
    Heal,
    /// Disks have room again.
    MakeRoom(Vec<Number>),
    /// Disks that lied are found out; the machines come back after so long.
    PowerFails(Vec<Number>, Micros),
    /// Disks are remembered as they are; after a time the machines are killed, and come back with what was remembered.
    RememberDisks {
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

    /// Appends a step; returns its number.
    pub fn add(&mut self, step: Step) -> usize {
        self.open += 1;
        self.steps.push(Some(step));
        self.steps.len() - 1
    }

    /// The step of this number, once.
    pub fn take(&mut self, number: usize) -> Option<Step> {
        let step = self.steps.get_mut(number)?.take()?;
        self.open -= 1;
        Some(step)
    }
}

pub(crate) fn micros(seconds: f64) -> Micros {
    (1e6 * seconds.max(0.0)) as Micros
}
