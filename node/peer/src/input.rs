//! What a peer is told.

use protocol::{
    message::Response,
    replica::{Contained, OwnByte, Record},
    segment::Digest,
    signature::Signature,
    statement::Statement,
};
use serde::{Deserialize, Serialize};

use crate::{CurvePoint, GoalSettings, Look, NodeId, Run};
use protocol::machine::MachineId;

/// One event.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Input {
    /// Time has passed. Due every [`crate::TICK_MS`].
    Tick,
    /// This node is to leave. Whoever cuts that short just drops the peer.
    Leave,

    /// The run on this disk, or the one that was started here just now. Not given to a joiner, which asks for it.
    Run(Run),
    /// Peers are to send the base model. `digests` are those of its chunks as far as the disk has them (all or none),
    /// `missing` the chunks that the disk lacks.
    FetchBase {
        /// One for each chunk, or none at all.
        digests: Vec<Digest>,
        /// Indices, ascending. Of no meaning without digests.
        missing: Vec<u64>,
    },
    /// The digests are on the disk, which lacks these chunks. Answers [`crate::Output::StoreDigests`].
    DigestsStored {
        /// Indices, ascending.
        missing: Vec<u64>,
    },
    /// Answers [`crate::Output::StoreChunk`].
    ChunkStored {
        /// Index of the chunk.
        index: u64,
    },
    /// The base model is on the disk. What else the disk holds follows, record by record.
    BaseReady,
    /// A record from the disk. One that is not sound is answered by [`crate::Output::Damaged`].
    Restored(Record),
    /// There is a sound checkpoint file with this in it. Answered by [`crate::Output::Resume`].
    Checkpoint(Vec<Contained>),
    /// Held-out losses of earlier sessions on the text that is held out now, oldest first.
    Curve(Vec<CurvePoint>),
    /// All of the disk was restored, and the trainer stands ready.
    Start(GoalSettings),
    /// A random incarnation, on the disk. Answers [`crate::Output::NewIncarnation`].
    Incarnation(u64),

    /// The shell opened its network anew: no connection is left, and everyone may be called at once.
    NetworkOpened,
    /// This machine has another address than before, or slept: everyone may be called at once.
    Moved,
    /// The shell knows an address of this node.
    Found(NodeId),
    /// The first connection to the node stands.
    Connected(NodeId),
    /// The last connection to the node is gone.
    Disconnected(NodeId),
    /// Nobody answered. Answers [`crate::Output::Dial`].
    DialFailed(NodeId),
    /// A gossip message. Answered by [`crate::Output::Validate`].
    Gossip {
        /// Who passed it on.
        from: NodeId,
        /// The shell's number for it.
        message: u64,
        /// An encoded [`protocol::message::Gossip`], or anything else.
        bytes: Vec<u8>,
    },
    /// A question. Answered by [`crate::Output::Respond`], [`crate::Output::Serve`] or [`crate::Output::Drop`].
    Request {
        /// Who asks.
        from: NodeId,
        /// The shell's number for it.
        request: u64,
        /// An encoded [`protocol::message::Request`], or anything else.
        bytes: Vec<u8>,
    },
    /// Answers [`crate::Output::Ask`].
    Answer {
        /// The number of the question.
        question: u64,
        /// What came.
        answer: Answer,
    },
    /// No neighbour heard this message. Answers [`crate::Output::Publish`], if it is so.
    Unheard(Vec<u8>),

    /// Answers [`crate::Output::Sign`].
    Signed {
        /// As asked.
        token: u64,
        /// Of the own key.
        signature: Signature,
    },
    /// Everything up to this write is durable. Answers [`crate::Output::Persist`].
    Stored {
        /// Number of the write.
        write: u64,
    },
    /// The disk refused a write. It is tried again.
    StoreFailed,
    /// The checkpoint counts, or was given up. Answers [`crate::Output::Commit`].
    Committed,

    /// The trainer took up the work that was handed out first. Answers [`crate::Output::Work`].
    Took,
    /// Own gradients; the trainer's weights contain them.
    Stepped(Vec<OwnByte>),
    /// So many entries of others are in the weights now.
    Replayed {
        /// Number of entries.
        entries: u64,
        /// How long it took, if they were brought in by sweeps of their own, microseconds; otherwise 0.
        took_us: u64,
    },
    /// All steps for the machine before are told. Answers [`crate::Work::Adopt`].
    Adopted,
    /// Whether a weight is so near its range's end that probes must rest.
    NearEdge(bool),
    /// The held-out loss is known. Answers [`crate::Work::Evaluate`].
    Evaluated(Look),
    /// A checkpoint file is on the disk. It does not count yet. Answers [`crate::Work::Checkpoint`].
    Written {
        /// The own machine at that point.
        machine: MachineId,
        /// Own samples below this are in it.
        next_sample: u64,
        /// How long it took, ms.
        took_ms: u64,
    },
    /// No checkpoint file could be written. Answers [`crate::Work::Checkpoint`].
    WriteFailed,
    /// The weights' digest. Answers [`crate::Work::Digest`].
    Digested {
        /// The version vector's root, as asked.
        root: Digest,
        /// Of the weights.
        digest: Digest,
    },

    /// All connections to a connected node lead through a relay, or one is direct, which is what they are taken to be.
    Way {
        /// Which node.
        node: NodeId,
        /// Which of the two.
        is_relayed: bool,
    },
    /// Whether this machine is to measure nothing of its own for now: no gradients, no held-out text.
    Pause(bool),
    /// What the run's authority says, given to this machine by its own people. Checked as a peer's is; one that is not
    /// sound changes nothing.
    Stated(Statement),
    /// The shell knows an address of this node from an earlier session: it is called for ever, as far as there is need.
    Recalled(NodeId),
}

/// What came in answer to a question. [`crate::exchange::read_answer`] makes one.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Answer {
    /// A message, without a chunk of the base in it.
    Message(Response),
    /// A chunk of the base, which the shell holds: its BLAKE3 and its length, bytes.
    Chunk {
        /// BLAKE3 of the bytes.
        digest: Digest,
        /// Number of bytes.
        length: u64,
    },
    /// Bytes that are no message; why.
    Malformed(String),
    /// Nothing within the time limit, or no connection any more.
    None,
}
