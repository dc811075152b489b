//! Plain text: files as one stream of tokens, cut into windows.

use anyhow::{Context, Result};
use rayon::prelude::*;
use std::{fs, path::PathBuf};

use super::{
    file::read_text,
    part::{Part, Rows},
    tokens::Tokens,
    window::stream_windows,
};
use crate::model::Tokenizer;

/// Bytes of text that the tokenizer gets at once; larger texts are cut after a line, a space, or a character.
const PIECE_BYTES: usize = 32 * 1024;
/// Pieces that are tokenised side by side before their tokens are stored.
const PIECES_AT_ONCE: usize = 16;

/// All `files` as one stream, split at a byte of their concatenation: what is trained on, what is held out.
pub fn load_texts(
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
        // What opens and closes a text stands where the file begins and ends, on whichever side that is.
        if !first.is_empty() {
            tokens.extend(tokenizer.opening());
            encode_text(first, tokenizer, tokens).with_context(in_file)?;
        }
        if !last.is_empty() {
            eval_start.get_or_insert(tokens.len());
            tokens.extend(if first.is_empty() { tokenizer.opening() } else { &[] });
            encode_text(last, tokenizer, tokens).with_context(in_file)?;
        }
        tokens.extend(if text.is_empty() { &[] } else { tokenizer.closing() });
        train.bytes += first.len() as u64;
        eval.bytes += last.len() as u64;
        offset += length;
    }
    let boundary = eval_start.unwrap_or(tokens.len());
    train.tokens = boundary as u64;
    eval.tokens = (tokens.len() - boundary) as u64;
    train.rows = Rows::Windows(stream_windows(0, boundary, sequence_length));
    eval.rows = Rows::Windows(stream_windows(boundary, tokens.len(), sequence_length));
    Ok((train, eval))
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
