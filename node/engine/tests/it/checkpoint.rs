//! Checkpoint directories: sound ones, damaged ones, exported ones.

use candle_core::{DType, Device, Tensor};
use engine::{
    chat::ChatTemplate,
    data::Dataset,
    model::{Checkpoint, Layout, Tokenizer, architecture, export, load},
};
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
fn directory_of(config: &Value, weights: &HashMap<String, Tensor>) -> TempDir {
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

/// What is done to a sound directory, and what its refusal must say.
type Case<'a> = (&'a dyn Fn(&Path), &'a [&'a str]);

/// Leaves what PEFT writes.
fn adapter(path: &Path) {
    for name in ["config.json", "tokenizer.json", "model.safetensors"] {
        fs::remove_file(path.join(name)).unwrap();
    }
    fs::write(path.join("adapter_config.json"), r#"{"base_model_name_or_path": "owner/base"}"#).unwrap();
    fs::write(path.join("adapter_model.safetensors"), "weights").unwrap();
}

/// What a quantiser of another kind writes.
fn quantised(path: &Path) {
    let mut config = config(true);
    config["quantization_config"] = json!({"quant_method": "gptq"});
    let weights =
        HashMap::from([("model.layers.0.mlp.up_proj.qweight", Tensor::zeros(3, DType::U32, &Device::Cpu).unwrap())]);
    fs::write(path.join("config.json"), config.to_string()).unwrap();
    candle_core::safetensors::save(&weights, path.join("model.safetensors")).unwrap();
}

/// Each was once told to be downloaded again, or to have a header of 2336927755350992246 bytes.
#[test]
fn what_is_no_checkpoint_is_called_by_its_name_with_the_remedy() {
    let refusal = |change: &dyn Fn(&Path)| {
        let directory = directory_of(&config(true), &weights(&config(true)));
        change(directory.path());
        error(directory.path())
    };
    let put = |name: &'static str, text: &'static str| move |path: &Path| fs::write(path.join(name), text).unwrap();
    let moved =
        |from: &'static str, to: &'static str| move |path: &Path| fs::rename(path.join(from), path.join(to)).unwrap();
    let beside = |path: &Path| {
        fs::rename(path.join("model.safetensors"), path.join("adapter_model.safetensors")).unwrap();
        fs::write(path.join("adapter_config.json"), "{}").unwrap();
    };
    let trainer = |path: &Path| {
        fs::create_dir(path.join("checkpoint-500")).unwrap();
        fs::rename(path.join("config.json"), path.join("checkpoint-500/config.json")).unwrap();
    };
    let sentencepiece = |path: &Path| fs::rename(path.join("tokenizer.json"), path.join("tokenizer.model")).unwrap();
    let vocabulary = |path: &Path| {
        fs::rename(path.join("tokenizer.json"), path.join("vocab.json")).unwrap();
        fs::write(path.join("merges.txt"), "a b").unwrap();
    };
    let index = |path: &Path| {
        fs::remove_file(path.join("model.safetensors")).unwrap();
        let map = json!({"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"});
        fs::write(path.join("model.safetensors.index.json"), json!({ "weight_map": map }).to_string()).unwrap();
    };
    let dangling = |path: &Path| {
        fs::remove_file(path.join("model.safetensors")).unwrap();
        std::os::unix::fs::symlink("../../blobs/5f3e", path.join("model.safetensors")).unwrap();
    };
    let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1044992\n";
    let cases: [Case; 20] = [
        (&adapter, &["is an adapter (PEFT)", "owner/base", "merge_and_unload()"]),
        (&beside, &["is an adapter (PEFT)", "merge_and_unload()"]),
        (&trainer, &["checkpoint-500", "give the directory of one"]),
        (&sentencepiece, &["tokenizer.model", "AutoTokenizer"]),
        (&vocabulary, &["vocab.json and merges.txt", "AutoTokenizer"]),
        (&|path| fs::remove_file(path.join("tokenizer.json")).unwrap(), &["no tokenizer.json", "AutoTokenizer"]),
        (&index, &["2 of the 2 shards", "model-00001-of-00002.safetensors"]),
        (&quantised, &["gptq", "dequantize()"]),
        (&dangling, &["blobs/5f3e", "not there"]),
        (&put("model.safetensors", pointer), &["model.safetensors is a Git LFS pointer", "git lfs pull"]),
        (&put("tokenizer.json", pointer), &["tokenizer.json is a Git LFS pointer"]),
        (&put("model.safetensors", "<!DOCTYPE html><html>"), &["is a web page"]),
        (&put("config.json", "Entry not found"), &["config.json", "no such file"]),
        (&put("model.safetensors", "PK\u{3}\u{4}archive"), &["is a PyTorch file under another name"]),
        (&put("model.safetensors", ""), &["model.safetensors is empty"]),
        (
            &moved("model.safetensors", "pytorch_model.bin"),
            &["pytorch_model.bin", "AutoModelForCausalLM", "save_pretrained"],
        ),
        (&moved("model.safetensors", "pytorch_model.bin.index.json"), &["PyTorch's format"]),
        (&moved("model.safetensors", "tf_model.h5"), &["TensorFlow"]),
        (
            &|path| {
                moved("model.safetensors", "training_args.bin")(path);
                fs::write(path.join("optimizer.pt"), "PK").unwrap();
            },
            &["has neither model.safetensors nor"],
        ),
        (&moved("model.safetensors", "model.safetensors.incomplete"), &["did not finish"]),
    ];
    for (change, expected) in cases {
        let refused = refusal(change);
        assert!(expected.iter().all(|part| refused.contains(part)), "{expected:?} in: {refused}");
    }
}

#[test]
fn a_file_is_called_by_what_it_is_and_one_of_weights_may_have_another_name() {
    let directory = directory_of(&config(true), &weights(&config(true)));
    let path = |name: &str| directory.path().join(name);
    let refused = error(&path("model.safetensors"));
    assert!(refused.contains("is a file: give the directory"), "{refused}");
    fs::write(path("MODEL.GGUF"), "GGUF of nothing").unwrap();
    let refused = error(&path("MODEL.GGUF"));
    assert!(refused.contains("MODEL.GGUF") && !refused.contains("another name"), "{refused}");
    fs::rename(path("MODEL.GGUF"), path("MODEL.bin")).unwrap();
    assert!(error(&path("MODEL.bin")).contains("is a GGUF file under another name"));
    fs::rename(path("model.safetensors"), path("weights.fp32.safetensors")).unwrap();
    assert_equal(&Checkpoint::load(directory.path()).unwrap().tensors().unwrap(), &weights(&config(true)));
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

/// A tokenizer whose post-processor puts tokens around a text.
const AROUND: &str = r#"{"version": "1.0", "added_tokens": [{"id": 0, "content": "<s>", "single_word": false, "lstrip": false,
    "rstrip": false, "normalized": false, "special": true}, {"id": 3, "content": "</s>", "single_word": false,
    "lstrip": false, "rstrip": false, "normalized": false, "special": true}, {"id": 4, "content": "<turn>",
    "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true}],
    "post_processor": {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}},
    {"Sequence": {"id": "A", "type_id": 0}}], "pair": [{"Sequence": {"id": "A", "type_id": 0}},
    {"Sequence": {"id": "B", "type_id": 0}}], "special_tokens": {"<s>": {"id": "<s>", "ids": [0], "tokens": ["<s>"]}}},
    "model": {"type": "BPE", "vocab": {"<s>": 0, "a": 1, "b": 2}, "merges": []}}"#;

/// transformers 5.24 believes tokenizer_config.json, and special_tokens_map.json after it where the former has no
/// added_tokens_decoder; generation_config.json says where to stop. A node appended the first id of config.json.
#[test]
fn the_token_that_ends_a_turn_is_the_tokenizers() {
    let mut config = config(true);
    config["eos_token_id"] = json!([2, 3]);
    let tokenizer = |files: &[(&str, Value)]| {
        let directory = directory_of(&config, &weights(&config));
        fs::write(directory.path().join("tokenizer.json"), AROUND).unwrap();
        files.iter().for_each(|(name, text)| fs::write(directory.path().join(name), text.to_string()).unwrap());
        let tokenizer = Tokenizer::of(&Checkpoint::load(directory.path()).unwrap()).unwrap();
        (tokenizer.turn_end(), tokenizer.eos().to_vec(), tokenizer.bos())
    };
    let named = |token: &str| ("tokenizer_config.json", json!({ "eos_token": token }));
    let as_object = ("tokenizer_config.json", json!({"eos_token": {"content": "<turn>"}, "added_tokens_decoder": {}}));
    let map = ("special_tokens_map.json", json!({"eos_token": "</s>", "bos_token": {"content": "<s>"}}));
    let generation = ("generation_config.json", json!({"eos_token_id": [4, 2]}));
    assert_eq!(tokenizer(&[]), (Some(2), vec![2, 3], Some(0)), "the config's");
    assert_eq!(tokenizer(&[named("</s>")]), (Some(3), vec![2, 3], Some(0)));
    assert_eq!(tokenizer(&[named("<turn>")]), (Some(4), vec![2, 3, 4], Some(0)), "generation stops there, too");
    assert_eq!(tokenizer(&[named("<turn>"), map.clone()]).0, Some(3), "the map comes after an older config");
    assert_eq!(tokenizer(&[as_object, map]).0, Some(4), "a newer config says it all");
    assert_eq!(tokenizer(std::slice::from_ref(&generation)), (Some(4), vec![4, 2], Some(0)));
    assert_eq!(tokenizer(&[named("</s>"), generation]), (Some(3), vec![4, 2, 3], Some(0)));
    assert_eq!(tokenizer(&[named("unknown")]).0, Some(2), "a token that the tokenizer does not have");
    // transformers 5.24 stops at nothing that only config.json names where there is a generation_config.json.
    for silent in [json!({"temperature": 0.5}), json!({"eos_token_id": null}), json!({"eos_token_id": -1})] {
        let generation = ("generation_config.json", silent);
        assert_eq!(tokenizer(&[named("</s>"), generation.clone()]), (Some(3), vec![3], Some(0)), "{generation:?}");
        assert_eq!(tokenizer(std::slice::from_ref(&generation)).0, Some(2), "a turn ends in something: {generation:?}");
    }
}

/// A template was shown the special tokens of tokenizer_config.json only: a BOS that the map names was not written.
#[test]
fn templates_are_a_list_a_map_or_one_and_see_the_special_tokens_of_both_files() {
    let rendered = |template: Value, map: Value| {
        let directory = directory_of(&config(true), &weights(&config(true)));
        let config = json!({"chat_template": template, "bos_token": "<old>"});
        for (name, text) in [("tokenizer_config.json", config), ("special_tokens_map.json", map)] {
            fs::write(directory.path().join(name), text.to_string()).unwrap();
        }
        let checkpoint = Checkpoint::load(directory.path()).unwrap();
        let template = ChatTemplate::of(&checkpoint, &Tokenizer::of(&checkpoint).unwrap()).unwrap();
        assert!(!template.is_plain());
        template.render(&[], Some(&engine::chat::Value::from(1)), false).unwrap()
    };
    let (map, plain) =
        (json!({"bos_token": {"content": "<s>"}, "cls_token": "<cls>"}), "{{ bos_token }}{{ cls_token }}");
    assert_eq!(rendered(json!(plain), map), "<s><cls>");
    assert_eq!(rendered(json!(plain), json!({})), "<old>");
    let named = json!({"default": plain, "tool_use": "T{{ bos_token }}"});
    assert_eq!(rendered(named, json!({})), "T<old>");
    let listed = json!([{"name": "default", "template": plain}, {"name": "tool_use", "template": "T"}]);
    assert_eq!(rendered(listed, json!({})), "T");
}

/// transformers 5 writes several templates so, also those that came as a list; the folder was left behind.
#[test]
fn templates_in_a_folder_of_their_own_are_read_and_exported() {
    let directory = directory_of(&config(true), &weights(&config(true)));
    let folder = directory.path().join("additional_chat_templates");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("README.md"), "no template").unwrap();
    fs::write(folder.join("tool_use.jinja"), "T").unwrap();
    fs::write(directory.path().join("chat_template.jinja"), "D").unwrap();
    fs::write(directory.path().join("tokenizer_config.json"), r#"{"chat_template": "old"}"#).unwrap();
    let out = directory.path().join("out");
    export(&out, &Checkpoint::load(directory.path()).unwrap(), &BTreeMap::new()).unwrap();
    for place in [directory.path(), &out] {
        let checkpoint = Checkpoint::load(place).unwrap();
        let template = ChatTemplate::of(&checkpoint, &Tokenizer::of(&checkpoint).unwrap()).unwrap();
        let rendered = |tools: Option<engine::chat::Value>| template.render(&[], tools.as_ref(), false).unwrap();
        assert_eq!((rendered(None), rendered(Some(1.into()))), ("D".into(), "T".into()));
    }
    assert_eq!(fs::read_dir(out.join("additional_chat_templates")).unwrap().count(), 1);
}

/// A padding token of id 32000 beside a vocabulary of 32,000 is common; a node refused the whole model.
#[test]
fn added_tokens_beyond_the_vocabulary_are_refused_only_in_a_text() {
    let directory = directory_of(&config(true), &weights(&config(true)));
    let mut tokenizer: Value = serde_json::from_str(AROUND).unwrap();
    let pad = json!({"id": 5, "content": "<pad>", "single_word": false, "lstrip": false, "rstrip": false,
        "normalized": false, "special": true});
    tokenizer["added_tokens"].as_array_mut().unwrap().push(pad);
    fs::write(directory.path().join("tokenizer.json"), tokenizer.to_string()).unwrap();
    let named = json!({"eos_token": "<pad>"}).to_string();
    fs::write(directory.path().join("tokenizer_config.json"), named).unwrap();
    let tokenizer = Tokenizer::of(&Checkpoint::load(directory.path()).unwrap()).unwrap();
    assert_eq!(tokenizer.encode("ab").unwrap(), [1, 2]);
    assert_eq!((tokenizer.turn_end(), tokenizer.special_text(5)), (None, None), "nothing can be trained to end in it");
    let refused = tokenizer.encode("a<pad>").unwrap_err().to_string();
    assert!(refused.contains("token id 5, \"<pad>\"") && refused.contains("ends at 4"), "{refused}");
}

/// `generate` asked for what follows the token that ends a text, where the post-processor puts one after each.
#[test]
fn a_text_that_goes_on_has_no_end() {
    let directory = directory_of(&config(true), &weights(&config(true)));
    let mut tokenizer: Value = serde_json::from_str(AROUND).unwrap();
    let processor = &mut tokenizer["post_processor"];
    processor["single"].as_array_mut().unwrap().push(json!({"SpecialToken": {"id": "</s>", "type_id": 0}}));
    processor["special_tokens"]["</s>"] = json!({"id": "</s>", "ids": [3], "tokens": ["</s>"]});
    fs::write(directory.path().join("tokenizer.json"), tokenizer.to_string()).unwrap();
    let tokenizer = Tokenizer::of(&Checkpoint::load(directory.path()).unwrap()).unwrap();
    assert_eq!((tokenizer.encode_whole("ab").unwrap(), tokenizer.closing()), (vec![0, 1, 2, 3], &[3][..]));
    assert_eq!((tokenizer.text_prompt("ab").unwrap(), tokenizer.text_prompt("").unwrap()), (vec![0, 1, 2], vec![0]));
}

#[test]
fn texts_prompts_and_documents_begin_as_the_post_processor_has_it() {
    let directory = directory_of(&config(true), &weights(&config(true)));
    fs::write(directory.path().join("tokenizer.json"), AROUND).unwrap();
    let tokenizer = Tokenizer::of(&Checkpoint::load(directory.path()).unwrap()).unwrap();
    assert_eq!((tokenizer.opening(), tokenizer.closing()), (&[0][..], &[][..]));
    assert_eq!((tokenizer.encode("ab").unwrap(), tokenizer.encode_whole("ab").unwrap()), (vec![1, 2], vec![0, 1, 2]));
    let mut prompt = vec![0, 1, 2, 1, 2];
    tokenizer.cut_start(&mut prompt, 3);
    assert_eq!(prompt, [0, 1, 2], "what opens a text stays");
    tokenizer.cut_start(&mut prompt, 1);
    assert_eq!(prompt, [2], "but for the last token");

    let ids = |name: &str, text: &str, row: usize| {
        let path = directory.path().join(name);
        fs::write(&path, text).unwrap();
        let batch = Dataset::load(&path, &tokenizer, 4).unwrap().batch_of(&[row]).unwrap();
        let targets: Vec<u32> = batch.targets.iter().map(|target| target.token).collect();
        (batch.tokens.to_vec1::<u32>().unwrap(), targets)
    };
    assert_eq!(ids("text.txt", "abab", 0), (vec![0, 1, 2], vec![1, 2, 1]), "a file is a document");
    assert_eq!(ids("text.jsonl", "{\"text\": \"ab\"}\n{\"text\": \"b\"}", 1), (vec![0], vec![2]));
    let turn = "{\"prompt\": \"a\", \"completion\": \"b\"}";
    assert_eq!(ids("turn.jsonl", turn, 0), (vec![0, 1], vec![2]), "there is no token that ends a turn");
    let choices = "{\"prompt\": \"a\", \"choices\": [\"a\", \"b\"], \"answer\": 1}";
    assert_eq!(ids("choices.jsonl", choices, 0), (vec![0, 1], vec![1, 2]));
}
