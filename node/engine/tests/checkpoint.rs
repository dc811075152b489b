//! Checkpoint directories: sound ones, damaged ones, exported ones.

use candle_core::{DType, Device, Tensor};
use engine::model::{Checkpoint, architecture, export};
use protocol::manifest::ElementType;
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, HashMap},
    fs,
    path::Path,
};
use tempfile::TempDir;

const TOKENIZER: &str = r#"{"version": "1.0", "added_tokens": [{"id": 0, "content": "<s>", "single_word": false, "lstrip": false,
    "rstrip": false, "normalized": false, "special": true}], "model": {"type": "BPE", "vocab": {"<s>": 0, "a": 1, "b": 2}, "merges": []}}"#;

fn config(tied: bool) -> Value {
    json!({
        "model_type": "llama", "hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 2, "num_attention_heads": 2,
        "num_key_value_heads": 1, "vocab_size": 5, "max_position_embeddings": 16, "rms_norm_eps": 1e-5,
        "tie_word_embeddings": tied, "bos_token_id": 0, "torch_dtype": "bfloat16"
    })
}

/// Weights that f16 and bf16 hold exactly.
fn weights(config: &Value) -> HashMap<String, Tensor> {
    let architecture = architecture(config.to_string().as_bytes()).unwrap();
    let tensor = |(name, shape): (String, Vec<usize>)| {
        let elements: usize = shape.iter().product();
        let salt = name.len();
        let values: Vec<f32> = (0..elements).map(|i| ((i * 37 + salt) % 61) as f32 / 32.0 - 1.0).collect();
        (name, Tensor::from_vec(values, shape, &Device::Cpu).unwrap())
    };
    architecture.tensors().into_iter().map(tensor).collect()
}

fn write(directory: &Path, config: &Value, weights: &HashMap<String, Tensor>) {
    fs::write(directory.join("config.json"), config.to_string()).unwrap();
    fs::write(directory.join("tokenizer.json"), TOKENIZER).unwrap();
    candle_core::safetensors::save(weights, directory.join("model.safetensors")).unwrap();
}

fn values(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

fn assert_equal(loaded: &BTreeMap<String, Tensor>, expected: &HashMap<String, Tensor>) {
    assert_eq!(loaded.len(), expected.len());
    for (name, tensor) in loaded {
        assert_eq!((tensor.dims(), values(tensor)), (expected[name].dims(), values(&expected[name])), "{name}");
    }
}

/// The whole chain of causes of the error that loading `directory` gives.
fn error(directory: &Path) -> String {
    let loaded = Checkpoint::load(directory).and_then(|checkpoint| checkpoint.tensors());
    format!("{:#}", loaded.expect_err("loading should fail"))
}

#[test]
fn all_three_precisions_load_as_f32() {
    for (config, dtype) in [(config(true), DType::F32), (config(false), DType::F16), (config(true), DType::BF16)] {
        let directory = TempDir::new().unwrap();
        let weights = weights(&config);
        let stored = weights.iter().map(|(name, tensor)| (name.clone(), tensor.to_dtype(dtype).unwrap())).collect();
        write(directory.path(), &config, &stored);
        let loaded = Checkpoint::load(directory.path()).unwrap();
        assert!(loaded.tensors().unwrap().values().all(|tensor| tensor.dtype() == DType::F32 && !tensor.is_variable()));
        assert_equal(&loaded.tensors().unwrap(), &weights);
    }
}

#[test]
fn shards_load_and_tied_heads_and_rotary_buffers_are_skipped() {
    let directory = TempDir::new().unwrap();
    let weights = weights(&config(true));
    write(directory.path(), &config(true), &HashMap::new());
    fs::remove_file(directory.path().join("model.safetensors")).unwrap();
    let mut shards = [HashMap::new(), HashMap::new()];
    let mut map = serde_json::Map::new();
    for (index, (name, tensor)) in weights.iter().enumerate() {
        shards[index % 2].insert(name.clone(), tensor.clone());
        map.insert(name.clone(), json!(format!("part-{}.safetensors", index % 2)));
    }
    shards[0].insert("lm_head.weight".into(), weights["model.embed_tokens.weight"].clone());
    let buffer = Tensor::zeros(2, DType::F32, &Device::Cpu).unwrap();
    shards[1].insert("model.layers.0.self_attn.rotary_emb.inv_freq".into(), buffer);
    for (index, shard) in shards.iter().enumerate() {
        candle_core::safetensors::save(shard, directory.path().join(format!("part-{index}.safetensors"))).unwrap();
    }
    let index = directory.path().join("model.safetensors.index.json");
    fs::write(&index, json!({"weight_map": map}).to_string()).unwrap();
    assert_equal(&Checkpoint::load(directory.path()).unwrap().tensors().unwrap(), &weights);

    fs::remove_file(directory.path().join("part-1.safetensors")).unwrap();
    assert!(error(directory.path()).contains("part-1.safetensors is missing"), "{}", error(directory.path()));
    fs::write(&index, json!({"weight_map": {"a": "../elsewhere.safetensors"}}).to_string()).unwrap();
    assert!(error(directory.path()).contains("not a plain file name"), "{}", error(directory.path()));
    fs::write(&index, "{").unwrap();
    assert!(error(directory.path()).contains("not a valid shard index"), "{}", error(directory.path()));
}

#[test]
fn each_missing_or_malformed_file_is_named() {
    for name in ["config.json", "tokenizer.json", "model.safetensors"] {
        let directory = TempDir::new().unwrap();
        write(directory.path(), &config(true), &weights(&config(true)));
        fs::remove_file(directory.path().join(name)).unwrap();
        assert!(error(directory.path()).contains(name), "{}", error(directory.path()));
    }
    assert!(error(Path::new("/nonexistent")).contains("does not exist"));
    let directory = TempDir::new().unwrap();
    write(directory.path(), &config(true), &weights(&config(true)));
    let path = directory.path().join("model.safetensors");
    let sound = fs::read(&path).unwrap();
    for length in [0, 7, 8, 50, sound.len() - 1] {
        fs::write(&path, &sound[..length]).unwrap();
        assert!(error(directory.path()).contains("model.safetensors"), "{length}: {}", error(directory.path()));
    }
    let mut damaged = sound.clone();
    damaged[..8].copy_from_slice(&u64::MAX.to_le_bytes());
    fs::write(&path, &damaged).unwrap();
    assert!(error(directory.path()).contains("not a safetensors file"), "{}", error(directory.path()));
    fs::write(&path, &sound).unwrap();
    fs::write(directory.path().join("config.json"), json!({"model_type": "gpt2"}).to_string()).unwrap();
    assert!(error(directory.path()).contains("gpt2"), "{}", error(directory.path()));
}

#[test]
fn each_wrong_tensor_is_named() {
    let name = "model.layers.1.mlp.up_proj.weight";
    let load = |change: &dyn Fn(&mut HashMap<String, Tensor>)| {
        let directory = TempDir::new().unwrap();
        let mut weights = weights(&config(true));
        change(&mut weights);
        write(directory.path(), &config(true), &weights);
        error(directory.path())
    };
    let zeros = |shape: &[usize], dtype: DType| Tensor::zeros(shape, dtype, &Device::Cpu).unwrap();
    let cases = [
        ("lacks 1 of the weights", load(&|w| drop(w.remove(name)))),
        ("[8, 12]", load(&|w| drop(w.insert(name.into(), zeros(&[8, 12], DType::F32))))),
        ("stored as I64", load(&|w| drop(w.insert(name.into(), zeros(&[12, 8], DType::I64))))),
        (
            "element 0 is NaN",
            load(&|w| drop(w.insert(name.into(), Tensor::full(f32::NAN, (12, 8), &Device::Cpu).unwrap()))),
        ),
    ];
    for (expected, error) in cases {
        assert!(error.contains(expected) && error.contains(name), "{error}");
    }
    let error = load(&|w| drop(w.insert("model.extra.weight".into(), zeros(&[2], DType::F32))));
    assert!(error.contains("model.extra.weight is not part of the model"), "{error}");
}

#[test]
fn an_exported_directory_loads_as_the_same_model() {
    let weights = weights(&config(true));
    let stored = weights.iter().map(|(name, tensor)| (name.clone(), tensor.to_dtype(DType::BF16).unwrap())).collect();
    let parent = TempDir::new().unwrap();
    write(parent.path(), &config(true), &stored);
    let base = Checkpoint::load(parent.path()).unwrap();
    let out = parent.path().join("new/model");
    let mut trained: BTreeMap<String, Tensor> = weights.clone().into_iter().collect();
    let frozen = "model.norm.weight";
    trained.remove(frozen);
    export(&out, &base, &trained).unwrap();
    let loaded = Checkpoint::load(&out).unwrap();
    assert_equal(&loaded.tensors().unwrap(), &weights);
    for name in trained.keys() {
        assert_eq!(loaded.element_type(name).unwrap(), ElementType::F32, "{name}");
    }
    assert_eq!(loaded.element_type(frozen).unwrap(), ElementType::Bf16, "as it was");
    assert_eq!(loaded.tokenizer, TOKENIZER.as_bytes());
    let loaded = loaded.architecture().unwrap();
    let exported = base.architecture().unwrap();
    assert_eq!((loaded.interface(), loaded.tensors()), (exported.interface(), exported.tensors()));
    let json = |name: &str| serde_json::from_slice::<Value>(&fs::read(out.join(name)).unwrap()).unwrap();
    assert_eq!(json("config.json")["torch_dtype"], "float32", "transformers would round what was trained");
    assert_eq!(json("tokenizer_config.json")["bos_token"], "<s>");
    assert_eq!(json("generation_config.json"), json!({"bos_token_id": 0}));

    let error = export(&out, &base, &trained).unwrap_err().to_string();
    assert!(error.contains("is not empty"), "{error}");
}

#[test]
fn the_files_of_a_model_are_a_fixed_list_and_are_exported_byte_for_byte() {
    let directory = TempDir::new().unwrap();
    let mut config = config(true);
    config["torch_dtype"] = json!("float32");
    write(directory.path(), &config, &weights(&config));
    let more = ["chat_template.jinja", "generation_config.json", "special_tokens_map.json", "tokenizer_config.json"];
    for name in more.iter().chain(&["README.md", "training_args.bin", "optimizer.pt", "other.safetensors"]) {
        fs::write(directory.path().join(name), format!("{{ }} of {name}")).unwrap();
    }
    let base = Checkpoint::load(directory.path()).unwrap();
    let names: Vec<&str> = base.files.iter().map(|file| file.name.as_str()).collect();
    let expected = [
        "config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "chat_template.jinja",
        "generation_config.json",
        "special_tokens_map.json",
        "model.safetensors",
    ];
    assert_eq!(names, expected);
    assert_eq!(base.source, directory.path().file_name().unwrap().to_str().unwrap(), "never a path");
    let out = directory.path().join("out");
    export(&out, &base, &BTreeMap::new()).unwrap();
    for name in &expected[..6] {
        assert_eq!(fs::read(out.join(name)).unwrap(), fs::read(directory.path().join(name)).unwrap(), "{name}");
    }
    assert_equal(&Checkpoint::load(&out).unwrap().tensors().unwrap(), &weights(&config));
}

#[test]
fn what_cannot_be_trained_is_refused_with_its_conversion() {
    let directory = TempDir::new().unwrap();
    write(directory.path(), &config(true), &weights(&config(true)));
    fs::rename(directory.path().join("model.safetensors"), directory.path().join("model-Q4_1.gguf")).unwrap();
    let refused = error(directory.path());
    assert!(refused.contains("gguf_file=\"model-Q4_1.gguf\"") && refused.contains("save_pretrained"), "{refused}");
    let mut quantised = weights(&config(true));
    let name = "model.layers.0.mlp.up_proj.weight";
    quantised.insert(name.into(), Tensor::zeros((12, 8), DType::U8, &Device::Cpu).unwrap());
    write(directory.path(), &config(true), &quantised);
    let refused = error(directory.path());
    let all = ["model.safetensors", name, "stored as U8", "dequantize()", "save_pretrained"];
    assert!(all.iter().all(|part| refused.contains(part)), "{refused}");
}
