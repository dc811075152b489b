//! Leaving: nothing acknowledged is lost, however slow the disk is.

use serde::Serialize;

/// What leaving waits for.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Serialize)]
pub struct Waiting {
    /// Own gradients that are not durable yet.
    pub own: u64,
    /// Writes that are not durable yet.
    pub writes: u64,
    /// Whether a checkpoint is being written.
    pub checkpoint: bool,
}

/// How a peer left.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub enum Departure {
    /// Everything is stored and told.
    Clean,
    /// The disk refused all writes: this was given up. Whatever others hold comes again from them.
    GivenUp(Waiting),
    /// There is no run to join.
    NoRun,
}
