//! From files to tokens.

use anyhow::{Context, Result, bail, ensure};
use rayon::prelude::*;
use serde::Deserialize;
use std::{
    fs,
    path::{Path, PathBuf},
};

use super::window::{Part, Tokens, Window, document_windows, stream_windows};
use crate::model::Tokenizer;

/// Bytes of text that the tokenizer gets at once; larger texts are cut after a line, a space, or a character.
const PIECE_BYTES: usize = 32 * 1024;
/// Pieces that are tokenised side by side before their tokens are stored.
const PIECES_AT_ONCE: usize = 16;
/// Extensions of files that a directory is searched for.
const TEXT_EXTENSIONS: [&str; 6] = ["txt", "text", "md", "rst", "tex", "csv"];
/// Extensions of JSON Lines.
const JSON_LINES_EXTENSIONS: [&str; 2] = ["jsonl", "ndjson"];
/// Deepest directory that is searched.
const DEPTH_MAX: usize = 32;

/// One line of JSON Lines.
#[derive(Deserialize)]
struct Line {
    text: Option<String>,
    prompt: Option<String>,
    completion: Option<String>,
}

/// What was read of a path.
pub struct ReadTexts {
    /// Of both parts.
    pub tokens: Tokens,
    /// All that is not held out.
    pub train: Part,
    /// Without windows if nothing is held out.
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
    let split = documents.len() - (documents.len() as f64 * held_out).floor() as usize;
    for (index, document) in documents.into_iter().enumerate() {
        let part = if index < split { &mut train } else { &mut eval };
        part.windows.extend(document.windows);
        part.tokens += document.tokens;
        part.bytes += document.bytes;
    }
    ensure!(train.bytes + eval.bytes > 0, "{} has no text; give --data a file with some", path.display());
    Ok(ReadTexts { tokens, train, held_out: eval })
}

/// Text files and JSON Lines files, each in the order of their paths.
fn find_files(path: &Path) -> Result<(Vec<PathBuf>, Vec<PathBuf>)> {
    let metadata = fs::metadata(path).with_context(|| {
        format!("cannot read {}; --data takes a text file, a directory, or JSON Lines", path.display())
    })?;
    let mut files = Vec::new();
    match metadata.is_dir() {
        true => search(path, 0, &mut files)?,
        false => files.push(path.to_owned()),
    }
    files.sort();
    ensure!(
        !files.is_empty(),
        "{} has no files ending in {} or {}",
        path.display(),
        TEXT_EXTENSIONS.join(", "),
        JSON_LINES_EXTENSIONS.join(", ")
    );
    Ok(files.into_iter().partition(|file| !has_extension(file, &JSON_LINES_EXTENSIONS)))
}

fn search(directory: &Path, depth: usize, files: &mut Vec<PathBuf>) -> Result<()> {
    ensure!(depth <= DEPTH_MAX, "{} lies more than {DEPTH_MAX} directories deep", directory.display());
    let cannot = || format!("cannot list {}", directory.display());
    for entry in fs::read_dir(directory).with_context(cannot)? {
        let entry = entry.with_context(cannot)?;
        let path = entry.path();
        // Links to directories are not followed: they could lead in a circle.
        if entry.file_type().with_context(cannot)?.is_dir() {
            search(&path, depth + 1, files)?;
        } else if path.is_file()
            && (has_extension(&path, &TEXT_EXTENSIONS) || has_extension(&path, &JSON_LINES_EXTENSIONS))
        {
            files.push(path);
        }
    }
    Ok(())
}

fn has_extension(path: &Path, extensions: &[&str]) -> bool {
    path.extension().is_some_and(|found| extensions.iter().any(|e| found.eq_ignore_ascii_case(e)))
}

/// All text files as one stream, split at a byte of their concatenation.
fn load_texts(
    files: &[PathBuf],
    tokenizer: &Tokenizer,
    sequence_length: usize,
    held_out: f64,
    tokens: &mut Tokens,
) -> Result<(Part, Part)> {
    let sizes = files
        .iter()
        .map(|file| fs::metadata(file).map(|m| m.len()).with_context(|| format!("cannot read {}", file.display())));
    let total: u64 = sizes.sum::<Result<u64>>()?;
    let split = (total as f64 * (1.0 - held_out)).floor() as u64;
    let (mut train, mut eval, mut eval_start) = (Part::default(), Part::default(), None);
    let mut offset = 0u64;
    for file in files {
        let text = read_text(file)?;
        let length = text.len() as u64;
        let here = character_boundary(&text, split.saturating_sub(offset).min(length) as usize);
        let (first, last) = text.split_at(here);
        let in_file = || format!("in {}", file.display());
        encode_text(first, tokenizer, tokens).with_context(in_file)?;
        if !last.is_empty() {
            eval_start.get_or_insert(tokens.len());
            encode_text(last, tokenizer, tokens).with_context(in_file)?;
        }
        train.bytes += first.len() as u64;
        eval.bytes += last.len() as u64;
        offset += length;
    }
    let boundary = eval_start.unwrap_or(tokens.len());
    train.tokens = boundary as u64;
    eval.tokens = (tokens.len() - boundary) as u64;
    train.windows = stream_windows(0, boundary, sequence_length);
    eval.windows = stream_windows(boundary, tokens.len(), sequence_length);
    Ok((train, eval))
}

fn read_text(path: &Path) -> Result<String> {
    let bytes = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        anyhow::anyhow!(
            "{} is not UTF-8 text: byte {at} begins no character; convert the file to UTF-8",
            path.display()
        )
    })
}

/// Appends the tokens of `text`.
pub fn encode_text(text: &str, tokenizer: &Tokenizer, tokens: &mut Tokens) -> Result<()> {
    let mut pieces = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let (piece, after) = rest.split_at(piece_end(rest));
        pieces.push(piece);
        rest = after;
    }
    for pieces in pieces.chunks(PIECES_AT_ONCE) {
        let encoded: Vec<Vec<u32>> = pieces.par_iter().map(|piece| tokenizer.encode(piece)).collect::<Result<_>>()?;
        encoded.iter().for_each(|ids| tokens.extend(ids));
    }
    Ok(())
}

/// The last start or end of a character that is not after byte `at`.
fn character_boundary(text: &str, at: usize) -> usize {
    (0..=at.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0)
}

fn piece_end(text: &str) -> usize {
    if text.len() <= PIECE_BYTES {
        return text.len();
    }
    let piece = &text[..character_boundary(text, PIECE_BYTES)];
    let after = |found: Option<usize>| found.map(|at| at + 1);
    after(piece.rfind('\n')).or_else(|| after(piece.rfind(' '))).unwrap_or(piece.len())
}

fn load_documents(
    path: &Path,
    tokenizer: &Tokenizer,
    sequence_length: usize,
    tokens: &mut Tokens,
    documents: &mut Vec<Part>,
) -> Result<()> {
    let text = read_text(path)?;
    let lines: Vec<(usize, &str)> = (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty()).collect();
    for lines in lines.chunks(PIECES_AT_ONCE * 16) {
        let encoded = lines.par_iter().map(|(number, line)| {
            encode_line(line, tokenizer, sequence_length)
                .with_context(|| format!("in {}, line {number}", path.display()))
        });
        for document in encoded.collect::<Result<Vec<_>>>()? {
            let start = tokens.len();
            tokens.extend(&document.ids);
            let windows = match document.given {
                None => document_windows(start, document.ids.len(), sequence_length).collect(),
                Some(given) => vec![Window { start, tokens: document.ids.len() as u32, given }],
            };
            let given = document.given.unwrap_or(0) as usize;
            documents.push(Part { windows, tokens: (document.ids.len() - given) as u64, bytes: document.bytes });
        }
    }
    Ok(())
}

struct Document {
    ids: Vec<u32>,
    /// Tokens of the prompt, where there is one.
    given: Option<u32>,
    /// Bytes of what is predicted.
    bytes: u64,
}

fn encode_line(line: &str, tokenizer: &Tokenizer, sequence_length: usize) -> Result<Document> {
    let line: Line = serde_json::from_str(line)
        .context("malformed: each line must be a JSON object with text, or with prompt and completion")?;
    match line {
        Line { text: Some(text), prompt: None, completion: None } => {
            Ok(Document { ids: tokenizer.encode(&text)?, given: None, bytes: text.len() as u64 })
        }
        Line { text: None, prompt: Some(prompt), completion: Some(completion) } => {
            let mut prompt = tokenizer.encode(&prompt)?;
            if prompt.is_empty() {
                prompt.extend(tokenizer.bos());
            }
            let mut ids = tokenizer.encode(&completion)?;
            ensure!(!prompt.is_empty(), "the prompt is empty and the model has no token that starts a text");
            ensure!(!ids.is_empty(), "the completion is empty, there is nothing to learn");
            // The end of the text is part of what is learned, so that generation stops there.
            ids.extend(tokenizer.eos().first());
            // The end of the prompt and the start of the completion are what fits the window best.
            ids.truncate(sequence_length - 1);
            let kept = prompt.len().min(sequence_length - ids.len());
            prompt.drain(..prompt.len() - kept);
            prompt.append(&mut ids);
            Ok(Document { ids: prompt, given: Some(kept as u32), bytes: completion.len() as u64 })
        }
        _ => bail!("the object must have either text, or prompt and completion"),
    }
}
