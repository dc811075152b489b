//! What is no checkpoint, and what people are told of it.

use crate::checkpoint::{assert_equal, config, directory_of, error, weights};
use candle_core::{DType, Device, Tensor};
use engine::model::Checkpoint;
use serde_json::json;
use std::{collections::HashMap, fs, path::Path};

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
