//! Tokens into text, piece by piece, up to a text that ends it.

use anyhow::Result;

use super::Tokenizer;

/// Tokens of the prompt that may change how the first ones after it are written.
const CONTEXT_TOKENS: usize = 4;
/// Characters that may still be unfinished bytes: a longer row of them is no text, and given out as it is.
const UNFINISHED_MAX: usize = 64;

/// Text of tokens that come one after the other.
pub struct TextStream<'a> {
    tokenizer: &'a Tokenizer,
    tokens: Vec<u32>,
    /// Decoding starts here, so that tokens may join, or lose a space at the start, as they would in the whole text.
    context: usize,
    /// Tokens up to here were decoded and handed on.
    read: usize,
    stops: &'a [String],
    /// Decoded, and not given out: it may be the beginning of a stop text.
    held: String,
    is_stopped: bool,
}

impl<'a> TextStream<'a> {
    /// Of tokens that follow `prompt`. None of `stops` may be empty.
    pub fn new(tokenizer: &'a Tokenizer, prompt: &[u32], stops: &'a [String]) -> Self {
        let tokens = prompt[prompt.len().saturating_sub(CONTEXT_TOKENS)..].to_vec();
        let read = tokens.len();
        Self { tokenizer, tokens, context: 0, read, stops, held: String::new(), is_stopped: false }
    }

    /// Whether a stop text has come: no more text comes.
    pub fn is_stopped(&self) -> bool {
        self.is_stopped
    }

    /// The text that is certain now that `token` has come; often empty.
    pub fn push(&mut self, token: u32) -> Result<String> {
        self.tokens.push(token);
        let piece = self.decode(false)?;
        self.held.push_str(&piece);
        if let Some(at) = self.stops.iter().filter_map(|stop| self.held.find(stop)).min() {
            self.is_stopped = true;
            self.held.truncate(at);
            return Ok(std::mem::take(&mut self.held));
        }
        let unsure = (0..self.held.len())
            .find(|at| self.held.get(*at..).is_some_and(|rest| self.stops.iter().any(|stop| stop.starts_with(rest))));
        let rest = self.held.split_off(unsure.unwrap_or(self.held.len()));
        Ok(std::mem::replace(&mut self.held, rest))
    }

    /// What was held back.
    pub fn finish(mut self) -> Result<String> {
        if self.is_stopped {
            return Ok(String::new());
        }
        let piece = self.decode(true)?;
        Ok(self.held + &piece)
    }

    /// The text of new tokens, none of which is given out twice. Bytes that are no character yet decode to U+FFFD, with
    /// some tokenizers those before them in a row of bytes, too: all wait for what follows, unless `all` is wanted.
    fn decode(&mut self, all: bool) -> Result<String> {
        let before = self.tokenizer.decode(&self.tokens[self.context..self.read])?;
        let text = self.tokenizer.decode(&self.tokens[self.context..])?;
        let unfinished = text.chars().rev().take_while(|character| *character == '\u{fffd}').count();
        if (1..=UNFINISHED_MAX).contains(&unfinished) && !all {
            return Ok(String::new());
        }
        let piece = match text.strip_prefix(&before) {
            Some(piece) => piece.to_owned(),
            // What is given out already would be written otherwise by now.
            None => self.tokenizer.decode(&self.tokens[self.read..])?,
        };
        if !piece.is_empty() {
            self.context = self.read;
        }
        self.read = self.tokens.len();
        Ok(piece)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{embedded, model::Interface};
    use serde_json::json;
    use std::collections::BTreeMap;

    /// What comes out of each token, and at the end.
    fn pieces_of(tokenizer: &Tokenizer, tokens: &[u32], stops: &[&str]) -> (Vec<String>, bool) {
        let stops: Vec<String> = stops.iter().map(|stop| (*stop).to_owned()).collect();
        let mut stream = TextStream::new(tokenizer, &[], &stops);
        let mut pieces = Vec::new();
        for token in tokens {
            pieces.push(stream.push(*token).unwrap());
            if stream.is_stopped() {
                break;
            }
        }
        let is_stopped = stream.is_stopped();
        pieces.push(stream.finish().unwrap());
        (pieces, is_stopped)
    }

    /// Pieces of `text`, a token a byte.
    fn pieces(text: &str, stops: &[&str]) -> (Vec<String>, bool) {
        let tokenizer = Tokenizer::of(&embedded::checkpoint().unwrap()).unwrap();
        pieces_of(&tokenizer, &tokenizer.encode(text).unwrap(), stops)
    }

    /// As Llama 2 has it: words, and a token for each byte; of a row of bytes that is no UTF-8 each is a U+FFFD. A
    /// special token is `SPECIAL`, the others are `TOKENS`.
    fn with_byte_fallback() -> Tokenizer {
        let special = json!({"id": SPECIAL, "content": "<s>", "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true});
        let vocabulary: BTreeMap<&str, u32> = TOKENS.into_iter().zip(0..).chain([("<s>", SPECIAL)]).collect();
        let file = json!({"version": "1.0", "added_tokens": [special],
            "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": "<unk>"},
            "decoder": {"type": "Sequence", "decoders": [
                {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"},
                {"type": "Strip", "content": " ", "start": 1, "stop": 0}]}});
        let interface = Interface { vocabulary: 16, window_max: 8, bos: None, eos: Vec::new() };
        Tokenizer::from_bytes(file.to_string().as_bytes(), &interface).unwrap()
    }

    const SPECIAL: u32 = 15;
    const TOKENS: [&str; 8] = ["<unk>", "▁hi", "you", "<0xF0>", "<0x9F>", "<0x99>", "<0x82>", "<0xE6>"];

    #[test]
    fn bytes_between_special_tokens_and_broken_ones_lose_nothing() {
        let tokenizer = with_byte_fallback();
        let (hi, you, face, broken) = (1, 2, [3, 4, 5, 6], 7);
        let text = |tokens: &[u32]| pieces_of(&tokenizer, tokens, &[]).0.concat();
        let with_face = |before: &[u32], after: &[u32]| text(&[before, &face, after].concat());
        assert_eq!(with_face(&[SPECIAL, SPECIAL], &[hi, you]), "\u{1F642} hiyou");
        assert_eq!(with_face(&[hi, SPECIAL], &[SPECIAL, SPECIAL, SPECIAL, SPECIAL, you]), "hi\u{1F642}you");
        assert_eq!(with_face(&[], &face), "\u{1F642}\u{1F642}");
        assert_eq!(with_face(&[hi], &[broken, you, hi]), "hi\u{1F642}\u{fffd}you hi", "it is not given out twice");
        assert_eq!(text(&[hi, 3, 4, 5]), "hi\u{fffd}\u{fffd}\u{fffd}");
        let many = vec![broken; 2 * UNFINISHED_MAX];
        let (pieces, _) = pieces_of(&tokenizer, &many, &[]);
        assert_eq!(pieces.concat().chars().count(), many.len());
        assert!(!pieces[UNFINISHED_MAX].is_empty(), "it does not wait for ever");
        let (found, is_stopped) =
            pieces_of(&tokenizer, &[&[SPECIAL, SPECIAL][..], &face, &[you, hi]].concat(), &["you"]);
        assert_eq!((found.concat().as_str(), is_stopped), ("\u{1F642}", true));
    }

    #[test]
    fn characters_come_whole_and_none_is_lost() {
        let text = "aé漢\u{1F980}b";
        let (pieces, _) = pieces(text, &[]);
        assert_eq!(pieces.concat(), text);
        assert_eq!(pieces.iter().filter(|piece| !piece.is_empty()).count(), 5, "{pieces:?}");
    }

    #[test]
    fn a_stop_text_ends_it_and_what_may_become_one_waits() {
        let (found, is_stopped) = pieces("one two\n\nthree", &["\n\n", "four"]);
        assert_eq!((found.concat().as_str(), is_stopped), ("one two", true));
        let (found, is_stopped) = pieces("one\ntwo\n", &["\n\n"]);
        assert_eq!((found.concat().as_str(), is_stopped), ("one\ntwo\n", false));
        assert_eq!(found[3], "", "a line's end may be the first of two");
    }
}
