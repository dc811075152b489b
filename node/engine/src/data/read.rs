//! From files to tokens and rows.

use anyhow::{Result, ensure};
use std::path::Path;

use super::{
    documents::{has_choices, load_documents},
    file::find_files,
    part::{Part, Rows},
    text::load_texts,
    tokens::Tokens,
};
use crate::model::Tokenizer;

/// What was read of a path.
pub struct ReadTexts {
    /// Of both parts.
    pub tokens: Tokens,
    /// All that is not held out.
    pub train: Part,
    /// Without rows if nothing is held out.
    pub held_out: Part,
}

/// Reads `path` and holds out the last `held_out` of it.
pub fn load(path: &Path, tokenizer: &Tokenizer, sequence_length: usize, held_out: f64) -> Result<ReadTexts> {
    ensure!(sequence_length >= 2, "--sequence-length {sequence_length} is too short, a window needs 2 tokens");
    let (texts, json_lines) = find_files(path)?;
    let mut tokens = Tokens::for_vocabulary(tokenizer.vocabulary());
    let (mut train, mut eval) = load_texts(&texts, tokenizer, sequence_length, held_out, &mut tokens)?;
    let mut documents = Vec::new();
    for file in &json_lines {
        load_documents(file, tokenizer, sequence_length, &mut tokens, &mut documents)?;
    }
    ensure!(
        texts.is_empty() || !documents.iter().any(|document| matches!(document.rows, Rows::Questions(_))),
        "{} has rows with choices, and plain texts; put the two forms into directories of their own",
        path.display()
    );
    let split = documents.len() - (documents.len() as f64 * held_out).floor() as usize;
    for (index, document) in documents.into_iter().enumerate() {
        let part = if index < split { &mut train } else { &mut eval };
        part.rows.append(document.rows)?;
        part.tokens += document.tokens;
        part.bytes += document.bytes;
        part.cut += document.cut;
    }
    ensure!(train.bytes + eval.bytes > 0, "{} has no text; give --data a file with some", path.display());
    Ok(ReadTexts { tokens, train, held_out: eval })
}

/// Whether `load` will find rows with choices at `path`, from a look at its first document.
pub fn are_choices(path: &Path) -> Result<bool> {
    match find_files(path)? {
        (texts, json_lines) if texts.is_empty() => json_lines.first().map_or(Ok(false), |file| has_choices(file)),
        _ => Ok(false),
    }
}
