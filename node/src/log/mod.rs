//! The gossip log of a run, wherever it is: in a state directory, in an exported file, on a running node.
//!
//! Whoever reads a log only looks: nothing is written, and no machine of the run hears of it.

use anyhow::{Context, Result};
use protocol::{
    machine::MachineId,
    manifest::{Manifest, RunId},
    replica::{Replica, Settings},
    revocation::Revocation,
    signature::{Ed25519Signer, Ed25519Verifier, Signer as _},
};
use std::sync::Arc;

use crate::{
    cli::SourceArgs,
    embedded,
    storage::{StateCopy, check_same_base},
    weights::Weights,
};

pub mod diff;
pub mod export;
pub mod import;
mod peer;
mod source;

pub use source::replica_of;

/// A log that was read, every signature and digest checked.
pub struct Log {
    /// For people: where it came from.
    pub origin: String,
    /// The run's id: the hash of its manifest.
    pub run: RunId,
    /// What the run agreed on.
    pub manifest: Arc<Manifest>,
    /// Its encoding.
    pub manifest_bytes: Vec<u8>,
    /// Holds the ledgers and revocations. Signs nothing.
    pub replica: Replica,
    /// The machine whose state directory this is.
    pub own: Option<MachineId>,
    /// The state directory, if it came from one: for its base and checkpoint.
    pub state: Option<StateCopy>,
}

/// A log without where it came from.
pub struct Content {
    /// As in [`Log`].
    pub run: RunId,
    /// As in [`Log`].
    pub manifest: Arc<Manifest>,
    /// As in [`Log`].
    pub manifest_bytes: Vec<u8>,
    /// As in [`Log`].
    pub replica: Replica,
}

impl Log {
    /// Reads what `source` names.
    pub fn open(source: &SourceArgs) -> Result<Self> {
        match (&source.file, &source.peer) {
            (Some(file), _) => Self::of_file(file),
            (None, Some(address)) => Self::of_peer(address),
            (None, None) => Self::of_state(&source.state),
        }
    }

    /// The untouched base, its digests checked: the state directory's, else the embedded model if it is that. None if it is
    /// not at hand.
    pub fn base_weights(&self) -> Result<Option<Weights>> {
        if let Some(state) = self.state.as_ref().filter(|state| state.has_base()) {
            return state.base(&self.manifest)?.weights().map(Some);
        }
        if self.manifest.base.source != embedded::SOURCE {
            return Ok(None);
        }
        let checkpoint = embedded::checkpoint()?;
        // Another release's embedded model has the same name.
        if check_same_base(&self.manifest, &checkpoint).is_err() {
            return Ok(None);
        }
        Weights::new(&self.manifest.tensors, checkpoint.tensors).map(Some)
    }
}

/// An empty replica that belongs to no machine of the run: its key is drawn at random, and it signs nothing.
pub fn onlooker(run: RunId, manifest: &Manifest) -> Result<Replica> {
    let mut random = [0u8; 40];
    getrandom::fill(&mut random).context("no random numbers from the system")?;
    let (key, seed) = random.split_at(32);
    let signer = Ed25519Signer::from_seed(key.try_into()?);
    let machine = MachineId { key: signer.key(), incarnation: 1 };
    let seed = u64::from_le_bytes(seed.try_into()?);
    let (signer, verifier) = (Box::new(signer), Box::new(Ed25519Verifier));
    Ok(Replica::new(run, manifest.clone(), Settings::default(), machine, signer, verifier, seed))
}

/// Why not all of a ledger counts.
pub fn in_words(revocation: &Revocation) -> String {
    match revocation {
        Revocation::Fork(_) => "forked: none of it counts".into(),
        Revocation::Authority { from, .. } => format!("withdrawn from sample {from} on"),
    }
}
