//! What two logs of one run differ in.

use protocol::{ledger::Ledger, machine::MachineId, manifest::RunId, replica::Replica};
use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
};

use crate::watch::withheld;

/// One machine's ledger in two logs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MachineDifference {
    pub machine: MachineId,
    /// Samples that only the first log has; empty if none.
    pub only_first: Range<u64>,
    /// Samples that only the second has.
    pub only_second: Range<u64>,
    /// The first sample of the first segment in which they contradict each other: the machine signed two histories.
    pub fork: Option<u64>,
    /// Why not all of it counts, where they do not agree on that: by the first log, and by the second.
    pub withheld: Option<(Option<String>, Option<String>)>,
}

/// Machines that the logs do not agree on, in ascending order. Both must be of one run.
pub fn differences(first: &Replica, second: &Replica) -> Vec<MachineDifference> {
    let ledgers = |replica| -> BTreeMap<MachineId, &Ledger> {
        Replica::machines(replica).map(|(machine, ledger, _)| (*machine, ledger)).collect()
    };
    let (of_first, of_second) = (ledgers(first), ledgers(second));
    let nothing = Ledger::default();
    let difference = |machine: MachineId| {
        let left = of_first.get(&machine).copied().unwrap_or(&nothing);
        let right = of_second.get(&machine).copied().unwrap_or(&nothing);
        let common = left.height().min(right.height());
        let (left_withheld, right_withheld) = (withheld(first, &machine), withheld(second, &machine));
        MachineDifference {
            machine,
            only_first: common..left.height(),
            only_second: common..right.height(),
            fork: fork(first.run(), left, right),
            withheld: (left_withheld != right_withheld).then_some((left_withheld, right_withheld)),
        }
    };
    let machines: BTreeSet<MachineId> = of_first.keys().chain(of_second.keys()).copied().collect();
    machines.into_iter().map(difference).filter(MachineDifference::is_one).collect()
}

impl MachineDifference {
    fn is_one(&self) -> bool {
        !self.only_first.is_empty() || !self.only_second.is_empty() || self.fork.is_some() || self.withheld.is_some()
    }
}

/// Where two ledgers of one machine part, if they do not merely end at different heights.
fn fork(run: &RunId, left: &Ledger, right: &Ledger) -> Option<u64> {
    let common = left.height().min(right.height());
    if left.digest_at(run, common) == right.digest_at(run, common) {
        return None;
    }
    // Digests chain: once they differ, they differ for good. Find the first chunk, then the first segment.
    let chunks = left.chunks();
    let number = chunks.partition_point(|chunk| {
        chunk.end() <= common && left.digest_at(run, chunk.end()) == right.digest_at(run, chunk.end())
    });
    let chunk = chunks.get(number)?;
    let digests = chunk.digests(run);
    let mut segments = chunk.segments().zip(digests);
    segments
        .find(|(segment, digest)| segment.end() > common || right.digest_at(run, segment.end()) != Some(*digest))
        .map(|(segment, _)| segment.first)
}
