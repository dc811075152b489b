//! Held-out loss.

use anyhow::{Result, ensure};

use super::{LossSum, Objective};
use crate::{data::Dataset, model::Model};

/// How well a model does on a text.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Evaluation {
    /// Mean loss, in the objective's unit.
    pub loss: f64,
    /// What that is over: predicted tokens, rows, or completions.
    pub count: u64,
    /// Rows whose right choice was the likeliest, where there are choices.
    pub right: Option<u64>,
    /// Bytes of what is predicted, by the text's tokens per byte; of all choices, where there are choices.
    pub bytes: u64,
    /// `loss · tokens per byte / ln 2`, where tokens per byte is that of the whole text; none where there are choices,
    /// or a program's score.
    pub bits_per_byte: Option<f64>,
    /// Mean score of the completions, where a program gives one: minus the loss.
    pub score: Option<f64>,
}

impl Evaluation {
    /// Share of the rows whose right choice was the likeliest, where there are choices.
    pub fn accuracy(&self) -> Option<f64> {
        self.right.map(|right| right as f64 / self.count as f64)
    }

    /// Whether the loss is but the share of rows that are not right.
    pub fn is_wrong_share(&self) -> bool {
        self.right.is_some_and(|right| self.loss == (self.count - right) as f64 / self.count as f64)
    }
}

/// Evaluates on the rows of `dataset`, or on `windows_max` of them, evenly spread. `batch_size`: rows at a time.
pub fn evaluate(
    objective: &dyn Objective,
    model: &dyn Model,
    dataset: &Dataset,
    batch_size: usize,
    windows_max: Option<usize>,
) -> Result<Evaluation> {
    evaluate_watched(objective, model, dataset, batch_size, windows_max, &mut |_, _| {})
}

/// The same. `watch` hears after each batch how many rows are done, of how many.
pub fn evaluate_watched(
    objective: &dyn Objective,
    model: &dyn Model,
    dataset: &Dataset,
    batch_size: usize,
    windows_max: Option<usize>,
    watch: &mut dyn FnMut(usize, usize),
) -> Result<Evaluation> {
    let windows = dataset.windows();
    let chosen = windows_max.unwrap_or(windows).clamp(1, windows);
    ensure!(batch_size > 0, "the batch size must be at least 1");
    let indices: Vec<usize> = (0..chosen).map(|i| (i as u128 * windows as u128 / chosen as u128) as usize).collect();
    let mut done = 0;
    let losses = indices.chunks(batch_size).map(|indices| {
        let loss = objective.measure(model, &dataset.batch_of(indices)?)?;
        done += indices.len();
        watch(done, chosen);
        Ok(loss)
    });
    let total: LossSum = losses.sum::<Result<_>>()?;
    let loss = total.mean();
    let bits_per_byte = loss * dataset.tokens_per_byte() / std::f64::consts::LN_2;
    let LossSum { count, right, .. } = total;
    let bytes = match right {
        Some(_) => (dataset.bytes() as f64 * chosen as f64 / windows.max(1) as f64).round() as u64,
        None => (count as f64 / dataset.tokens_per_byte()).round() as u64,
    };
    let bits_per_byte = (right.is_none() && !objective.is_score()).then_some(bits_per_byte);
    // Not minus zero.
    let score = objective.is_score().then_some(0.0 - loss);
    Ok(Evaluation { loss, count, right, bytes, bits_per_byte, score })
}
