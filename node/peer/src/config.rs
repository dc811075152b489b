//! What is settled before a peer begins.

use protocol::{manifest::RunId, replica};
use serde::{Deserialize, Serialize};

use crate::NodeId;

/// Checkpoints are at least this far apart, ms, unless a shell chooses otherwise.
pub const CHECKPOINT_INTERVAL_MS: u64 = 30_000;
/// Connections that a node takes, at most.
pub const CONNECTIONS_MAX: usize = 128;
/// Connections below which a node calls those that it found, unless its shell chooses otherwise.
pub const CONNECTIONS_TARGET: usize = 10;

/// What a shell decides, or knows from its disk, when it makes a [`crate::Peer`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Config {
    /// Own Ed25519 public key.
    pub key: [u8; 32],
    /// The own ledger's incarnation, as the disk has it.
    pub incarnation: u64,
    /// Whether that incarnation was opened by this process: then no segment of it can be anywhere else.
    pub is_new_incarnation: bool,
    /// Decides which neighbours are asked first and how calls are spread. Nothing secret follows from it.
    pub seed: u64,
    /// The only run to join, if there is such a wish.
    pub run: Option<RunId>,
    /// Nodes that are called for ever.
    pub bootstrap: Vec<NodeId>,
    /// Whether nodes of earlier sessions are known: then others may hold more of the run than this disk.
    pub knows_others: bool,
    /// Below so many connections, nodes that were found are called.
    pub connections_target: usize,
    /// Of the replica.
    pub replica: replica::Settings,
}

impl Config {
    /// Whether nobody else is known: whatever the run is, this machine is all of it.
    pub fn is_alone(&self) -> bool {
        self.bootstrap.is_empty() && !self.knows_others
    }
}

/// What a running peer is to achieve.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct GoalSettings {
    /// Own samples in all, over all incarnations; without limit if there is none.
    pub samples: Option<u64>,
    /// Leave once nothing new has come for so long, ms.
    pub exit_when_idle_ms: Option<u64>,
    /// Whether there is a text to train on.
    pub can_train: bool,
    /// Own samples that are measured together.
    pub batch_samples: u64,
    /// Whether to train only while own bytes may be signed: many bytes at once are too dear to be made in vain.
    pub waits_to_sign: bool,
    /// Whether there is a held-out text.
    pub evaluates: bool,
    /// Whether own samples end once the held-out curve is flat.
    pub stops_when_flat: bool,
    /// Checkpoints are at least this far apart, ms.
    pub checkpoint_interval_ms: u64,
}

impl Default for GoalSettings {
    /// Serves and replays.
    fn default() -> Self {
        Self {
            samples: None,
            exit_when_idle_ms: None,
            can_train: false,
            batch_samples: 1,
            waits_to_sign: false,
            evaluates: false,
            stops_when_flat: false,
            checkpoint_interval_ms: CHECKPOINT_INTERVAL_MS,
        }
    }
}
