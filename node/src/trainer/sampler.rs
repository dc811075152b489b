//! What the model writes after the same few prompts, over the course of a run, for people who watch.

use anyhow::Result;
use engine::{
    data::Dataset,
    model::{Checkpoint, Sampling, Tokenizer},
    trainer::Trainer,
};
use serde::{Deserialize, Serialize};
use std::time::{Duration, Instant};

/// Prompts that are completed.
const PROMPTS: usize = 3;
/// Tokens of a completion.
const TOKENS_MAX: usize = 48;
/// Completions take at most one part in so many of the time.
const TIME_SHARE: u32 = 50;

/// A prompt, and what the model wrote after it.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Sampled {
    /// Of the held-out text.
    pub prompt: String,
    /// At most so long as it fits a few lines.
    pub text: String,
}

/// How a model samples unless it is told otherwise. What its files say and is not followed is said.
pub fn usual_sampling(checkpoint: &Checkpoint) -> Result<Sampling> {
    let (sampling, not_followed) = checkpoint.sampling()?;
    if !not_followed.is_empty() {
        tracing::warn!("generation_config.json: not followed here: {}", not_followed.join(", "));
    }
    Ok(sampling)
}

/// Completes prompts of the held-out text, more seldom the longer the run: each time after half as long again. Draws
/// are the same each time, so what differs is the weights' doing.
pub struct Sampler {
    tokenizer: Tokenizer,
    prompts: Vec<Vec<u32>>,
    sampling: Sampling,
    begun: Instant,
    due: Duration,
}

impl Sampler {
    /// For a model of `checkpoint`.
    pub fn new(checkpoint: &Checkpoint, held_out: &Dataset) -> Result<Self> {
        let sampling = Sampling { tokens_max: TOKENS_MAX, seed: 0, ..checkpoint.sampling()?.0 };
        let (tokenizer, prompts) = (Tokenizer::of(checkpoint)?, held_out.prompts(PROMPTS)?);
        Ok(Self { tokenizer, prompts, sampling, begun: Instant::now(), due: Duration::ZERO })
    }

    /// Completions at the exact weights of `trainer`; none if it is not time yet. Errors if the model cannot go on.
    pub fn look(&mut self, trainer: &mut Trainer) -> Result<Vec<Sampled>> {
        let begun = self.begun.elapsed();
        if begun < self.due {
            return Ok(Vec::new());
        }
        let mut sampled = Vec::new();
        for prompt in &self.prompts {
            let text = trainer.complete(&self.tokenizer, prompt, &self.sampling)?;
            sampled.push(Sampled { prompt: self.tokenizer.decode(prompt)?, text });
        }
        let now = self.begun.elapsed();
        self.due = now + (now / 2).max(TIME_SHARE * now.saturating_sub(begun));
        Ok(sampled)
    }
}
