//! Rows packed into a batch.

use anyhow::Result;
use std::ops::Range;

use super::tokens::Tokens;
use crate::{
    device,
    model::{Batch, Layout, Row, Target},
};

/// A batch to which rows are added.
pub struct Pack<'a> {
    all: &'a Tokens,
    tokens: Vec<u32>,
    layout: Layout,
    targets: Vec<Target>,
    rows: Vec<Row>,
}

impl<'a> Pack<'a> {
    /// Of ranges of `all`.
    pub fn new(all: &'a Tokens) -> Self {
        Self { all, tokens: Vec::new(), layout: Layout::default(), targets: Vec::new(), rows: Vec::new() }
    }

    /// Adds tokens that start a row; returns their span. Errors if there are none.
    pub fn start(&mut self, tokens: Range<usize>) -> Result<usize> {
        let span = self.layout.push_row(tokens.len())?;
        self.tokens.extend(self.all.read(tokens)?.iter().map(|token| token.id));
        Ok(span)
    }

    /// Adds tokens that follow those of `span`. Errors if there are none.
    pub fn continue_from(&mut self, span: usize, tokens: Range<usize>) -> Result<()> {
        self.layout.push_continuation(span, tokens.len())?;
        self.tokens.extend(self.all.read(tokens)?.iter().map(|token| token.id));
        Ok(())
    }

    /// Packed tokens so far.
    pub fn len(&self) -> usize {
        self.tokens.len()
    }

    /// The packed tokens at `positions` predict those of `tokens` that are to be learned. Returns their targets.
    pub fn predict(&mut self, positions: impl Iterator<Item = usize>, tokens: Range<usize>) -> Result<Range<usize>> {
        let first = self.targets.len();
        let learned = positions.zip(self.all.read(tokens)?).filter(|(_, token)| !token.is_given);
        self.targets.extend(learned.map(|(position, token)| Target { position: position as u32, token: token.id }));
        Ok(first..self.targets.len())
    }

    /// Ends a row that has these targets.
    pub fn end(&mut self, row: Row) {
        self.rows.push(row);
    }

    pub fn finish(self) -> Result<Batch> {
        let count = self.tokens.len();
        let tokens = device::tensor(self.tokens, count)?;
        Ok(Batch { tokens, layout: self.layout, targets: self.targets, rows: self.rows })
    }
}
