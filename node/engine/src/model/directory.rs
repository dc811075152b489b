//! Which files of a directory are a model, and what the model is called.

use anyhow::{Context, Result, bail, ensure};
use protocol::manifest::{Role, is_source};
use serde::Deserialize;
use serde_json::json;
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use super::{
    checkpoint_header::read_header,
    files::OriginalFile,
    gguf::choice::{self, Named, Place, choose},
    hub_cache::{by_name, check_link, hub_name, snapshot},
    unusable::{check_content, without_config, without_tokenizer, without_weights},
};

#[derive(Deserialize)]
struct ShardIndex {
    weight_map: BTreeMap<String, String>,
}

/// The directory of the checkpoint that `path` means, `path` or a snapshot in the hub's cache, or the GGUF file that it
/// means. Errors say what `path` is instead.
pub fn find(path: &Path) -> Result<PathBuf> {
    check_link(path)?;
    if path.is_file() {
        check_content(path)?;
        if is_gguf(path) {
            return Ok(path.to_owned());
        }
        let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        bail!("{} is a file: give the directory that it is in, {}", path.display(), directory.display());
    }
    let named = match path.to_str() {
        Some(name) if !path.exists() => by_name(name)?,
        _ => None,
    };
    ensure!(
        named.is_some() || path.is_dir(),
        "model directory {} does not exist; give a directory with config.json, tokenizer.json and model.safetensors, a .gguf \
         file, or the name of a model on the hub, owner/name",
        path.display()
    );
    if let Some(file) = named.as_ref().filter(|named| !named.is_dir()) {
        return find(file);
    }
    let directory = named.map_or_else(|| snapshot(path), Ok)?;
    let config = directory.join("config.json");
    check_link(&config)?;
    if let Some(file) = only_gguf(&directory)? {
        return Ok(file);
    }
    ensure!(config.is_file(), "{}", without_config(&directory));
    Ok(directory)
}

fn is_gguf(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("gguf"))
}

/// The GGUF file in `directory`, if its weights are in one and nowhere else. Errors if there are several.
fn only_gguf(directory: &Path) -> Result<Option<PathBuf>> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let named = |entry: fs::DirEntry| {
        let bytes = entry.path().metadata().ok().map(|metadata| metadata.len());
        Some(Named { path: entry.file_name().into_string().ok()?, bytes })
    };
    let mut files: Vec<Named> = entries.filter_map(named).collect();
    files.sort_by(|a, b| a.path.cmp(&b.path));
    if files.iter().any(|file| file.path.ends_with(".safetensors") && !file.path.starts_with("adapter")) {
        return Ok(None);
    }
    let place = Place { name: directory.display().to_string(), is_hub: false };
    let Some(found) = choose(&files, None, &place)? else { return Ok(None) };
    let path = directory.join(&found.path);
    check_link(&path)?;
    check_content(&path)?;
    Ok(Some(path))
}

/// The file at `path` as the only one of a base. Its name is made plain.
fn gguf(path: &Path) -> Result<OriginalFile> {
    let mut file = OriginalFile::at(Role::Gguf, path.to_owned())?;
    let stem = path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    let plain: String = stem.chars().map(|c| if is_plain(c) { c } else { '-' }).collect();
    let plain: String = plain.trim_start_matches('.').chars().take(200).collect();
    file.name = format!("{}.gguf", if plain.is_empty() { "model" } else { &plain });
    Ok(file)
}

/// The files of the model in `directory`, in the order of (role, name): `config.json`, `tokenizer.json`, what of
/// `tokenizer_config.json`, `chat_template.jinja`, `generation_config.json`, `special_tokens_map.json` and of other
/// files of a tokenizer is there, and `model.safetensors`, or `model.safetensors.index.json` and its shards. Of a
/// GGUF file: it alone.
pub fn files(directory: &Path) -> Result<Vec<OriginalFile>> {
    if directory.is_file() {
        return Ok(vec![gguf(directory)?]);
    }
    ensure!(directory.join("tokenizer.json").exists(), "{}", without_tokenizer(directory));
    let mut files = Vec::new();
    // The index belongs to the shards.
    for role in Role::ALL.into_iter().filter(|role| *role != Role::WeightsIndex) {
        for name in role.file_names() {
            let path = directory.join(name);
            check_link(&path)?;
            if path.exists() {
                files.push(original(role, path)?);
            }
        }
    }
    files.extend(named_templates(directory)?);
    files.extend(weights(directory)?);
    files.sort_by(|a, b| (a.role, &a.name).cmp(&(b.role, &b.name)));
    Ok(files)
}

fn named_templates(directory: &Path) -> Result<Vec<OriginalFile>> {
    let role = Role::NamedTemplate;
    let folder = role.folder().unwrap_or_default();
    let Ok(entries) = fs::read_dir(directory.join(folder)) else { return Ok(Vec::new()) };
    let is_one = |path: &PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        Role::of_path(&format!("{folder}/{name}")) == Some(role)
    };
    entries.flatten().map(|entry| entry.path()).filter(is_one).map(|path| original(role, path)).collect()
}

/// The file at `path`, if it is what its name says.
fn original(role: Role, path: PathBuf) -> Result<OriginalFile> {
    check_link(&path)?;
    check_content(&path)?;
    OriginalFile::at(role, path)
}

/// `model.safetensors`, or the index and the distinct shards that it names, or shards, and an index that is made of
/// them.
fn weights(directory: &Path) -> Result<Vec<OriginalFile>> {
    let single = directory.join("model.safetensors");
    let index_path = directory.join("model.safetensors.index.json");
    [&single, &index_path].into_iter().try_for_each(|path| check_link(path))?;
    if single.is_file() {
        return Ok(vec![original(Role::Weights, single)?]);
    }
    if !index_path.is_file() {
        return without_index(directory);
    }
    let index = original(Role::WeightsIndex, index_path.clone())?;
    let shards: ShardIndex = serde_json::from_slice(&index.read()?)
        .with_context(|| format!("{} is not a valid shard index; download it again", index_path.display()))?;
    let shards: BTreeSet<String> = shards.weight_map.into_values().collect();
    for name in &shards {
        let is_plain = !name.starts_with('.') && is_source(name) && !name.contains('/');
        ensure!(is_plain, "{} names a shard {name:?} that is not a plain file name", index_path.display());
        check_link(&directory.join(name))?;
    }
    let missing: Vec<&String> = shards.iter().filter(|name| !directory.join(name).is_file()).collect();
    match &missing[..] {
        [] => {}
        [one] => bail!("shard {} is missing; download it again", directory.join(one).display()),
        [first, ..] => bail!(
            "{} of the {} shards that {} names are missing, first {first}; download them again",
            missing.len(),
            shards.len(),
            index_path.display()
        ),
    }
    let shards = shards.iter().map(|name| original(Role::Weights, directory.join(name)));
    Ok([vec![index], shards.collect::<Result<_>>()?].concat())
}

/// Shards whose index is not there (`model-00001-of-00003.safetensors` and so on), or one file under another name: with
/// an index that is made of their headers.
fn without_index(directory: &Path) -> Result<Vec<OriginalFile>> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let is_weights = |name: &String| {
        name.ends_with(".safetensors") && !name.starts_with("adapter") && !name.starts_with('.') && is_source(name)
    };
    let mut names: Vec<String> = names.filter(is_weights).collect();
    names.sort();
    let (shards, others): (Vec<String>, Vec<String>) = names.into_iter().partition(|name| shard_of(name).is_some());
    let names = match (&shards[..], &others[..]) {
        ([], []) => bail!("{}", without_weights(directory)),
        ([], [_]) => others,
        ([], several) => bail!(
            "{} has no model.safetensors and several other files of weights ({}): move all but those of the model away",
            directory.display(),
            several.join(", ")
        ),
        _ => complete_set(directory, shards)?,
    };
    let mut weight_map = BTreeMap::new();
    let mut files = vec![];
    for name in names {
        let file = original(Role::Weights, directory.join(&name))?;
        let (metadata, _) = read_header(&file).with_context(|| format!("in {}", file.describe()))?;
        weight_map.extend(metadata.tensors().into_keys().map(|tensor| (tensor, name.clone())));
        files.push(file);
    }
    let index = serde_json::to_vec(&json!({ "metadata": {}, "weight_map": weight_map }))?;
    files.push(OriginalFile::in_memory(Role::WeightsIndex, "model.safetensors.index.json", index));
    Ok(files)
}

/// The shards of a directory without an index, if they are those of one model.
fn complete_set(directory: &Path, shards: Vec<String>) -> Result<Vec<String>> {
    let mut sets: BTreeMap<(&str, usize), Vec<(usize, &str)>> = BTreeMap::new();
    for name in &shards {
        let Some((start, number, count)) = shard_of(name) else { continue };
        sets.entry((start, count)).or_default().push((number, name));
    }
    ensure!(
        sets.len() <= 1,
        "{} has shards of several sets of weights ({}), and no index of them: move all but those of the model away",
        directory.display(),
        sets.values().map(|set| set[0].1).collect::<Vec<_>>().join(", ")
    );
    for ((_, count), set) in sets {
        ensure!(
            set.iter().map(|(number, _)| *number).eq(1..=count),
            "{} has {} of {count} shards of weights, and no index of them; download what is missing",
            directory.display(),
            set.len()
        );
    }
    Ok(shards)
}

/// (what begins it, number, of how many) of a shard's name.
fn shard_of(name: &str) -> Option<(&str, usize, usize)> {
    choice::part_of(name.strip_suffix(".safetensors")?)
}

/// What to call the model in `directory`: `owner/name@revision` if it lies in the cache of Hugging Face's hub
/// (`models--owner--name/snapshots/revision`), else the last part of its path.
pub fn source(directory: &Path) -> String {
    let full = directory.canonicalize().unwrap_or_else(|_| directory.to_owned());
    // The links of a cache lead elsewhere: a file is called by the directory that it was found in.
    let place = match directory.is_file() {
        true => directory.parent().and_then(|parent| parent.canonicalize().ok()).unwrap_or_default(),
        false => full.clone(),
    };
    // A GGUF file of a snapshot may lie deeper.
    let places = place.ancestors().take(if directory.is_file() { usize::MAX } else { 1 });
    if let Some(source) = places.filter_map(hub_name).find(|source| is_source(source)) {
        return source;
    }
    let full = if directory.is_file() { directory.to_owned() } else { full };
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
        assert_eq!(named("models--gpt2/snapshots/0f3e"), "gpt2@0f3e", "it has no owner");
        for odd in ["a\\b", "a\nb"] {
            assert_eq!(named(odd), "model");
        }
        assert_eq!(source(Path::new("/")), "model");
    }
}
