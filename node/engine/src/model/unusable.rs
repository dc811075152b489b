//! What a directory, a file or a tensor is that cannot be trained, by its name, and what to do about it.

use anyhow::{Result, bail};
use serde_json::Value;
use std::{
    fs::{self, File},
    io::Read,
    path::Path,
};

use super::json;

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
        () if head.starts_with(b"GGUF") && path.extension().is_none_or(|end| !end.eq_ignore_ascii_case("gguf")) => {
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

/// How the files begin that a trainer keeps beside the weights.
const TRAINING_STATE: [&str; 7] =
    ["training_args", "optimizer", "scheduler", "scaler", "rng_state", "random_states", "trainer_state"];

/// What to do with a directory whose weights cannot be read.
pub fn without_weights(directory: &Path) -> String {
    let (place, names) = (directory.display(), names(directory));
    let is_state = |name: &str| TRAINING_STATE.iter().any(|start| name.starts_with(start));
    let is_one = |name: &str, endings: &[&str]| endings.iter().any(|end| name.ends_with(end)) && !is_state(name);
    let ends = |endings: &[&str]| names.iter().find(|name| is_one(name, endings));
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

/// Where a `config.json` says how weights are quantised: Hugging Face's two names, and MLX's.
pub const QUANTISATION: [&str; 3] = ["quantization_config", "compression_config", "quantization"];

/// What `config.json` says of quantisation that tensors of other types come from.
pub fn quantised(config: &[u8]) -> Option<String> {
    let config = json::parse(config).ok()?;
    let said = |name: &str| config.get(name).filter(|how| how.is_object());
    let [of_hugging_face @ .., of_mlx] = QUANTISATION;
    if let Some(how) = of_hugging_face.into_iter().find_map(said) {
        let method = how.get("quant_method").and_then(Value::as_str).unwrap_or("an unknown method");
        return Some(format!(
            "its config.json says that it is quantised ({method}), which cannot be trained as it is: take the model that it \
             was made of, or in transformers load it with from_pretrained(..., dtype=torch.bfloat16), call dequantize(), \
             then save_pretrained(...)"
        ));
    }
    said(of_mlx).map(|_| {
        "its config.json says that it is quantised (MLX), which cannot be trained as it is: take the model that it was made \
         of, or undo it with mlx_lm.convert --dequantize"
            .into()
    })
}

/// What names have in them, or at their ends, that are of an adapter or of what it was put upon.
const OF_ADAPTERS: [&str; 4] = [".lora_", ".base_layer.", ".modules_to_save.", ".original_module."];

/// Likewise of quantised weights (GPTQ, AWQ, bitsandbytes, compressed-tensors, FP8, MLX).
const OF_QUANTISED: [&str; 13] = [
    ".qweight",
    ".qzeros",
    ".g_idx",
    ".scales",
    ".biases",
    ".SCB",
    ".absmax",
    ".quant_map",
    ".quant_state.",
    ".weight_packed",
    ".weight_scale",
    ".weight_scale_inv",
    ".weight_zero_point",
];

/// How the names of other output heads begin: of classifiers and reward models.
const OTHER_HEADS: [&str; 4] = ["score.", "classifier.", "qa_outputs.", "classification_head."];

/// Of the tensors `strange`, which the model has not: the index of one, and what to say behind its name. `missing` are
/// those of the model that were not found; None where others of it cannot be used, and that says more.
///
/// To load such a checkpoint and save it leaves out what is strange, but makes up what is missing, at random.
pub fn strangers(strange: &[&str], missing: &[&str], head: &str, is_misfit: bool) -> Option<(usize, String)> {
    let first = |parts: &[&str]| {
        let is = |name: &str, part: &str| {
            if part.ends_with(['.', '_']) { name.contains(part) } else { name.ends_with(part) }
        };
        strange.iter().position(|name| parts.iter().any(|part| is(name, part)))
    };
    if let Some(at) = first(&OF_ADAPTERS) {
        let what = "is of an adapter that was not merged into the model (PEFT): where it was trained, call model = \
                    model.merge_and_unload(), then model.save_pretrained(...)";
        return Some((at, what.into()));
    }
    if let Some(at) = first(&OF_QUANTISED) {
        let what =
            "is of quantised weights, which cannot be trained as they are: take the model that they were made of";
        return Some((at, what.into()));
    }
    if is_misfit {
        return None;
    }
    let more = match strange.len() {
        1 => "is".to_owned(),
        count => format!("and {} more are", count - 1),
    };
    let Some(absent) = missing.first() else {
        let what = format!(
            "{more} not part of the model that config.json describes, which is whole without; config.json may be another \
             model's. If it is this model's, leave out what transformers would not compute with either: load it there with \
             from_pretrained(...), then save_pretrained(...)"
        );
        return Some((0, what));
    };
    let is_other_head = |name: &&str| OTHER_HEADS.iter().any(|start| name.starts_with(start));
    if let (true, Some(at)) = (*missing == [head], strange.iter().position(is_other_head)) {
        let what = format!(
            "is another output head, of a classifier or a reward model, and there is none that predicts tokens ({head}): take \
             the model that it was made of"
        );
        return Some((at, what));
    }
    let what = format!(
        "{more} not part of the model that config.json describes, and {} of its weights are missing, first {absent}: they \
         may be there under other names, or config.json is another model's. Take the checkpoint as it was published, or \
         rename the tensors; transformers would make up what is missing, at random",
        missing.len()
    );
    Some((0, what))
}
