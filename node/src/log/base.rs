//! The base model that a log starts from, wherever it is at hand.

use anyhow::{Context, Result, ensure};
use engine::{
    base::check_same_base,
    embedded,
    model::{self, Checkpoint, Model, Tokenizer},
    weights::Weights,
};
use std::path::Path;

use super::Log;
use crate::commands::train::check_model;

/// A run's base, its digests checked. The weights are there to be replayed on.
pub struct Base {
    config: Vec<u8>,
    tokenizer: Vec<u8>,
    /// Of the base, until someone sweeps them.
    pub weights: Weights,
}

impl Base {
    /// The model in the Hugging Face directory `model`, if one is named; else the state directory's; else the embedded
    /// model, if the run trains it. None if it is not at hand.
    pub fn of(log: &Log, model: Option<&Path>) -> Result<Option<Self>> {
        if let Some(directory) = model {
            let checkpoint = Checkpoint::load(directory)?;
            check_model(&log.manifest, &checkpoint)?;
            return Self::of_checkpoint(log, checkpoint).map(Some);
        }
        if let Some(state) = log.state.as_ref().filter(|state| state.has_base()) {
            let base = state.base(&log.manifest)?;
            let weights = base.weights()?;
            ensure!(
                weights.digest() == log.manifest.base_digest(),
                "{}: the base model does not match the run's manifest",
                log.origin
            );
            return Ok(Some(Self { config: base.config()?, tokenizer: base.tokenizer()?, weights }));
        }
        if log.manifest.base.source != embedded::SOURCE {
            return Ok(None);
        }
        let checkpoint = embedded::checkpoint()?;
        // Another release's embedded model has the same name.
        match check_same_base(&log.manifest, &checkpoint) {
            Ok(()) => Self::of_checkpoint(log, checkpoint).map(Some),
            Err(_) => Ok(None),
        }
    }

    /// As [`Self::of`], for who cannot do without.
    pub fn needed(log: &Log, model: Option<&Path>) -> Result<Self> {
        Self::of(log, model)?
            .with_context(|| format!("{}: the run's base model is not here; --model <directory> gives it", log.origin))
    }

    /// `checkpoint` was compared with the run's base, which put its values on their grids.
    fn of_checkpoint(log: &Log, checkpoint: Checkpoint) -> Result<Self> {
        let Checkpoint { config, tokenizer, tensors, .. } = checkpoint;
        Ok(Self { config, tokenizer, weights: Weights::of_run(&log.manifest, tensors)? })
    }

    /// The model over the weights as they are, and its tokenizer.
    pub fn model(&self) -> Result<(Box<dyn Model>, Tokenizer)> {
        model::load(&self.config, &self.tokenizer, self.weights.tensors())
    }

    /// Writes the weights as they are as a Hugging Face directory, new or empty.
    pub fn export(&self, out: &Path) -> Result<()> {
        model::export(out, &self.config, &self.tokenizer, self.weights.tensors())
    }
}
