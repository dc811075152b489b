//! What a start decides from what the disk held.

use protocol::replica::{OwnHead, Replica};

fn own_is_empty(replica: &Replica) -> bool {
    replica.ledger(&replica.own_machine()).is_none_or(|ledger| ledger.height() == 0)
}

/// Whether the own ledger is to begin under a new incarnation: an empty one of an earlier process is worth nothing, and
/// a new one need not be asked about. `is_new`: this process opened it.
pub fn needs_incarnation(replica: &Replica, is_new: bool) -> bool {
    own_is_empty(replica) && !is_new
}

/// Whether the own head is sure: the own ledger is empty and new, or nobody else has ever been of this run. `is_alone`:
/// no other node is known. To be asked after [`needs_incarnation`] was answered.
pub fn own_head(replica: &Replica, is_alone: bool) -> OwnHead {
    let own_key = replica.own_machine().key;
    let has_others = replica.machines().any(|(machine, ..)| machine.key != own_key);
    if is_alone && !has_others || own_is_empty(replica) { OwnHead::Sure } else { OwnHead::Unconfirmed }
}
