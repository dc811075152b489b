//! A row of a file, as it was found.

use anyhow::{Result, anyhow};
use minijinja::{Value, value::ValueKind};

use super::{form::without_comma, lenient};

/// Longest row, bytes: one that is longer has lost its end, most likely.
pub const ROW_BYTES_MAX: u64 = 1 << 30;

/// Why a text with a NUL byte is refused.
pub const NUL: &str = "it has a NUL byte, which no text has";

/// A row, as it was found.
pub struct Row {
    /// `line 3`, or `row 17, line 120`.
    pub place: String,
    pub content: Content,
}

/// What was found.
pub enum Content {
    /// A line of JSON Lines.
    Line(Vec<u8>),
    Value(Value),
    /// Why it is no row, and how many rows were lost with it.
    Bad(anyhow::Error, u64),
    /// No row: names of lists of rows beside the one that is read.
    ListsLeft(Vec<String>),
}

impl Row {
    /// Bytes of it, about.
    pub fn size(&self) -> usize {
        match &self.content {
            Content::Line(line) => line.len(),
            _ => 1024,
        }
    }

    /// Rows of the file that it is.
    pub fn count(&self) -> u64 {
        match &self.content {
            Content::Bad(_, count) => *count,
            _ => 1,
        }
    }

    /// The value. Errors say what is malformed, and where.
    pub fn value(self) -> Result<Value> {
        match self.content {
            Content::Line(line) => parse(&line),
            Content::Value(value) => Ok(value),
            Content::Bad(error, _) => Err(error),
            Content::ListsLeft(_) => Ok(Value::from(())),
        }
    }
}

/// Whether a text within the value has a NUL byte.
pub fn has_nul(value: &Value) -> bool {
    let mut items = value.try_iter().into_iter().flatten();
    match value.kind() {
        ValueKind::String => value.as_str().is_some_and(|text| text.contains('\0')),
        ValueKind::Seq => items.any(|item| has_nul(&item)),
        ValueKind::Map => items.any(|key| value.get_item(&key).is_ok_and(|item| has_nul(&item))),
        _ => false,
    }
}

/// A line of JSON as a value: as it is, or else as Python would read it.
pub fn parse(line: &[u8]) -> Result<Value> {
    let text = std::str::from_utf8(line)
        .map_err(|error| anyhow!("byte {} is not UTF-8; save the file as UTF-8", error.valid_up_to()))?;
    let text = without_comma(text);
    if lenient::may_have_long_number(text)
        && let Ok(value) = serde_json::from_str(&lenient::mended(text.as_bytes()))
    {
        return Ok(value);
    }
    serde_json::from_str(text).or_else(|error| {
        serde_json::from_str(&lenient::mended(text.as_bytes())).map_err(|_| {
            let words = error.to_string();
            let what = words.split(" at line").next().unwrap_or_default();
            anyhow!("column {}: malformed JSON ({what}); each line must be an object", error.column())
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What goes through a value goes as deep as it is: the stack has room for that.
    #[test]
    fn a_value_that_lies_too_deep_is_malformed() {
        let row = |levels: usize| format!(r#"{{"text": {}1{}}}"#, "[".repeat(levels), "]".repeat(levels));
        assert!(!has_nul(&parse(row(100).as_bytes()).unwrap()));
        let error = parse(row(100_000).as_bytes()).unwrap_err().to_string();
        assert!(error.contains("recursion limit exceeded"), "{error}");
    }
}
