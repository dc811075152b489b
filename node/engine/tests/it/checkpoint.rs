//! Checkpoint directories: sound ones, damaged ones, exported ones.

use candle_core::{DType, Device, Tensor};
use engine::model::{Checkpoint, Layout, architecture, export, load};
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

pub fn config(tied: bool) -> Value {
    json!({
        "model_type": "llama", "hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 2, "num_attention_heads": 2,
        "num_key_value_heads": 1, "vocab_size": 5, "max_position_embeddings": 16, "rms_norm_eps": 1e-5,
        "tie_word_embeddings": tied, "bos_token_id": 0, "eos_token_id": null, "torch_dtype": "bfloat16"
    })
}

/// Weights that f16 and bf16 hold exactly.
pub fn weights(config: &Value) -> HashMap<String, Tensor> {
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

pub fn assert_equal(loaded: &BTreeMap<String, Tensor>, expected: &HashMap<String, Tensor>) {
    assert_eq!(loaded.len(), expected.len());
    for (name, tensor) in loaded {
        assert_eq!((tensor.dims(), values(tensor)), (expected[name].dims(), values(&expected[name])), "{name}");
    }
}

/// The whole chain of causes of the error that loading `directory` gives.
pub fn error(directory: &Path) -> String {
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
    let whole = map.clone();
    let buffer = Tensor::zeros(2, DType::F32, &Device::Cpu).unwrap();
    shards[1].insert("model.layers.0.self_attn.rotary_emb.inv_freq".into(), buffer);
    for (index, shard) in shards.iter().enumerate() {
        candle_core::safetensors::save(shard, directory.path().join(format!("part-{index}.safetensors"))).unwrap();
    }
    let index = directory.path().join("model.safetensors.index.json");
    fs::write(&index, json!({"weight_map": map}).to_string()).unwrap();
    assert_equal(&Checkpoint::load(directory.path()).unwrap().tensors().unwrap(), &weights);

    // The same shards under the usual names need no index; all of them must be there.
    fs::remove_file(&index).unwrap();
    let shard = |number: usize| directory.path().join(format!("model-0000{number}-of-00002.safetensors"));
    let part = |number: usize| directory.path().join(format!("part-{number}.safetensors"));
    [0, 1].iter().for_each(|number| fs::rename(part(*number), shard(number + 1)).unwrap());
    let loaded = Checkpoint::load(directory.path()).unwrap();
    assert_equal(&loaded.tensors().unwrap(), &weights);
    assert!(loaded.files.iter().any(|file| file.name == "model.safetensors.index.json"), "one is made");
    // A tensor may be in two of them, with the same values: transformers takes the last, whatever an index says.
    let (norm, sound) = ("model.norm.weight", fs::read(shard(1)).unwrap());
    let with_norm = |values: Tensor| {
        let both = |name: &str| shards[0].get(name).or(shards[1].get(name)).cloned();
        let first = shards[0].iter().map(|(name, tensor)| (name.clone(), tensor.clone()));
        let added = [
            (norm.to_owned(), values),
            ("model.layers.0.mlp.up_proj.weight".to_owned(), both("model.layers.0.mlp.up_proj.weight").unwrap()),
        ];
        let first: HashMap<String, Tensor> = first.chain(added).collect();
        candle_core::safetensors::save(&first, shard(1)).unwrap();
        let second = shards[1].iter().map(|(name, tensor)| (name.clone(), tensor.clone()));
        let second: HashMap<String, Tensor> = second.chain([(norm.to_owned(), both(norm).unwrap())]).collect();
        candle_core::safetensors::save(&second, shard(2)).unwrap();
    };
    with_norm(weights[norm].clone());
    assert_equal(&Checkpoint::load(directory.path()).unwrap().tensors().unwrap(), &weights);
    with_norm((&weights[norm] * 0.5).unwrap());
    let refused = error(directory.path());
    assert!(["00001-of-00002", "00002-of-00002", "there twice"].iter().all(|part| refused.contains(part)), "{refused}");
    fs::write(shard(1), sound).unwrap();
    let left_over = directory.path().join("model-00001-of-00003.safetensors");
    fs::copy(shard(1), &left_over).unwrap();
    let refused = error(directory.path());
    assert!(refused.contains("several sets of weights (model-00001-of-00002"), "{refused}");
    fs::remove_file(left_over).unwrap();
    fs::rename(shard(1), part(0)).unwrap();
    assert!(error(directory.path()).contains("1 of 2 shards"), "{}", error(directory.path()));
    fs::rename(shard(2), part(1)).unwrap();
    fs::write(&index, json!({"weight_map": whole}).to_string()).unwrap();

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
    fs::write(directory.path().join("config.json"), json!({"model_type": "mamba"}).to_string()).unwrap();
    assert!(error(directory.path()).contains("mamba"), "{}", error(directory.path()));
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
    assert!(error.contains("which is whole without") && error.contains("save_pretrained"), "{error}");
}

/// transformers makes up at random what it does not find by name: to load such a checkpoint there and save it, as a
/// node advised, destroys the model, and the result loads.
#[test]
fn a_tensor_that_the_model_has_not_is_told_from_one_that_it_lacks() {
    let name = "model.layers.0.self_attn.q_proj.weight";
    let extra = || Tensor::zeros((4, 8), DType::F32, &Device::Cpu).unwrap();
    let refusal = |new: &[&str], old: &str, change: &dyn Fn(&mut Value)| {
        let mut config = config(false);
        let mut weights = weights(&config);
        let moved = weights.remove(old);
        new.iter().for_each(|name| drop(weights.insert((*name).into(), moved.clone().unwrap_or_else(extra))));
        change(&mut config);
        error(directory_of(&config, &weights).path())
    };
    let same = |_: &mut Value| {};
    let layer = |end: &str| format!("model.layers.0.self_attn.q_proj.{end}");
    let (base, half) = (layer("base_layer.weight"), layer("lora_A.default.weight"));
    let quantised: Vec<String> = ["qweight", "qzeros", "g_idx", "scales"].map(layer).into();
    let quantised: Vec<&str> = quantised.iter().map(String::as_str).collect();
    let mlx = |config: &mut Value| config["quantization"] = json!({"group_size": 64, "bits": 4});
    let head = "lm_head.weight";
    let cases: [(String, &[&str]); 7] = [
        (refusal(&[&base, &half], name, &same), &[&base, "not merged", "merge_and_unload()"]),
        (refusal(&[&half], "", &same), &[&half, "not merged", "merge_and_unload()"]),
        (refusal(&quantised, name, &same), &[quantised[2], "quantised weights", "take the model"]),
        (refusal(&[&layer("scales")], "", &mlx), &["MLX", "mlx_lm.convert --dequantize", "quantised weights"]),
        (refusal(&["output.weight"], head, &same), &["tensor output.weight", "missing, first lm_head.weight"]),
        (refusal(&["score.weight"], head, &same), &["score.weight is another output head", "lm_head.weight"]),
        (
            refusal(&["odd.a.weight", "odd.b.weight"], name, &same),
            &["model.safetensors: tensor odd.a.weight and 1 more are not", "1 of its weights are missing", name],
        ),
    ];
    for (refused, expected) in cases {
        assert!(expected.iter().all(|part| refused.contains(part)), "{expected:?} in: {refused}");
        assert!(!refused.contains("from_pretrained"), "{refused}");
    }
    // A config that says null says nothing.
    let mut config = config(false);
    config["quantization_config"] = Value::Null;
    let mut weights = weights(&config);
    assert_equal(&Checkpoint::load(directory_of(&config, &weights).path()).unwrap().tensors().unwrap(), &weights);
    weights.insert(name.into(), Tensor::zeros((8, 8), DType::U8, &Device::Cpu).unwrap());
    let refused = error(directory_of(&config, &weights).path());
    assert!(refused.contains("stored as U8") && !refused.contains("unknown method"), "{refused}");
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
    // What fails on the way leaves nothing, under its name or another.
    let (place, foreign) =
        (TempDir::new().unwrap(), BTreeMap::from([("foreign".to_owned(), trained.values().next().unwrap().clone())]));
    let error = format!("{:#}", export(&place.path().join("out"), &base, &foreign).unwrap_err());
    assert!(error.contains("tensor foreign is not one of the base's"), "{error}");
    assert_eq!(fs::read_dir(place.path()).unwrap().count(), 0);
}

/// A node said of such a config that it is not JSON. It is exported in the form that transformers 5 reads everywhere.
#[test]
fn a_config_with_numbers_as_python_writes_them_loads_and_is_exported() {
    let (config, directory) = (config(true), TempDir::new().unwrap());
    let weights = weights(&config);
    write(directory.path(), &config, &weights);
    let text = config.to_string().replacen('{', "{\"time_step_limit\": [0.0, Infinity],", 1);
    fs::write(directory.path().join("config.json"), text).unwrap();
    let out = directory.path().join("out");
    export(&out, &Checkpoint::load(directory.path()).unwrap(), &BTreeMap::new()).unwrap();
    let exported: Value = serde_json::from_slice(&fs::read(out.join("config.json")).unwrap()).unwrap();
    assert_eq!(exported["time_step_limit"], json!([0.0, {"__float__": "Infinity"}]));
    assert_equal(&Checkpoint::load(&out).unwrap().tensors().unwrap(), &weights);
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
    let mut quantised = weights(&config(true));
    let name = "model.layers.0.mlp.up_proj.weight";
    quantised.insert(name.into(), Tensor::zeros((12, 8), DType::U8, &Device::Cpu).unwrap());
    write(directory.path(), &config(true), &quantised);
    let refused = error(directory.path());
    let all = ["model.safetensors", name, "stored as U8", "dequantize()", "save_pretrained"];
    assert!(all.iter().all(|part| refused.contains(part)), "{refused}");
}

/// What `directory` holds as a model, by [`Checkpoint::load`], and its loss on some tokens.
fn logits(checkpoint: &Checkpoint) -> Vec<f32> {
    let (model, _) = load(checkpoint, &checkpoint.tensors().unwrap()).unwrap();
    let tokens = Tensor::new(&[1u32, 2, 0, 4], &Device::Cpu).unwrap();
    values(&model.logits(&model.hidden(&tokens, &Layout::of_rows([4]).unwrap()).unwrap()).unwrap())
}

/// A directory of these weights and this config.
pub fn directory_of(config: &Value, weights: &HashMap<String, Tensor>) -> TempDir {
    let directory = TempDir::new().unwrap();
    write(directory.path(), config, weights);
    directory
}

/// transformers 5.24 keeps a stored head that differs from the embedding, whatever `tie_word_embeddings` says, and
/// takes a head that is stored alone for the embedding. A node dropped the first (a loss of 4.45 in place of 5.05), and
/// refused the second, which `safetensors.torch.save_model` writes.
#[test]
fn a_head_is_tied_or_not_as_the_stored_tensors_have_it() {
    let (embedding, head) = ("model.embed_tokens.weight", "lm_head.weight");
    let sound = weights(&config(true));
    let tied = Checkpoint::load(directory_of(&config(true), &sound).path());
    let tied = tied.map(|checkpoint| checkpoint.shapes().count()).unwrap();
    let with = |name: &str, tensor: &Tensor, without: &str| {
        let mut weights = sound.clone();
        weights.insert(name.into(), tensor.clone());
        weights.remove(without);
        weights
    };
    let equal = with(head, &sound[embedding], "");
    let alone = with(head, &sound[embedding], embedding);
    let half = with(head, &sound[embedding].to_dtype(DType::F16).unwrap(), "");
    let directory = directory_of(&config(true), &sound);
    let expected = logits(&Checkpoint::load(directory.path()).unwrap());
    for weights in [equal, alone, half] {
        let directory = directory_of(&config(true), &weights);
        let loaded = Checkpoint::load(directory.path()).unwrap();
        assert_eq!((loaded.shapes().count(), logits(&loaded)), (tied, expected.clone()));
        assert!(!loaded.architecture().unwrap().tensors().iter().any(|(name, _)| name == head));
    }
    let other = (&sound[embedding] * -0.5).unwrap();
    let directory = directory_of(&config(true), &with(head, &other, ""));
    let loaded = Checkpoint::load(directory.path()).unwrap();
    assert_eq!(loaded.shapes().count(), tied + 1);
    let untied = directory_of(&config(false), &with(head, &other, ""));
    let found = logits(&loaded);
    assert_eq!(found, logits(&Checkpoint::load(untied.path()).unwrap()), "as if the config said so");
    assert_ne!(found, expected);
    // An export is read as the base was.
    let out = directory.path().join("out");
    export(&out, &loaded, &loaded.tensors().unwrap()).unwrap();
    assert_eq!(logits(&Checkpoint::load(&out).unwrap()), found);

    let refused = error(directory_of(&config(false), &sound).path());
    assert!(
        refused.contains("no output head (lm_head.weight)") && refused.contains("tie_word_embeddings"),
        "{refused}"
    );
    let wrong = Tensor::zeros((3, 8), DType::F32, &Device::Cpu).unwrap();
    let refused = error(directory_of(&config(true), &with(head, &wrong, "")).path());
    assert!(refused.contains("lm_head.weight has shape [3, 8], config.json asks for [5, 8]"), "{refused}");
}

#[test]
fn names_may_lack_their_prefix_or_have_another_before_it() {
    for tied in [true, false] {
        let sound = weights(&config(tied));
        let directory = directory_of(&config(tied), &sound);
        let expected = logits(&Checkpoint::load(directory.path()).unwrap());
        let bare = |name: &str| name.strip_prefix("model.").unwrap_or(name).to_owned();
        let renames: [&dyn Fn(&str) -> String; 14] = [
            &bare,
            &|name| format!("module.{name}"),
            &|name| format!("_orig_mod.{name}"),
            &|name| format!("base_model.model.{name}"),
            &|name| format!("module.{}", bare(name)),
            &|name| format!("module._orig_mod.{name}"),
            &|name| format!("language_model.{name}"),
            &|name| format!("model.language_model.{}", bare(name)),
            &|name| format!("transformer.{}", bare(name)),
            &|name| format!("model.{name}"),
            &|name| format!("backbone.{}", bare(name)),
            &|name| name.replace("layers.0.", "layers.0._checkpoint_wrapped_module."),
            &|name| format!("_fsdp_wrapped_module.{}", name.replace("layers.1.", "layers.1._fsdp_wrapped_module.")),
            &|name| name.replace("mlp.", "_orig_mod.mlp._checkpoint_wrapped_module."),
        ];
        for rename in renames {
            let renamed = sound.iter().map(|(name, tensor)| (rename(name), tensor.clone())).collect();
            let directory = directory_of(&config(tied), &renamed);
            let loaded = Checkpoint::load(directory.path()).unwrap();
            assert_eq!(logits(&loaded), expected);
            assert_equal(&loaded.tensors().unwrap(), &sound);
        }
        let mut twice = sound.clone();
        twice.insert("norm.weight".into(), sound["model.norm.weight"].to_dtype(DType::BF16).unwrap());
        assert_equal(&Checkpoint::load(directory_of(&config(tied), &twice).path()).unwrap().tensors().unwrap(), &sound);
        twice.insert("norm.weight".into(), (&sound["model.norm.weight"] * 0.5).unwrap());
        let refused = error(directory_of(&config(tied), &twice).path());
        assert!(refused.contains("norm.weight is there twice, as model.norm.weight in"), "{refused}");
    }
}

#[test]
fn a_hub_cache_is_taken_at_every_level() {
    let home = TempDir::new().unwrap();
    let snapshot = home.path().join("hub/models--owner--name/snapshots/0f3e");
    fs::create_dir_all(&snapshot).unwrap();
    write(&snapshot, &config(true), &weights(&config(true)));
    fs::create_dir_all(home.path().join("hub/models--owner--name/blobs")).unwrap();
    for level in ["", "hub", "hub/models--owner--name", "hub/models--owner--name/snapshots"] {
        let loaded = Checkpoint::load(&home.path().join(level)).unwrap();
        assert_eq!(loaded.source, "owner/name@0f3e", "{level}");
    }
}
