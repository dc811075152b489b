//! What a model is fed, and what it should say.

use candle_core::Tensor;
use std::ops::Range;

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
    /// For each possible continuation the range of its targets, not empty; a row of text has one.
    pub choices: Vec<Range<usize>>,
    /// Index of the right one.
    pub answer: usize,
}

impl Row {
    /// A row without choices: these are its targets.
    pub fn of_text(targets: Range<usize>) -> Self {
        Self { choices: Vec::from([targets]), answer: 0 }
    }
}
