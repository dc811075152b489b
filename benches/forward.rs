//! Time of one forward with its loss, random weights. `RAYON_NUM_THREADS=1 cargo bench --bench forward`.
//!
//! An argument is the name of the one shape to measure. The limit of windows is the processor's multiply-adds: the
//! figure in GFLOP/s counts those of the matrix products and of the causal half of attention. Rows of 25 tokens on
//! average are compared with the same rows padded to 127; the limit is the ratio of their tokens.

mod support;

use candle_core::{Device, Tensor};
use engine::{
    model::{Batch, Layout, Model, Row, Target, load},
    objective::{NextToken, Objective},
};
use std::time::Instant;
use support::{Shape, is_test, shapes};

/// Lengths of eight rows, as those of SST-2 are spread.
const ROW_LENGTHS: [usize; 8] = [8, 13, 17, 22, 26, 31, 37, 47];
/// What they were padded to.
const PADDED: usize = 127;

fn main() {
    for shape in shapes() {
        let repetitions_max = if is_test() { 3 } else { 101 };
        let directory = tempfile::tempdir().expect("a temporary directory");
        let checkpoint = shape.checkpoint(directory.path());
        let tensors = checkpoint.tensors().expect("memory");
        let (model, _) = load(&checkpoint, &tensors).expect("a model");
        let weights = tensors.values().map(Tensor::elem_count).sum();
        // All heads of all layers: what the output layers of attention take in.
        let output = |(name, tensor): (&String, &Tensor)| name.ends_with("o_proj.weight").then(|| tensor.dims()[1]);
        let heads = tensors.iter().filter_map(output).sum();
        windows(shape, heads, weights, &*model, repetitions_max);
        rows(shape, &*model, repetitions_max / 2 + 1);
    }
}

/// Rows of these lengths, of which the last `predicted` tokens, at most, predict the next.
fn batch(shape: &Shape, lengths: &[usize], predicted: usize) -> Batch {
    let layout = Layout::of_rows(lengths.iter().copied()).expect("rows");
    let id = |i: usize, salt: usize| ((i * 7919 + salt) % shape.vocabulary) as u32;
    let tokens = Tensor::from_iter((0..layout.tokens()).map(|i| id(i, 0)), &Device::Cpu).expect("tokens");
    let (mut targets, mut rows) = (Vec::new(), Vec::new());
    for span in layout.spans() {
        let first = targets.len();
        let end = span.start + span.length;
        let positions = end.saturating_sub(predicted).max(span.start)..end;
        targets.extend(positions.map(|i| Target { position: i as u32, token: id(i, 1) }));
        rows.push(Row::of_text(first..targets.len()));
    }
    Batch { tokens, layout, targets, rows }
}

/// Times of so many measurements of a batch's loss, ms, the shortest first; fewer if they take long.
fn times_ms(model: &dyn Model, batch: &Batch, repetitions_max: usize) -> Vec<f64> {
    let mut times_ms: Vec<f64> = Vec::new();
    let begin = Instant::now();
    while times_ms.len() < repetitions_max && (times_ms.len() < 2 || begin.elapsed().as_secs() < 5) {
        times_ms.push(1e3 * support::seconds(|| NextToken.measure(model, batch).expect("a loss")));
    }
    times_ms.sort_by(f64::total_cmp);
    times_ms
}

fn windows(shape: &Shape, heads: usize, weights: usize, model: &dyn Model, repetitions_max: usize) {
    let batch = batch(shape, &vec![shape.length; shape.batch], shape.length);
    let times_ms = times_ms(model, &batch, repetitions_max);
    let attention = heads * (shape.length + 1) * 2;
    let gflop = batch.layout.tokens() as f64 * (2 * weights + attention) as f64 / 1e9;
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

/// What packing brings where rows are short: two targets a row, as in a completion of a word and the end token.
fn rows(shape: &Shape, model: &dyn Model, repetitions_max: usize) {
    let best = |lengths: &[usize]| times_ms(model, &batch(shape, lengths, 2), repetitions_max)[0];
    let (packed, padded) = (best(&ROW_LENGTHS), best(&[PADDED; ROW_LENGTHS.len()]));
    let limit = (PADDED * ROW_LENGTHS.len()) as f64 / ROW_LENGTHS.iter().sum::<usize>() as f64;
    println!(
        "rows    {:>4}, {} of {} tokens: packed {:.0} a second, padded to {PADDED} {:.0}: {:.2} times, the limit is {limit:.2}",
        shape.name,
        ROW_LENGTHS.len(),
        ROW_LENGTHS.iter().sum::<usize>() / ROW_LENGTHS.len(),
        ROW_LENGTHS.len() as f64 / packed * 1e3,
        ROW_LENGTHS.len() as f64 / padded * 1e3,
        padded / packed,
    );
    support::tell(&shape.figure("padded_over_packed_rows"), padded / packed);
}
