//! What people hear of a run's machines: which are new, which are silent, and what of them does not count.

use protocol::{machine::MachineId, member::Member, replica::Replica, revocation::Revocation};

/// Names that one line has room for.
const NAMED_MAX: usize = 3;

fn named(machines: &[MachineId]) -> String {
    let names: Vec<String> = machines.iter().take(NAMED_MAX).map(ToString::to_string).collect();
    let more = machines.len().saturating_sub(NAMED_MAX);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!("{}{more}", names.join(", "))
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
