//! What goes into a replica and what comes out.

use serde::{Deserialize, Serialize};
use std::sync::Arc;

use crate::{
    machine::MachineId,
    message::{Gossip, Question},
    replay::Contribution,
    revocation::Revocation,
    segment::{Chunk, Digest},
    statement::Statement,
};

/// Another node, numbered by whoever drives the replica: equal numbers, same node.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct NodeId(pub u64);

/// What a machine chooses for itself.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Settings {
    /// Own bytes that are signed and sent together. More is cheaper on the wire (105 bytes of envelope and signature
    /// are shared), fewer is fresher. 1 to 4,096.
    pub flush_samples: usize,
    /// Own bytes wait no longer than this for company in a small swarm. A model slower than this never waits.
    pub staleness_ms: u64,
    /// The same in a large swarm, where every message costs everyone: see `own`. Equal to `staleness_ms`, or less, it
    /// fixes the wait.
    pub staleness_ms_max: u64,
    /// Pause between anti-entropy rounds, each with one neighbour. Push makes it fast, this makes it certain.
    pub anti_entropy_interval_ms: u64,
    /// Most machines to keep ledgers of. Beyond, the node says that it is incomplete.
    pub machines_max: usize,
    /// Most memory for ledgers, bytes. Beyond, the node says that it is incomplete.
    pub ledger_bytes_max: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            flush_samples: 256,
            staleness_ms: 1_000,
            staleness_ms_max: 4_000,
            anti_entropy_interval_ms: 10_000,
            machines_max: 65_536,
            ledger_bytes_max: 4 << 30,
        }
    }
}

/// What goes to disk. Storing a chunk replaces the stored chunks of that machine that begin within it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Record {
    /// New segments, or a sealed chunk that takes the place of its parts.
    #[serde(with = "pointed")]
    Chunk(Arc<Chunk>),
    /// A statement about a machine or a key. It takes the place of one that has the same name.
    Statement(Statement),
}

/// A chunk behind a pointer is written as the chunk.
mod pointed {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};
    use std::sync::Arc;

    use crate::segment::Chunk;

    pub fn serialize<S: Serializer>(chunk: &Arc<Chunk>, serializer: S) -> Result<S::Ok, S::Error> {
        Chunk::serialize(chunk, serializer)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Arc<Chunk>, D::Error> {
        Chunk::deserialize(deserializer).map(Arc::new)
    }
}

/// What a peer did that an honest one does not.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub enum Offence {
    /// Bytes that are no message.
    Malformed(String),
    /// A message that breaks a rule of the protocol.
    Invalid(String),
    /// An answer to another question.
    Unasked,
}

/// What people should hear of.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub enum Report {
    /// Peers know the own ledger as it is on this disk: signing begins.
    HeadConfirmed,
    /// A machine is forked; `was` samples left the weights.
    Forked {
        /// Which.
        machine: MachineId,
        /// How many samples counted before.
        was: u64,
    },
    /// The authority revoked samples.
    Revoked {
        /// Whose.
        machine: MachineId,
        /// From which on.
        from: u64,
    },
    /// The authority admitted the own key.
    Admitted,
    /// The authority withdrew a key: of its machines nothing counts but samples that it named.
    Withdrawn {
        /// Whose.
        key: [u8; 32],
        /// Whether it is the own one.
        is_own: bool,
    },
    /// A limit of this node keeps it from holding all of the run.
    Incomplete(&'static str),
}

/// Why the own ledger begins anew.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub enum IncarnationCause {
    /// A peer holds samples of the own ledger that this disk does not.
    Behind,
    /// No peer could answer for this machine's head.
    Unanswered,
    /// The own key signed two histories: another process uses it, or this disk was rolled back.
    Forked,
    /// The authority revoked samples of the own ledger.
    Revoked,
}

impl IncarnationCause {
    /// What a revocation of the own ledger comes to.
    pub(super) fn of(revocation: &Revocation) -> Self {
        if revocation.is_fork() { Self::Forked } else { Self::Revoked }
    }
}

/// What the driver is to do.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub enum Output {
    /// Send the question to the peer; its answer, or its failure, comes back as an input.
    Ask(NodeId, Question),
    /// Put on the run's topic.
    Publish(Gossip),
    /// Sign the message with the own key; the signature comes back with [`super::Replica::signed`], in the order of the
    /// tokens.
    Sign {
        /// Names the answer.
        token: u64,
        /// See [`crate::segment::head_message`].
        message: Vec<u8>,
    },
    /// Make durable, in order; if there is a token, say so with [`super::Replica::persisted`].
    Persist(Vec<Record>, Option<u64>),
    /// Move the weights by own bytes that no ledger holds.
    Replay(Vec<Contribution>),
    /// Move the weights by samples of a ledger; [`super::Replica::contributions`] spells them out, a part at a time.
    ReplayLedger(LedgerRange),
    /// Draw a random incarnation, make it durable, then call [`super::Replica::adopt`].
    NewIncarnation(IncarnationCause),
    /// Count it against the peer.
    Penalize(NodeId, Offence),
    /// Tell people.
    Report(Report),
}

/// Samples of one ledger on their way into the weights, or out of them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub struct LedgerRange {
    /// Whose.
    pub machine: MachineId,
    /// First sample.
    pub from: u64,
    /// First sample after.
    pub to: u64,
    /// Out of the weights.
    pub removed: bool,
}

impl LedgerRange {
    /// Cuts off the first `samples`, or all if there are no more.
    pub fn take_first(&mut self, samples: u64) -> Self {
        let end = self.to.min(self.from.saturating_add(samples));
        let first = Self { to: end, ..*self };
        self.from = end;
        first
    }

    /// Cuts off what is to be done first, at most `samples`, so that the weights hold a ledger's beginning on the way,
    /// too: what goes in goes from the bottom, what goes out from the top.
    pub fn take_next(&mut self, samples: u64) -> Self {
        if !self.removed {
            return self.take_first(samples);
        }
        let from = self.from.max(self.to.saturating_sub(samples));
        let last = Self { from, ..*self };
        self.to = from;
        last
    }

    /// Samples of the machine that are in the weights while this is still to be done, and nothing before it.
    pub fn held_before(&self) -> u64 {
        if self.removed { self.to } else { self.from }
    }

    /// Number of samples.
    pub fn samples(&self) -> u64 {
        self.to.saturating_sub(self.from)
    }
}

/// What to do with a gossip message.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub enum Verdict {
    /// Pass it on.
    Accept,
    /// Not now, or not news: no fault of the sender.
    Ignore,
    /// The sender should have known.
    Reject,
}

/// A checkpoint's claim: the weights contain this machine's samples below `height`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Contained {
    /// Whose.
    pub machine: MachineId,
    /// Number of samples.
    pub height: u64,
    /// Digest of the segment that holds sample `height − 1`.
    pub digest: Digest,
}

/// A byte from the own trainer, which has already moved its weights by it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct OwnByte {
    /// The machine that the trainer worked for.
    pub machine: MachineId,
    /// The sample.
    pub sample: u64,
    /// The byte.
    pub byte: i8,
    /// The swarm step whose learning rate was used.
    pub swarm_step: u64,
}

/// What is known of the own ledger's head when a replica starts.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum OwnHead {
    /// Nobody can know more of the own ledger than this disk does: it was opened just now, or the run has had no other
    /// machine.
    Sure,
    /// Peers must show it first: this disk may have been rolled back.
    Unconfirmed,
}
