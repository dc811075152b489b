//! JSON Lines: each line is a document, in one of three forms.

use anyhow::{Context, Result, bail, ensure};
use rayon::prelude::*;
use serde::Deserialize;
use serde_json::Value;
use std::path::Path;

use super::{
    choices,
    file::read_text,
    part::{Part, Rows},
    tokens::Tokens,
    window::{Window, document_windows},
};
use crate::model::Tokenizer;

/// Lines that are tokenised side by side before their tokens are stored.
const LINES_AT_ONCE: usize = 256;
/// What a line may be.
const FORMS: &str = "text, or prompt and completion, or prompt, choices and answer";

/// One line of JSON Lines.
#[derive(Deserialize)]
struct Line {
    text: Option<String>,
    prompt: Option<String>,
    completion: Option<String>,
    choices: Option<Vec<String>>,
    answer: Option<Value>,
}

/// Whether the first document of the file at `path` is a row of choices. Errors name the line.
pub fn has_choices(path: &Path) -> Result<bool> {
    let text = read_text(path)?;
    match lines(&text).next() {
        Some((number, line)) => Ok(parse(line).with_context(|| place(path, number))?.choices.is_some()),
        None => Ok(false),
    }
}

/// Appends the documents of the file at `path` and their tokens.
pub fn load_documents(
    path: &Path,
    tokenizer: &Tokenizer,
    sequence_length: usize,
    tokens: &mut Tokens,
    documents: &mut Vec<Part>,
) -> Result<()> {
    let text = read_text(path)?;
    let lines: Vec<(usize, &str)> = lines(&text).collect();
    for lines in lines.chunks(LINES_AT_ONCE) {
        let encoded = lines.par_iter().map(|(number, line)| {
            parse(line).and_then(|line| encode(line, tokenizer, sequence_length)).with_context(|| place(path, *number))
        });
        for (document, (number, _)) in encoded.collect::<Result<Vec<_>>>()?.into_iter().zip(lines) {
            let start = tokens.len();
            tokens.extend(&document.ids);
            let part = document.at(start, sequence_length);
            if let Some(first) = documents.first() {
                let same = std::mem::discriminant(&first.rows) == std::mem::discriminant(&part.rows);
                ensure!(
                    same,
                    "{}: this row {} choices, those before {}; put the two forms into texts of their own",
                    place(path, *number),
                    if matches!(part.rows, Rows::Questions(_)) { "has" } else { "has no" },
                    if matches!(first.rows, Rows::Questions(_)) { "have" } else { "have none" },
                );
            }
            documents.push(part);
        }
    }
    Ok(())
}

/// The lines with something in them, and their numbers.
fn lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty())
}

fn place(path: &Path, number: usize) -> String {
    format!("in {}, line {number}", path.display())
}

fn parse(line: &str) -> Result<Line> {
    serde_json::from_str(line).with_context(|| format!("malformed: each line must be a JSON object with {FORMS}"))
}

struct Document {
    ids: Vec<u32>,
    form: Form,
    /// Bytes of what is predicted.
    bytes: u64,
    /// Whether its prompt lost its start.
    cut: bool,
}

enum Form {
    Text,
    /// So many tokens are the prompt.
    Completion(u32),
    Choices(choices::Question),
}

impl Document {
    /// Its rows, where its tokens begin with token `start` of the dataset.
    fn at(self, start: usize, sequence_length: usize) -> Part {
        let count = self.ids.len();
        let (rows, given) = match self.form {
            Form::Text => (Rows::Windows(document_windows(start, count, sequence_length).collect()), 0),
            Form::Completion(given) => {
                (Rows::Windows(vec![Window { start, tokens: count as u32, given }]), given as usize)
            }
            Form::Choices(question) => {
                let given = question.prompt as usize;
                (Rows::Questions(vec![choices::Question { start, ..question }]), given)
            }
        };
        Part { rows, tokens: (count - given) as u64, bytes: self.bytes, cut: u64::from(self.cut) }
    }
}

fn encode(line: Line, tokenizer: &Tokenizer, sequence_length: usize) -> Result<Document> {
    match line {
        Line { text: Some(text), prompt: None, completion: None, choices: None, answer: None } => {
            Ok(Document { ids: tokenizer.encode_whole(&text)?, form: Form::Text, bytes: text.len() as u64, cut: false })
        }
        Line { text: None, prompt: Some(prompt), completion: Some(completion), choices: None, answer: None } => {
            encode_completion(&prompt, &completion, tokenizer, sequence_length)
        }
        Line { text: None, prompt: Some(prompt), completion: None, choices: Some(choices), answer: Some(answer) } => {
            let bytes = choices.iter().map(|choice| choice.len() as u64).sum();
            let choices::Encoded { ids, question, cut } =
                choices::encode(&prompt, &choices, &answer, tokenizer, sequence_length)?;
            Ok(Document { ids, form: Form::Choices(question), bytes, cut })
        }
        _ => bail!("the object must have either {FORMS}"),
    }
}

fn encode_completion(
    prompt: &str,
    completion: &str,
    tokenizer: &Tokenizer,
    sequence_length: usize,
) -> Result<Document> {
    let mut prompt = [tokenizer.opening(), &tokenizer.encode(prompt)?].concat();
    if prompt.is_empty() {
        prompt.extend(tokenizer.bos());
    }
    let mut ids = tokenizer.encode(completion)?;
    ensure!(!prompt.is_empty(), "the prompt is empty and the model has no token that starts a text");
    ensure!(!ids.is_empty(), "the completion is empty, there is nothing to learn");
    // The end of the turn is part of what is learned, so that generation stops there.
    ids.extend(tokenizer.turn_end());
    // The end of the prompt and the start of the completion are what fits the window best.
    ids.truncate(sequence_length - 1);
    let kept = prompt.len().min(sequence_length - ids.len());
    let cut = kept < prompt.len();
    tokenizer.cut_start(&mut prompt, kept);
    prompt.append(&mut ids);
    Ok(Document { ids: prompt, form: Form::Completion(kept as u32), bytes: completion.len() as u64, cut })
}
