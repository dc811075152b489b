//! What the files beside `tokenizer.json` say of special tokens, in the order in which transformers believes them.

use anyhow::{Context, Result};
use protocol::manifest::Role;
use serde_json::Value;
use std::collections::BTreeMap;

use super::{fields::token_ids, files::OriginalFile};

/// The tokens that end a turn or a text, as a checkpoint's files name them.
#[derive(Default)]
pub struct SpecialTokens {
    /// `eos_token` of `tokenizer_config.json`; of `special_tokens_map.json` where that counts.
    pub end: Option<String>,
    /// `bos_token`, likewise.
    pub beginning: Option<String>,
    /// `eos_token_id` of `generation_config.json`: none where it has none. None where there is no such file.
    pub stops: Option<Vec<u32>>,
}

impl SpecialTokens {
    /// Reads the small files among `files`. One that is not JSON is an error: transformers would not read it either.
    pub fn read<'a>(files: impl Iterator<Item = &'a OriginalFile> + Clone) -> Result<Self> {
        let mut named = named(&json(files.clone(), Role::TokenizerConfig)?, files.clone())?;
        let generation = json(files, Role::GenerationConfig)?;
        let stops = match generation.get("eos_token_id") {
            None | Some(Value::Null) => generation.is_object().then(Vec::new),
            Some(ids) => token_ids(ids),
        };
        Ok(Self { end: named.remove("eos_token"), beginning: named.remove("bos_token"), stops })
    }
}

/// Special tokens by the names that `config`, of `tokenizer_config.json`, and `special_tokens_map.json` among `files`
/// give them: `bos_token` and so on. As transformers: newer files say everything in the former
/// (`added_tokens_decoder`); in older ones the map comes after it.
pub fn named<'a>(config: &Value, files: impl Iterator<Item = &'a OriginalFile>) -> Result<BTreeMap<String, String>> {
    let mut named: BTreeMap<String, String> = tokens(config).collect();
    if config.get("added_tokens_decoder").is_none() {
        named.extend(tokens(&json(files, Role::SpecialTokens)?));
    }
    Ok(named)
}

/// The file of a role, parsed; null if it is not there.
pub fn json<'a>(files: impl IntoIterator<Item = &'a OriginalFile>, role: Role) -> Result<Value> {
    let Some(file) = files.into_iter().find(|file| file.role == role) else { return Ok(Value::Null) };
    let malformed = || format!("{} is not valid JSON; download it again, or leave it out", file.describe());
    serde_json::from_slice(&file.read()?).with_context(malformed)
}

/// The fields of `file` that are tokens: a text, or an object with one.
fn tokens(file: &Value) -> impl Iterator<Item = (String, String)> {
    let fields = file.as_object().into_iter().flatten().filter(|(name, _)| name.ends_with("_token"));
    fields.filter_map(|(name, token)| {
        let text = token.as_str().or_else(|| token.get("content")?.as_str())?;
        Some((name.clone(), text.to_owned()))
    })
}
