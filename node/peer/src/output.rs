//! What a peer wants done.

use protocol::{
    machine::MachineId,
    replay::Contribution,
    replica::{Contained, LedgerRange, Record, Verdict},
    segment::Digest,
};
use serde::Serialize;

use crate::{NodeId, Notice, Run, leave::Departure};

/// One effect.
#[derive(Clone, Debug, Serialize)]
pub enum Output {
    /// Call the node at its addresses. Answered by `Connected` or `DialFailed`.
    Dial(NodeId),
    /// Close connections to the node, and refuse new ones.
    Ban(NodeId),
    /// Connections to the node are welcome again.
    Pardon(NodeId),
    /// Close connections to the node, once what is on its way to it has had time to arrive. It may come again.
    HangUp(NodeId),
    /// Nothing is known of the node any more, and it is not connected: its number and its addresses may go.
    Forget(NodeId),
    /// Send a question. Answered by `Answer`, also if nothing comes.
    Ask {
        /// Whom.
        node: NodeId,
        /// Names the answer.
        question: u64,
        /// An encoded [`protocol::message::Request`].
        bytes: Vec<u8>,
    },
    /// Send the answer to a request.
    Respond {
        /// As it came.
        request: u64,
        /// An encoded [`protocol::message::Response`].
        bytes: Vec<u8>,
    },
    /// Send a part of the base model: [`crate::exchange::serve`].
    Serve {
        /// As it came.
        request: u64,
        /// Which part.
        piece: Piece,
    },
    /// A request gets no answer.
    Drop {
        /// As it came.
        request: u64,
    },
    /// Put on the run's topic. Answered by `Unheard`, or not at all.
    Publish(Vec<u8>),
    /// What to do with a gossip message.
    Validate {
        /// As it came.
        message: u64,
        /// Who passed it on.
        from: NodeId,
        /// Whether to pass it on.
        verdict: Verdict,
    },
    /// Whether to read from the network. It is read until told otherwise.
    Reading(bool),

    /// A joiner's run: make it this disk's. Answered by `FetchBase` or `BaseReady`.
    StoreRun(Run),
    /// Make the digests of the base's chunks durable. Answered by `DigestsStored`.
    StoreDigests(Vec<Digest>),
    /// Store the chunk that came in answer to the question. Answered by `ChunkStored`.
    StoreChunk {
        /// The question that brought it.
        question: u64,
        /// Its index.
        index: u64,
    },
    /// All chunks are stored: make them the base. Answered by `BaseReady`.
    FinishBase,
    /// A record from the disk breaks a rule: the state cannot be used.
    Damaged {
        /// Whose ledger, or whom a statement is about.
        machine: MachineId,
        /// First sample of the record, 0 for a statement.
        first: u64,
        /// Which rule.
        reason: String,
    },
    /// Whether the checkpoint fits the ledgers. If not, the weights start from the base. Answered by `Start`.
    Resume(bool),
    /// Draw a random incarnation and make it durable. Answered by `Incarnation`.
    NewIncarnation,
    /// Make durable, in the order of the numbers. Answered by `Stored`.
    Persist {
        /// All or none of them.
        records: Vec<Record>,
        /// Number of the write.
        write: u64,
    },
    /// The file that was written last is the checkpoint from now on, once all writes before this are durable. Answered
    /// by `Committed`.
    Commit {
        /// What its weights contain.
        contents: Vec<Contained>,
    },
    /// The file that was written last is of no use.
    Discard,

    /// Sign with the own key. Answered by `Signed`.
    Sign {
        /// Names the answer.
        token: u64,
        /// See [`protocol::segment::head_message`].
        message: Vec<u8>,
    },
    /// Hand to the trainer, which takes up work in order. Answered by `Took`; [`crate::backlog::WORKS_MAX`] are out at
    /// most.
    Work(Work),

    /// Tell people.
    Notice(Notice),
    /// The peer is done: close everything.
    Left(Departure),
}

/// A part of the base model.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub enum Piece {
    /// Digests of its chunks from this index on.
    Digests {
        /// First index.
        from: u64,
    },
    /// One chunk.
    Chunk {
        /// Its index.
        index: u64,
    },
}

/// One thing for the trainer to do.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub enum Work {
    /// Work for this machine, from this sample on. Answered by `Adopted`.
    Adopt(MachineId, u64),
    /// Use the learning rate of this swarm step for own bytes.
    SwarmStep(u64),
    /// Measure own gradients of samples below this one, then rest. Zero: rest. Answered by `Stepped`, again and again.
    Train {
        /// First sample that is not wanted.
        until_sample: u64,
    },
    /// Move the weights by own bytes that no ledger holds.
    Replay(Vec<Contribution>),
    /// Move the weights by samples of ledgers, of which `Peer::replica` spells out the entries. Answered by `Replayed`.
    ReplayLedgers(Vec<LedgerRange>),
    /// Measure the held-out loss. Answered by `Evaluated`.
    Evaluate,
    /// Write the weights to a file that does not count yet. Answered by `Written` or `WriteFailed`.
    Checkpoint,
    /// Hash the weights, which stand at this root of the version vector. Answered by `Digested`.
    Digest(Digest),
}
