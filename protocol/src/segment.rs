//! Segments, the signed bodies of a ledger, and chunks, the runs of segments that travel and rest together.
//!
//! ```text
//! body digest = BLAKE3.derive_key("onebyte 2 segment",
//!     run (32) ‖ key (32) ‖ incarnation (u64 LE) ‖ first sample (u64 LE) ‖ swarm step (u64 LE)
//!     ‖ digest of the previous body (32, zero for sample 0) ‖ samples (u32 LE) ‖ bytes)
//! signed message = "onebyte 2 head" ‖ body digest
//! ```
//!
//! Digests chain, so the signature of a chunk's last segment covers the whole ledger up to there.

use serde::{Deserialize, Serialize};
use std::sync::Arc;

use crate::{
    error::InvalidChunk,
    machine::MachineId,
    manifest::{RunId, SWARM_STEP_MAX},
    signature::{Signature, Signer, Verifier},
};

/// BLAKE3 of a segment's body.
pub type Digest = [u8; 32];

/// Most samples that one signature vouches for on its own.
pub const CHUNK_SAMPLES_MAX: usize = 4096;
/// Most segments that one signature vouches for on its own.
pub const CHUNK_SEGMENTS_MAX: usize = 1024;

/// Unsent own bytes at which a sender stops to measure.
pub const PENDING_SAMPLES_MAX: usize = 4_096;
/// Own segments that may wait for their signature or for the disk.
pub const UNSTORED_SEGMENTS_MAX: usize = 8;
/// A segment's swarm step is at least its first sample less this, or it is invalid: nobody measures at a step that is
/// older than its own ledger.
///
/// The swarm step counts all samples that a machine holds, those of its own durable ledger among them. What it measured
/// beyond them is pending or unstored, so a sender that keeps its step up to date never needs more.
pub const SWARM_STEP_LAG_MAX: u64 = (PENDING_SAMPLES_MAX + UNSTORED_SEGMENTS_MAX * CHUNK_SAMPLES_MAX) as u64;

const SEGMENT_CONTEXT: &str = "onebyte 2 segment";
const HEAD_TAG: &[u8] = b"onebyte 2 head";

/// One segment's place in a chunk.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Part {
    /// Samples of the segment, 1..=4096.
    pub samples: u16,
    /// Sum of the sender's version vector when the first byte was measured; selects the learning rate.
    pub swarm_step: u64,
}

/// A run of consecutive segments of one ledger, and the signature of the last. A pushed segment is a chunk of one.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Chunk {
    /// Whose ledger.
    pub machine: MachineId,
    /// First sample.
    pub first: u64,
    /// Digest of the body before the first, zero if `first` is 0.
    pub previous: Digest,
    /// The segments.
    pub parts: Vec<Part>,
    /// One byte per sample (i8 as u8).
    pub bytes: Vec<u8>,
    /// Of the last segment.
    pub signature: Signature,
}

/// One segment of a chunk.
#[derive(Clone, Copy, Debug)]
pub struct Segment<'a> {
    /// First sample.
    pub first: u64,
    /// As signed.
    pub swarm_step: u64,
    /// One byte per sample.
    pub bytes: &'a [u8],
}

impl Segment<'_> {
    /// First sample after the segment.
    pub fn end(&self) -> u64 {
        self.first + self.bytes.len() as u64
    }

    /// The body's digest.
    pub fn digest(&self, run: &RunId, machine: &MachineId, previous: &Digest) -> Digest {
        let mut hasher = blake3::Hasher::new_derive_key(SEGMENT_CONTEXT);
        hasher.update(&run.0);
        hasher.update(&machine.key);
        hasher.update(&machine.incarnation.to_le_bytes());
        hasher.update(&self.first.to_le_bytes());
        hasher.update(&self.swarm_step.to_le_bytes());
        hasher.update(previous);
        hasher.update(&(self.bytes.len() as u32).to_le_bytes());
        hasher.update(self.bytes);
        *hasher.finalize().as_bytes()
    }
}

/// What is signed for a head with this digest.
pub fn head_message(digest: &Digest) -> Vec<u8> {
    [HEAD_TAG, digest].concat()
}

impl Chunk {
    /// The next segment of one's own ledger, its signature still zero, and its digest. The signature to come is that
    /// over [`head_message`] of the digest.
    pub fn unsigned(run: &RunId, machine: MachineId, segment: Segment<'_>, previous: Digest) -> (Self, Digest) {
        let digest = segment.digest(run, &machine, &previous);
        let chunk = Self {
            machine,
            first: segment.first,
            previous,
            parts: vec![Part { samples: segment.bytes.len() as u16, swarm_step: segment.swarm_step }],
            bytes: segment.bytes.to_vec(),
            signature: Signature([0; 64]),
        };
        (chunk, digest)
    }

    /// The next segment of one's own ledger, signed by whoever holds the key. Also returns its digest.
    pub fn sign(
        run: &RunId,
        machine: MachineId,
        segment: Segment<'_>,
        previous: Digest,
        signer: &dyn Signer,
    ) -> (Self, Digest) {
        let (chunk, digest) = Self::unsigned(run, machine, segment, previous);
        (Self { signature: signer.sign(&head_message(&digest)), ..chunk }, digest)
    }

    /// First sample after the chunk.
    pub fn end(&self) -> u64 {
        self.first.saturating_add(self.bytes.len() as u64)
    }

    /// The segments in order. Of a chunk whose shape was not checked, those that fit its bytes.
    pub fn segments(&self) -> impl Iterator<Item = Segment<'_>> {
        let mut start = 0usize;
        self.parts.iter().map_while(move |part| {
            let end = start + usize::from(part.samples);
            let bytes = self.bytes.get(start..end)?;
            let segment = Segment { first: self.first + start as u64, swarm_step: part.swarm_step, bytes };
            start = end;
            Some(segment)
        })
    }

    /// Digest of every segment, chained from `previous`.
    pub fn digests(&self, run: &RunId) -> Vec<Digest> {
        let mut previous = self.previous;
        self.segments()
            .map(|segment| {
                previous = segment.digest(run, &self.machine, &previous);
                previous
            })
            .collect()
    }

    /// The segments from number `start` on, as a chunk of its own with the same signature. `digests` are this chunk's.
    pub fn tail(&self, start: usize, digests: &[Digest]) -> Self {
        let skipped: usize = self.parts[..start].iter().map(|part| usize::from(part.samples)).sum();
        Self {
            machine: self.machine,
            first: self.first + skipped as u64,
            previous: if start == 0 { self.previous } else { digests[start - 1] },
            parts: self.parts[start..].to_vec(),
            bytes: self.bytes[skipped..].to_vec(),
            signature: self.signature,
        }
    }

    /// Checks every bound that needs no history. Everything else in this crate relies on it.
    fn check_shape(&self, ledger_samples_max: u64) -> Result<(), InvalidChunk> {
        if self.parts.is_empty() || self.parts.len() > CHUNK_SEGMENTS_MAX {
            return Err(InvalidChunk::Segments(self.parts.len()));
        }
        let samples: usize = self.parts.iter().map(|part| usize::from(part.samples)).sum();
        if self.bytes.len() > CHUNK_SAMPLES_MAX
            || samples != self.bytes.len()
            || self.parts.iter().any(|p| p.samples == 0)
        {
            return Err(InvalidChunk::Samples { declared: samples, carried: self.bytes.len() });
        }
        if self.first > ledger_samples_max || self.end() > ledger_samples_max {
            return Err(InvalidChunk::LedgerFull { end: self.end(), limit: ledger_samples_max });
        }
        let is_timely = |segment: Segment<'_>| {
            segment.swarm_step <= SWARM_STEP_MAX && segment.swarm_step + SWARM_STEP_LAG_MAX >= segment.first
        };
        if !self.parts.is_sorted_by(|a, b| a.swarm_step <= b.swarm_step) || !self.segments().all(is_timely) {
            return Err(InvalidChunk::SwarmStep);
        }
        if self.first == 0 && self.previous != [0; 32] {
            return Err(InvalidChunk::Genesis);
        }
        Ok(())
    }

    /// Checks shape and signature.
    pub fn verify(
        self,
        run: &RunId,
        ledger_samples_max: u64,
        verifier: &dyn Verifier,
    ) -> Result<VerifiedChunk, InvalidChunk> {
        self.check_shape(ledger_samples_max)?;
        let digests = self.digests(run);
        let head = digests.last().copied().unwrap_or_default();
        if !verifier.verify(&self.machine.key, &head_message(&head), &self.signature) {
            return Err(InvalidChunk::Signature(self.machine));
        }
        Ok(VerifiedChunk { chunk: Arc::new(self), digests })
    }
}

/// A chunk whose shape and signature hold, with its segments' digests.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct VerifiedChunk {
    chunk: Arc<Chunk>,
    digests: Vec<Digest>,
}

impl VerifiedChunk {
    /// The chunk.
    pub fn chunk(&self) -> &Arc<Chunk> {
        &self.chunk
    }

    /// One digest per segment.
    pub fn digests(&self) -> &[Digest] {
        &self.digests
    }

    /// Digest of the last segment.
    pub fn head(&self) -> Digest {
        self.digests.last().copied().unwrap_or_default()
    }

    /// Without its first `start` segments (at least one remains).
    pub fn tail(&self, start: usize) -> Self {
        let start = start.min(self.digests.len() - 1);
        Self { chunk: Arc::new(self.chunk.tail(start, &self.digests)), digests: self.digests[start..].to_vec() }
    }

    /// Whether two signed runs of one ledger cannot both be its history: segments that overlap in a sample and differ,
    /// or a segment that begins where the other ends and names another predecessor.
    pub fn contradicts(&self, other: &Self) -> bool {
        if self.chunk.machine != other.chunk.machine {
            return false;
        }
        let adjacent =
            |left: &Self, right: &Self| left.chunk.end() == right.chunk.first && right.chunk.previous != left.head();
        if adjacent(self, other) || adjacent(other, self) {
            return true;
        }
        let (mut left, mut right) = (
            self.chunk.segments().zip(&self.digests).peekable(),
            other.chunk.segments().zip(&other.digests).peekable(),
        );
        while let (Some((a, digest_a)), Some((b, digest_b))) = (left.peek(), right.peek()) {
            if a.end() <= b.first {
                left.next();
            } else if b.end() <= a.first {
                right.next();
            } else if digest_a != digest_b {
                return true;
            } else {
                left.next();
                right.next();
            }
        }
        false
    }
}

impl VerifiedChunk {
    /// A chunk that was verified before it was taken into a ledger.
    pub(crate) fn trusted(chunk: Arc<Chunk>, digests: Vec<Digest>) -> Self {
        Self { chunk, digests }
    }

    /// The chunk itself.
    pub fn into_chunk(self) -> Arc<Chunk> {
        self.chunk
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::signature::{Ed25519Signer, Ed25519Verifier};

    #[test]
    fn a_swarm_step_that_is_older_than_its_ledger_is_invalid() {
        let (run, signer) = (RunId([1; 32]), Ed25519Signer::from_seed(&[2; 32]));
        let machine = MachineId { key: signer.key(), incarnation: 3 };
        let verify = |first: u64, swarm_step: u64| {
            let previous = [u8::from(first > 0); 32];
            let (chunk, _) =
                Chunk::sign(&run, machine, Segment { first, swarm_step, bytes: &[1, 2] }, previous, &signer);
            chunk.verify(&run, 1 << 40, &Ed25519Verifier).map(|_| ())
        };
        let lag = SWARM_STEP_LAG_MAX;
        for (first, step) in [(0, 0), (0, SWARM_STEP_MAX), (lag, 0), (lag + 7, 7), (5, 1_000), (1 << 39, 1 << 39)] {
            assert_eq!(verify(first, step), Ok(()), "{first} at {step}");
        }
        for (first, step) in [(lag + 1, 0), (lag + 8, 7), (1 << 39, 0), (0, SWARM_STEP_MAX + 1), (0, u64::MAX)] {
            assert_eq!(verify(first, step), Err(InvalidChunk::SwarmStep), "{first} at {step}");
        }
        // Each segment of a chunk, not only its first.
        let parts = vec![Part { samples: 1, swarm_step: 1 }, Part { samples: 1, swarm_step: 1 }];
        let signature = Signature([0; 64]);
        let chunk = Chunk { machine, first: lag + 1, previous: [1; 32], parts, bytes: vec![1, 2], signature };
        assert_eq!(chunk.verify(&run, 1 << 40, &Ed25519Verifier), Err(InvalidChunk::SwarmStep));
    }
}
