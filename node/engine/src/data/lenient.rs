//! JSON as Python and pandas write and read it, made JSON that the standard knows: `NaN`, `Infinity` and numbers beyond
//! an f64 become null, integers beyond 64 bits texts of their digits, half of a surrogate pair the replacement
//! character, a raw tab an escape, and a comma between values that are in no list, or the mark before each value of a
//! sequence (RFC 7464), a space.

use std::{
    io::{BufRead, Read, Result, Write},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

/// Digits of the smallest integer beyond 64 bits.
const LONG_DIGITS: usize = 19;
/// Longest number that is looked at, bytes.
const NUMBER_BYTES_MAX: usize = 4096;
const NULL: &[u8] = b"null";
const REPLACEMENT: &[u8] = b"\\ufffd";

/// Mends on the way, and counts lines. What is no JSON in another way stays as it is: an error later, in the same line.
pub struct Lenient<R> {
    source: R,
    in_text: bool,
    /// Lists and objects that are open.
    depth: u64,
    /// What was mended, and not asked for yet.
    ready: Vec<u8>,
    taken: usize,
    pub line: Arc<AtomicU64>,
}

impl<R: BufRead> Lenient<R> {
    pub fn new(source: R) -> Self {
        Self { source, in_text: false, depth: 0, ready: Vec::new(), taken: 0, line: Arc::new(1.into()) }
    }

    fn peek(&mut self) -> Result<Option<u8>> {
        Ok(self.source.fill_buf()?.first().copied())
    }

    fn next(&mut self) -> Result<Option<u8>> {
        let byte = self.peek()?;
        if byte.is_some() {
            self.source.consume(1);
        }
        if byte == Some(b'\n') {
            self.line.fetch_add(1, Ordering::Relaxed);
        }
        Ok(byte)
    }

    /// Makes the next byte, word, number or escape ready; nothing is at the end.
    fn step(&mut self) -> Result<()> {
        self.ready.clear();
        self.taken = 0;
        let Some(byte) = self.next()? else { return Ok(()) };
        match (self.in_text, byte) {
            (true, b'\\') => return self.escape(),
            // A line that ends within a text lacks its quote. A NUL is no part of a text.
            (true, 1..b' ') if !matches!(byte, b'\n' | b'\r') => return write!(self.ready, "\\u{byte:04x}"),
            (_, b'"') => self.in_text = !self.in_text,
            (false, b'N') => return self.word(b"NaN"),
            (false, b'I') => return self.word(b"Infinity"),
            (false, b'-' | b'0'..=b'9') => return self.number(byte),
            (false, b'[' | b'{') => self.depth += 1,
            (false, b']' | b'}') => self.depth = self.depth.saturating_sub(1),
            (false, b',' | 0x1e) if self.depth == 0 => {
                self.ready.push(b' ');
                return Ok(());
            }
            _ => {}
        }
        self.ready.push(byte);
        Ok(())
    }

    /// Null in place of `word`, whose first letter was read.
    fn word(&mut self, word: &[u8]) -> Result<()> {
        let mut read = 1;
        while read < word.len() && self.peek()? == Some(word[read]) {
            self.next()?;
            read += 1;
        }
        if read < word.len() {
            self.ready.extend(&word[..read]);
        } else {
            self.ready.extend(NULL);
        }
        Ok(())
    }

    fn number(&mut self, first: u8) -> Result<()> {
        if first == b'-' && self.peek()? == Some(b'I') {
            self.next()?;
            self.ready.push(b' ');
            return self.word(b"Infinity");
        }
        self.ready.push(first);
        while self.ready.len() < NUMBER_BYTES_MAX
            && let Some(byte @ (b'0'..=b'9' | b'.' | b'e' | b'E' | b'+' | b'-')) = self.peek()?
        {
            self.next()?;
            self.ready.push(byte);
        }
        let text = std::str::from_utf8(&self.ready).unwrap_or_default();
        if self.ready.len() < NUMBER_BYTES_MAX && is_beyond_64_bits(text) {
            self.ready = format!("\"{text}\"").into_bytes();
        } else if text.parse().is_ok_and(f64::is_infinite) {
            self.ready = NULL.to_vec();
        }
        Ok(())
    }

    /// What follows a backslash, and the escapes right behind it as long as they could make a pair.
    fn escape(&mut self) -> Result<()> {
        let mut high = None;
        loop {
            let kind = self.next()?;
            let mut digits = Vec::new();
            while kind == Some(b'u')
                && digits.len() < 4
                && let Some(digit) = self.peek()?.filter(u8::is_ascii_hexdigit)
            {
                self.next()?;
                digits.push(digit);
            }
            let text = std::str::from_utf8(&digits).unwrap_or_default();
            let unit = u16::from_str_radix(text, 16).ok().filter(|_| digits.len() == 4);
            if let (Some(high), Some(low @ 0xdc00..=0xdfff)) = (high, unit) {
                return write!(self.ready, "\\u{high:04x}\\u{low:04x}");
            }
            if high.is_some() {
                self.ready.extend(REPLACEMENT);
            }
            match unit {
                Some(0xd800..=0xdbff) if self.peek()? == Some(b'\\') => {
                    self.next()?;
                    high = unit;
                    continue;
                }
                Some(0xd800..=0xdfff) => self.ready.extend(REPLACEMENT),
                _ => {
                    self.ready.push(b'\\');
                    self.ready.extend(kind);
                    self.ready.extend(digits);
                }
            }
            return Ok(());
        }
    }
}

impl<R: BufRead> Read for Lenient<R> {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
        let mut count = 0;
        while count < buffer.len() {
            if self.taken == self.ready.len() {
                self.step()?;
            }
            let Some(byte) = self.ready.get(self.taken) else { break };
            buffer[count] = *byte;
            (count, self.taken) = (count + 1, self.taken + 1);
        }
        Ok(count)
    }
}

/// Whether it is a sound integer that neither an i64 nor a u64 holds.
fn is_beyond_64_bits(number: &str) -> bool {
    let digits = number.strip_prefix('-').unwrap_or(number);
    let is_integer = !digits.starts_with('0') && digits.bytes().all(|byte| byte.is_ascii_digit());
    is_integer && !digits.is_empty() && number.parse::<i64>().is_err() && number.parse::<u64>().is_err()
}

/// Whether a text may have an integer beyond 64 bits: digits enough in a row.
pub fn may_have_long_number(text: &str) -> bool {
    text.as_bytes().chunk_by(|a, b| a.is_ascii_digit() && b.is_ascii_digit()).any(|run| run.len() >= LONG_DIGITS)
}

/// The same of a text in memory, which is one value, or its beginning: as within a list, its commas stay.
pub fn mended(text: &[u8]) -> String {
    let mut out = Vec::with_capacity(text.len());
    // Memory does not fail to read.
    let _ = Lenient { depth: 1, ..Lenient::new(text) }.read_to_end(&mut out);
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_words_outside_texts_are_replaced() {
        let text = r#"{"NaN": "Infinity \" NaN", "a": NaN, "b": [-Infinity, Infinity, -1, 2]}"#;
        let mended = mended(text.as_bytes());
        let value: serde_json::Value = serde_json::from_str(&mended).unwrap();
        assert_eq!(value, serde_json::json!({ "NaN": "Infinity \" NaN", "a": null, "b": [null, null, -1, 2] }));
    }

    #[test]
    fn what_python_reads_is_read_and_sound_json_stays_as_it_is() {
        for (text, expected) in [
            (r#"[1e400, -1e400, 1e30, 0.5, -0, 12E-3]"#, r#"[null, null, 1e30, 0.5, -0, 12E-3]"#),
            (
                "[18446744073709551615, 18446744073709551616, -9223372036854775809, 1234567890123456789012.0]",
                r#"[18446744073709551615, "18446744073709551616", "-9223372036854775809", 1234567890123456789012.0]"#,
            ),
            (r#""a\ud83d""#, r#""a\ufffd""#),
            (r#""\ud83d\ud83d\ude00\ude00x\n""#, r#""\ufffd\ud83d\ude00\ufffdx\n""#),
            (r#""\ud83d\n \ud83dx \uD83D\uDE00 \u00e9 \\ud83d""#, r#""\ufffd\n \ufffdx \ud83d\ude00 \u00e9 \\ud83d""#),
            ("\"a\tb\u{1}\"\t", "\"a\\u0009b\\u0001\"\t"),
            // No JSON: it stays so.
            ("{\"a\": Not, -x, \"\\u12", "{\"a\": Not, -x, \"\\u12"),
            ("\"a\nb\0\\", "\"a\nb\0\\"),
        ] {
            assert_eq!(mended(text.as_bytes()), expected);
        }
    }

    #[test]
    fn a_comma_or_a_mark_between_values_of_no_list_is_a_space() {
        let text = "\u{1e}{\"a,\": [1, {\"b\": 2}]}, \"c,d\",\n[3, 4],]5,\u{1e}6[\u{1e}]";
        let mut out = String::new();
        Lenient::new(text.as_bytes()).read_to_string(&mut out).unwrap();
        assert_eq!(out, " {\"a,\": [1, {\"b\": 2}]}  \"c,d\" \n[3, 4] ]5  6[\u{1e}]");
    }
}
