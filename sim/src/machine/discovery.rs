//! What a machine's discovery does next.

use peer::reach::{Reach, Scope};
use std::collections::{BTreeMap, BTreeSet};

use crate::{event::Number, queue::Micros};

/// A joiner learns of others this long after it came up, once it has a neighbour to ask.
const FIRST_WALK_AFTER: Micros = 1_000_000;
/// All of the run are looked for this often.
pub(super) const WALK_INTERVAL: Micros = 60_000_000;
/// A machine without neighbours looks for them this often.
const LONELY_WALK_INTERVAL: Micros = 10_000_000;
/// A joiner that reaches nobody is given another address by people, this often.
pub(super) const HELP_INTERVAL: Micros = 2_000_000;

/// See the module's documentation.
pub(super) struct Discovery {
    pub(super) has_walked: bool,
    pub(super) next_search: Micros,
    pub(super) next_walk: Micros,
    pub(super) next_help: Micros,
    /// Machines that the peer wants to be called.
    pub(super) dialed: BTreeSet<Number>,
    /// Machines of which others tell where they listen, and whether their address in the world is told, too: one that
    /// did not answer is told no more.
    told: BTreeMap<Number, bool>,
    next_lonely_walk: Micros,
    reach: Reach,
}

impl Discovery {
    pub fn new(now: Micros, reach: Reach) -> Self {
        Self {
            told: BTreeMap::new(),
            next_lonely_walk: now + LONELY_WALK_INTERVAL,
            reach,
            has_walked: false,
            next_search: now + FIRST_WALK_AFTER,
            next_walk: now + WALK_INTERVAL,
            next_help: now + HELP_INTERVAL,
            dialed: BTreeSet::new(),
        }
    }

    /// The peer's call is answered, whoever called.
    pub fn connected(&mut self, other: Number) {
        self.dialed.remove(&other);
        self.told.insert(other, true);
    }

    /// A call has come to nothing. Whether the peer wanted it.
    pub fn failed(&mut self, other: Number) -> bool {
        if let Some(is_told) = self.told.get_mut(&other) {
            *is_told = false;
        }
        self.dialed.remove(&other)
    }

    /// Whom a machine without neighbours calls where others say that they listen: at their address in the world, and at
    /// 127.0.0.1 where it might be meant, which is this machine itself.
    pub fn walk_alone(&mut self, now: Micros) -> (Vec<Number>, Vec<Number>) {
        if now < self.next_lonely_walk {
            return (Vec::new(), Vec::new());
        }
        self.next_lonely_walk = now + LONELY_WALK_INTERVAL;
        let far = self.told.iter().filter(|(_, is_told)| **is_told).map(|(number, _)| *number);
        let calls_itself = self.reach.could_be_meant(Scope::Machine);
        let near = self.told.keys().copied().filter(|_| calls_itself);
        (far.collect(), near.collect())
    }
}
