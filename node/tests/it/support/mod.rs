//! A tiny run for tests: a random model, a generated text, and real node processes.

#![allow(dead_code, missing_docs, unused_imports)]

use candle_core::{Device, Tensor};
use engine::model::architecture;
use rand_xoshiro::{
    Xoshiro256PlusPlus,
    rand_core::{Rng, SeedableRng},
};
use serde_json::{Value, json};
use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

mod attacker;
pub mod browser;
mod cable;
pub mod fed;
pub mod logs;
mod netns;
mod node;
pub mod nodes;

pub use attacker::Attacker;
pub use cable::Line;
pub use netns::{Nat, Net};
pub use node::{Node, command};

/// A wait for anything that a process should do ends after this long. It guards against waiting for ever and decides
/// nothing: on a machine that is busy, with a disk that is slow, everything takes a small part of it.
pub const PATIENCE: Duration = Duration::from_secs(900);

/// A directory with a model, a text and room for state directories.
pub struct Workshop {
    directory: tempfile::TempDir,
}

impl Workshop {
    pub fn new() -> Self {
        Self::with_model(16, 0.2)
    }

    /// A model of `hidden` units (tens of megabytes at 1,024) with weights up to `scale`.
    pub fn with_model(hidden: usize, scale: f32) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let model = directory.path().join("model");
        fs::create_dir(&model).unwrap();
        write_model(&model, 1, hidden, scale);
        fs::write(directory.path().join("text.txt"), text(2)).unwrap();
        Self { directory }
    }

    pub fn model(&self) -> PathBuf {
        self.directory.path().join("model")
    }

    pub fn state(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// A node with its state in `name`, a text of its own run, and `arguments`.
    pub fn node(&self, name: &str, arguments: &[&str]) -> Node {
        let (state, text) = (self.state(name), self.directory.path().join("text.txt"));
        let own = ["--data", text.to_str().unwrap(), "--batch-size", "2", "--sequence-length", "32"];
        Node::start(&state, &[&own, arguments].concat())
    }

    /// The first node of a new run.
    pub fn first(&self, name: &str, arguments: &[&str]) -> Node {
        let model = self.model();
        self.node(name, &[&["--model", model.to_str().unwrap()], arguments].concat())
    }
}

/// A Llama of `hidden` units whose tokens are single characters.
fn write_model(directory: &Path, seed: u64, hidden: usize, scale: f32) {
    let mut vocabulary: Vec<String> = ('!'..='~').map(String::from).collect();
    vocabulary.extend(["Ġ".to_owned(), "Ċ".to_owned()]);
    let config = json!({
        "model_type": "llama", "hidden_size": hidden, "intermediate_size": 2 * hidden, "num_hidden_layers": 1,
        "num_attention_heads": 2, "num_key_value_heads": 1, "vocab_size": vocabulary.len(), "max_position_embeddings": 64,
        "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": true,
        "bos_token_id": null, "eos_token_id": null
    });
    let ids: serde_json::Map<String, Value> =
        vocabulary.into_iter().enumerate().map(|(id, token)| (token, json!(id))).collect();
    let byte_level = json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true });
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
        "pre_tokenizer": byte_level, "post_processor": null, "decoder": byte_level,
        "model": { "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "vocab": ids, "merges": [] }
    });
    let architecture = architecture(config.to_string().as_bytes()).unwrap();
    let mut random = Xoshiro256PlusPlus::seed_from_u64(seed);
    let tensors: HashMap<String, Tensor> = architecture
        .tensors()
        .into_iter()
        .map(|(name, shape)| {
            let mut draw = || (random.next_u64() >> 40) as f32 / (1u64 << 23) as f32 * scale - scale;
            let values: Vec<f32> = (0..shape.iter().product()).map(|_| draw()).collect();
            (name, Tensor::from_vec(values, shape, &Device::Cpu).unwrap())
        })
        .collect();
    candle_core::safetensors::save(&tensors, directory.join("model.safetensors")).unwrap();
    fs::write(directory.join("config.json"), config.to_string()).unwrap();
    fs::write(directory.join("tokenizer.json"), tokenizer.to_string()).unwrap();
}

/// The model of a workshop in two shards, of which the index is another file than the run has.
pub fn in_shards(workshop: &Workshop) -> PathBuf {
    let (original, copy) = (workshop.model(), workshop.state("copy"));
    fs::create_dir(&copy).unwrap();
    for name in ["config.json", "tokenizer.json"] {
        fs::copy(original.join(name), copy.join(name)).unwrap();
    }
    let tensors = engine::model::Checkpoint::load(&original).unwrap().tensors().unwrap();
    let mut weight_map = serde_json::Map::new();
    for (shard, name) in ["a.safetensors", "b.safetensors"].into_iter().enumerate() {
        let own = tensors.iter().enumerate().filter(|(index, _)| index % 2 == shard).map(|(_, tensor)| tensor);
        let own: HashMap<&str, _> = own.map(|(name, tensor)| (name.as_str(), tensor.clone())).collect();
        weight_map.extend(own.keys().map(|tensor| ((*tensor).to_owned(), name.into())));
        candle_core::safetensors::save(&own, copy.join(name)).unwrap();
    }
    let index = json!({ "weight_map": weight_map });
    fs::write(copy.join("model.safetensors.index.json"), index.to_string()).unwrap();
    copy
}

/// Words of a few letters, about 20 kB.
fn text(seed: u64) -> String {
    let mut random = Xoshiro256PlusPlus::seed_from_u64(seed);
    let words = ["the", "cat", "sat", "on", "a", "mat", "and", "ate", "rat", "then", "ran"];
    let word = |_| words[(random.next_u64() % words.len() as u64) as usize];
    (0..5_000).map(word).collect::<Vec<_>>().chunks(12).map(|line| line.join(" ") + "\n").collect()
}

/// Runs a command of the binary on a state directory; returns its standard output.
pub fn inspect(state: &Path, arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_node")).args(arguments).arg("--state").arg(state).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "node {arguments:?} failed: {error}");
    String::from_utf8(output.stdout).unwrap()
}

/// `log show --json`, by key of the machine in hexadecimal.
pub fn machines(state: &Path) -> HashMap<String, Value> {
    let shown: Value = serde_json::from_str(&inspect(state, &["log", "show", "--json"])).unwrap();
    let machines = shown["machines"].as_array().unwrap().iter();
    machines.map(|machine| (machine["key"].as_str().unwrap().to_owned(), machine.clone())).collect()
}

/// All directories hold the same run, and their weights are those that the ledgers give when replayed from the base.
pub fn assert_agreement(states: &[PathBuf]) {
    let digests: Vec<String> = states.iter().map(|state| inspect(state, &["digest"])).collect();
    for (state, digest) in states.iter().zip(&digests) {
        assert_eq!(digest, &digests[0], "{} differs from {}", state.display(), states[0].display());
    }
    let verified: Value = serde_json::from_str(&inspect(&states[0], &["log", "verify", "--json"])).unwrap();
    let replayed =
        format!("vector {} weights {}", verified["vector"].as_str().unwrap(), verified["weights"].as_str().unwrap());
    assert_eq!(digests[0].trim(), replayed);
    assert_eq!(verified["checkpoint_agrees"], true);
}
