//! Plain text: files as one stream of tokens, cut into windows.

use anyhow::Result;
use rayon::prelude::*;

use super::tokens::Tokens;
use crate::model::Tokenizer;

/// Bytes of text that the tokenizer gets at once; larger texts are cut after a line, a space, or a character.
const PIECE_BYTES: usize = 32 * 1024;
/// Pieces that are tokenised side by side before their tokens are stored.
const PIECES_AT_ONCE: usize = 16;
/// A text is split after a paragraph or a line, if one ends within this share of it before the place.
const SPLIT_SHARE: usize = 50;

/// Appends the tokens of `text`.
pub fn encode_text(text: &str, tokenizer: &Tokenizer, tokens: &mut Tokens) -> Result<()> {
    let pieces: Vec<&str> = pieces(text).collect();
    for pieces in pieces.chunks(PIECES_AT_ONCE) {
        let encoded: Vec<Vec<u32>> = pieces.par_iter().map(|piece| tokenizer.encode(piece)).collect::<Result<_>>()?;
        encoded.iter().for_each(|ids| tokens.extend(ids));
    }
    Ok(())
}

/// The text in pieces that a tokenizer bears.
pub fn pieces(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let (piece, after) = rest.split_at(piece_end(rest));
        rest = after;
        (!piece.is_empty()).then_some(piece)
    })
}

/// Where to split a text at byte `at` or a little before: after a paragraph, a line, or a character.
pub fn split(text: &str, at: usize) -> usize {
    let at = character_boundary(text, at);
    let from = character_boundary(text, at - (text.len() / SPLIT_SHARE).min(at));
    let near = &text[from..at];
    let after = |end: &str| near.rfind(end).map(|found| from + found + end.len());
    after("\n\n").or_else(|| after("\n")).unwrap_or(at)
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
