//! Wire messages with hard size bounds.

use serde::{Deserialize, Serialize};

use crate::{
    anti_entropy::Want,
    encoding::{decode, encode},
    error::WireError,
    machine::{Handle, MachineId},
    manifest::RunId,
    segment::{Chunk, Part},
    signature::Signature,
    statement::Statement,
    version_vector::{Entry, Subject},
};

/// Largest gossip message, bytes: gossipsub's frame limit less its envelope, with room.
pub const GOSSIP_BYTES_MAX: usize = 56_000;
/// Largest request, bytes.
pub const REQUEST_BYTES_MAX: usize = 64 * 1024;
/// Largest response, bytes: a manifest, or as many chunks as fit.
pub const RESPONSE_BYTES_MAX: usize = (1 << 20) + 1024;
/// Chunks in a response stop being added at this many bytes.
pub const CHUNKS_BYTES_TARGET: usize = 512 * 1024;
/// Most wants in one request.
pub const WANTS_MAX: usize = 256;
/// Most entries in one response.
pub const ENTRIES_MAX: usize = 2048;
/// Most digests of base chunks in one response.
pub const BASE_DIGESTS_MAX: usize = 16_384;

/// Who signed a gossiped segment: in full when a ledger begins, by handle after that.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Author {
    /// Key and incarnation.
    Introduced(MachineId),
    /// Known from sample 0, or from anti-entropy.
    Known(Handle),
}

/// A pushed segment. The digest of its predecessor is not sent: whoever holds the ledger up to `first` knows it, and
/// who does not could not use the segment. A hint tells a gap or a fork from a bad signature.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Push {
    /// Whose.
    pub author: Author,
    /// First sample.
    pub first: u64,
    /// First four bytes of the predecessor's digest.
    pub previous_hint: [u8; 4],
    /// As signed.
    pub swarm_step: u64,
    /// One byte per sample.
    pub bytes: Vec<u8>,
    /// Over the body's digest.
    pub signature: Signature,
}

impl Push {
    /// A one-segment chunk, for the gossip.
    pub fn of(chunk: &Chunk) -> Self {
        let author = match chunk.first {
            0 => Author::Introduced(chunk.machine),
            _ => Author::Known(chunk.machine.handle()),
        };
        Self {
            author,
            first: chunk.first,
            previous_hint: [chunk.previous[0], chunk.previous[1], chunk.previous[2], chunk.previous[3]],
            swarm_step: chunk.parts.first().map_or(0, |part| part.swarm_step),
            bytes: chunk.bytes.clone(),
            signature: chunk.signature,
        }
    }

    /// The chunk again, given the machine and the predecessor's digest. None if it has more bytes than a segment may.
    pub fn into_chunk(self, machine: MachineId, previous: [u8; 32]) -> Option<Chunk> {
        let samples = u16::try_from(self.bytes.len()).ok()?;
        let parts = vec![Part { samples, swarm_step: self.swarm_step }];
        Some(Chunk { machine, first: self.first, previous, parts, bytes: self.bytes, signature: self.signature })
    }
}

/// What travels on the run's topic.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Gossip {
    /// A new segment.
    Segment(Push),
    /// A new statement about a machine or a key.
    Statement(Statement),
}

impl Gossip {
    /// Encodes within [`GOSSIP_BYTES_MAX`].
    pub fn encode(&self) -> Result<Vec<u8>, WireError> {
        encode::<_, GOSSIP_BYTES_MAX>(self)
    }

    /// Decodes within [`GOSSIP_BYTES_MAX`].
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        decode::<_, GOSSIP_BYTES_MAX>(bytes)
    }
}

/// Where in the version vector a listing goes on: bucket, then entry (exclusive).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Cursor {
    /// First bucket.
    pub bucket: u8,
    /// Entries of that bucket after the one about this.
    pub after: Option<Subject>,
}

/// What one peer asks another.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Question {
    /// The manifest of your run.
    Manifest,
    /// Digests of the base model's chunks, from this index on.
    BaseDigests {
        /// First index.
        from: u64,
    },
    /// One chunk of the base model.
    BaseChunk {
        /// Its index.
        index: u64,
    },
    /// My version vector's root is this; where do we differ?
    Summary {
        /// The asker's root.
        root: [u8; 32],
    },
    /// Your entries in these buckets.
    Entries {
        /// Bit i of byte i / 8, from the least significant: bucket i.
        buckets: [u8; 32],
        /// Where to go on.
        cursor: Cursor,
    },
    /// Send me what I lack.
    Fetch {
        /// At most [`WANTS_MAX`].
        wants: Vec<Want>,
    },
}

/// A question and the run that it is about (zero if the asker does not know one yet).
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Request {
    /// The asker's run.
    pub run: RunId,
    /// The question.
    pub question: Question,
}

impl Request {
    /// Encodes within [`REQUEST_BYTES_MAX`].
    pub fn encode(&self) -> Result<Vec<u8>, WireError> {
        encode::<_, REQUEST_BYTES_MAX>(self)
    }

    /// Decodes within [`REQUEST_BYTES_MAX`].
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        decode::<_, REQUEST_BYTES_MAX>(bytes)
    }
}

/// What the other answers.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Response {
    /// The encoded manifest.
    Manifest(Vec<u8>),
    /// Digests of base chunks from the index asked for.
    BaseDigests(Vec<[u8; 32]>),
    /// The chunk's bytes.
    BaseChunk(Vec<u8>),
    /// Equal roots.
    Same,
    /// The answerer's 256 bucket hashes.
    Buckets(Vec<[u8; 32]>),
    /// Entries in bucket order, and where to go on if there are more.
    Entries {
        /// At most [`ENTRIES_MAX`].
        entries: Vec<Entry>,
        /// None: that was all.
        more: Option<Cursor>,
    },
    /// What of the wants is there, as far as it fits.
    Found {
        /// Chunks, in order within each ledger.
        chunks: Vec<Chunk>,
        /// Statements.
        statements: Vec<Statement>,
    },
    /// The answerer is of another run.
    WrongRun(RunId),
    /// The answerer cannot serve this now (it is still joining, or does not hold it).
    Unavailable,
}

impl Response {
    /// Encodes within [`RESPONSE_BYTES_MAX`].
    pub fn encode(&self) -> Result<Vec<u8>, WireError> {
        encode::<_, RESPONSE_BYTES_MAX>(self)
    }

    /// Decodes within [`RESPONSE_BYTES_MAX`].
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        decode::<_, RESPONSE_BYTES_MAX>(bytes)
    }
}
