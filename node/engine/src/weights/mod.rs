//! The numbers of a model, apart from what is computed with them.
//!
//! | file | noun |
//! |---|---|
//! | `trained.rs` | the tensors that a run trains: exact, changed in place, shared with the model; the frozen ones beside them |
//! | `sweep.rs` | probes and entries into all trained tensors, in one pass |
//! | `projection.rs` | what a gradient makes of directions |
//! | `bytes.rs` | trained tensors as bytes: checkpoints, base, digests |
//! | `grid.rs` | whether a value is a whole number of quanta within its range |

mod bytes;
mod grid;
mod projection;
mod sweep;
mod trained;

#[cfg(test)]
mod tests;

pub use bytes::tensor_digest;
pub use sweep::{ENTRIES_PER_SWEEP, SweepReport};
pub use trained::Weights;
