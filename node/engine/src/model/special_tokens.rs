//! What the files beside `tokenizer.json` say of special tokens, in the order in which transformers believes them.

use anyhow::{Context, Result};
use protocol::manifest::Role;
use serde_json::Value;
use std::collections::BTreeMap;
use tokenizers::AddedToken;

use super::{fields::token_ids, files::OriginalFile, parse_json};

/// Where older checkpoints list the tokens that were added.
const OLDER_LIST: &str = "added_tokens.json";
/// A list of special tokens, or an object of them by their names; and how older checkpoints call the list.
const EXTRA: &str = "extra_special_tokens";
const OLDER_EXTRA: &str = "additional_special_tokens";
/// Special tokens that have no id yet get theirs in this order, as in transformers; others come after them.
const ORDER: [&str; 7] = ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

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

/// The tokens that `tokenizer_config.json` lists in the order of their ids (`added_tokens_decoder`), or
/// `added_tokens.json` where that says nothing of them, as in older checkpoints.
pub fn listed<'a>(files: impl Iterator<Item = &'a OriginalFile> + Clone) -> Result<Vec<AddedToken>> {
    let config = json(files.clone(), Role::TokenizerConfig)?;
    let mut listed = BTreeMap::new();
    if let Some(tokens) = config.get("added_tokens_decoder") {
        for (id, token) in tokens.as_object().into_iter().flatten() {
            let id = id.parse::<u64>().with_context(|| format!("added_tokens_decoder has a token of id {id:?}"))?;
            listed.extend(added(token).map(|token| (id, token)));
        }
    } else if let Some(file) = files.clone().find(|file| file.name == OLDER_LIST) {
        let special = special(files)?;
        for (text, id) in parsed(file)?.as_object().into_iter().flatten() {
            let is_special = special.iter().any(|token| token.content == *text);
            listed.extend(id.as_u64().map(|id| (id, AddedToken::from(text.as_str(), is_special))));
        }
    }
    Ok(listed.into_values().collect())
}

/// The tokens that files name as special, whatever for, in the order in which they get ids.
pub fn special<'a>(files: impl Iterator<Item = &'a OriginalFile> + Clone) -> Result<Vec<AddedToken>> {
    let config = json(files.clone(), Role::TokenizerConfig)?;
    let mut named: Vec<(String, String)> = named(&config, files.clone())?.into_iter().collect();
    named.sort_by_key(|(name, _)| ORDER.iter().position(|one| one == name).unwrap_or(ORDER.len()));
    let mut special: Vec<AddedToken> = named.into_iter().map(|(_, text)| AddedToken::from(text, true)).collect();
    let map = match config.get("added_tokens_decoder") {
        None => json(files, Role::SpecialTokens)?,
        Some(_) => Value::Null,
    };
    let mut lists = vec![(&config, EXTRA), (&config, OLDER_EXTRA), (&map, EXTRA)];
    // As transformers: an older list in the map counts where the config has none.
    if config.get(EXTRA).is_none() && config.get(OLDER_EXTRA).is_none() {
        lists.push((&map, OLDER_EXTRA));
    }
    for (file, field) in lists {
        let tokens = file.get(field).and_then(Value::as_array).into_iter().flatten();
        special.extend(tokens.filter_map(added).map(|token| token.special(true)));
    }
    Ok(special)
}

/// A token as `tokenizer_config.json` has it: a text that is special, or an object.
fn added(token: &Value) -> Option<AddedToken> {
    if let Some(text) = token.as_str() {
        return Some(AddedToken::from(text, true));
    }
    let flag = |name: &str| token.get(name).and_then(Value::as_bool);
    let special = flag("special").unwrap_or(false);
    Some(AddedToken {
        content: token.get("content")?.as_str()?.to_owned(),
        single_word: flag("single_word").unwrap_or(false),
        lstrip: flag("lstrip").unwrap_or(false),
        rstrip: flag("rstrip").unwrap_or(false),
        normalized: flag("normalized").unwrap_or(!special),
        special,
    })
}

/// The file of a role, parsed; null if it is not there.
pub fn json<'a>(files: impl IntoIterator<Item = &'a OriginalFile>, role: Role) -> Result<Value> {
    files.into_iter().find(|file| file.role == role).map_or(Ok(Value::Null), parsed)
}

fn parsed(file: &OriginalFile) -> Result<Value> {
    let malformed = || format!("{} is not valid JSON; download it again, or leave it out", file.describe());
    parse_json(&file.read()?).with_context(malformed)
}

/// The fields of `file` that are tokens: a text, or an object with one. Some stand in an object of their own.
fn tokens(file: &Value) -> impl Iterator<Item = (String, String)> {
    let fields = file.as_object().into_iter().flatten().filter(|(name, _)| name.ends_with("_token"));
    let extra = file.get(EXTRA).and_then(Value::as_object).into_iter().flatten();
    fields.chain(extra).filter_map(|(name, token)| {
        let text = token.as_str().or_else(|| token.get("content")?.as_str())?;
        Some((name.clone(), text.to_owned()))
    })
}
