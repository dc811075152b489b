//! All token ids of a dataset, one after the other, and which of them are only given.

use anyhow::Result;
use std::{ops::Range, path::Path};

use super::numbers::Numbers;

/// A number for each token: its id, and in the lowest bit whether it is never predicted.
pub struct Tokens(Numbers);

/// One of them.
#[derive(Clone, Copy)]
pub struct Token {
    pub id: u32,
    pub is_given: bool,
}

impl Tokens {
    /// Of ids below `vocabulary`, which are put into `scratch` if they are many.
    pub fn for_vocabulary(vocabulary: usize, scratch: &Path) -> Self {
        let width = (1..4).find(|width| vocabulary <= 1 << (8 * width - 1)).unwrap_or(4);
        Self(Numbers::new(width, scratch))
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Takes away all but the first `len`.
    pub fn truncate(&mut self, len: usize) -> Result<()> {
        self.0.truncate(len)
    }

    /// Appends `ids`, which the tokenizer found within the vocabulary.
    pub fn extend(&mut self, ids: &[u32]) -> Result<()> {
        self.0.extend(ids.iter().map(|id| u128::from(*id) << 1))
    }

    /// Appends `ids`, of which those are to be learned that are marked so.
    pub fn extend_marked(&mut self, ids: &[u32], learned: &[bool]) -> Result<()> {
        self.0.extend(ids.iter().zip(learned).map(|(id, learned)| u128::from(*id) << 1 | u128::from(!learned)))
    }

    pub fn read(&self, range: Range<usize>) -> Result<Vec<Token>> {
        let token = |number| Token { id: (number >> 1) as u32, is_given: number & 1 == 1 };
        Ok(self.0.read(range)?.into_iter().map(token).collect())
    }
}
