//! What a run makes smaller: from a model and a batch to a loss.
//!
//! An objective is one file; `next_token.rs` is the first. It decides what of a batch counts and how the model is
//! asked. How a loss becomes gradients is the estimator's business, and an entry's effect follows from its byte alone:
//! machines need not agree on the last bit of a loss.

mod evaluation;
mod next_token;

use anyhow::Result;

pub use evaluation::{Evaluation, evaluate};
pub use next_token::NextToken;

use crate::model::{Batch, Model};

/// From a model and a batch to a loss.
pub trait Objective: Send {
    /// The batch's loss, as a sum over whatever is counted. Errors if nothing is.
    fn measure(&self, model: &dyn Model, batch: &Batch) -> Result<LossSum>;
}

/// A loss before it is divided, so that those of several batches add up.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct LossSum {
    /// Not finite if the model's outputs are not.
    pub sum: f64,
    /// What `sum` is over, at least one: tokens, questions, programs.
    pub count: u64,
}

impl LossSum {
    /// The loss: lower is better.
    pub fn mean(&self) -> f64 {
        self.sum / self.count as f64
    }
}
