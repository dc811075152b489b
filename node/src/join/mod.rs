//! How a machine is found by those who join its run.
//!
//! | file | noun |
//! |---|---|
//! | `places.rs` | where this machine can be reached, best first |
//! | `ticket.rs` | all that a joiner needs, in one word |
//! | `invitation.rs` | when that word is said, and kept in the state directory |
//! | `scan.rs` | the word as a QR code |

pub(crate) mod invitation;
pub(crate) mod places;
pub(crate) mod scan;
pub mod ticket;
