//! Plain text: files as one stream of tokens, cut into windows.

use anyhow::{Result, bail};
use rayon::prelude::*;
use std::io::{Read, Seek, SeekFrom};

use super::tokens::Tokens;
use crate::model::Tokenizer;

/// Bytes of text that the tokenizer gets at once; larger texts are cut after a line, a space, or a character.
const PIECE_BYTES: usize = 32 * 1024;
/// Pieces that are tokenised side by side before their tokens are stored.
const PIECES_AT_ONCE: usize = 16;
/// A text is split after a paragraph or a line, if one ends within this share of it before the place.
const SPLIT_SHARE: u64 = 50;
/// And within so many bytes.
const SPLIT_BYTES_MAX: u64 = 1 << 20;

/// Appends the tokens of `text`.
pub fn encode_text(text: &str, tokenizer: &Tokenizer, tokens: &mut Tokens) -> Result<()> {
    let pieces: Vec<&str> = pieces(text).collect();
    pieces.chunks(PIECES_AT_ONCE).try_for_each(|pieces| encode_pieces(pieces, tokenizer, tokens))
}

/// Appends the tokens of all `bytes`, which are UTF-8, a few pieces at a time; returns how many bytes there were, and
/// whether there is more than white space in them. Errors name the byte of the text, of which these begin at `start`.
pub fn encode_bytes(
    bytes: &mut impl Read,
    start: u64,
    tokenizer: &Tokenizer,
    tokens: &mut Tokens,
) -> Result<(u64, bool)> {
    // Bytes that are not encoded yet: after a round a piece at most.
    let (mut waiting, mut done, mut says) = (Vec::new(), 0u64, false);
    loop {
        let room = (PIECES_AT_ONCE * PIECE_BYTES) as u64;
        let is_last = bytes.by_ref().take(room).read_to_end(&mut waiting)? < room as usize;
        let text = sound(&waiting, start + done, is_last)?;
        says = says || !text.trim().is_empty();
        let mut pieces: Vec<&str> = pieces(text).collect();
        // Where the last one ends is decided by what follows.
        let open = if is_last { 0 } else { pieces.pop().map_or(0, str::len) };
        encode_pieces(&pieces, tokenizer, tokens)?;
        let encoded = text.len() - open;
        done += encoded as u64;
        if is_last {
            return Ok((done, says));
        }
        waiting.drain(..encoded);
    }
}

fn encode_pieces(pieces: &[&str], tokenizer: &Tokenizer, tokens: &mut Tokens) -> Result<()> {
    let encoded: Vec<Vec<u32>> = pieces.par_iter().map(|piece| tokenizer.encode(piece)).collect::<Result<_>>()?;
    encoded.iter().try_for_each(|ids| tokens.extend(ids))
}

/// The text of `bytes`, up to a character that lacks its end, unless they are the last. `start`: where they are.
fn sound(bytes: &[u8], start: u64, is_last: bool) -> Result<&str> {
    let (text, wrong) = match std::str::from_utf8(bytes) {
        Ok(text) => (text, None),
        Err(error) => {
            let (text, rest) = bytes.split_at(error.valid_up_to());
            let is_cut = error.error_len().is_none() && !is_last;
            (std::str::from_utf8(text)?, rest.first().filter(|_| !is_cut))
        }
    };
    if let Some(at) = text.find('\0') {
        bail!("no text: byte {} is NUL", start + at as u64);
    }
    if let Some(byte) = wrong {
        bail!(
            "not UTF-8 text: byte {}, {byte:#04x}, begins no character; convert the file from the encoding that it is in, \
             iconv -f ENCODING -t UTF-8: WINDOWS-1252 of Western Europe, mostly, SHIFT_JIS of Japan, GB18030 of China",
            start + text.len() as u64
        );
    }
    Ok(text)
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

/// The tokens of `text`.
pub fn ids(text: &str, tokenizer: &Tokenizer) -> Result<Vec<u32>> {
    let mut ids = Vec::new();
    for piece in pieces(text) {
        ids.append(&mut tokenizer.encode(piece)?);
    }
    Ok(ids)
}

/// The end of a text.
pub struct Ending<'a> {
    /// Its last piece, all of a short text.
    pub piece: &'a str,
    /// Tokens of the text's end, and how many of them are that piece's.
    pub ids: Vec<u32>,
    pub own: usize,
    /// Whether that is all of the text.
    pub is_whole: bool,
}

/// The end of `text`, of more than `count` tokens if it has so many: what comes before costs nothing.
pub fn ending<'a>(text: &'a str, count: usize, tokenizer: &Tokenizer) -> Result<Ending<'a>> {
    let mut before: Vec<&'a str> = pieces(text).collect();
    let piece = before.pop().unwrap_or_default();
    let last = tokenizer.encode(piece)?;
    let own = last.len();
    let (mut parts, mut total) = (vec![last], own);
    while total <= count
        && let Some(piece) = before.pop()
    {
        let ids = tokenizer.encode(piece)?;
        total += ids.len();
        parts.push(ids);
    }
    parts.reverse();
    Ok(Ending { piece, ids: parts.concat(), own, is_whole: before.is_empty() })
}

/// Where to split the `length` bytes of text from byte `start` on, at byte `at` of it or a little before: after a
/// paragraph, a line, or a character.
pub fn split(text: &mut (impl Read + Seek), start: u64, length: u64, at: u64) -> Result<u64> {
    let at = at.min(length);
    let from = at - (length / SPLIT_SHARE).clamp(3, SPLIT_BYTES_MAX).min(at);
    text.seek(SeekFrom::Start(start + from))?;
    let mut near = Vec::new();
    text.by_ref().take(at + 1 - from).read_to_end(&mut near)?;
    // The byte at the place says whether a character begins there.
    let is_inside = |end: usize| near.get(end).is_some_and(|byte| byte & 0xc0 == 0x80);
    let end = (0..=(at - from) as usize).rev().find(|end| !is_inside(*end)).unwrap_or(0);
    let after =
        |mark: &[u8]| near[..end].windows(mark.len()).rposition(|bytes| bytes == mark).map(|at| at + mark.len());
    Ok(from + after(b"\n\n").or_else(|| after(b"\n")).unwrap_or(end) as u64)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::embedded;
    use std::io::Cursor;

    fn tokenizer() -> Tokenizer {
        Tokenizer::of(&embedded::checkpoint().unwrap()).unwrap()
    }

    #[test]
    fn bytes_that_come_in_parts_have_the_tokens_of_the_text_in_one() {
        let tokenizer = tokenizer();
        let (text, plain) = ("a line of é and 日本語, of 😀 and so on.\n".repeat(40_000), "a b".repeat(400_000));
        for text in [&text[..], &plain, &plain[..PIECE_BYTES], &plain[..PIECES_AT_ONCE * PIECE_BYTES], "x", ""] {
            let tokens = |encode: &dyn Fn(&mut Tokens)| {
                let mut tokens = Tokens::for_vocabulary(tokenizer.vocabulary(), &std::env::temp_dir());
                encode(&mut tokens);
                tokens.read(0..tokens.len()).unwrap().iter().map(|token| token.id).collect::<Vec<_>>()
            };
            let whole = tokens(&|tokens| encode_text(text, &tokenizer, tokens).unwrap());
            let in_parts = tokens(&|tokens| {
                let read = encode_bytes(&mut text.as_bytes(), 0, &tokenizer, tokens).unwrap();
                assert_eq!(read, (text.len() as u64, !text.is_empty()));
            });
            assert!(whole == in_parts, "{} bytes", text.len());
        }
    }

    #[test]
    fn the_end_of_a_text_has_the_tokens_that_it_has_in_the_whole() {
        let tokenizer = tokenizer();
        let long = "a line of é and 日本語, of 😀 and so on.\n".repeat(4_000);
        for text in
            ["", "x", "a b", &long[..], &long[..character_boundary(&long, PIECE_BYTES)], &long.replace(['\n', ' '], "")]
        {
            let whole = ids(text, &tokenizer).unwrap();
            for count in [0, 1, 24, PIECE_BYTES, 1 << 20] {
                let Ending { piece, ids, own, .. } = ending(text, count, &tokenizer).unwrap();
                assert!(whole.ends_with(&ids) && text.ends_with(piece) && own <= ids.len());
                assert_eq!(ids[ids.len() - own..], tokenizer.encode(piece).unwrap());
                assert!(ids.len() > count || ids == whole, "{} of {} tokens", ids.len(), whole.len());
                assert!(ids.len() <= count + 2 * PIECE_BYTES, "no more than it takes");
            }
        }
    }

    #[test]
    fn what_is_no_text_is_named_by_its_byte_wherever_it_is() {
        let tokenizer = tokenizer();
        for at in [0, 5, PIECES_AT_ONCE * PIECE_BYTES - 1, PIECES_AT_ONCE * PIECE_BYTES, 3_000_000] {
            for (byte, what) in [(0u8, "is NUL"), (0xff, "0xff")] {
                let mut bytes = vec![b'a'; 3_000_001];
                bytes[at] = byte;
                let mut tokens = Tokens::for_vocabulary(tokenizer.vocabulary(), &std::env::temp_dir());
                let error = encode_bytes(&mut &bytes[..], 7, &tokenizer, &mut tokens).unwrap_err().to_string();
                assert!(error.contains(&format!("byte {}", at + 7)) && error.contains(what), "{error}");
            }
        }
    }

    #[test]
    fn a_text_is_split_after_a_paragraph_or_a_line_or_a_character() {
        let at = |text: &str, at: u64| split(&mut Cursor::new(text), 0, text.len() as u64, at).unwrap();
        let lines = format!("{}\n\n{}\n{}", "a".repeat(880), "b".repeat(5), "c".repeat(200));
        assert_eq!((at(&lines, 895), at(&lines, 1000), at(&lines, 880)), (882, 1000, 880));
        assert_eq!(at(&format!("{}\n{}", "a".repeat(890), "b".repeat(109)), 900), 891);
        assert_eq!((at("aéb", 2), at("aéb", 3), at("aéb", 99), at("", 0)), (1, 3, 4, 0));
    }
}
