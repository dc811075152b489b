//! What people hear of a run's machines: which are new, which are silent, and what of them does not count.

use protocol::{machine::MachineId, member::Member, replica::Replica, revocation::Revocation};
use std::collections::BTreeSet;

/// Names that one line has room for.
const NAMED_MAX: usize = 3;

fn named(machines: &[MachineId]) -> String {
    let names: Vec<String> = machines.iter().take(NAMED_MAX).map(ToString::to_string).collect();
    let more = machines.len().saturating_sub(NAMED_MAX);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!("{}{more}", names.join(", "))
}

/// How many machines the run has, of which each may have gone on as several incarnations.
pub fn machine_count(replica: &Replica) -> usize {
    let there = replica.machines().filter(|(_, ledger, revocation)| ledger.height() > 0 || revocation.is_some());
    keys(there.map(|(machine, ..)| machine))
}

fn keys<'a>(machines: impl Iterator<Item = &'a MachineId>) -> usize {
    machines.map(|machine| machine.key).collect::<BTreeSet<_>>().len()
}

/// The same in words, with the incarnations where they are more.
pub fn machines_in_words(replica: &Replica) -> String {
    in_words(machine_count(replica), replica.vector().machines())
}

fn in_words(count: usize, incarnations: usize) -> String {
    let noun = if count == 1 { "machine" } else { "machines" };
    let more = if incarnations > count { format!(" ({incarnations} incarnations)") } else { String::new() };
    format!("{count} {noun}{more}")
}

/// Machines whose first gradients have come, and how many the run has now.
pub fn new_machines(machines: &[MachineId], count: usize) {
    if !machines.is_empty() {
        tracing::info!("new in the run: {}; {count} machines so far", named(machines));
    }
}

/// Machines of which nothing has come for a minute.
pub fn silent_machines(machines: &[MachineId]) {
    if !machines.is_empty() {
        tracing::info!("no gradients for a minute of {}: paused, done, or gone", named(machines));
    }
}

/// Why not all of a machine's ledger counts, if so.
pub fn withheld(replica: &Replica, machine: &MachineId) -> Option<String> {
    let floor = replica.floor(machine);
    let is_withdrawn = matches!(replica.member(&machine.key), Some(Member::Withdrawn { .. }));
    match replica.revocation(machine) {
        Some(Revocation::Fork(_)) => Some("forked: none of it counts".into()),
        Some(Revocation::Authority { from, .. }) if *from == floor => Some(format!("withdrawn from sample {from} on")),
        _ if floor == u64::MAX => None,
        _ if is_withdrawn && floor == 0 => Some("its key is withdrawn: none of it counts".into()),
        _ if is_withdrawn => Some(format!("its key is withdrawn: only samples below {floor} count")),
        _ => Some("its key is not a member of the run: none of it counts".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_that_goes_on_as_another_incarnation_is_still_one() {
        let machine = |key: u8, incarnation| MachineId { key: [key; 32], incarnation };
        let machines = [machine(1, 1), machine(1, 2), machine(2, 7)];
        assert_eq!(keys(machines.iter()), 2);
        assert_eq!([in_words(2, 3), in_words(2, 2)], ["2 machines (3 incarnations)", "2 machines"]);
        assert_eq!(in_words(1, 1), "1 machine");
    }
}
