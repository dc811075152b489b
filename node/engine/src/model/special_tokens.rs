//! What the files beside `tokenizer.json` say of special tokens, in the order in which transformers believes them.

use anyhow::{Context, Result};
use protocol::manifest::Role;
use serde_json::Value;

use super::{architecture::Ids, files::OriginalFile};

/// The tokens that end a turn or a text, as a checkpoint's files name them.
#[derive(Default)]
pub struct SpecialTokens {
    /// `eos_token` of `tokenizer_config.json`; of `special_tokens_map.json` where that counts.
    pub end: Option<String>,
    /// `bos_token`, likewise.
    pub beginning: Option<String>,
    /// `eos_token_id` of `generation_config.json`.
    pub stops: Vec<u32>,
}

impl SpecialTokens {
    /// Reads the small files among `files`. One that is not JSON is an error: transformers would not read it either.
    pub fn read<'a>(files: impl Iterator<Item = &'a OriginalFile> + Clone) -> Result<Self> {
        let file = |role| json(files.clone(), role);
        let (config, map) = (file(Role::TokenizerConfig)?, file(Role::SpecialTokens)?);
        let generation = file(Role::GenerationConfig)?;
        // As transformers: newer files say everything in tokenizer_config.json; in older ones the map comes after it.
        let is_newer = config.get("added_tokens_decoder").is_some();
        let token = |name: &str| match is_newer {
            true => content(&config, name),
            false => content(&map, name).or_else(|| content(&config, name)),
        };
        let stops = generation.get("eos_token_id").and_then(|ids| serde_json::from_value(ids.clone()).ok());
        Ok(Self { end: token("eos_token"), beginning: token("bos_token"), stops: Ids::list(stops) })
    }
}

/// The file of a role, parsed; null if it is not there.
pub fn json<'a>(files: impl IntoIterator<Item = &'a OriginalFile>, role: Role) -> Result<Value> {
    let Some(file) = files.into_iter().find(|file| file.role == role) else { return Ok(Value::Null) };
    let malformed = || format!("{} is not valid JSON; download it again, or leave it out", file.describe());
    serde_json::from_slice(&file.read()?).with_context(malformed)
}

/// A token that is a text, or an object with one.
fn content(file: &Value, name: &str) -> Option<String> {
    let token = file.get(name)?;
    token.as_str().or_else(|| token.get("content")?.as_str()).map(str::to_owned)
}
