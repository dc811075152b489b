//! `NaN` and `Infinity`, which Python writes and JSON does not know, as empty texts of the same length.

use std::io::{BufRead, Read, Result};

/// Where in a JSON text we are.
#[derive(Clone, Copy)]
enum State {
    Between,
    InText,
    Escaped,
    /// So many bytes of a word are to become blanks, the next one a quote if it is the second.
    InWord {
        left: u8,
        is_second: bool,
    },
}

/// Replaces them on the way, and counts lines. A word that begins like one becomes a text that is not closed, which is
/// an error later, at the same place.
pub struct Json<R> {
    source: R,
    state: State,
    /// A byte that follows a minus which was no part of a word.
    waiting: Option<u8>,
    pub line: std::sync::Arc<std::sync::atomic::AtomicU64>,
}

impl<R: BufRead> Json<R> {
    pub fn new(source: R) -> Self {
        let line = std::sync::Arc::new(1.into());
        Self { source, state: State::Between, waiting: None, line }
    }

    fn next(&mut self) -> Result<Option<u8>> {
        let Some(byte) = self.source.fill_buf()?.first().copied() else { return Ok(None) };
        self.source.consume(1);
        if byte == b'\n' {
            self.line.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        }
        Ok(Some(byte))
    }

    fn replace(&mut self, byte: u8) -> Result<u8> {
        let (state, out) = match (self.state, byte) {
            (State::Between, b'"') => (State::InText, byte),
            (State::Between, b'N') => (State::InWord { left: 2, is_second: true }, b'"'),
            (State::Between, b'I') => (State::InWord { left: 7, is_second: true }, b'"'),
            (State::Between, b'-') => match self.next()? {
                Some(b'I') => {
                    self.waiting = Some(b'"');
                    (State::InWord { left: 7, is_second: true }, b' ')
                }
                other => {
                    self.waiting = other;
                    (State::Between, b'-')
                }
            },
            (State::InWord { left, is_second }, _) => {
                let state = if left > 1 { State::InWord { left: left - 1, is_second: false } } else { State::Between };
                (state, if is_second { b'"' } else { b' ' })
            }
            (State::InText, b'"') => (State::Between, byte),
            (State::InText, b'\\') => (State::Escaped, byte),
            (State::Escaped, _) => (State::InText, byte),
            (state, _) => (state, byte),
        };
        self.state = state;
        Ok(out)
    }
}

impl<R: BufRead> Read for Json<R> {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
        let mut count = 0;
        while count < buffer.len() {
            let byte = match self.waiting.take() {
                Some(byte) => byte,
                None => match self.next()? {
                    Some(byte) => self.replace(byte)?,
                    None => break,
                },
            };
            buffer[count] = byte;
            count += 1;
        }
        Ok(count)
    }
}

/// The same of a text in memory.
pub fn replaced(text: &[u8]) -> String {
    let mut out = Vec::with_capacity(text.len());
    // Memory does not fail to read.
    let _ = Json::new(text).read_to_end(&mut out);
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_words_outside_texts_are_replaced() {
        let text = r#"{"NaN": "Infinity \" NaN", "a": NaN, "b": [-Infinity, Infinity, -1, 2]}"#;
        let replaced = replaced(text.as_bytes());
        assert_eq!(replaced.len(), text.len());
        let value: serde_json::Value = serde_json::from_str(&replaced).unwrap();
        assert_eq!(value, serde_json::json!({ "NaN": "Infinity \" NaN", "a": "", "b": ["", "", -1, 2] }));
    }
}
