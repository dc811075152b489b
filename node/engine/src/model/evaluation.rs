//! Held-out loss.

use anyhow::{Result, ensure};

use super::llama::Llama;
use crate::data::Dataset;

/// How well a model predicts a text.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Evaluation {
    /// Mean cross-entropy over predicted positions, nats per token.
    pub loss: f64,
    /// Predicted positions.
    pub tokens: u64,
    /// Bytes of the whole text, of which the predicted positions may be a part.
    pub bytes: u64,
    /// `loss · tokens per byte / ln 2`, where tokens per byte is that of the whole text.
    pub bits_per_byte: f64,
}

impl Llama {
    /// Evaluates on the windows of `dataset`, or on `windows_max` of them, evenly spread.
    pub fn evaluate(&self, dataset: &Dataset, batch_size: usize, windows_max: Option<usize>) -> Result<Evaluation> {
        let windows = dataset.windows();
        let chosen = windows_max.unwrap_or(windows).clamp(1, windows);
        ensure!(batch_size > 0, "the batch size must be at least 1");
        let indices: Vec<usize> =
            (0..chosen).map(|i| (i as u128 * windows as u128 / chosen as u128) as usize).collect();
        let (mut sum, mut tokens) = (0f64, 0u64);
        for indices in indices.chunks(batch_size) {
            let (batch_sum, batch_tokens) = self.loss_sum(&dataset.batch_of(indices)?)?;
            sum += batch_sum;
            tokens += batch_tokens;
        }
        let loss = sum / tokens as f64;
        let bits_per_byte = loss * dataset.tokens_per_byte() / std::f64::consts::LN_2;
        Ok(Evaluation { loss, tokens, bytes: dataset.bytes(), bits_per_byte })
    }
}
