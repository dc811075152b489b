//! What is learned of a row, as it was found.

use minijinja::Value;

use crate::chat::{Conversation, Rendered};

/// What is learned of a row.
pub enum Sample {
    /// All of it.
    Text(String),
    /// The second, after the first.
    Completion(String, String),
    Conversation(Conversation),
    /// The marked parts of a text.
    Marked(Rendered),
    /// Which of the choices follows the prompt.
    Choices {
        prompt: String,
        choices: Vec<String>,
        answer: Value,
    },
    /// What is to be completed.
    Prompt(Prompt),
}

/// What is to be completed, and judged then.
pub struct Prompt {
    pub asked: Question,
    /// All of the row's columns.
    pub row: Value,
}

/// What the model is to go on from.
pub enum Question {
    Text(String),
    Conversation(Vec<Value>, Option<Value>),
}

impl Sample {
    pub fn is_conversation(&self) -> bool {
        matches!(self, Self::Conversation(_))
    }
}

/// A sample, and where it is from.
pub struct Found {
    pub sample: Sample,
    /// For people.
    pub label: &'static str,
    /// Columns that it was taken from.
    pub used: Vec<String>,
}

/// A row that only asks.
pub fn prompt(asked: Question, row: &Value) -> Sample {
    Sample::Prompt(Prompt { asked, row: row.clone() })
}
