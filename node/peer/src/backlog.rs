//! Work that waits for the trainer.

/// Works that the trainer may hold.
pub const WORKS_MAX: usize = 64;
