//! Language modelling: the cross-entropy of each token that follows.

use anyhow::{Result, ensure};
use candle_core::Tensor;

use super::{LossSum, Objective};
use crate::model::{Batch, IGNORED, Model, cross_entropy};

/// −log softmax(logits)\[target\] in nats, counted in predicted positions.
pub struct NextToken;

impl Objective for NextToken {
    /// Errors if all targets are [`IGNORED`], or if one is outside the vocabulary.
    fn measure(&self, model: &dyn Model, batch: &Batch) -> Result<LossSum> {
        let hidden = model.hidden(&batch.inputs)?.flatten_to(1)?;
        ensure!(hidden.dim(0)? == batch.targets.len(), "the batch has a target for each input");
        let rows: Vec<u32> = (0u32..).zip(&batch.targets).filter(|(_, t)| **t != IGNORED).map(|(row, _)| row).collect();
        ensure!(!rows.is_empty(), "the batch predicts nothing: all its targets are masked");
        let targets: Vec<u32> = batch.targets.iter().copied().filter(|t| *t != IGNORED).collect();
        let hidden = match rows.len() == batch.targets.len() {
            true => hidden,
            false => hidden.index_select(&Tensor::new(rows, hidden.device())?, 0)?,
        };
        Ok(LossSum { sum: cross_entropy(model, &hidden, &targets)?, count: targets.len() as u64 })
    }
}
