//! What a run makes smaller: from a model and a batch to a loss.
//!
//! An objective is one file, `next_token.rs` or `choices.rs`; the run states it ([`of`]), as the form of its starter's
//! data has it (`line`). It decides what the losses of a batch's targets come to, and says the derivative, for
//! estimators that go backward. How a loss becomes gradients is the estimator's business, and an entry's effect follows
//! from its byte alone: machines need not agree on the last bit of a loss.

mod choices;
mod evaluation;
mod next_token;

use anyhow::{Result, bail, ensure};
use candle_core::Tensor;
use protocol::manifest::ObjectiveLine;
use std::iter::Sum;

pub use choices::Choices;
pub use evaluation::{Evaluation, evaluate};
pub use next_token::NextToken;

use crate::{
    data::Dataset,
    model::{Batch, Gradient, Model, backward, token_losses},
};

/// From a model and a batch to a loss, by way of the loss of each target ([`token_losses`], −log p, nats).
pub trait Objective: Send {
    /// What its loss is, in words: losses of other units cannot be compared with it.
    fn unit(&self) -> &'static str;

    /// The loss of each row of `batch`, from the losses of its targets, both in the batch's order.
    fn row_losses(&self, batch: &Batch, token_losses: &[f64]) -> Vec<LossSum>;

    /// The derivative of the batch's loss ([`LossSum::mean`] of the sum of its rows) by the loss of each target, in the
    /// batch's order: a backward pass sums the gradients of the targets' losses with these weights.
    fn weights(&self, batch: &Batch, token_losses: &[f64]) -> Vec<f64>;

    /// The batch's loss, and the gradient of its mean to each of `wanted`, clones of which `model` computes with,
    /// handed out as [`backward`] does.
    fn differentiate(
        &self,
        model: &dyn Model,
        batch: &Batch,
        wanted: &[Tensor],
        hand_out: &mut dyn FnMut(Vec<Gradient>) -> Result<()>,
    ) -> Result<LossSum> {
        let losses = backward(model, batch, &|losses| self.weights(batch, losses), wanted, hand_out)?;
        Ok(self.row_losses(batch, &losses).into_iter().sum())
    }

    /// The batch's loss, as a sum over whatever is counted. Errors as [`token_losses`] does.
    fn measure(&self, model: &dyn Model, batch: &Batch) -> Result<LossSum> {
        Ok(self.row_losses(batch, &token_losses(model, batch)?).into_iter().sum())
    }
}

/// What a run on such data states: [`Choices`] where rows have choices, [`NextToken`] elsewhere. `normalize`: see
/// [`Choices::normalize`]; an error where there are none.
pub fn line(has_choices: bool, normalize: bool) -> Result<ObjectiveLine> {
    ensure!(
        has_choices || !normalize,
        "--normalize divides the log-probabilities of choices, and this text has none; leave it away"
    );
    Ok(if has_choices { ObjectiveLine::Choices { normalize } } else { ObjectiveLine::NextToken })
}

/// The objective of a run that states `line`, on `data`. Errors if the data has another form, or if this release does
/// not know the objective.
pub fn of(line: &ObjectiveLine, data: &Dataset) -> Result<Box<dyn Objective>> {
    match line {
        ObjectiveLine::NextToken => {
            ensure!(
                !data.has_choices(),
                "this run learns to write what follows; rows with choices are for a run of their own. Give it text, or \
                 rows with prompt and completion"
            );
            Ok(Box::new(NextToken))
        }
        ObjectiveLine::Choices { normalize } => {
            ensure!(
                data.has_choices(),
                "this run learns to pick among choices, and this text has none. Give it rows with prompt, choices and answer"
            );
            Ok(Box::new(Choices { normalize: *normalize }))
        }
        ObjectiveLine::Other(objective) => {
            bail!("this run's objective, {objective:?}, is not known to this release; it can only replay and serve")
        }
    }
}

/// Errors if `data`, if there is any, has not the form of a run that states `line`.
pub fn check(line: &ObjectiveLine, data: Option<&Dataset>) -> Result<()> {
    data.map_or(Ok(()), |data| of(line, data).map(drop))
}

/// What tells most about a run that states `line`, on `data` of whatever form.
pub fn to_evaluate(line: &ObjectiveLine, data: &Dataset) -> Box<dyn Objective> {
    let normalize = matches!(line, ObjectiveLine::Choices { normalize: true });
    if data.has_choices() { Box::new(Choices { normalize }) } else { Box::new(NextToken) }
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
