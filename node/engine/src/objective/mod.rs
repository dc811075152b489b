//! What a run makes smaller: from a model and a batch to a loss.
//!
//! An objective is one file; the run states it ([`of`]), as its starter chose, or as the form of its starter's data has
//! it ([`line()`]). How a loss becomes gradients is the estimator's business, and an entry's effect follows from its
//! byte alone: machines need not agree on the last bit of a loss.
//!
//! | file | what is made smaller | derivative |
//! |---|---|---|
//! | `next_token.rs` | the cross-entropy of each token that follows | yes |
//! | `choices.rs` | the cross-entropy of the right one among a row's choices | yes |
//! | `accuracy.rs` | the share of rows whose right choice is not the likeliest | no |
//! | `score.rs` | minus the score that a program gives to what the model writes | no |

mod accuracy;
mod choices;
mod evaluation;
mod next_token;
mod score;

use anyhow::{Result, bail, ensure};
use candle_core::Tensor;
use protocol::manifest::ObjectiveLine;
use std::iter::Sum;

pub use accuracy::Accuracy;
pub use choices::Choices;
pub use evaluation::{Evaluation, evaluate, evaluate_watched};
pub use next_token::NextToken;
pub use score::{Completion, Judge, Score};

use crate::{
    data::Dataset,
    model::{Batch, Gradient, Model, backward, token_losses},
};

/// What a manifest says of [`Accuracy`], by log-probabilities or by those divided by a choice's tokens.
const ACCURACY: [&str; 2] = ["accuracy", "accuracy, normalized"];
/// What a manifest says of [`Score`]: which program gives it is each machine's own business.
const SCORE: &str = "score";

/// From a model and a batch to a loss.
pub trait Objective: Send {
    /// What its loss is, in words: losses of other units cannot be compared with it.
    fn unit(&self) -> &'static str;

    /// The batch's loss, as a sum over whatever is counted. Errors as [`token_losses`] does.
    fn measure(&self, model: &dyn Model, batch: &Batch) -> Result<LossSum>;

    /// The batch's loss, and the gradient of its mean to each of `wanted`, clones of which `model` computes with,
    /// handed out as [`backward`] does. Errors if the loss has no derivative.
    fn differentiate(
        &self,
        _model: &dyn Model,
        _batch: &Batch,
        _wanted: &[Tensor],
        _hand_out: &mut dyn FnMut(Vec<Gradient>) -> Result<()>,
    ) -> Result<LossSum> {
        bail!("a loss in {} has no derivative", self.unit())
    }

    /// Whether its loss is minus a score, so that higher is better.
    fn is_score(&self) -> bool {
        false
    }
}

/// An objective by way of the loss of each target ([`token_losses`], −log p, nats).
pub trait TokenObjective: Send {
    /// As [`Objective::unit`].
    fn unit(&self) -> &'static str;

    /// The loss of each row of `batch`, from the losses of its targets, both in the batch's order.
    fn row_losses(&self, batch: &Batch, token_losses: &[f64]) -> Vec<LossSum>;

    /// The derivative of the batch's loss ([`LossSum::mean`] of the sum of its rows) by the loss of each target, in the
    /// batch's order: a backward pass sums the gradients of the targets' losses with these weights.
    fn weights(&self, batch: &Batch, token_losses: &[f64]) -> Vec<f64>;
}

impl<T: TokenObjective> Objective for T {
    fn unit(&self) -> &'static str {
        TokenObjective::unit(self)
    }

    fn measure(&self, model: &dyn Model, batch: &Batch) -> Result<LossSum> {
        Ok(self.row_losses(batch, &token_losses(model, batch)?).into_iter().sum())
    }

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

/// What a run states that climbs accuracy, on data that has choices or has none.
pub fn accuracy_line(has_choices: bool, normalize: bool) -> Result<ObjectiveLine> {
    ensure!(
        has_choices,
        "--objective accuracy is the share of rows whose right choice is picked, and this text has no choices; give it \
         rows with prompt, choices and answer"
    );
    Ok(ObjectiveLine::Other(ACCURACY[usize::from(normalize)].into()))
}

/// What a run states that climbs the scores of each machine's own program.
pub fn score_line() -> ObjectiveLine {
    ObjectiveLine::Other(SCORE.into())
}

/// Whether a run that states `line` climbs a program's score: its data is prompts.
pub fn is_score(line: &ObjectiveLine) -> bool {
    *line == score_line()
}

/// Whether scores of choices are divided by their tokens in a run that states `line`.
pub fn normalizes(line: &ObjectiveLine) -> bool {
    matches!(line, ObjectiveLine::Choices { normalize: true }) || accuracy(line) == Some(1)
}

/// The index in [`ACCURACY`] of what a run states, if that is accuracy.
fn accuracy(line: &ObjectiveLine) -> Option<usize> {
    ACCURACY.iter().position(|name| *line == ObjectiveLine::Other((*name).into()))
}

/// Whether the loss of a run that states `line` has a derivative, for estimators that go backward.
pub fn is_differentiable(line: &ObjectiveLine) -> bool {
    matches!(line, ObjectiveLine::NextToken | ObjectiveLine::Choices { .. })
}

/// What the steps of a run that states `line` are like: an objective that is smooth, on the same data, if there is one.
pub fn surrogate(line: &ObjectiveLine) -> Option<ObjectiveLine> {
    match accuracy(line) {
        Some(index) => Some(ObjectiveLine::Choices { normalize: index == 1 }),
        None => is_differentiable(line).then(|| line.clone()),
    }
}

/// The objective of a run that states `line`, on `data`, where that is all it takes: not of one that climbs a score
/// ([`Score`]). Errors if the data has another form, or if this release does
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
        ObjectiveLine::Other(_) if accuracy(line).is_some() => {
            ensure!(
                data.has_choices(),
                "this run learns to pick among choices, and this text has none. Give it rows with prompt, choices and answer"
            );
            Ok(Box::new(Accuracy(Choices { normalize: accuracy(line) == Some(1) })))
        }
        ObjectiveLine::Other(_) if is_score(line) => {
            bail!(
                "this run climbs a score that a program on each machine gives: name yours with --objective 'command …', or \
                 leave --data away to replay and serve only"
            )
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
    let normalize = matches!(line, ObjectiveLine::Choices { normalize: true }) || accuracy(line) == Some(1);
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
