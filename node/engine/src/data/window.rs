//! Windows of tokens: rows of which each token predicts the next.

use anyhow::Result;

use super::pack::Pack;
use crate::model::Row;

/// Consecutive tokens, at most `sequence_length`, at least two.
#[derive(Clone, Copy, Debug)]
pub struct Window {
    pub start: usize,
    pub tokens: u32,
    /// Leading tokens that are given, not predicted; at least one, and fewer than all. Later ones may be, too: see
    /// [`Tokens::is_given`](super::tokens::Tokens::is_given).
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
        let targets = pack.predict_learned(first + given - 1, self.start + given..end);
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

/// The windows of a row at `start` whose tokens are to be learned where `learned` says so, the last one being: each of
/// them is predicted in exactly one window. A row that fits is one window. Of a longer one, up to half of the first
/// window and a quarter of each other is what comes before its first predicted token, or more where there is room.
pub fn answer_windows(start: usize, learned: &[bool], sequence_length: usize) -> Vec<Window> {
    let (end, mut windows) = (learned.len(), Vec::new());
    let next = |from: usize| learned[from..].iter().position(|learned| *learned).map(|at| from + at);
    let mut first = next(1);
    while let Some(at) = first {
        let share = if windows.is_empty() { 2 } else { 4 };
        let context = at.min(sequence_length / share).max(1);
        let from =
            if end - at + context <= sequence_length { end.saturating_sub(sequence_length) } else { at - context };
        let to = end.min(from + sequence_length);
        windows.push(Window { start: start + from, tokens: (to - from) as u32, given: (at - from) as u32 });
        first = if to < end { next(to) } else { None };
    }
    windows
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_learned_token_is_predicted_once_whatever_the_lengths() {
        for length in 2..12 {
            for pattern in 0u32..1 << 9 {
                let learned: Vec<bool> = (0..10).map(|bit| bit == 9 || bit > 0 && pattern >> bit & 1 == 1).collect();
                let windows = answer_windows(100, &learned, length);
                let mut predicted = [0; 10];
                for window in &windows {
                    assert!(window.tokens as usize <= length && window.given >= 1 && window.given < window.tokens);
                    let (from, given) = (window.start - 100, window.given as usize);
                    (from + given..from + window.tokens as usize).for_each(|at| predicted[at] += 1);
                }
                let right = (0..10).all(|at| !learned[at] || predicted[at] == 1);
                assert!(right, "{length}: {learned:?} {windows:?}");
                assert!(length < 10 || windows.len() == 1);
            }
        }
    }
}
