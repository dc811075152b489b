//! What people should hear of, as data. The words are the shell's.

use protocol::{
    machine::MachineId,
    manifest::RunId,
    replica::{Contained, IncarnationCause, Report},
    segment::Digest,
};
use serde::Serialize;

use crate::{Forecast, Load, NodeId, Point};

/// One piece of news.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub enum Notice {
    /// A bootstrap node does not answer; it is called again after so long, ms.
    Unreachable {
        /// Which.
        node: NodeId,
        /// Pause, ms.
        retry_in_ms: u64,
    },
    /// Counted against a node.
    Fault {
        /// Whose.
        node: NodeId,
        /// What it did.
        reason: String,
        /// Whether this banned it.
        banned: bool,
    },
    /// A node is of another run than this one, which is no offence: nothing more is asked of it for a while.
    OtherRun {
        /// Which node.
        node: NodeId,
        /// Its run.
        run: RunId,
        /// In what the two manifests differ.
        differences: Vec<String>,
    },
    /// A node that was asked for its run is not of the run that was wished for.
    NotTheWishedRun {
        /// Which node.
        node: NodeId,
        /// Its run.
        run: RunId,
        /// Whether every bootstrap node is of another run: then nobody is left to ask, and the peer has left.
        is_last: bool,
    },
    /// A node gave no usable manifest.
    NoManifest {
        /// Which node.
        node: NodeId,
        /// Why.
        reason: String,
    },
    /// A node is asked for no more pieces of the base model.
    GivenUp {
        /// Which node.
        node: NodeId,
        /// Why.
        reason: String,
    },
    /// So much of the base model is here.
    Fetched {
        /// Bytes in all.
        bytes: u64,
        /// Bytes here.
        here: u64,
    },
    /// For a while nobody was found who is of a run to join.
    NobodyHasRun {
        /// Nodes that are connected all the same.
        neighbours: usize,
    },
    /// No connected node sent anything of the base model for a while.
    NobodyHasBase {
        /// Nodes that are connected all the same.
        neighbours: usize,
    },
    /// What others had when this machine came is here; training begins once it is in the weights, too.
    CaughtUp {
        /// Since the start, ms.
        after_ms: u64,
    },
    /// This machine replays less than the others make, and its weights fall further and further behind. Told once,
    /// until it has caught up.
    Behind(Load),
    /// The own key may not contribute: the run's authority has not admitted it or has withdrawn it, or the run lists
    /// its members and this is none. The peer goes on replaying.
    NoMember {
        /// The own key.
        key: [u8; 32],
    },
    /// The own ledger goes on under a new incarnation.
    NewIncarnation {
        /// Why.
        cause: IncarnationCause,
        /// The new name.
        machine: MachineId,
    },
    /// Another node signs under the own key while this one runs.
    Twin {
        /// As whom it signs.
        machine: MachineId,
    },
    /// Of the replica.
    Report(Report),
    /// Nothing has come for a while, and nothing is to be made: the weights at this root.
    AtRest {
        /// Of the version vector.
        root: Digest,
        /// Of the weights.
        digest: Digest,
    },
    /// The weights with this in them had this digest.
    Weights {
        /// Of the weights.
        digest: Digest,
        /// What was in them.
        contents: Vec<Contained>,
    },
    /// A look at the held-out text of which all is in ledgers now.
    Point(Point),
    /// The held-out curve is flat: no more own gradients are made.
    Flat(Forecast),
    /// Leaving has begun.
    Leaving,
    /// Leaving takes a while: what it waits for.
    StillLeaving(crate::leave::Waiting),
}
