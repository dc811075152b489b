//! What two logs of one run differ in.

use protocol::{ledger::Ledger, machine::MachineId, manifest::RunId, replica::Replica, revocation::Revocation};
use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
};

/// One machine's ledger in two logs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MachineDifference {
    /// Whose.
    pub machine: MachineId,
    /// Samples that only the first log has; empty if none.
    pub only_first: Range<u64>,
    /// Samples that only the second has.
    pub only_second: Range<u64>,
    /// The first sample of the first segment in which they contradict each other: the machine signed two histories.
    pub fork: Option<u64>,
    /// Why not all of it counts, where they do not agree on that: by the first log, and by the second.
    pub revocations: Option<(Option<Revocation>, Option<Revocation>)>,
}

/// Machines that the logs do not agree on, in ascending order. Both must be of one run.
pub fn differences(first: &Replica, second: &Replica) -> Vec<MachineDifference> {
    type Account<'a> = (&'a Ledger, Option<&'a Revocation>);
    let accounts = |replica| -> BTreeMap<MachineId, Account<'_>> {
        let all = Replica::machines(replica);
        all.map(|(machine, ledger, revocation)| (*machine, (ledger, revocation))).collect()
    };
    let (of_first, of_second) = (accounts(first), accounts(second));
    let nothing = Ledger::default();
    let difference = |machine: MachineId| {
        let (left, left_revocation) = of_first.get(&machine).copied().unwrap_or((&nothing, None));
        let (right, right_revocation) = of_second.get(&machine).copied().unwrap_or((&nothing, None));
        let common = left.height().min(right.height());
        let disagree = effect(left_revocation) != effect(right_revocation);
        MachineDifference {
            machine,
            only_first: common..left.height(),
            only_second: common..right.height(),
            fork: fork(first.run(), left, right),
            revocations: disagree.then(|| (left_revocation.cloned(), right_revocation.cloned())),
        }
    };
    let machines: BTreeSet<MachineId> = of_first.keys().chain(of_second.keys()).copied().collect();
    machines.into_iter().map(difference).filter(MachineDifference::is_one).collect()
}

impl MachineDifference {
    fn is_one(&self) -> bool {
        !self.only_first.is_empty() || !self.only_second.is_empty() || self.fork.is_some() || self.revocations.is_some()
    }
}

/// Two proofs of one fork do the same.
fn effect(revocation: Option<&Revocation>) -> Option<(bool, u64)> {
    revocation.map(|revocation| (revocation.is_fork(), revocation.floor()))
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
