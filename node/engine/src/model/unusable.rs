//! What a directory or a file is that cannot be trained, by its name, and what to do about it.

use anyhow::{Result, bail};
use serde_json::Value;
use std::{
    fs::{self, File},
    io::Read,
    path::Path,
};

/// Bytes by which a file is told that is not what its name says.
const HEAD_BYTES: u64 = 512;

/// Errors if the file at `path` holds something in place of what its name says: a pointer, a page, a refusal, nothing.
pub fn check_content(path: &Path) -> Result<()> {
    let mut head = Vec::new();
    let Ok(file) = File::open(path) else { return Ok(()) };
    if file.take(HEAD_BYTES).read_to_end(&mut head).is_err() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&head);
    let text = text.trim_start();
    let is = |start: &str| text.get(..start.len()).is_some_and(|found| found.eq_ignore_ascii_case(start));
    let what = match () {
        () if head.is_empty() => "is empty; download it again",
        () if is("version https://git-lfs") || is("version https://hawser") => {
            "is a Git LFS pointer, not the file: run `git lfs install` and `git lfs pull` in its directory, or download \
             the file itself"
        }
        () if text.starts_with("/annex/objects") || text.starts_with(".git/annex/objects") => {
            "is a git-annex pointer, not the file: run `git annex get` on it, or download the file itself"
        }
        () if is("<!doctype") || is("<html") || is("<?xml") => {
            "is a web page, not the file; download the file itself (on a model's page: Files, then the download arrow)"
        }
        () if is("access to model") || is("invalid username or password") || is("unauthorized") => {
            "is the hub's refusal, not the file: ask for access on the model's page, and download it with a token (HF_TOKEN)"
        }
        () if is("entry not found") || is("repository not found") || is("not found") => {
            "is the hub's answer that there is no such file; check the name, and download it again"
        }
        () if head.starts_with(b"PK\x03\x04") => {
            "is a PyTorch file under another name: in transformers, load its directory with from_pretrained(...), then \
             save_pretrained(...)"
        }
        () if head.starts_with(b"GGUF") && path.extension().is_none_or(|extension| extension != "gguf") => {
            "is a GGUF file under another name; rename it to end in .gguf"
        }
        () => return Ok(()),
    };
    bail!("{} {what}", path.display())
}

/// The names in a directory.
fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort();
    names
}

/// What `directory`, which has no `config.json`, is.
pub fn without_config(directory: &Path) -> String {
    let (place, names) = (directory.display(), names(directory));
    let has = |name: &str| names.iter().any(|found| found == name);
    if has("adapter_config.json") {
        return adapter_only(directory);
    }
    if has("model_index.json") {
        return format!("{place} is an image pipeline (diffusers), not a language model");
    }
    if has("params.json") && names.iter().any(|name| name.ends_with(".pth")) {
        return format!(
            "{place} is in the layout of the model's makers (params.json, .pth): convert it with transformers' \
             convert_llama_weights_to_hf.py, or download the version for transformers"
        );
    }
    let below = names.iter().filter(|name| directory.join(name).join("config.json").is_file());
    let below: Vec<&str> = below.map(String::as_str).collect();
    match below[..] {
        [] => format!(
            "{place} has no config.json: it is no Hugging Face checkpoint, or its download is incomplete; give a directory \
             with config.json, tokenizer.json and model.safetensors"
        ),
        _ => format!("{place} holds checkpoints ({}), and is none: give the directory of one", below.join(", ")),
    }
}

/// A directory of nothing but an adapter.
fn adapter_only(directory: &Path) -> String {
    let config = fs::read(directory.join("adapter_config.json")).unwrap_or_default();
    let config: Value = serde_json::from_slice(&config).unwrap_or_default();
    let base = config.get("base_model_name_or_path").and_then(Value::as_str);
    format!(
        "{place} is an adapter (PEFT) without its base model{of}: merge the two, in Python: \
         peft.AutoPeftModelForCausalLM.from_pretrained(\"{place}\").merge_and_unload().save_pretrained(\"merged\"), and \
         the tokenizer into the same directory; then --model merged",
        place = directory.display(),
        of = base.map(|base| format!(", which is {base}")).unwrap_or_default(),
    )
}

/// What to do with a directory that has no `tokenizer.json`.
pub fn without_tokenizer(directory: &Path) -> String {
    let (place, names) = (directory.display(), names(directory));
    let has = |name: &str| names.iter().any(|found| found == name);
    let slow = match () {
        () if has("tokenizer.model") => Some("tokenizer.model"),
        () if has("vocab.json") && has("merges.txt") => Some("vocab.json and merges.txt"),
        () if has("spiece.model") => Some("spiece.model"),
        () if has("tekken.json") => Some("tekken.json"),
        () => None,
    };
    match slow {
        Some(slow) => format!(
            "{place} has its tokenizer as {slow}, and no tokenizer.json. Make one, in Python: \
             transformers.AutoTokenizer.from_pretrained(\"{place}\").save_pretrained(\"{place}\")"
        ),
        None => format!(
            "{place} has no tokenizer.json: copy the tokenizer's files from the model that it was made of (in transformers, \
             AutoTokenizer.from_pretrained(that model).save_pretrained(\"{place}\"))"
        ),
    }
}

/// What to do with a directory whose weights cannot be read.
pub fn without_weights(directory: &Path) -> String {
    let (place, names) = (directory.display(), names(directory));
    let ends = |endings: &[&str]| names.iter().find(|name| endings.iter().any(|ending| name.ends_with(ending)));
    if names.iter().any(|name| name == "adapter_config.json") {
        return adapter_only(directory);
    }
    if let Some(name) = ends(&[".bin", ".bin.index.json", ".pt", ".pth", ".ckpt"]) {
        return format!(
            "{place} has its weights as {name} (PyTorch's format), and no model.safetensors. Convert them, in Python: \
             transformers.AutoModelForCausalLM.from_pretrained(\"{place}\").save_pretrained(\"{place}\")"
        );
    }
    let others = [(".h5", "TensorFlow"), (".msgpack", "Flax"), (".onnx", "ONNX"), (".npz", "MLX")];
    for (ending, maker) in others {
        if let Some(name) = ends(&[ending]) {
            return format!(
                "{place} has its weights for {maker} only ({name}); download the version with model.safetensors"
            );
        }
    }
    if let Some(name) = ends(&[".incomplete", ".part", ".aria2", ".crdownload"]) {
        return format!("{place}: the download of {name} did not finish; download the weights again");
    }
    format!("{place} has neither model.safetensors nor model.safetensors.index.json: download the weights as well")
}

/// What `config.json` says of quantisation that tensors of other types come from.
pub fn quantised(config: &[u8]) -> Option<String> {
    let config: Value = serde_json::from_slice(config).ok()?;
    let how = config.get("quantization_config").or_else(|| config.get("compression_config"))?;
    let method = how.get("quant_method").and_then(Value::as_str).unwrap_or("an unknown method");
    Some(format!(
        "its config.json says that it is quantised ({method}), which cannot be trained as it is: take the model that it was \
         made of, or in transformers load it with from_pretrained(..., dtype=torch.bfloat16), call dequantize(), then \
         save_pretrained(...)"
    ))
}
