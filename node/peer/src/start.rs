//! What a start decides from what the disk held.

use protocol::replica::{OwnHead, Replica};

fn own_is_empty(replica: &Replica) -> bool {
    replica.ledger(&replica.own_machine()).is_none_or(|ledger| ledger.height() == 0)
}

/// Whether the own ledger is to begin under a new incarnation: an empty one of an earlier process is worth nothing, and
/// a new one need not be asked about. Where no other node is known, nobody can tell whether the disk was rolled back to
/// before somebody came, so a ledger of an earlier process is not gone on with. `is_new`: this process opened it.
pub fn needs_incarnation(replica: &Replica, is_new: bool, is_alone: bool) -> bool {
    !is_new && (is_alone || own_is_empty(replica))
}

/// Whether this machine's head is sure: the own ledger is empty and new. To be asked after [`needs_incarnation`] was
/// answered.
pub fn own_head(replica: &Replica) -> OwnHead {
    if own_is_empty(replica) { OwnHead::Sure } else { OwnHead::Unconfirmed }
}
