//! The base model that a log starts from, wherever it is at hand.

use anyhow::{Context, Result};
use engine::{
    base, embedded,
    model::{self, Checkpoint, Model, Tokenizer},
    weights::Weights,
};
use protocol::manifest::Manifest;
use std::path::Path;

use super::Log;

/// A run's base, its digests checked. The weights are there to be replayed on.
pub struct Base {
    pub checkpoint: Checkpoint,
    /// Of the base, until someone sweeps them.
    pub weights: Weights,
}

impl Base {
    /// The model in the Hugging Face directory `model`, if one is named; else the state directory's; else the embedded
    /// model, if the run trains it. None if it is not at hand.
    pub fn of(log: &Log, model: Option<&Path>) -> Result<Option<Self>> {
        if let Some(directory) = model {
            return Ok(Some(base_of_run(&log.manifest, Checkpoint::load(directory)?)?.into()));
        }
        if let Some(state) = log.state.as_ref().filter(|state| state.has_base()) {
            return Ok(Some(state.base(&log.manifest)?.load()?.into()));
        }
        if !embedded::is_of(&log.manifest.base) {
            return Ok(None);
        }
        // It may be another release's.
        Ok(base::Base::of_run(&log.manifest, embedded::checkpoint()?).ok().map(Self::from))
    }

    /// As [`Self::of`]; an error that says what to do if there is none.
    pub fn needed(log: &Log, model: Option<&Path>) -> Result<Self> {
        Self::of(log, model)?
            .with_context(|| format!("{}: the run's base model is not here; --model <directory> gives it", log.origin))
    }

    /// The model over the weights as they are, and its tokenizer.
    pub fn model(&self) -> Result<(Box<dyn Model>, Tokenizer)> {
        model::load_adapted(&self.checkpoint, self.weights.tensors(), self.weights.packed(), &self.weights.adapters())
    }

    /// Writes the adapters as they are as PEFT does, into a directory, new or empty.
    pub fn export_adapters(&self, out: &Path) -> Result<()> {
        base::export_adapters(out, &self.checkpoint, &self.weights)
    }

    /// Writes the weights as they are as a Hugging Face directory, new or empty.
    pub fn export(&self, out: &Path) -> Result<()> {
        model::export(out, &self.checkpoint, &base::Merged::of(&self.checkpoint, &self.weights)?)
    }
}

/// Fails with what differs if `checkpoint` has not the tensors, config and tokenizer of the run's base.
pub fn base_of_run(manifest: &Manifest, checkpoint: Checkpoint) -> Result<base::Base> {
    let source = checkpoint.source.clone();
    base::Base::of_run(manifest, checkpoint).with_context(|| {
        format!(
            "--model {source}: not the base of this run. Give the run's own base, or leave --model away to fetch it from peers"
        )
    })
}

impl From<base::Base> for Base {
    fn from(base: base::Base) -> Self {
        Self { weights: base.weights, checkpoint: base.checkpoint }
    }
}
