//! What a model is fed, and what it should say.

use candle_core::Tensor;
use std::{ops::Range, sync::Arc};

use super::Layout;

/// Rows of tokens, packed one after the other, and the tokens that they predict. The cost of a forward is that of N
/// tokens, however long the rows are.
pub struct Batch {
    /// \[N\] token ids, u32.
    pub tokens: Tensor,
    /// Which of the N tokens belong together.
    pub layout: Layout,
    /// What is predicted, in the order of `rows`.
    pub targets: Vec<Target>,
    /// Whose the targets are, row by row.
    pub rows: Vec<Row>,
}

/// A token that is predicted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Target {
    /// Index of the packed token whose output predicts it. Several targets may share one.
    pub position: u32,
    /// The token.
    pub token: u32,
}

/// The targets of one row.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Row {
    /// For each possible continuation the range of its targets, not empty; a row of text has one, a prompt none.
    pub choices: Vec<Range<usize>>,
    /// Index of the right one.
    pub answer: usize,
    /// What a row is that predicts nothing, but asks for a completion of its tokens.
    pub asked: Option<Asked>,
}

/// What asks for a completion.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Asked {
    /// What a judge is told of it: a JSON object with `prompt` and `row`.
    pub row: Arc<str>,
    /// Seed of the completion's draws.
    pub draw: u64,
}

impl Row {
    /// A row without choices: these are its targets.
    pub fn of_text(targets: Range<usize>) -> Self {
        Self::of_choices(Vec::from([targets]), 0)
    }

    /// A row with choices, of which this one is right.
    pub fn of_choices(choices: Vec<Range<usize>>, answer: usize) -> Self {
        Self { choices, answer, asked: None }
    }

    /// A prompt.
    pub fn of_prompt(asked: Asked) -> Self {
        Self { choices: Vec::new(), answer: 0, asked: Some(asked) }
    }
}
