//! JSON as Python writes it: `NaN`, `Infinity` and `-Infinity` are numbers there, and nothing in JSON.

use serde_json::{Result, Value};

const WORDS: [&str; 3] = ["NaN", "Infinity", "-Infinity"];

/// The value of `text`, with `{"__float__": "NaN"}` for NaN and so on: transformers 5 reads this form, and writes it
/// where others read. It is no number, so who needs one refuses it by its field. Errors are those of strict JSON.
pub fn parse(text: &[u8]) -> Result<Value> {
    serde_json::from_slice(text).or_else(|error| serde_json::from_slice(&tagged(text)).map_err(|_| error))
}

/// The words that stand outside texts, in that form.
fn tagged(text: &[u8]) -> Vec<u8> {
    let (mut out, mut rest, mut in_text) = (Vec::with_capacity(text.len()), text, false);
    while let Some(byte) = rest.first() {
        if let Some(word) = WORDS.into_iter().find(|word| !in_text && rest.starts_with(word.as_bytes())) {
            out.extend(format!("{{\"__float__\": \"{word}\"}}").into_bytes());
            rest = &rest[word.len()..];
            continue;
        }
        in_text ^= *byte == b'"';
        // A quote behind a backslash ends no text.
        let length = if in_text && *byte == b'\\' { rest.len().min(2) } else { 1 };
        let (done, left) = rest.split_at(length);
        out.extend(done);
        rest = left;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn words_of_python_for_numbers_are_read_outside_texts() {
        let text = r#"{"a NaN": "\" Infinity, NaN\\", "b": [0.0, Infinity, -Infinity, -1], "c": NaN}"#;
        let tag = |word: &str| json!({ "__float__": word });
        let expected = json!({"a NaN": "\" Infinity, NaN\\",
            "b": [0.0, tag("Infinity"), tag("-Infinity"), -1], "c": tag("NaN")});
        assert_eq!(parse(text.as_bytes()).unwrap(), expected);
        assert_eq!(parse(expected.to_string().as_bytes()).unwrap(), expected, "it stays as it is");
        for broken in ["", "{\"a\": NaN", "{\"a\": Nan}", "{NaN: 1}", "[1NaN]", "\"NaN\\"] {
            assert!(parse(broken.as_bytes()).is_err(), "{broken}");
        }
    }
}
