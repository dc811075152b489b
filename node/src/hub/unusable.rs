//! What a repository is that cannot be the base of a run, and what to do about it: said before its weights are fetched.

use anyhow::{Context, Result, bail};
use engine::model::{self, hub::HubName};
use serde_json::Value;

/// Most names in an error.
const NAMED: usize = 5;

fn find<'a>(files: &[&'a str], is: impl Fn(&str) -> bool) -> Option<&'a str> {
    files.iter().copied().find(|file| is(file))
}

fn has(files: &[&str], name: &str) -> bool {
    find(files, |file| file == name).is_some()
}

/// How all of it is downloaded, to be changed here.
fn download(name: &HubName) -> String {
    format!("hf download {} --local-dir DIR", name.model)
}

/// A pipeline, of which no part is a language model by itself.
fn pipeline(files: &[&str], name: &HubName) -> Option<String> {
    has(files, "model_index.json").then(|| format!("{name} is an image pipeline (diffusers), not a language model"))
}

/// Of a repository of an adapter and nothing else; `config`: its `adapter_config.json`.
pub fn adapter(name: &HubName, config: &Value) -> String {
    let base = config.get("base_model_name_or_path").and_then(Value::as_str).filter(|base| !base.is_empty());
    format!(
        "{name} is an adapter (PEFT) without its base model{of}. Take that as --model{that}, with --lora for an adapter of your \
         own; or merge the two, in Python: \
         peft.AutoPeftModelForCausalLM.from_pretrained(\"{model}\").merge_and_unload().save_pretrained(\"DIR\"), and the \
         tokenizer into the same directory; then --model DIR",
        of = base.map(|base| format!(", which is {base}")).unwrap_or_default(),
        that = base.map(|base| format!(" {base}")).unwrap_or_default(),
        model = name.model
    )
}

/// Of one that has weights, and no `config.json`.
pub fn without_config(files: &[&str], name: &HubName) -> String {
    if let Some(what) = pipeline(files, name) {
        return what;
    }
    if has(files, "params.json") {
        return format!(
            "{name} is in the layout of the model's makers (params.json): take the version for transformers, whose name often \
             ends in -hf"
        );
    }
    format!("{name} has no config.json: it is no model for transformers; take a version that is, or a GGUF file of it")
}

/// Of one that has no `tokenizer.json`.
pub fn without_tokenizer(files: &[&str], name: &HubName) -> String {
    let slow = ["tokenizer.model", "vocab.json", "spiece.model", "tekken.json", "vocab.txt", "sentencepiece.bpe.model"];
    let model = &name.model;
    match slow.into_iter().find(|slow| has(files, slow)) {
        Some(slow) => format!(
            "{name} has its tokenizer as {slow}, and no tokenizer.json. Download it ({}), make one there, in Python: \
             transformers.AutoTokenizer.from_pretrained(\"{model}\").save_pretrained(\"DIR\"), then --model DIR",
            download(name)
        ),
        None => format!(
            "{name} has no tokenizer.json: download it ({}), put the tokenizer of the model that it was made of into the same \
             directory (in Python: transformers.AutoTokenizer.from_pretrained(that model).save_pretrained(\"DIR\")), then --model \
             DIR",
            download(name)
        ),
    }
}

/// Of one that has neither weights in safetensors at its root nor a GGUF file.
pub fn without_weights(files: &[&str], name: &HubName) -> String {
    if let Some(what) = pipeline(files, name) {
        return what;
    }
    let ends = |endings: &[&str]| find(files, |file| endings.iter().any(|ending| file.ends_with(ending)));
    if let Some(file) = find(files, |file| file.ends_with(".safetensors") && file.contains('/')) {
        return format!(
            "{name} has its weights in directories ({file}): download it ({}), and give the path of the one that has config.json \
             and tokenizer.json",
            download(name)
        );
    }
    if let Some(file) = ends(&[".bin", ".pt", ".pth", ".ckpt"]) {
        return format!(
            "{name} has its weights as {file} (PyTorch's format), and neither safetensors nor a GGUF file: take a version that \
             has, or convert it, in Python: transformers.AutoModelForCausalLM.from_pretrained(\"{model}\")\
             .save_pretrained(\"DIR\"), the same with AutoTokenizer, then --model DIR",
            model = name.model
        );
    }
    let others =
        [(".msgpack", "Flax"), (".h5", "TensorFlow"), (".onnx", "ONNX"), (".npz", "MLX"), (".mlpackage", "Core ML")];
    if let Some((file, maker)) = others.into_iter().find_map(|(ending, maker)| Some((ends(&[ending])?, maker))) {
        return format!("{name} has its weights for {maker} only ({file}): take a version with model.safetensors");
    }
    let names = &files[..files.len().min(NAMED)];
    format!(
        "{name} has no weights, neither in safetensors nor as a GGUF file (it has {}); check the name and the revision",
        if names.is_empty() { "no file".to_owned() } else { names.join(", ") }
    )
}

/// Errors if `config`, a `config.json`, describes no model that this node trains, whatever the weights are.
pub fn check_config(config: &[u8], name: &HubName) -> Result<()> {
    let refused = || format!("{name} cannot be the base of a run, and its weights were not downloaded");
    model::architecture(config).with_context(refused)?;
    let config = model::parse_json(config)?;
    let mut said = model::QUANTISATION.into_iter().filter_map(|field| config.get(field));
    let Some(how) = said.find(|how| how.is_object()) else { return Ok(()) };
    let method = how.get("quant_method").and_then(Value::as_str).unwrap_or("of MLX, or unnamed");
    Err(anyhow::anyhow!(
        "its config.json says that it is quantised ({method}), which cannot be trained as it is: take the model that it was made \
         of, or a GGUF file of it with --lora 8"
    ))
    .with_context(refused)
}

/// Errors if the hub's word for what is in its GGUF files is none that this node runs.
pub fn check_gguf(architecture: &str, name: &HubName) -> Result<()> {
    // Of a projector, which may be the file that the hub has read.
    if matches!(architecture, "clip" | "mmproj") {
        return Ok(());
    }
    match model::hub::check_architecture(architecture) {
        Ok(()) => Ok(()),
        Err(error) => bail!("{name} cannot be the base of a run, and was not downloaded: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_config_that_nothing_can_come_of_is_refused() {
        let name = model::hub::parse("owner/name").unwrap();
        let llama = json!({"model_type": "llama", "hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1,
            "num_attention_heads": 2, "vocab_size": 11, "quantization_config": null});
        let checked = |more: &Value| {
            let mut config = llama.clone();
            config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            check_config(config.to_string().as_bytes(), &name).map_err(|error| format!("{error:#}"))
        };
        assert_eq!(checked(&json!({})), Ok(()));
        for (more, said) in [
            (json!({"model_type": "mamba"}), "mamba"),
            (json!({"quantization_config": {"quant_method": "gptq"}}), "quantised (gptq)"),
            (json!({"quantization": {"bits": 4}}), "quantised (of MLX"),
        ] {
            let refused = checked(&more).unwrap_err();
            assert!(refused.contains(said) && refused.contains("owner/name cannot be the base"), "{refused}");
        }
        assert!(check_gguf("llama", &name).is_ok());
        assert!(check_gguf("mamba", &name).unwrap_err().to_string().contains("\"mamba\""));
    }

    #[test]
    fn an_adapter_is_called_so_with_its_base() {
        let name = model::hub::parse("owner/name").unwrap();
        let said = adapter(&name, &json!({"base_model_name_or_path": "a/b"}));
        assert!(
            said.contains("an adapter (PEFT)") && said.contains("which is a/b") && said.contains("--model a/b"),
            "{said}"
        );
        assert!(adapter(&name, &Value::Null).contains("without its base model."));
    }
}
