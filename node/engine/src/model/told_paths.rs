//! Paths of somebody's machine in the files of a base, which every joiner gets byte for byte.

use anyhow::Result;
use candle_core::quantized::gguf_file::Value as Metadatum;
use protocol::manifest::Role;
use serde::{Deserialize, de::IgnoredAny};
use serde_json::{Map, Value};

use super::{Checkpoint, checkpoint_header::read_header, files::OriginalFile, gguf::Header, parse_json};

/// Longest text that is taken for a path, bytes.
const PATH_BYTES_MAX: usize = 4096;
/// Fields whose values are tokens and templates, or hold them: a token may look like a path.
const TOKENS: [&str; 4] = ["chat_template", "added_tokens", "special_tokens", "response_schema"];

/// A text that looks like a path.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ToldPath {
    /// The file that has it.
    pub file: String,
    /// Where in the file, names divided by dots.
    pub field: String,
    /// All of it.
    pub value: String,
}

/// `tokenizer.json` without what is made of tokens and of patterns.
#[derive(Deserialize)]
struct Tokenizer {
    #[serde(default, rename = "model")]
    _model: IgnoredAny,
    #[serde(default, rename = "added_tokens")]
    _added_tokens: IgnoredAny,
    #[serde(default, rename = "normalizer")]
    _normalizer: IgnoredAny,
    #[serde(default, rename = "pre_tokenizer")]
    _pre_tokenizer: IgnoredAny,
    #[serde(default, rename = "post_processor")]
    _post_processor: IgnoredAny,
    #[serde(default, rename = "decoder")]
    _decoder: IgnoredAny,
    #[serde(flatten)]
    rest: Map<String, Value>,
}

/// What looks like a path in the JSON files of the model, in the metadata of its GGUF file, and in those of its
/// safetensors: transformers 4 writes where a model was loaded from (`_name_or_path`), llama.cpp where an importance
/// matrix was, trainers where they wrote to.
pub fn told_paths(checkpoint: &Checkpoint) -> Result<Vec<ToldPath>> {
    let mut found = Vec::new();
    for file in &checkpoint.files {
        let mut tell = |field: &str, value: &str| {
            if is_path(value) {
                let (file, field, value) = (file.name.clone(), field.to_owned(), value.to_owned());
                found.push(ToldPath { file, field, value });
            }
        };
        match file.role {
            Role::Gguf => in_metadata(file, &mut tell)?,
            Role::Weights => {
                let (header, _) = read_header(file)?;
                let fields = header.metadata().iter().flatten();
                fields.for_each(|(name, value)| tell(&format!("__metadata__.{name}"), value));
            }
            // Whether it is JSON is for those to say who need it.
            _ if file.name.ends_with(".json") => match json(file) {
                Some(value) => walk("", &value, &mut tell),
                None => continue,
            },
            _ => {}
        }
    }
    found.sort_by(|a, b| (&a.file, &a.field).cmp(&(&b.file, &b.field)));
    Ok(found)
}

fn json(file: &OriginalFile) -> Option<Value> {
    let bytes = file.read().ok()?;
    match file.role {
        Role::Tokenizer => Some(Value::Object(serde_json::from_slice::<Tokenizer>(&bytes).ok()?.rest)),
        _ => parse_json(&bytes).ok(),
    }
}

fn in_metadata(file: &OriginalFile, tell: &mut impl FnMut(&str, &str)) -> Result<()> {
    for (key, value) in &Header::read(file)?.metadata {
        let texts = match value {
            Metadatum::Array(list) => &list[..],
            one => std::slice::from_ref(one),
        };
        let is_of_tokens = key.starts_with("tokenizer.");
        for text in texts.iter().filter(|_| !is_of_tokens) {
            if let Metadatum::String(text) = text {
                tell(key, text);
            }
        }
    }
    Ok(())
}

/// Tells every text below `value`, with its place.
fn walk(place: &str, value: &Value, tell: &mut impl FnMut(&str, &str)) {
    let below = |name: &str| if place.is_empty() { name.to_owned() } else { format!("{place}.{name}") };
    match value {
        Value::String(text) => tell(place, text),
        Value::Array(list) => list.iter().for_each(|value| walk(place, value, tell)),
        Value::Object(fields) => {
            let is_of_tokens = |name: &str| TOKENS.iter().any(|part| name.contains(part)) || name.ends_with("_token");
            for (name, value) in fields.iter().filter(|(name, _)| !is_of_tokens(name)) {
                walk(&below(name), value, tell);
            }
        }
        _ => {}
    }
}

/// Whether `text` looks like a path of one machine: absolute, from a home or from where a program was started, or with
/// the backslashes of Windows.
fn is_path(text: &str) -> bool {
    let text = text.trim();
    let is_template = || text.contains("{{") || text.contains("{%");
    if text.len() > PATH_BYTES_MAX || text.contains(char::is_control) || is_template() {
        return false;
    }
    let mut after = text.chars();
    let is_absolute =
        after.next() == Some('/') && after.next().is_some_and(|c| c.is_alphanumeric() || "._-".contains(c));
    let is_drive = matches!(text.as_bytes(), [letter, b':', b'/', ..] if letter.is_ascii_alphabetic());
    let from_here = ["./", "../", "file://"].iter().any(|start| text.starts_with(start));
    is_absolute || is_drive || from_here || text.starts_with('~') || text.contains('\\')
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{embedded, model::export};
    use serde_json::json;
    use std::{collections::BTreeMap, fs, path::Path};

    #[test]
    fn a_path_is_told_from_names_tokens_and_templates() {
        let paths =
            ["/home/me/secret/mymodel", "~/models/x", "./x", "../x", "C:\\Users\\me\\x", "D:/x", "file:///x", "a\\b"];
        for path in paths {
            assert!(is_path(path), "{path}");
        }
        for other in
            ["owner/name", "model", "", "/", "</s>", "https://hub.example/x", "{{ '\\\\n' }}", "a\\b\nc", "silu"]
        {
            assert!(!is_path(other), "{other}");
        }
    }

    #[test]
    fn paths_in_every_file_of_a_base_are_found_with_their_fields() {
        let base = embedded::checkpoint().unwrap();
        assert_eq!(told_paths(&base).unwrap(), []);
        let directory = tempfile::tempdir().unwrap();
        let place = directory.path().join("model");
        export(&place, &base, &BTreeMap::new()).unwrap();
        assert_eq!(told_paths(&Checkpoint::load(&place).unwrap()).unwrap(), []);
        let put = |file: &str, field: &str, value: Value| {
            let read = fs::read(place.join(file)).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
            let mut content = read.unwrap_or_else(|| json!({}));
            content[field] = value;
            fs::write(place.join(file), content.to_string()).unwrap();
        };
        put("config.json", "_name_or_path", json!("/home/me/secret/dir/mymodel"));
        put("config.json", "quantization", json!({"from": ["../x"]}));
        put("tokenizer_config.json", "name_or_path", json!("C:\\me\\x"));
        put("tokenizer_config.json", "chat_template", json!("{{ a }}\\n"));
        put("tokenizer_config.json", "additional_special_tokens", json!(["/think"]));
        put("tokenizer.json", "made_from", json!("~/x"));
        let config = fs::read_to_string(place.join("config.json")).unwrap();
        fs::write(place.join("config.json"), config.replacen('{', "{\"as_python\": [-Infinity, NaN],", 1)).unwrap();
        let found = told_paths(&Checkpoint::load(&place).unwrap()).unwrap();
        let found: Vec<_> = found.iter().map(|told| (&*told.file, &*told.field, &*told.value)).collect();
        let expected = [
            ("config.json", "_name_or_path", "/home/me/secret/dir/mymodel"),
            ("config.json", "quantization.from", "../x"),
            ("tokenizer.json", "made_from", "~/x"),
            ("tokenizer_config.json", "name_or_path", "C:\\me\\x"),
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn a_path_in_the_metadata_of_a_gguf_file_is_found() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/gguf/llama.gguf");
        assert_eq!(told_paths(&Checkpoint::load(&path).unwrap()).unwrap(), []);
        // One more entry: its name, the type of a text, the text.
        let mut bytes = fs::read(&path).unwrap();
        let entries = u64::from_le_bytes(bytes[16..24].try_into().unwrap());
        bytes[16..24].copy_from_slice(&(entries + 1).to_le_bytes());
        let text = |text: &str| [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat();
        // The header's length stays a multiple of the alignment.
        let (key, value) = (text("quantize.imatrix.file"), "/home/me/imatrix");
        let length = key.len() + 4 + 8 + value.len();
        let value = format!("{value}{}", "x".repeat(length.next_multiple_of(32) - length));
        let entry = [&key[..], &8u32.to_le_bytes(), &text(&value)].concat();
        bytes.splice(24..24, entry);
        let directory = tempfile::tempdir().unwrap();
        let changed = directory.path().join("changed.gguf");
        fs::write(&changed, bytes).unwrap();
        let found = told_paths(&Checkpoint::load(&changed).unwrap()).unwrap();
        let told = ToldPath { file: "changed.gguf".into(), field: "quantize.imatrix.file".into(), value };
        assert_eq!(found, [told]);
    }
}
