//! When to train, evaluate, write checkpoints, and be done.

/// Checkpoints are at least this far apart, ms.
pub const CHECKPOINT_INTERVAL_MS: u64 = 30_000;
