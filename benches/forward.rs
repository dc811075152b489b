//! Time of one forward with its loss, random weights. `RAYON_NUM_THREADS=1 cargo bench -p engine --bench forward`.
//!
//! An argument is the name of the one shape to measure. The limit is the processor's multiply-adds: the figure in
//! GFLOP/s counts those of the matrix products and of the causal half of attention.

mod support;

use candle_core::{Device, Tensor};
use engine::{
    model::{Architecture, Batch, llama::LlamaConfig},
    objective::{NextToken, Objective},
};
use std::time::Instant;
use support::{Shape, is_test, shapes};

fn main() {
    for shape in shapes() {
        measure(shape, if is_test() { 3 } else { 101 });
    }
}

fn measure(shape: &Shape, repetitions_max: usize) {
    let checkpoint = shape.checkpoint();
    let config = serde_json::from_slice(&checkpoint.config).expect("JSON");
    let config = LlamaConfig::from_json(config).expect("a sound config");
    let model = config.model(&checkpoint.tensors).expect("a model");
    let positions = shape.batch * shape.length;
    let ids = |salt: usize| (0..positions).map(move |i| ((i * 7919 + salt) % shape.vocabulary) as u32);
    let inputs = Tensor::from_iter(ids(0), &Device::Cpu).and_then(|ids| ids.reshape((shape.batch, shape.length)));
    let batch = Batch { inputs: inputs.expect("inputs"), targets: ids(1).collect() };
    let mut times_ms: Vec<f64> = Vec::new();
    let begin = Instant::now();
    while times_ms.len() < repetitions_max && (times_ms.len() < 2 || begin.elapsed().as_secs() < 5) {
        times_ms.push(1e3 * support::seconds(|| NextToken.measure(&*model, &batch).expect("a loss")));
    }
    times_ms.sort_by(f64::total_cmp);
    let weights: usize = checkpoint.tensors.values().map(Tensor::elem_count).sum();
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
