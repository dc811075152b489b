//! Writing a checkpoint directory that Hugging Face transformers loads.

use anyhow::{Context, Result, ensure};
use candle_core::Tensor;
use safetensors::{Dtype, View};
use serde_json::{Value, json};
use std::{
    borrow::Cow,
    collections::{BTreeMap, HashMap},
    fs,
    path::Path,
};

use super::{Interface, architecture};

/// Writes `config.json`, `generation_config.json`, `tokenizer.json`, `tokenizer_config.json` and `model.safetensors`
/// (f32) into `directory`, which is created if absent and must be empty.
pub fn export(directory: &Path, config: &[u8], tokenizer: &[u8], tensors: &BTreeMap<String, Tensor>) -> Result<()> {
    let architecture = architecture(config)?;
    fs::create_dir_all(directory).with_context(|| format!("cannot create {}", directory.display()))?;
    let mut entries = fs::read_dir(directory).with_context(|| format!("cannot list {}", directory.display()))?;
    ensure!(entries.next().is_none(), "{} is not empty; export to a new directory", directory.display());
    let write = |name: &str, bytes: &[u8]| {
        let path = directory.join(name);
        fs::write(&path, bytes).with_context(|| format!("cannot write {}", path.display()))
    };
    let mut config: Value = serde_json::from_slice(config).context("config.json is not valid JSON")?;
    config["torch_dtype"] = json!("float32");
    if config.get("dtype").is_some() {
        config["dtype"] = json!("float32");
    }
    config["architectures"] = json!([architecture.class()]);
    write("config.json", &serde_json::to_vec_pretty(&config)?)?;
    write("generation_config.json", &serde_json::to_vec_pretty(&generation_config(&config))?)?;
    write("tokenizer.json", tokenizer)?;
    write(
        "tokenizer_config.json",
        &serde_json::to_vec_pretty(&tokenizer_config(tokenizer, architecture.interface())?)?,
    )?;
    let path = directory.join("model.safetensors");
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    let views = tensors.iter().map(|(name, tensor)| (name.as_str(), Weights(tensor)));
    safetensors::serialize_to_file(views, Some(metadata), &path)
        .with_context(|| format!("cannot write {}", path.display()))?;
    // The library writes it for its owner alone; it is to be as readable as the files beside it.
    let permissions = fs::metadata(directory.join("config.json")).map(|metadata| metadata.permissions());
    permissions
        .and_then(|permissions| fs::set_permissions(&path, permissions))
        .with_context(|| format!("cannot make {} readable", path.display()))
}

fn generation_config(config: &Value) -> Value {
    let ids = ["bos_token_id", "eos_token_id"].into_iter();
    ids.filter_map(|id| Some((id.to_owned(), config.get(id)?.clone()))).collect::<serde_json::Map<_, _>>().into()
}

/// The least that AutoTokenizer needs beside tokenizer.json: the class, and which tokens are special.
fn tokenizer_config(tokenizer: &[u8], interface: &Interface) -> Result<Value> {
    let tokenizer: Value = serde_json::from_slice(tokenizer).context("tokenizer.json is not valid JSON")?;
    let mut out = json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": interface.window_max,
        "clean_up_tokenization_spaces": false,
    });
    let added = tokenizer.get("added_tokens").and_then(Value::as_array);
    let content = |id: u32| {
        let token = added?.iter().find(|token| token.get("id").and_then(Value::as_u64) == Some(u64::from(id)))?;
        token.get("content").cloned()
    };
    if let Some(token) = interface.bos.and_then(content) {
        out["bos_token"] = token;
    }
    if let Some(token) = interface.eos.first().copied().and_then(content) {
        out["eos_token"] = token;
    }
    Ok(out)
}

/// One tensor as safetensors writes it; its bytes are made when they are asked for.
struct Weights<'a>(&'a Tensor);

impl View for Weights<'_> {
    fn dtype(&self) -> Dtype {
        Dtype::F32
    }

    fn shape(&self) -> &[usize] {
        self.0.dims()
    }

    fn data(&self) -> Cow<'_, [u8]> {
        let values = self.0.flatten_all().and_then(|flat| flat.to_vec1::<f32>()).unwrap_or_default();
        values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>().into()
    }

    fn data_len(&self) -> usize {
        self.0.elem_count() * size_of::<f32>()
    }
}
