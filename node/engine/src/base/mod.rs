//! What a run agrees on about its base model, computed from a checkpoint.
//!
//! The base of a run is a *blob*, config.json ‖ tokenizer.json ‖ snapped tensors (f32 LE, in canonical order), and a
//! manifest that describes it: digests, and the table of tensors. Where the blob is kept is not known here.

mod arithmetic;
mod chunks;
mod comparison;
mod groups;

use anyhow::Result;
use protocol::manifest::{
    BaseModel, Groups, Hyperparameters, Manifest, Membership, ObjectiveLine, PROTOCOL_VERSION, Schedule,
};
use std::io::Write;

pub use chunks::{ChunkHasher, chunks_root};
pub use comparison::check_same_base;

use crate::{model::Checkpoint, weights::Weights};

/// What the starter of a run decides beside the base.
pub struct BaseSettings {
    /// What is made smaller.
    pub objective: ObjectiveLine,
    /// Learning rate, epsilon, range.
    pub hyperparameters: Hyperparameters,
    /// Learning-rate schedule.
    pub schedule: Schedule,
    /// Largest ledger of one machine, samples.
    pub ledger_samples_max: u64,
    /// Whose withdrawals count.
    pub authority: Option<[u8; 32]>,
}

/// A checkpoint whose tensors lie on a run's grids.
pub struct Base {
    /// Where it came from, for people.
    pub source: String,
    /// config.json.
    pub config: Vec<u8>,
    /// tokenizer.json.
    pub tokenizer: Vec<u8>,
    /// The tensors, until someone sweeps them.
    pub weights: Weights,
    /// How they are cut into groups.
    pub groups: Groups,
}

impl Base {
    /// The base of a new run: cuts the tensors into groups, chooses their table from their values, and snaps them in
    /// place.
    ///
    /// Errors name a tensor with a value that is not finite, or whose range the table cannot express.
    pub fn of_new_run(checkpoint: Checkpoint, settings: &Hyperparameters) -> Result<Self> {
        let elements =
            checkpoint.tensors.iter().map(|(name, tensor)| (name.clone(), tensor.elem_count() as u64)).collect();
        let architecture = checkpoint.architecture()?;
        let (groups, group_of) = groups::cut(&*architecture, &elements);
        let emphasis = |name: &str| architecture.emphasis(name);
        let specs = arithmetic::table(&checkpoint.tensors, &groups, &group_of, &emphasis, settings)?;
        let Checkpoint { source, config, tokenizer, tensors } = checkpoint;
        Ok(Self { source, config, tokenizer, weights: Weights::new(&specs, tensors)?, groups })
    }

    /// The base of the run of `manifest`, from a checkpoint that [`check_same_base`] has passed, and snapped.
    pub fn of_run(manifest: &Manifest, checkpoint: Checkpoint) -> Result<Self> {
        let Checkpoint { source, config, tokenizer, tensors } = checkpoint;
        let (weights, groups) = (Weights::new(&manifest.tensors, tensors)?, manifest.groups.clone());
        Ok(Self { source, config, tokenizer, weights, groups })
    }

    /// Writes the blob.
    pub fn write_to(&self, out: &mut dyn Write) -> Result<()> {
        out.write_all(&self.config)?;
        out.write_all(&self.tokenizer)?;
        self.weights.write_to(out)
    }

    /// The manifest of a new run on this base. `chunk_digests`: those of the blob, as [`ChunkHasher`] gives them.
    ///
    /// Errors if it breaks a rule of manifests.
    pub fn manifest(&self, settings: BaseSettings, nonce: [u8; 16], chunk_digests: &[[u8; 32]]) -> Result<Manifest> {
        let manifest = Manifest {
            protocol_version: PROTOCOL_VERSION,
            nonce,
            base: BaseModel {
                source: self.source.clone(),
                config_bytes: self.config.len() as u64,
                config_digest: *blake3::hash(&self.config).as_bytes(),
                tokenizer_bytes: self.tokenizer.len() as u64,
                tokenizer_digest: *blake3::hash(&self.tokenizer).as_bytes(),
                chunks_root: chunks_root(chunk_digests),
            },
            tensors: self.weights.specs().to_vec(),
            groups: self.groups.clone(),
            objective: settings.objective,
            hyperparameters: settings.hyperparameters,
            schedule: settings.schedule,
            levels: protocol::codec::LEVELS,
            ledger_samples_max: settings.ledger_samples_max,
            membership: Membership::Open,
            authority: settings.authority,
            held_out: None,
            private: None,
        };
        manifest.validate()?;
        Ok(manifest)
    }
}

/// A new run on `checkpoint`, whose tensors are snapped in place, without a disk: its manifest, and the blob in memory.
pub fn start(checkpoint: Checkpoint, settings: BaseSettings, nonce: [u8; 16]) -> Result<(Manifest, Vec<u8>)> {
    let base = Base::of_new_run(checkpoint, &settings.hyperparameters)?;
    let mut blob = ChunkHasher::new(Vec::new());
    base.write_to(&mut blob)?;
    let (blob, digests) = blob.finish();
    Ok((base.manifest(settings, nonce, &digests)?, blob))
}
