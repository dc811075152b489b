//! Which files of a directory are a model, and what the model is called.

use anyhow::{Context, Result, bail, ensure};
use protocol::manifest::{Role, is_source};
use serde::Deserialize;
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use super::files::OriginalFile;

#[derive(Deserialize)]
struct ShardIndex {
    weight_map: BTreeMap<String, String>,
}

/// The files of the model in `directory`, in the order of (role, name): `config.json`, `tokenizer.json`, what of
/// `tokenizer_config.json`, `chat_template.jinja`, `generation_config.json` and `special_tokens_map.json` is there, and
/// `model.safetensors`, or `model.safetensors.index.json` and its shards.
pub fn files(directory: &Path) -> Result<Vec<OriginalFile>> {
    ensure!(
        directory.is_dir(),
        "model directory {} does not exist; give a directory with config.json, tokenizer.json and model.safetensors",
        directory.display()
    );
    let mut files = Vec::new();
    for role in Role::ALL {
        let Some(path) = role.file_name().map(|name| directory.join(name)) else { continue };
        let is_needed = matches!(role, Role::Config | Role::Tokenizer);
        // The index belongs to the shards.
        if role == Role::WeightsIndex || !is_needed && !path.exists() {
            continue;
        }
        let file = OriginalFile::at(role, path.clone());
        files.push(file.with_context(|| format!("{}: a Hugging Face checkpoint directory has one", path.display()))?);
    }
    files.extend(weights(directory)?);
    Ok(files)
}

/// `model.safetensors`, or the index and the distinct shards that it names.
fn weights(directory: &Path) -> Result<Vec<OriginalFile>> {
    let single = directory.join("model.safetensors");
    let index_path = directory.join("model.safetensors.index.json");
    if single.is_file() {
        return Ok(vec![OriginalFile::at(Role::Weights, single)?]);
    }
    if !index_path.is_file() {
        bail!("{}", without_safetensors(directory));
    }
    let index = OriginalFile::at(Role::WeightsIndex, index_path.clone())?;
    let shards: ShardIndex = serde_json::from_slice(&index.read()?)
        .with_context(|| format!("{} is not a valid shard index; download it again", index_path.display()))?;
    let shards: BTreeSet<String> = shards.weight_map.into_values().collect();
    let shard = |name: &String| {
        let is_plain = !name.starts_with('.') && is_source(name) && !name.contains('/');
        ensure!(is_plain, "{} names a shard {name:?} that is not a plain file name", index_path.display());
        let path = directory.join(name);
        ensure!(path.is_file(), "shard {} is missing; download it again", path.display());
        OriginalFile::at(Role::Weights, path)
    };
    let shards = shards.iter().map(shard).collect::<Result<Vec<_>>>()?;
    Ok([vec![index], shards].concat())
}

/// What to do with a directory whose weights cannot be read.
fn without_safetensors(directory: &Path) -> String {
    let place = directory.display();
    let ends_with = |ending: &str| {
        let names = fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.file_name());
        names.filter_map(|name| name.into_string().ok()).find(|name| name.ends_with(ending))
    };
    match ends_with(".gguf") {
        Some(name) => format!(
            "{place} has only {name}: GGUF files cannot be trained. Convert it: in transformers, load it with \
             from_pretrained(directory, gguf_file=\"{name}\", dtype=torch.float32), then save_pretrained(...)"
        ),
        None => format!(
            "{place} has neither model.safetensors nor model.safetensors.index.json; convert the weights to safetensors"
        ),
    }
}

/// What to call the model in `directory`: `owner/name@revision` if it lies in the cache of Hugging Face's hub
/// (`models--owner--name/snapshots/revision`), else the last part of its path.
pub fn source(directory: &Path) -> String {
    let full = directory.canonicalize().unwrap_or_else(|_| directory.to_owned());
    let parts: Vec<&str> = full.iter().rev().take(3).filter_map(|part| part.to_str()).collect();
    if let [revision, "snapshots", model] = parts[..]
        && let Some((owner, name)) = model.strip_prefix("models--").and_then(|model| model.split_once("--"))
    {
        let source = format!("{owner}/{name}@{revision}");
        if is_source(&source) {
            return source;
        }
    }
    let last = full.file_name().map(|name| name.to_string_lossy().into_owned()).filter(|name| is_source(name));
    last.unwrap_or_else(|| "model".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_is_the_last_part_of_a_path_or_the_hubs_name_for_it() {
        let directory = tempfile::tempdir().unwrap();
        let named = |path: &str| {
            let path = directory.path().join(path);
            fs::create_dir_all(&path).unwrap();
            source(&path)
        };
        assert_eq!(named("TinyLlama"), "TinyLlama");
        assert_eq!(named("TinyLlama/../Tiny Llama (v2)"), "Tiny Llama (v2)");
        assert_eq!(named("models--owner--the-name/snapshots/0f3e"), "owner/the-name@0f3e");
        assert_eq!(named("models--gpt2/snapshots/0f3e"), "0f3e", "it has no owner");
        for odd in ["a\\b", "a\nb"] {
            assert_eq!(named(odd), "model");
        }
        assert_eq!(source(Path::new("/")), "model");
    }
}
