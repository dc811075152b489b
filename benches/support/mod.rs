//! What the benches share: a stopwatch that takes the machine's noise out by measuring in pairs, and models of random
//! weights.

#![allow(dead_code)]

use candle_core::{DType, Device, Tensor};
use engine::{
    base::{BaseSettings, Trained},
    embedded,
    model::{Checkpoint, architecture},
};
use protocol::manifest::{DirectionScale, Hyperparameters, ObjectiveLine, Schedule};
use std::{collections::HashMap, fs, path::Path, time::Instant};

/// Whether to be small and brief: always but under `cargo bench`, which passes `--bench`, or with `--test`.
pub fn is_test() -> bool {
    has_argument("--test") || !has_argument("--bench")
}

/// Whether `name` stands on the command line.
pub fn has_argument(name: &str) -> bool {
    std::env::args().any(|argument| argument == name)
}

/// Median seconds of `run`, and the median ratio of its time to that of `baseline`, which runs right before it each
/// time.
pub fn paired<S>(rounds: usize, state: &mut S, baseline: impl Fn(&mut S), run: impl Fn(&mut S)) -> (f64, f64) {
    let (mut times, mut ratios) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        let base = seconds(|| baseline(state));
        let time = seconds(|| run(state));
        times.push(time);
        ratios.push(time / base);
    }
    (median(times), median(ratios))
}

/// How long `f` takes.
pub fn seconds<T>(f: impl FnOnce() -> T) -> f64 {
    let start = Instant::now();
    std::hint::black_box(f());
    start.elapsed().as_secs_f64()
}

/// The middle one.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// The plain read-modify-write sweep: the least that any change of all weights costs.
pub fn plain(weights: &mut [f32]) {
    weights.iter_mut().for_each(|weight| *weight = -*weight);
    std::hint::black_box(weights);
}

/// A figure that scripts read (`scripts/bench.sh`).
pub fn tell(name: &str, value: f64) {
    println!("BENCH {name} {value:.4}");
}

/// A Llama without its weights, and what it is fed.
pub struct Shape {
    pub name: &'static str,
    hidden: usize,
    intermediate: usize,
    layers: usize,
    heads: usize,
    kv_heads: usize,
    pub vocabulary: usize,
    pub batch: usize,
    /// Positions of a window whose next token is predicted.
    pub length: usize,
}

/// From the smallest that is of use to what fills a laptop's caches many times over.
pub const SHAPES: [Shape; 3] = [
    Shape {
        name: "260K",
        hidden: 64,
        intermediate: 172,
        layers: 5,
        heads: 8,
        kv_heads: 4,
        vocabulary: 512,
        batch: 8,
        length: 127,
    },
    Shape {
        name: "15M",
        hidden: 288,
        intermediate: 768,
        layers: 6,
        heads: 6,
        kv_heads: 6,
        vocabulary: 32_000,
        batch: 8,
        length: 127,
    },
    Shape {
        name: "125M",
        hidden: 768,
        intermediate: 2048,
        layers: 12,
        heads: 12,
        kv_heads: 12,
        vocabulary: 50_272,
        batch: 8,
        length: 64,
    },
];

/// A model of many layers, as small ones of today are (SmolLM2-135M): one of its groups is a small part of it.
pub const DEEP: Shape = Shape {
    name: "135M",
    hidden: 576,
    intermediate: 1536,
    layers: 30,
    heads: 9,
    kv_heads: 3,
    vocabulary: 49_152,
    batch: 8,
    length: 64,
};

/// The shapes that the command line names; without a name all, or as a test only the smallest.
pub fn shapes() -> impl Iterator<Item = &'static Shape> {
    let named = SHAPES.iter().any(|shape| has_argument(shape.name));
    SHAPES.iter().filter(move |shape| match named {
        true => has_argument(shape.name),
        false => !is_test() || shape.name == "260K",
    })
}

/// Whether the command line names `shape`, or none.
pub fn is_wanted(shape: &Shape) -> bool {
    has_argument(shape.name) || !SHAPES.iter().chain([&DEEP]).any(|shape| has_argument(shape.name))
}

impl Shape {
    /// The name of a figure of this shape: the plain one is the largest shape's.
    pub fn figure(&self, name: &str) -> String {
        if self.name == SHAPES[SHAPES.len() - 1].name { name.into() } else { format!("{name}_{}", self.name) }
    }

    /// `config.json`.
    pub fn config(&self) -> String {
        format!(
            r#"{{"model_type": "llama", "hidden_size": {}, "intermediate_size": {}, "num_hidden_layers": {}, "num_attention_heads": {},
            "num_key_value_heads": {}, "vocab_size": {}, "max_position_embeddings": 512, "rms_norm_eps": 1e-5,
            "tie_word_embeddings": true, "bos_token_id": null, "eos_token_id": null}}"#,
            self.hidden, self.intermediate, self.layers, self.heads, self.kv_heads, self.vocabulary
        )
    }

    /// Random weights in bf16, and the embedded model's tokenizer, in `directory`, which is made.
    pub fn checkpoint(&self, directory: &Path) -> Checkpoint {
        let tensors: HashMap<String, Tensor> = architecture(self.config().as_bytes())
            .expect("a sound config")
            .tensors()
            .into_iter()
            .map(|(name, dims)| {
                let values = Tensor::randn(0f32, 0.05, dims, &Device::Cpu).expect("memory");
                (name, values.to_dtype(DType::BF16).expect("memory"))
            })
            .collect();
        let tokenizer = embedded::checkpoint().expect("the embedded model is sound").tokenizer;
        let write = |name: &str, bytes: &[u8]| fs::write(directory.join(name), bytes).expect("room on the disk");
        fs::create_dir_all(directory).expect("room on the disk");
        write("config.json", self.config().as_bytes());
        write("tokenizer.json", &tokenizer);
        candle_core::safetensors::save(&tensors, directory.join("model.safetensors")).expect("room on the disk");
        Checkpoint::load(directory).expect("a sound checkpoint")
    }
}

/// What a new run decides beside its base.
pub fn settings() -> BaseSettings {
    let hyperparameters = Hyperparameters {
        learning_rate: 3e-4,
        epsilon: 1e-3,
        planned_gradients: 100_000,
        direction_scale: DirectionScale::Rms,
    };
    BaseSettings {
        objective: ObjectiveLine::NextToken,
        hyperparameters,
        schedule: Schedule::default(),
        ledger_samples_max: 1 << 32,
        replay_budget: 1_000_000,
        authority: None,
        trained: Trained::All,
        adapters: None,
    }
}

/// Peak resident memory of this process so far, MiB. None where the system does not tell.
pub fn peak_memory_mib() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<f64>().ok()? / 1024.0)
}

/// The last word, a number, that this program prints when it is run anew with `arguments`.
pub fn in_a_process_of_its_own(arguments: &[&str]) -> Option<f64> {
    let output = std::process::Command::new(std::env::current_exe().ok()?).args(arguments).output().ok()?;
    String::from_utf8(output.stdout).ok()?.split_whitespace().last()?.parse().ok()
}
