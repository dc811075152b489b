//! What lies between a machine and the others: links that are down, machines that sleep, connections that are dead
//! though nobody closed them.

use std::collections::{BTreeMap, BTreeSet};

use crate::{event::Number, queue::Micros};

/// See the module's documentation.
#[derive(Default)]
pub struct Lines {
    /// Machines whose link is down.
    down: BTreeSet<Number>,
    /// Machines that sleep, and until when.
    asleep: BTreeMap<Number, Micros>,
    /// Connections over which nothing comes any more: an end of theirs has another address now.
    dead: BTreeSet<(Number, Number)>,
}

fn pair(a: Number, b: Number) -> (Number, Number) {
    (a.min(b), a.max(b))
}

impl Lines {
    /// Whether nothing comes to a machine, and nothing from it.
    pub fn is_off(&self, machine: Number) -> bool {
        self.down.contains(&machine) || self.asleep.contains_key(&machine)
    }

    /// Until when a machine sleeps.
    pub fn sleeps_until(&self, machine: Number) -> Option<Micros> {
        self.asleep.get(&machine).copied()
    }

    /// A link goes down, or is up again.
    pub fn set_down(&mut self, machine: Number, is_down: bool) {
        match is_down {
            true => self.down.insert(machine),
            false => self.down.remove(&machine),
        };
    }

    /// A machine falls asleep.
    pub fn sleep(&mut self, machine: Number, until: Micros) {
        self.asleep.insert(machine, until);
    }

    /// It is awake.
    pub fn wake(&mut self, machine: Number) {
        self.asleep.remove(&machine);
    }

    /// The connection between two machines is dead.
    pub fn kill(&mut self, a: Number, b: Number) {
        self.dead.insert(pair(a, b));
    }

    /// Two machines have a new connection.
    pub fn connected(&mut self, a: Number, b: Number) {
        self.dead.remove(&pair(a, b));
    }

    /// Whether the connection between two machines is dead, if there is one.
    pub fn is_dead(&self, a: Number, b: Number) -> bool {
        self.dead.contains(&pair(a, b))
    }
}
