//! Rows that only ask: what the model is to complete, and what its judge is told of it.

use anyhow::Result;
use minijinja::Value;
use serde::Serialize;
use std::sync::Arc;

use super::{
    pack::Pack,
    sample::{self, Question},
    text::{Ending, ending, pieces},
};
use crate::{
    chat::{ChatTemplate, Conversation},
    model::{Asked, Row, Tokenizer},
};

/// Windows' worth of tokens that a look at one prompt counts for: a token that is made costs a pass of its own.
const COST_WINDOWS: usize = 4;

/// Tokens of a prompt, and the JSON object of which its judge is told.
#[derive(Clone, Debug)]
pub struct Prompt {
    pub start: usize,
    /// At least one.
    pub tokens: u32,
    pub row: Arc<str>,
}

impl Prompt {
    /// Tokens that a look at it counts for.
    pub fn cost(&self, sequence_length: usize) -> usize {
        COST_WINDOWS * sequence_length
    }

    /// Adds its row, whose completion draws with the seed `draw`.
    pub fn pack(&self, draw: u64, pack: &mut Pack<'_>) -> Result<()> {
        pack.start(self.start..self.start + self.tokens as usize)?;
        pack.end(Row::of_prompt(Asked { row: self.row.clone(), draw }));
        Ok(())
    }
}

/// A prompt whose place among the dataset's tokens is not known yet.
pub struct Encoded {
    pub ids: Vec<u32>,
    pub row: Arc<str>,
    pub bytes: u64,
    /// Whether it lost its start.
    pub cut: bool,
}

/// What a judge is told.
#[derive(Serialize)]
struct Told<'a> {
    prompt: &'a str,
    row: &'a Value,
}

/// Tokens of a prompt, up to where the answer begins; one that does not fit `sequence_length` loses its start.
pub fn encode(
    prompt: sample::Prompt,
    tokenizer: &Tokenizer,
    template: &ChatTemplate,
    sequence_length: usize,
) -> Result<Encoded> {
    let (text, opening) = match &prompt.asked {
        Question::Text(text) => (text.clone(), tokenizer.opening()),
        Question::Conversation(messages, tools) => {
            let conversation = Conversation::new(messages.clone(), tools.clone());
            (conversation.question(template)?, template.opening(tokenizer))
        }
    };
    let Ending { ids, is_whole, .. } = ending(&text, sequence_length, tokenizer)?;
    // A template may write what opens a text itself: the end of it does not have that.
    let opens = || tokenizer.encode(pieces(&text).next().unwrap_or_default());
    let opening = match !is_whole && opening.is_empty() && opens()?.starts_with(tokenizer.opening()) {
        true => tokenizer.opening(),
        false => opening,
    };
    let mut ids = tokenizer.prompt(opening, &ids)?;
    let cut = ids.len() > sequence_length;
    if cut {
        tokenizer.cut_start(&mut ids, sequence_length);
    }
    let row = serde_json::to_string(&Told { prompt: &text, row: &prompt.row })?.into();
    Ok(Encoded { ids, row, bytes: text.len() as u64, cut })
}
