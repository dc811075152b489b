//! What people want of a node that runs, from outside of it.
//!
//! | file | noun |
//! |---|---|
//! | `interrupt.rs` | a signal: leave; another: now |
//! | `pause.rs` | why own gradients rest: a file in the state directory, or the battery |
//! | `authority.rs` | what the run's authority says, from a command to the node, as a file in the state directory |

pub mod authority;
pub mod interrupt;
pub mod pause;
