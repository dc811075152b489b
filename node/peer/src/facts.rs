//! What goals and people both read.

use serde::Serialize;

use crate::{Forecast, Load};

/// What a peer is doing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub enum Phase {
    /// Manifest or base model are not here yet.
    Joining,
    /// What others had made before this machine came is not all in the weights.
    CatchingUp,
    /// Own gradients are being made.
    Training,
    /// Own gradients rest: somebody wants it so, or a weight is near the end of its range.
    Paused,
    /// All own gradients are made; what others make is replayed and passed on.
    Serving,
    /// On the way out.
    Leaving,
}

/// A look at a peer.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub struct Facts {
    /// What it is doing.
    pub phase: Phase,
    /// Whether what others had when it came is here.
    pub has_joined: bool,
    /// Whether that is in the weights, too.
    pub is_current: bool,
    /// Connected nodes.
    pub neighbours: usize,
    /// Entries that the weights lack.
    pub owed: u64,
    /// The most of them since the weights lacked none.
    pub owed_most: u64,
    /// How much comes, and whether this machine keeps up.
    pub load: Load,
    /// Machines that make gradients at present, this one included.
    pub live: u64,
    /// Writes that are not durable yet.
    pub unstored: u64,
    /// Whether own gradients are all made and durable.
    pub own_is_done: bool,
    /// What the held-out curve says.
    pub forecast: Option<Forecast>,
    /// Whether own gradients ended because that curve is flat.
    pub stopped_flat: bool,
}
