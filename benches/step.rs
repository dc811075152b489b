//! What training costs beyond its forwards: the time of a step over that of as many forwards, and peak memory over that of
//! inference. The limit of both is 1.
//!
//! `cargo bench --bench step`; an argument is the name of the one shape to measure.

mod support;

use node::{
    dataset::Dataset,
    embedded,
    model::Tokenizer,
    opened::Opened,
    trainer::{Estimator, ProbeSettings, Trainer},
};
use protocol::spsa::Spsa;
use rand_xoshiro::{Xoshiro256PlusPlus, rand_core::SeedableRng};
use support::{Shape, has_argument, in_a_process_of_its_own, is_test, median, peak_memory_mib, seconds, shapes, tell};

const SEED: u64 = 1;

fn main() {
    for shape in shapes() {
        if has_argument("inference") || has_argument("training") {
            return print_peak(shape, has_argument("training"));
        }
        time(shape);
        memory(shape);
    }
}

fn data(tokenizer: &Tokenizer, shape: &Shape) -> Dataset {
    embedded::training(SEED, tokenizer, shape.length + 1).expect("a text")
}

fn trainer(opened: &Opened, shape: &Shape, estimator: Estimator) -> Trainer {
    let weights = opened.base_weights().expect("the base");
    let (model, tokenizer) = opened.model(&weights).expect("a model");
    let settings = ProbeSettings {
        epsilon: opened.manifest.hyperparameters.epsilon,
        estimator,
        batch_size: shape.batch,
        data_seed: SEED,
    };
    let random = Xoshiro256PlusPlus::seed_from_u64(SEED);
    let (spsa, data) = (Spsa::new(opened.manifest.levels), Some(data(&tokenizer, shape)));
    Trainer::new(opened.run, opened.manifest.clone(), weights, model, data, None, settings, spsa, random)
}

fn time(shape: &Shape) {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let opened = shape.start_run(directory.path());
    let weights = opened.base_weights().expect("the base");
    let (model, tokenizer) = opened.model(&weights).expect("a model");
    let data = data(&tokenizer, shape);
    let rounds = match (is_test(), shape.name) {
        (true, _) => 3,
        (false, "260K") => 101,
        (false, _) => 7,
    };
    for (name, estimator, forwards) in [
        ("two_forwards", Estimator::Spsa, 2),
        ("one_sided_forwards", Estimator::Fzoo { probes: Estimator::PROBES }, Estimator::PROBES.get() + 1),
    ] {
        let mut trainer = trainer(&opened, shape, estimator);
        let (mut steps, mut ratios) = (Vec::new(), Vec::new());
        for round in 0..rounds {
            let batch = data.batch(SEED, round, shape.batch).expect("a batch");
            let forward = |_| model.loss(&batch).expect("a loss");
            // Half of the forwards before and half after: what drifts in between weighs on both alike.
            let before = seconds(|| (0..forwards / 2).map(forward).sum::<f64>());
            let step = seconds(|| trainer.step(u64::MAX).expect("a step"));
            let after = seconds(|| (forwards / 2..forwards).map(forward).sum::<f64>());
            steps.push(step);
            ratios.push(step / (before + after));
        }
        let (step, ratio) = (median(steps), median(ratios));
        println!(
            "{:>4}, {} x {}, {} thread(s): {estimator:?} {:.1} ms a step, {ratio:.3} x its {forwards} forwards",
            shape.name,
            shape.batch,
            shape.length,
            rayon::current_num_threads(),
            1e3 * step,
        );
        tell(&shape.figure(&format!("step_over_{name}")), ratio);
    }
}

fn memory(shape: &Shape) {
    let directory = tempfile::tempdir().expect("a temporary directory");
    drop(shape.start_run(directory.path()));
    let state = directory.path().to_str().expect("a printable path");
    // How much threads hold on to differs from run to run.
    let runs = if shape.name == "260K" { 9 } else { 3 };
    let peak = |kind: &str| {
        let peaks = (0..runs).map(|_| in_a_process_of_its_own(&["--bench", shape.name, kind, state]));
        peaks.collect::<Option<Vec<f64>>>().map(median)
    };
    let (Some(inference), Some(training)) = (peak("inference"), peak("training")) else {
        return println!("{:>4}: this system does not tell peak memory", shape.name);
    };
    println!("{:>4}: peak memory {training:.1} MiB training, {inference:.1} MiB inference", shape.name);
    tell(&shape.figure("training_over_inference_memory"), training / inference);
}

/// In a process of its own: loads the run in the last argument, trains or infers a little, prints the peak.
fn print_peak(shape: &Shape, training: bool) {
    let state = std::env::args().next_back().expect("a state directory");
    let opened = Opened::existing(state.as_ref()).expect("the run");
    if training {
        let mut trainer = trainer(&opened, shape, Estimator::default());
        for _ in 0..2 {
            trainer.step(u64::MAX).expect("a step");
        }
    } else {
        let weights = opened.base_weights().expect("the base");
        let (model, tokenizer) = opened.model(&weights).expect("a model");
        let batch = data(&tokenizer, shape).batch(SEED, 0, shape.batch).expect("a batch");
        for _ in 0..2 {
            model.loss(&batch).expect("a loss");
        }
    }
    if let Some(peak) = peak_memory_mib() {
        println!("{peak}");
    }
}
