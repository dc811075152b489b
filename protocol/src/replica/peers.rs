//! What is known of each connected peer.

use std::collections::VecDeque;

use crate::{anti_entropy::Want, machine::MachineId, message::Cursor};

/// What a peer was asked.
pub enum Asked {
    /// At this revision of the version vector.
    Summary(u64),
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
    /// The revision of the version vector at which this peer last agreed: it holds all that was here then.
    pub agreed: Option<u64>,
    /// It did not answer the last question, or could not: nobody waits for it. A relay never can.
    pub is_mute: bool,
    /// It told us its standings in full at least once.
    pub compared: bool,
    /// Pushes whose signature was wrong for what is known here: since when (ms), and how many.
    pub unsound: (u64, u32),
    /// Entries that it listed since the last summary.
    pub listed: usize,
    /// It sent something when it was last asked for samples or statements.
    pub has_sent: bool,
    /// It sent nothing of what it claimed to hold when it was last asked: nobody waits for it.
    pub is_fruitless: bool,
}

/// So many pushes of a peer with a wrong signature are looked into in this time, ms.
const UNSOUND_MAX: u32 = 4;
const UNSOUND_MS: u64 = 1_000;

impl PeerState {
    /// Whether it has sent so much of what is unsound that it is not looked into for now. Who sends it may be honest,
    /// and of another branch of a fork, so that nothing is held against it; but to find out takes a while.
    pub fn is_unsound(&self, now_ms: u64) -> bool {
        let (since_ms, count) = self.unsound;
        count >= UNSOUND_MAX && now_ms.saturating_sub(since_ms) < UNSOUND_MS
    }

    /// A signature was wrong.
    pub fn count_unsound(&mut self, now_ms: u64) {
        if now_ms.saturating_sub(self.unsound.0) >= UNSOUND_MS {
            self.unsound = (now_ms, 0);
        }
        self.unsound.1 += 1;
    }

    pub fn has_something_to_ask(&self) -> bool {
        !self.wants.is_empty() || self.listing.is_some() || self.summary_due_ms.is_some()
    }
}
