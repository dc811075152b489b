//! Windows of tokens: rows of which each token predicts the next.

use anyhow::Result;

use super::pack::Pack;
use crate::model::Row;

/// Consecutive tokens, at most `sequence_length`, at least two.
#[derive(Clone, Copy, Debug)]
pub struct Window {
    pub start: usize,
    pub tokens: u32,
    /// Leading tokens that are given, not predicted; at least one, and fewer than all.
    pub given: u32,
}

impl Window {
    /// Tokens that a forward sees: all but the last, which only is predicted.
    pub fn cost(&self) -> usize {
        self.tokens as usize - 1
    }

    /// Adds its row.
    pub fn pack(&self, pack: &mut Pack<'_>) -> Result<()> {
        let (first, end, given) = (pack.len(), self.start + self.tokens as usize, self.given as usize);
        pack.start(self.start..end - 1)?;
        let targets = pack.predict(first + given - 1.., self.start + given..end);
        pack.end(Row::of_text(targets));
        Ok(())
    }
}

/// Whole windows of the stream from token `from` to `to`; what is left over at the end is not used.
pub fn stream_windows(from: usize, to: usize, sequence_length: usize) -> Vec<Window> {
    let starts = (from..to).step_by(sequence_length).filter(|start| start + sequence_length <= to);
    starts.map(|start| Window { start, tokens: sequence_length as u32, given: 1 }).collect()
}

/// The windows of one document of `tokens` tokens at `start`, the last one shorter. One token alone predicts nothing.
pub fn document_windows(start: usize, tokens: usize, sequence_length: usize) -> impl Iterator<Item = Window> {
    (start..start + tokens).step_by(sequence_length).filter_map(move |from| {
        let tokens = sequence_length.min(start + tokens - from);
        (tokens >= 2).then_some(Window { start: from, tokens: tokens as u32, given: 1 })
    })
}
