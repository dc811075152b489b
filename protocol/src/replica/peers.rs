//! What is known of each connected peer.

use std::collections::VecDeque;

use crate::{anti_entropy::Want, machine::MachineId, message::Cursor};

/// What a peer was asked.
pub enum Asked {
    /// With this root.
    Summary([u8; 32]),
    Entries {
        buckets: [u8; 32],
    },
    Fetch(Vec<Want>),
    /// Of this machine, ours at the time.
    OwnHead(MachineId),
}

#[derive(Default)]
pub struct PeerState {
    /// Whoever drives the replica says when no answer comes.
    pub waiting: Option<Asked>,
    pub wants: VecDeque<Want>,
    pub listing: Option<([u8; 32], Cursor)>,
    /// A summary is due from this time on.
    pub summary_due_ms: Option<u64>,
    pub last_summary_ms: Option<u64>,
    /// It was last asked for the admission of a key that it spread samples of.
    pub last_admission_ms: Option<u64>,
    /// The root at which this peer last agreed.
    pub agreed: Option<[u8; 32]>,
    /// It told us its standings in full at least once.
    pub compared: bool,
    /// Entries that it listed since the last summary.
    pub listed: usize,
    /// It sent nothing of what it claimed to hold when it was last asked: nobody waits for it.
    pub is_fruitless: bool,
}

impl PeerState {
    pub fn has_something_to_ask(&self) -> bool {
        !self.wants.is_empty() || self.listing.is_some() || self.summary_due_ms.is_some()
    }
}
