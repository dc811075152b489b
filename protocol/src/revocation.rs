//! Revocations: how a machine's entries leave the effective set, the same for everyone.
//!
//! A fork proof takes a machine's whole ledger out, whichever proof came first. The run's authority, if the manifest
//! names one, may take out the samples from a number on; the lowest wins. Neither rewinds history: honest gradients
//! that were measured at weights that had the revoked ones in them stay. And any machine can withdraw its own history
//! by signing a fork: open runs accept that cost.

use serde::{Deserialize, Serialize};

use crate::{
    error::InvalidChunk,
    ledger::Ledger,
    machine::MachineId,
    manifest::{Manifest, RunId},
    segment::{Chunk, VerifiedChunk},
    signature::{Signature, Signer, Verifier},
};

const REVOCATION_TAG: &[u8] = b"onebyte 2 revocation";

/// Two signed chunks of one machine that contradict each other (see [`VerifiedChunk::contradicts`]).
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ForkProof {
    /// One branch.
    pub left: Chunk,
    /// The other.
    pub right: Chunk,
}

/// What takes entries out of the effective set.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Revocation {
    /// The machine signed two histories: all of it goes.
    Fork(Box<ForkProof>),
    /// The authority withdraws the machine's samples from `from` on. Signature over
    /// `"onebyte 2 revocation" ‖ run (32) ‖ key (32) ‖ incarnation (u64 LE) ‖ from (u64 LE)`.
    Authority {
        /// Whose samples.
        machine: MachineId,
        /// First sample that goes.
        from: u64,
        /// The authority's.
        signature: Signature,
    },
}

fn authority_message(run: &RunId, machine: &MachineId, from: u64) -> Vec<u8> {
    [REVOCATION_TAG, &run.0, &machine.key, &machine.incarnation.to_le_bytes(), &from.to_le_bytes()].concat()
}

impl ForkProof {
    /// Finds in `ledger` the chunk that contradicts `theirs`.
    pub fn find(run: &RunId, ledger: &Ledger, theirs: &VerifiedChunk) -> Option<Self> {
        let (first, end) = (theirs.chunk().first, theirs.chunk().end());
        ledger.chunks_near(first, end).find_map(|ours| {
            let ours = VerifiedChunk::trusted(ours.clone(), ours.digests(run));
            ours.contradicts(theirs)
                .then(|| Self { left: Chunk::clone(ours.chunk()), right: Chunk::clone(theirs.chunk()) })
        })
    }
}

impl Revocation {
    /// Signs a withdrawal with the authority's key.
    pub fn sign(run: &RunId, machine: MachineId, from: u64, authority: &dyn Signer) -> Self {
        Self::Authority { machine, from, signature: authority.sign(&authority_message(run, &machine, from)) }
    }

    /// Whose entries go.
    pub fn machine(&self) -> MachineId {
        match self {
            Self::Fork(proof) => proof.left.machine,
            Self::Authority { machine, .. } => *machine,
        }
    }

    /// First sample that goes.
    pub fn floor(&self) -> u64 {
        match self {
            Self::Fork(_) => 0,
            Self::Authority { from, .. } => *from,
        }
    }

    /// Whether this is a fork proof.
    pub fn is_fork(&self) -> bool {
        matches!(self, Self::Fork(_))
    }

    /// Checks the proof, or the authority's signature. Needs nothing but the manifest.
    pub fn verify(&self, run: &RunId, manifest: &Manifest, verifier: &dyn Verifier) -> Result<(), InvalidChunk> {
        match self {
            Self::Fork(proof) => {
                let left = proof.left.clone().verify(run, manifest.ledger_samples_max, verifier)?;
                let right = proof.right.clone().verify(run, manifest.ledger_samples_max, verifier)?;
                if left.contradicts(&right) { Ok(()) } else { Err(InvalidChunk::NoContradiction) }
            }
            Self::Authority { machine, from, signature } => {
                let key = manifest.authority.as_ref().ok_or(InvalidChunk::NotAuthority)?;
                let message = authority_message(run, machine, *from);
                let valid = verifier.verify(key, &message, signature);
                if valid { Ok(()) } else { Err(InvalidChunk::NotAuthority) }
            }
        }
    }
}
