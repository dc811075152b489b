//! The rows of one part of the data.

use anyhow::{Result, bail};

use super::{choices::Question, pack::Pack, window::Window};

/// Rows of one form.
#[derive(Debug)]
pub enum Rows {
    Windows(Vec<Window>),
    Questions(Vec<Question>),
}

impl Default for Rows {
    fn default() -> Self {
        Self::Windows(Vec::new())
    }
}

impl Rows {
    pub fn len(&self) -> usize {
        match self {
            Self::Windows(windows) => windows.len(),
            Self::Questions(questions) => questions.len(),
        }
    }

    /// Tokens that a forward of row `index` sees.
    pub fn cost(&self, index: usize) -> usize {
        match self {
            Self::Windows(windows) => windows[index].cost(),
            Self::Questions(questions) => questions[index].cost(),
        }
    }

    /// Adds row `index`.
    pub fn pack(&self, index: usize, pack: &mut Pack<'_>) -> Result<()> {
        match self {
            Self::Windows(windows) => windows[index].pack(pack),
            Self::Questions(questions) => questions[index].pack(pack),
        }
    }

    /// Appends `other`. Errors if both have rows, of different forms.
    pub fn append(&mut self, other: Self) -> Result<()> {
        match (&mut *self, other) {
            (_, other) if other.len() == 0 => {}
            (rows, other) if rows.len() == 0 => *rows = other,
            (Self::Windows(windows), Self::Windows(others)) => windows.extend(others),
            (Self::Questions(questions), Self::Questions(others)) => questions.extend(others),
            _ => bail!("some rows have choices, and others have none"),
        }
        Ok(())
    }
}

/// Rows and size of one part of the data.
#[derive(Default, Debug)]
pub struct Part {
    pub rows: Rows,
    /// Tokens that are predicted, or of the whole text.
    pub tokens: u64,
    /// Bytes of the same.
    pub bytes: u64,
    /// Rows whose prompt lost its start.
    pub cut: u64,
}
