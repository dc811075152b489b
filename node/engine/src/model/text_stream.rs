//! Tokens into text, piece by piece, up to a text that ends it.

use anyhow::Result;

use super::Tokenizer;

/// Tokens after which an unfinished character is given out as it is: none has more bytes.
const PENDING_MAX: usize = 4;

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
        let tokens = prompt[prompt.len().saturating_sub(PENDING_MAX)..].to_vec();
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
        let is_late = self.tokens.len() - self.read >= PENDING_MAX;
        let piece = self.decode(is_late)?;
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

    /// The text of new tokens, none of which is given out twice. An unfinished character decodes to U+FFFD: it waits
    /// for its other bytes, unless `all` is wanted.
    fn decode(&mut self, all: bool) -> Result<String> {
        let before = self.tokenizer.decode(&self.tokens[self.context..self.read])?;
        let text = self.tokenizer.decode(&self.tokens[self.context..])?;
        if text.ends_with('\u{fffd}') && !all {
            return Ok(String::new());
        }
        let piece = text.get(before.len()..).unwrap_or_default().to_owned();
        if !piece.is_empty() {
            (self.context, self.read) = (self.read, self.tokens.len());
        }
        Ok(piece)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::embedded;

    /// Pieces of `text`, a token a byte.
    fn pieces(text: &str, stops: &[&str]) -> (Vec<String>, bool) {
        let tokenizer = Tokenizer::of(&embedded::checkpoint().unwrap()).unwrap();
        let stops: Vec<String> = stops.iter().map(|stop| (*stop).to_owned()).collect();
        let mut stream = TextStream::new(&tokenizer, &[65, 66], &stops);
        let mut pieces = Vec::new();
        for token in tokenizer.encode(text).unwrap() {
            pieces.push(stream.push(token).unwrap());
            if stream.is_stopped() {
                break;
            }
        }
        let is_stopped = stream.is_stopped();
        pieces.push(stream.finish().unwrap());
        (pieces, is_stopped)
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
