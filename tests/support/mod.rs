//! A tiny run for tests: a random model, a generated text, and real node processes.

#![allow(dead_code, missing_docs)]

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
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::JoinHandle,
    time::{Duration, Instant},
};

/// Longest wait for anything that a process should do.
pub const PATIENCE: Duration = Duration::from_secs(60);

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
        let common = ["--listen", "/ip4/127.0.0.1/tcp/0", "--no-mdns", "--batch-size", "2", "--sequence-length", "32"];
        let mut command = Command::new(env!("CARGO_BIN_EXE_node"));
        command.arg("--state").arg(&state).arg("--data").arg(text).args(common).args(arguments);
        Node::spawn(name, state, command)
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
        "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": true
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

/// Words of a few letters, about 20 kB.
fn text(seed: u64) -> String {
    let mut random = Xoshiro256PlusPlus::seed_from_u64(seed);
    let words = ["the", "cat", "sat", "on", "a", "mat", "and", "ate", "rat", "then", "ran"];
    let word = |_| words[(random.next_u64() % words.len() as u64) as usize];
    (0..5_000).map(word).collect::<Vec<_>>().chunks(12).map(|line| line.join(" ") + "\n").collect()
}

#[derive(Default)]
struct Lines {
    lines: Mutex<Vec<String>>,
    grew: Condvar,
}

impl Lines {
    /// Whether a thread that held the lines panicked does not matter to them.
    fn lock(&self) -> MutexGuard<'_, Vec<String>> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A running node.
pub struct Node {
    name: String,
    state: PathBuf,
    child: Child,
    lines: Arc<Lines>,
    reader: Option<JoinHandle<()>>,
}

impl Node {
    fn spawn(name: &str, state: PathBuf, mut command: Command) -> Self {
        let mut child = command
            .env("ONEBYTE_LOG", "error,node=debug")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = Arc::new(Lines::default());
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let shared = lines.clone();
        let reader = std::thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                shared.lock().push(line);
                shared.grew.notify_all();
            }
        });
        Self { name: name.to_owned(), state, child, lines, reader: Some(reader) }
    }

    pub fn lines(&self) -> Vec<String> {
        self.lines.lock().clone()
    }

    pub fn said(&self, text: &str) -> bool {
        self.lines.lock().iter().any(|line| line.contains(text))
    }

    /// Waits for a line on standard error that contains `text`.
    pub fn hear(&self, text: &str) -> String {
        let begun = Instant::now();
        let mut lines = self.lines.lock();
        loop {
            if let Some(line) = lines.iter().find(|line| line.contains(text)) {
                return line.clone();
            }
            let left = PATIENCE.checked_sub(begun.elapsed());
            let Some(left) = left else { panic!("{} never said {text:?}, but:\n{}", self.name, lines.join("\n")) };
            lines = self.lines.grew.wait_timeout(lines, left).unwrap().0;
        }
    }

    /// (address with the peer id, run id) from the line for other machines.
    pub fn join_line(&self) -> (String, String) {
        let line = self.hear("to join from another machine");
        let word_after = |flag: &str| {
            let mut words = line.split_whitespace().skip_while(|word| *word != flag);
            words.nth(1).unwrap_or_else(|| panic!("no {flag} in {line}")).to_owned()
        };
        (word_after("--bootstrap"), word_after("--run"))
    }

    /// The last `version vector … weights …` that the node told at rest.
    pub fn at_rest(&self) -> Option<String> {
        let lines = self.lines.lock();
        let line = lines.iter().rev().find(|line| line.contains("at rest: "))?;
        line.split_once("at rest: ").map(|(_, digest)| digest.to_owned())
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Sends a signal by name.
    pub fn signal(&self, signal: &str) {
        let sent = Command::new("kill").arg(format!("-{signal}")).arg(self.child.id().to_string()).status().unwrap();
        assert!(sent.success(), "{} cannot be sent {signal}", self.name);
    }

    /// Asks the node to leave; returns its state directory.
    pub fn leave(mut self) -> PathBuf {
        assert!(self.is_running(), "{} is gone already:\n{}", self.name, self.lines().join("\n"));
        self.signal("TERM");
        let status = self.wait();
        assert!(status.success(), "{} left with {status}:\n{}", self.name, self.lines().join("\n"));
        self.state.clone()
    }

    /// Waits until the node leaves by itself.
    pub fn finish(mut self) -> PathBuf {
        let status = self.wait();
        assert!(status.success(), "{} left with {status}:\n{}", self.name, self.lines().join("\n"));
        self.state.clone()
    }

    fn wait(&mut self) -> ExitStatus {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                if let Some(reader) = self.reader.take() {
                    let _ = reader.join();
                }
                return status;
            }
            assert!(begun.elapsed() < PATIENCE, "{} does not leave:\n{}", self.name, self.lines().join("\n"));
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- {}:\n{}", self.name, self.lines().join("\n"));
        }
    }
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
