//! What a machine's discovery does next.

use std::collections::BTreeSet;

use crate::{event::Number, queue::Micros};

/// A joiner learns of others this long after it came up, once it has a neighbour to ask.
const FIRST_WALK_AFTER: Micros = 1_000_000;
/// All of the run are looked for this often.
pub(super) const WALK_INTERVAL: Micros = 60_000_000;
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
}

impl Discovery {
    pub fn new(now: Micros) -> Self {
        Self {
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
    }
}
