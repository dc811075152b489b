//! The own ledger's state beyond what is in the ledgers.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use super::interface::NodeId;
use crate::{
    machine::MachineId,
    segment::{Chunk, Digest},
};

/// Whether own bytes may be signed.
pub(super) enum Signing {
    /// Not started.
    Idle,
    /// Peers are being asked for this machine's head.
    Asking { since_ms: u64, strong_since_ms: Option<u64>, weak: bool, asked: BTreeMap<NodeId, u64> },
    /// This machine's head is sure.
    Sure,
    /// A new incarnation was asked for.
    Renewing,
}

pub(super) struct Own {
    pub machine: MachineId,
    pub signing: Signing,
    /// Bytes that are not signed yet, with their swarm steps.
    pub pending: VecDeque<(i8, u64)>,
    pub pending_since_ms: u64,
    pub last_byte_ms: Option<u64>,
    /// Running mean of the time between calls of `Replica::own_bytes`; infinite until there were two.
    pub interval_ms: f64,
    /// The same over the bytes that each brought.
    pub byte_interval_ms: f64,
    /// Segments whose signature was asked for, oldest first.
    pub unsigned: VecDeque<(u64, Chunk)>,
    /// Signed, not durable yet, oldest first.
    pub unstored: VecDeque<(u64, Arc<Chunk>)>,
    pub next_token: u64,
    /// First sample and predecessor of the next segment.
    pub next: (u64, Digest),
}

impl Own {
    pub fn new(machine: MachineId) -> Self {
        Self {
            machine,
            signing: Signing::Idle,
            pending: VecDeque::new(),
            pending_since_ms: 0,
            last_byte_ms: None,
            interval_ms: f64::INFINITY,
            byte_interval_ms: f64::INFINITY,
            unsigned: VecDeque::new(),
            unstored: VecDeque::new(),
            next_token: 0,
            next: (0, [0; 32]),
        }
    }

    /// First sample that is not signed.
    pub fn next_segment_sample(&self) -> u64 {
        self.next.0
    }
}
