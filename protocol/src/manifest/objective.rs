//! What a run makes smaller.

use serde::{Deserialize, Serialize};

use crate::error::InvalidManifest;

/// Longest text of an objective, bytes.
const TEXT_BYTES_MAX: usize = 4096;

/// What the machines of a run measure on their own data. A statement: losses are each machine's own business, and
/// nobody can check another's.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub enum ObjectiveLine {
    /// Cross-entropy of the next token.
    #[default]
    NextToken,
    /// Cross-entropy of the right one among a row's choices.
    Choices {
        /// Whether a choice's log-probability is divided by its length.
        normalize: bool,
    },
    /// A program's score, or anything else, in words.
    Other(String),
}

impl ObjectiveLine {
    /// Checks that a text is there and short enough.
    pub(super) fn validate(&self) -> Result<(), InvalidManifest> {
        match self {
            Self::Other(text) if !(1..=TEXT_BYTES_MAX).contains(&text.len()) => {
                Err(InvalidManifest::Objective(text.len()))
            }
            _ => Ok(()),
        }
    }
}
