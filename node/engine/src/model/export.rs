//! Writing a checkpoint directory that Hugging Face transformers loads.

use anyhow::{Context, Result, bail, ensure};
use candle_core::Tensor;
use protocol::manifest::{ElementType, Role};
use safetensors::{
    Dtype,
    tensor::{Metadata, TensorInfo},
};
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fs::{self, File},
    io::{self, BufWriter, Write},
    path::Path,
};

use super::{Checkpoint, Interface, parse_json, tokenizer_class::Around, unusable::QUANTISATION};
use crate::device;

/// Tensors in place of some of a base's, under its names.
pub trait TrainedTensors {
    /// Which.
    fn names(&self) -> BTreeSet<String>;

    /// One of them, as f32. It may be made when it is asked for.
    fn tensor(&self, name: &str) -> Result<Tensor>;
}

impl TrainedTensors for BTreeMap<String, Tensor> {
    fn names(&self) -> BTreeSet<String> {
        self.keys().cloned().collect()
    }

    fn tensor(&self, name: &str) -> Result<Tensor> {
        self.get(name).cloned().with_context(|| format!("there is no tensor {name}"))
    }
}

/// Writes the model of `base`, its trained tensors replaced by `trained`, into `directory`, which is new or empty. It
/// is there whole, and durable, or as it was.
///
/// Files other than weights are the base's, byte for byte; but `config.json` says float32 where it said another type or
/// none: transformers would round what was trained, to the type that it says or to that of the first tensor. And it
/// says nothing of a quantisation, of which transformers would look for the tensors.
/// `generation_config.json` and `tokenizer_config.json` are made if the base has none. `model.safetensors` holds
/// trained tensors as f32, all others as the base stores them; of a GGUF file those that are quantised, or stored in
/// another order, as f32.
pub fn export(directory: &Path, base: &Checkpoint, trained: &dyn TrainedTensors) -> Result<()> {
    new_directory(directory, |directory| write_all(directory, base, trained))
}

fn write_all(directory: &Path, base: &Checkpoint, trained: &dyn TrainedTensors) -> Result<()> {
    let (architecture, names) = (base.architecture()?, trained.names());
    let write = |role: Role, bytes: &[u8]| {
        let path = directory.join(role.file_name().unwrap_or_default());
        fs::write(&path, bytes).with_context(|| format!("cannot write {}", path.display()))
    };
    let mut config = parse_json(&base.config).context("config.json is not valid JSON")?;
    write(Role::GenerationConfig, &serde_json::to_vec_pretty(&generation_config(architecture.interface()))?)?;
    let tokenizer_config = tokenizer_config(&base.tokenizer, &config, architecture.interface())?;
    write(Role::TokenizerConfig, &serde_json::to_vec_pretty(&tokenizer_config)?)?;
    for file in base.beside_weights() {
        let folder = directory.join(file.role.folder().unwrap_or_default());
        fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
        let path = folder.join(&file.name);
        fs::write(&path, file.read()?).with_context(|| format!("cannot write {}", path.display()))?;
    }
    let is_narrow = |name: &str| Ok(base.is_plain(name)? && base.element_type(name)? != ElementType::F32);
    let kept = base.shapes().filter(|(name, _)| !names.contains(*name));
    let keeps_narrow = kept.map(|(name, _)| is_narrow(name)).collect::<Result<Vec<bool>>>()?.contains(&true);
    if settle_types(&mut config, keeps_narrow) {
        write(Role::Config, &serde_json::to_vec_pretty(&config)?)?;
    }
    let path = directory.join("model.safetensors");
    write_weights(&path, base, (&names, trained)).with_context(|| format!("cannot write {}", path.display()))
}

/// Creates `directory`, or takes it if it is empty, with what `write` writes into another one beside it. That one takes
/// its place once everything is durable, and goes if anything fails.
pub fn new_directory(directory: &Path, write: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let failed = || format!("cannot create {}", directory.display());
    // It may be the working directory's own.
    let place = std::path::absolute(directory).with_context(failed)?;
    let parent = place.parent().with_context(failed)?;
    fs::create_dir_all(parent).with_context(failed)?;
    if place.exists() {
        let mut entries = fs::read_dir(&place).with_context(|| format!("cannot list {}", directory.display()))?;
        ensure!(entries.next().is_none(), "{} is not empty; export to a new directory", directory.display());
    }
    let beside = tempfile::Builder::new().prefix(".export-").tempdir_in(parent).with_context(failed)?;
    // Of the usual permissions, which the other one has not.
    let new = beside.path().join("new");
    fs::create_dir(&new).with_context(failed)?;
    write(&new)?;
    sync(&new).with_context(failed)?;
    // Takes the place of an empty one.
    fs::rename(&new, &place).with_context(failed)?;
    File::open(parent)?.sync_all().with_context(failed)
}

/// Makes `path` durable, and all that is in it.
fn sync(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        fs::read_dir(path)?.try_for_each(|entry| sync(&entry?.path()))?;
    }
    File::open(path)?.sync_all()
}

/// Makes the config say what the types of the weights are; returns whether it did not. It must say float32 where it
/// says another one, or nothing and the first tensor may be of another. `torch_dtype` is what transformers of all
/// versions read.
fn settle_types(config: &mut Value, keeps_narrow: bool) -> bool {
    let fields = ["torch_dtype", "dtype"];
    let is_silent = fields.iter().all(|field| config.get(field).is_none_or(Value::is_null));
    let mut is_changed = is_silent && keeps_narrow;
    if is_changed {
        config["torch_dtype"] = json!("float32");
    }
    for field in fields {
        if config.get(field).is_some_and(|dtype| !dtype.is_null() && *dtype != "float32") {
            config[field] = json!("float32");
            is_changed = true;
        }
    }
    // Not even as null, for which transformers has no quantiser.
    for field in QUANTISATION {
        is_changed |= config.as_object_mut().is_some_and(|fields| fields.remove(field).is_some());
    }
    is_changed
}

/// What starts and ends a text: without the file, transformers takes it from the config.
fn generation_config(interface: &Interface) -> Value {
    let mut out = json!({});
    if let Some(bos) = interface.bos {
        out["bos_token_id"] = json!(bos);
    }
    match interface.eos[..] {
        [] => {}
        [one] => out["eos_token_id"] = json!(one),
        _ => out["eos_token_id"] = json!(interface.eos),
    }
    out
}

/// The least that AutoTokenizer needs beside tokenizer.json: the class, unless config.json makes it another than the
/// usual one, and which tokens are special.
fn tokenizer_config(tokenizer: &[u8], config: &Value, interface: &Interface) -> Result<Value> {
    let tokenizer: Value = serde_json::from_slice(tokenizer).context("tokenizer.json is not valid JSON")?;
    let mut out = json!({"model_max_length": interface.window_max, "clean_up_tokenization_spaces": false});
    if Around::of(config, &Value::Null) == Around::PostProcessor {
        out["tokenizer_class"] = json!("PreTrainedTokenizerFast");
    }
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

/// One safetensors file of all tensors of `base`, written piece by piece. f32 comes first, so that every tensor begins
/// at a multiple of its elements' size.
fn write_weights(
    path: &Path,
    base: &Checkpoint,
    (names, trained): (&BTreeSet<String>, &dyn TrainedTensors),
) -> Result<()> {
    if let Some(name) = names.iter().find(|name| base.element_type(name).is_err()) {
        bail!("tensor {name} is not one of the base's, and has no place in a file of its tensors");
    }
    let mut tensors = Vec::new();
    for (name, shape) in base.shapes() {
        let dtype = match names.contains(name) || !base.is_plain(name)? {
            true => Dtype::F32,
            false => dtype(base.element_type(name)?)?,
        };
        let mut shape = shape.to_vec();
        if base.is_turned(name) {
            shape.reverse();
        }
        tensors.push((name, shape, dtype));
    }
    tensors.sort_by_key(|(name, _, dtype)| (std::cmp::Reverse(dtype.bitsize()), *name));
    let mut end = 0;
    let mut infos = Vec::new();
    for (name, shape, dtype) in &tensors {
        let start = end;
        end += shape.iter().product::<usize>() * dtype.bitsize() / 8;
        let info = TensorInfo { dtype: *dtype, shape: shape.clone(), data_offsets: (start, end) };
        infos.push(((*name).to_owned(), info));
    }
    let metadata = Metadata::new(Some(HashMap::from([("format".to_owned(), "pt".to_owned())])), infos)?;
    let mut header = serde_json::to_vec(&metadata)?;
    header.resize(header.len().next_multiple_of(8), b' ');
    let mut out = BufWriter::with_capacity(1 << 16, File::create(path)?);
    out.write_all(&(header.len() as u64).to_le_bytes())?;
    out.write_all(&header)?;
    for (name, ..) in tensors {
        let values = match names.contains(name) {
            true => trained.tensor(name)?,
            false if base.is_plain(name)? => {
                base.for_each_bytes(name, |bytes| Ok(out.write_all(bytes)?))?;
                continue;
            }
            false => base.tensor(name)?,
        };
        let values = if base.is_turned(name) { values.t()?.contiguous()? } else { values };
        device::for_each_bytes(&values, |bytes| Ok(out.write_all(bytes)?))?;
    }
    Ok(out.flush()?)
}

fn dtype(element: ElementType) -> Result<Dtype> {
    match element {
        ElementType::F32 => Ok(Dtype::F32),
        ElementType::F16 => Ok(Dtype::F16),
        ElementType::Bf16 => Ok(Dtype::BF16),
        other => bail!("{other:?} has no place in a safetensors file"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// transformers 5 takes the first tensor's type where the config says none: of a frozen 16-bit one.
    #[test]
    fn a_config_says_float32_where_another_type_would_be_taken() {
        let said = |mut config: Value, keeps_narrow| {
            settle_types(&mut config, keeps_narrow).then(|| config["torch_dtype"].clone())
        };
        assert_eq!(said(json!({}), true), Some(json!("float32")));
        assert_eq!(said(json!({"dtype": null}), true), Some(json!("float32")));
        assert_eq!(said(json!({"torch_dtype": "bfloat16"}), false), Some(json!("float32")));
        assert_eq!(said(json!({}), false), None, "all of it is float32");
        assert_eq!(said(json!({"torch_dtype": "float32"}), true), None);
    }

    /// A model that somebody had dequantised kept the word, and transformers would not load its export.
    #[test]
    fn a_config_says_nothing_of_a_quantisation_that_is_undone() {
        let plain = json!({"torch_dtype": "float32", "vocab_size": 5});
        for left in [json!({"quant_method": "fp8"}), Value::Null] {
            let mut config = plain.clone();
            config["quantization_config"] = left;
            assert!(settle_types(&mut config, true));
            assert_eq!(config, plain);
        }
        assert!(!settle_types(&mut plain.clone(), true));
    }
}
