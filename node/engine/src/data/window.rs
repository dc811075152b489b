//! Windows of tokens: rows of which each token predicts the next.

use anyhow::{Context, Result};
use std::{ops::Range, path::Path};

use super::{numbers::Numbers, pack::Pack};
use crate::model::Row;

/// Consecutive tokens, at most `sequence_length`, at least two.
#[derive(Clone, Copy, Debug)]
pub struct Window {
    pub start: usize,
    pub tokens: u32,
    /// Leading tokens that are given, not predicted; at least one, and fewer than all. Later ones may be, too
    /// ([`Token`](super::tokens::Token)).
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
        let targets = pack.predict(first + given - 1.., self.start + given..end)?;
        pack.end(Row::of_text(targets));
        Ok(())
    }

    fn number(&self) -> u128 {
        let length = |tokens: u32, shift: u32| u128::from(tokens) << shift;
        self.start as u128 | length(self.tokens, START_BITS) | length(self.given, START_BITS + LENGTH_BITS)
    }

    fn of_number(number: u128) -> Self {
        let bits = |shift: u32, bits: u32| number >> shift & ((1 << bits) - 1);
        Self {
            start: bits(0, START_BITS) as usize,
            tokens: bits(START_BITS, LENGTH_BITS) as u32,
            given: bits(START_BITS + LENGTH_BITS, LENGTH_BITS) as u32,
        }
    }
}

/// Windows in their order: those of a stream of tokens, all of one length, then others.
pub struct Windows {
    stream: Range<usize>,
    length: usize,
    /// Of each its start, its tokens and those that are given.
    others: Option<Numbers>,
}

/// Bits of a length, above the start's.
const LENGTH_BITS: u32 = 24;
const START_BITS: u32 = 48;

impl Windows {
    /// Whole windows of `length` tokens of a stream; what is left over at its end is not used.
    pub fn of_stream(tokens: Range<usize>, length: usize) -> Self {
        Self { stream: tokens, length, others: None }
    }

    pub fn len(&self) -> usize {
        self.in_stream() + self.others.as_ref().map_or(0, Numbers::len)
    }

    pub fn get(&self, index: usize) -> Result<Window> {
        let in_stream = self.in_stream();
        if index < in_stream {
            return Ok(self.of_index(index));
        }
        let others = self.others.as_ref().context("there is no such window")?;
        let at = index - in_stream;
        others.read(at..at + 1)?.first().copied().map(Window::of_number).context("there is no such window")
    }

    /// All of them.
    pub fn for_each(&self, mut visit: impl FnMut(Window)) -> Result<()> {
        (0..self.in_stream()).for_each(|index| visit(self.of_index(index)));
        self.others.as_ref().map_or(Ok(()), |all| all.for_each(0..all.len(), |number| visit(Window::of_number(number))))
    }

    /// Appends windows that are no stream's.
    pub fn extend(&mut self, windows: &[Window], scratch: &Path) -> Result<()> {
        self.others(scratch).extend(windows.iter().map(Window::number))
    }

    /// Appends those of `all` that are no stream's and have an index in `range`, without the stream's.
    pub fn extend_from(&mut self, all: &Self, range: Range<usize>, scratch: &Path) -> Result<()> {
        all.others.as_ref().map_or(Ok(()), |all| self.others(scratch).extend_from(all, range))
    }

    fn others(&mut self, scratch: &Path) -> &mut Numbers {
        let width = (START_BITS + 2 * LENGTH_BITS) as usize / 8;
        self.others.get_or_insert_with(|| Numbers::new(width, scratch))
    }

    fn in_stream(&self) -> usize {
        self.stream.len().checked_div(self.length).unwrap_or(0)
    }

    fn of_index(&self, index: usize) -> Window {
        Window { start: self.stream.start + index * self.length, tokens: self.length as u32, given: 1 }
    }
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
