//! One machine's ledger: an append-only string of bytes, cut into signed segments.

use std::sync::Arc;

use crate::{
    error::InvalidChunk,
    manifest::RunId,
    segment::{CHUNK_SAMPLES_MAX, CHUNK_SEGMENTS_MAX, Chunk, Digest, VerifiedChunk},
};

/// Where a verified chunk stands to a ledger.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Placement {
    /// All of it is already there.
    Known,
    /// It goes on from the head; the part that is new.
    Extends(Box<VerifiedChunk>),
    /// Samples between the head and it are missing.
    Gap,
    /// It and what is there cannot both be the machine's history.
    Contradicts,
}

/// The bytes of one machine, held as chunks that are cut at the same places on every node.
///
/// The cuts (*seals*) follow from the segments alone: a chunk takes segments as long as it stays within 4,096 samples
/// and 1,024 segments. The last chunk is open. A signature is kept at every seal and at the head, and no chunk may
/// cross a seal, so that any node can serve any part of the ledger under a signature.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Ledger {
    chunks: Vec<Arc<Chunk>>,
    height: u64,
    head: Digest,
}

/// Whether a segment of `samples` would not fit behind `open`.
fn seals(open: &Chunk, samples: usize) -> bool {
    open.bytes.len() + samples > CHUNK_SAMPLES_MAX || open.parts.len() + 1 > CHUNK_SEGMENTS_MAX
}

/// Lets `open` go on with `chunk`: in place, unless somebody else holds it, too.
fn join(open: &mut Arc<Chunk>, chunk: &Chunk) {
    match Arc::get_mut(open) {
        Some(open) => {
            open.parts.extend_from_slice(&chunk.parts);
            open.bytes.extend_from_slice(&chunk.bytes);
            open.signature = chunk.signature;
        }
        None => {
            let parts = [&open.parts[..], &chunk.parts].concat();
            let bytes = [&open.bytes[..], &chunk.bytes].concat();
            let (machine, first, previous) = (open.machine, open.first, open.previous);
            *open = Arc::new(Chunk { machine, first, previous, parts, bytes, signature: chunk.signature });
        }
    }
}

impl Ledger {
    /// Number of samples.
    pub fn height(&self) -> u64 {
        self.height
    }

    /// Digest of the last segment, zero if empty.
    pub fn head(&self) -> Digest {
        self.head
    }

    /// The chunks in order; the last is open.
    pub fn chunks(&self) -> &[Arc<Chunk>] {
        &self.chunks
    }

    /// Swarm step of the last segment.
    pub fn swarm_step(&self) -> u64 {
        self.chunks.last().and_then(|chunk| chunk.parts.last()).map_or(0, |part| part.swarm_step)
    }

    /// Decides where `chunk` belongs.
    pub fn place(&self, run: &RunId, chunk: &VerifiedChunk) -> Placement {
        let (first, height) = (chunk.chunk().first, self.height());
        if first > height {
            return Placement::Gap;
        }
        if first == height {
            let follows = chunk.chunk().previous == self.head;
            return if follows { Placement::Extends(Box::new(chunk.clone())) } else { Placement::Contradicts };
        }
        let known = chunk.chunk().segments().take_while(|segment| segment.end() <= height).count();
        if self.chunks_near(first, chunk.chunk().end()).any(|ours| {
            let digests = ours.digests(run);
            VerifiedChunk::trusted(ours.clone(), digests).contradicts(chunk)
        }) {
            return Placement::Contradicts;
        }
        if known == chunk.digests().len() {
            return Placement::Known;
        }
        Placement::Extends(Box::new(chunk.tail(known)))
    }

    /// Appends what [`Ledger::place`] found to extend the ledger. Returns whether the chunk before it was sealed by
    /// this.
    pub fn append(&mut self, chunk: VerifiedChunk) -> Result<bool, InvalidChunk> {
        let head = chunk.head();
        let chunk = chunk.into_chunk();
        if chunk.first != self.height() || chunk.previous != self.head {
            return Err(InvalidChunk::NotNext { first: chunk.first, height: self.height() });
        }
        if chunk.parts.first().is_some_and(|part| part.swarm_step < self.swarm_step()) {
            return Err(InvalidChunk::SwarmStep);
        }
        let end = chunk.end();
        let first_samples = chunk.parts.first().map_or(0, |part| usize::from(part.samples));
        let sealed = match self.chunks.last_mut() {
            Some(open) if !seals(open, first_samples) => {
                if open.bytes.len() + chunk.bytes.len() > CHUNK_SAMPLES_MAX
                    || open.parts.len() + chunk.parts.len() > CHUNK_SEGMENTS_MAX
                {
                    return Err(InvalidChunk::UnsignedSeal);
                }
                join(open, &chunk);
                false
            }
            last => {
                let sealed = last.is_some();
                // Most ledgers of a large swarm have one chunk: no room for four.
                if !sealed {
                    self.chunks.reserve_exact(1);
                }
                self.chunks.push(chunk);
                sealed
            }
        };
        self.head = head;
        self.height = end;
        Ok(sealed)
    }

    /// The chunk to serve to someone who has the samples before `from`: starts at the segment that holds `from`, ends
    /// on a signature. None if the ledger ends before. Also returns how many segments were hashed for it.
    pub fn serve(&self, run: &RunId, from: u64) -> Option<(Chunk, usize)> {
        let chunk = self.chunks.get(self.chunks.partition_point(|chunk| chunk.end() <= from))?;
        let start = chunk.segments().take_while(|segment| segment.end() <= from).count();
        if start == 0 {
            return Some((Chunk::clone(chunk), 0));
        }
        Some((chunk.tail(start, &chunk.digests(run)), chunk.parts.len()))
    }

    /// Digest of the segment that ends the ledger's first `height` samples (holds sample `height − 1`); zero for 0,
    /// None beyond the ledger.
    pub fn digest_at(&self, run: &RunId, height: u64) -> Option<Digest> {
        match height {
            0 => Some([0; 32]),
            height if height == self.height() => Some(self.head),
            height if height > self.height() => None,
            height => {
                let chunk = self.chunks.get(self.chunks.partition_point(|chunk| chunk.end() < height))?;
                let index = chunk.segments().position(|segment| segment.end() >= height)?;
                chunk.digests(run).get(index).copied()
            }
        }
    }

    /// (sample, byte, swarm step) of samples `from..to`.
    pub fn entries(&self, from: u64, to: u64) -> impl Iterator<Item = (u64, i8, u64)> {
        let start = self.chunks.partition_point(|chunk| chunk.end() <= from);
        self.chunks[start..]
            .iter()
            .take_while(move |chunk| chunk.first < to)
            .flat_map(|chunk| chunk.segments())
            .flat_map(|segment| {
                (segment.first..).zip(segment.bytes).map(move |(s, b)| (s, *b as i8, segment.swarm_step))
            })
            .filter(move |(sample, ..)| (from..to).contains(sample))
    }

    /// Our chunks that overlap `first..end` or touch it.
    pub fn chunks_near(&self, first: u64, end: u64) -> impl Iterator<Item = &Arc<Chunk>> {
        let start = self.chunks.partition_point(|chunk| chunk.end() < first);
        self.chunks[start..].iter().take_while(move |chunk| chunk.first <= end)
    }
}
