//! Language modelling: the cross-entropy of each token that follows.

use super::{LossSum, TokenObjective};
use crate::model::{Batch, Row};

/// Mean −log p of the targets, those of a row's answer only, in nats, counted in targets.
pub struct NextToken;

impl TokenObjective for NextToken {
    fn unit(&self) -> &'static str {
        "nats per token"
    }

    fn row_losses(&self, batch: &Batch, token_losses: &[f64]) -> Vec<LossSum> {
        let loss = |row: &Row| {
            let losses = &token_losses[row.choices[row.answer].clone()];
            LossSum { sum: losses.iter().sum(), count: losses.len() as u64, right: None }
        };
        batch.rows.iter().map(loss).collect()
    }

    fn weights(&self, batch: &Batch, token_losses: &[f64]) -> Vec<f64> {
        let answers = || batch.rows.iter().map(|row| row.choices[row.answer].clone());
        let count: usize = answers().map(|targets| targets.len()).sum();
        let mut weights = vec![0.0; token_losses.len()];
        answers().for_each(|targets| weights[targets].fill(1.0 / count as f64));
        weights
    }
}
