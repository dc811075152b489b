//! Time of one forward with its loss, random weights. `RAYON_NUM_THREADS=1 cargo bench -p node --bench forward`.
//!
//! An argument is the name of the one shape to measure. The limit is the processor's multiply-adds: the figure in GFLOP/s counts those of the matrix products and of the causal half
//! of attention.

use candle_core::{Device, Tensor};
use node::{
    dataset::Batch,
    model::{Llama, LlamaConfig, expected_tensors},
};
use std::{collections::BTreeMap, time::Instant};

struct Shape {
    name: &'static str,
    hidden: usize,
    intermediate: usize,
    layers: usize,
    heads: usize,
    kv_heads: usize,
    vocabulary: usize,
    batch: usize,
    length: usize,
}

const SHAPES: [Shape; 3] = [
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

fn main() {
    let test = std::env::args().any(|argument| argument == "--test");
    let chosen = |shape: &&Shape| std::env::args().any(|argument| argument == shape.name);
    let all = !SHAPES.iter().any(|shape| chosen(&shape));
    for shape in SHAPES.iter().filter(|shape| all || chosen(shape)).take(if test { 1 } else { SHAPES.len() }) {
        measure(shape, if test { 2 } else { 200 });
    }
}

fn measure(shape: &Shape, repetitions_max: usize) {
    let json = format!(
        r#"{{"model_type": "llama", "hidden_size": {}, "intermediate_size": {}, "num_hidden_layers": {}, "num_attention_heads": {},
        "num_key_value_heads": {}, "vocab_size": {}, "max_position_embeddings": 512, "rms_norm_eps": 1e-5,
        "tie_word_embeddings": true}}"#,
        shape.hidden, shape.intermediate, shape.layers, shape.heads, shape.kv_heads, shape.vocabulary
    );
    let config = LlamaConfig::from_json(json.as_bytes()).expect("a sound config");
    let tensors: BTreeMap<String, Tensor> = expected_tensors(&config)
        .into_iter()
        .map(|(name, dims)| (name, Tensor::randn(0f32, 0.05, dims, &Device::Cpu).expect("a tensor")))
        .collect();
    let model = Llama::new(&config, &tensors).expect("a model");
    let positions = shape.batch * shape.length;
    let ids = |salt: usize| (0..positions).map(move |i| ((i * 7919 + salt) % shape.vocabulary) as u32);
    let inputs = Tensor::from_iter(ids(0), &Device::Cpu).and_then(|ids| ids.reshape((shape.batch, shape.length)));
    let batch = Batch { inputs: inputs.expect("inputs"), targets: ids(1).collect() };
    let mut times_ms: Vec<f64> = Vec::new();
    let begin = Instant::now();
    while times_ms.len() < repetitions_max && (times_ms.len() < 2 || begin.elapsed().as_secs() < 5) {
        let start = Instant::now();
        let loss = model.loss(&batch).expect("a loss");
        assert!(loss.is_finite());
        times_ms.push(start.elapsed().as_secs_f64() * 1e3);
    }
    times_ms.sort_by(f64::total_cmp);
    let weights: usize = tensors.values().map(Tensor::elem_count).sum();
    let attention = config.layers * config.heads * config.head_dim * (shape.length + 1) * 2;
    let gflop = positions as f64 * (2 * weights + attention) as f64 / 1e9;
    let (best, median) = (times_ms[0], times_ms[times_ms.len() / 2]);
    println!(
        "forward {:>4}, {} x {}, {} thread(s): best {best:.2} ms, median {median:.2} ms, {:.0} GFLOP/s",
        shape.name,
        shape.batch,
        shape.length,
        rayon::current_num_threads(),
        gflop / best * 1e3,
    );
}
