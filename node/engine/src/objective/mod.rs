//! What a run makes smaller: from a model and a batch to a loss.
//!
//! An objective is one file, `next_token.rs` or `choices.rs`; the form of the data chooses it ([`of`]). It decides what the losses of a batch's targets come to, and
//! says the derivative, for estimators that go backward. How a loss becomes gradients is the estimator's business, and
//! an entry's effect follows from its byte alone: machines need not agree on the last bit of a loss.

mod choices;
mod evaluation;
mod next_token;

use anyhow::{Result, ensure};
use std::iter::Sum;

pub use choices::Choices;
pub use evaluation::{Evaluation, evaluate};
pub use next_token::NextToken;

use crate::{
    data::Dataset,
    model::{Batch, Model, token_losses},
};

/// From a model and a batch to a loss, by way of the loss of each target ([`token_losses`], −log p, nats).
pub trait Objective: Send {
    /// The loss of each row of `batch`, from the losses of its targets, both in the batch's order.
    fn row_losses(&self, batch: &Batch, token_losses: &[f64]) -> Vec<LossSum>;

    /// The derivative of the batch's loss ([`LossSum::mean`] of the sum of its rows) by the loss of each target, in the
    /// batch's order: a backward pass sums the gradients of the targets' losses with these weights.
    fn weights(&self, batch: &Batch, token_losses: &[f64]) -> Vec<f64>;

    /// The batch's loss, as a sum over whatever is counted. Errors as [`token_losses`] does.
    fn measure(&self, model: &dyn Model, batch: &Batch) -> Result<LossSum> {
        Ok(self.row_losses(batch, &token_losses(model, batch)?).into_iter().sum())
    }
}

/// The objective of data of this form: [`Choices`] where rows have choices, [`NextToken`] elsewhere. `normalize`: see
/// [`Choices::normalize`]; an error where there are none.
pub fn of(data: &Dataset, normalize: bool) -> Result<Box<dyn Objective>> {
    ensure!(
        data.has_choices() || !normalize,
        "--normalize divides the log-probabilities of choices, and this text has none; leave it away"
    );
    Ok(if data.has_choices() { Box::new(Choices { normalize }) } else { Box::new(NextToken) })
}

/// A loss before it is divided, so that those of several rows or batches add up.
#[derive(Clone, Copy, PartialEq, Default, Debug)]
pub struct LossSum {
    /// Not finite if the model's outputs are not.
    pub sum: f64,
    /// What `sum` is over: tokens, rows, programs.
    pub count: u64,
    /// How many of them are right, where something can be.
    pub right: Option<u64>,
}

impl LossSum {
    /// The loss: lower is better. Not finite if nothing was counted.
    pub fn mean(&self) -> f64 {
        self.sum / self.count as f64
    }
}

impl Sum for LossSum {
    fn sum<I: Iterator<Item = Self>>(losses: I) -> Self {
        losses.fold(Self::default(), |a, b| Self {
            sum: a.sum + b.sum,
            count: a.count + b.count,
            right: a.right.or(b.right).map(|_| a.right.unwrap_or(0) + b.right.unwrap_or(0)),
        })
    }
}
