//! Other nodes that sign under the own key: they run on a copy of the same disk.

use protocol::{machine::MachineId, replica::Replica};
use std::collections::BTreeSet;

/// Tells a node that is alive from what earlier sessions of this one left.
#[derive(Default)]
pub struct Twins {
    /// The swarm's step when this node had all that others had: what was made later was made by somebody alive.
    joined_step: Option<u64>,
    /// Own incarnations of this session, and twins that were told of.
    known: BTreeSet<MachineId>,
}

impl Twins {
    /// All that others had is here.
    pub fn joined(&mut self, step: u64) {
        self.joined_step = Some(step);
    }

    /// The incarnation is of this node, which may give it up.
    pub fn own(&mut self, machine: MachineId) {
        self.known.insert(machine);
    }

    /// Twins that were not told of yet.
    pub fn next(&mut self, replica: &Replica) -> Vec<MachineId> {
        let Some(joined_step) = self.joined_step else { return Vec::new() };
        let alive = replica.own_key_elsewhere().filter(|(_, step)| *step > joined_step);
        alive.map(|(machine, _)| machine).filter(|machine| self.known.insert(*machine)).collect()
    }
}
