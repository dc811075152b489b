//! What training costs beyond its forwards: the time of a step over that of as many forwards, and peak memory over that
//! of inference. The limit of both is 1 for what only does forwards. Projection's backward pass is given as gradients a
//! second over those of fzoo, and may take twice the memory.
//!
//! `cargo bench --bench step`; an argument is the name of the one shape to measure.

mod support;

use engine::{
    base::{self, Base},
    data::Dataset,
    embedded,
    estimator::{Estimator, Normalizer},
    model::{Checkpoint, Model, SuffixModel, Tokenizer, load},
    objective::{NextToken, Objective},
    trainer::{Parts, ProbeSettings, Trainer},
    weights::Weights,
};
use protocol::manifest::{Manifest, RunId};
use rand_xoshiro::{Xoshiro256PlusPlus, rand_core::SeedableRng};
use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};
use support::{
    Shape, has_argument, in_a_process_of_its_own, is_test, median, peak_memory_mib, seconds, settings, shapes, tell,
};

const SEED: u64 = 1;
/// Of whose peak memory there is a figure.
const KINDS: [&str; 3] = ["inference", "training", "projection"];
const PROJECTION: Estimator = Estimator::Projection { projections: Estimator::PROJECTIONS };

fn main() {
    for shape in shapes() {
        if let Some(kind) = KINDS.into_iter().find(|kind| has_argument(kind)) {
            return print_peak(shape, kind);
        }
        time(shape);
        projection(shape);
        memory(shape);
    }
}

fn data(tokenizer: &Tokenizer, shape: &Shape) -> Dataset {
    embedded::training(SEED, tokenizer, shape.length + 1).expect("a text")
}

/// A run whose manifest and base are files in a directory.
struct Run {
    manifest: Arc<Manifest>,
    id: RunId,
    base: PathBuf,
}

impl Run {
    fn start(shape: &Shape, directory: &Path) -> Self {
        let started = base::start(shape.checkpoint(directory), settings(), [0; 16]).expect("a run");
        let manifest = started.manifest.encode().expect("a manifest");
        fs::write(directory.join("manifest"), manifest).expect("room on the disk");
        fs::write(directory.join("base"), started.string).expect("room on the disk");
        Self::open(directory)
    }

    fn open(directory: &Path) -> Self {
        let bytes = fs::read(directory.join("manifest")).expect("the manifest");
        let (manifest, id) = Manifest::decode(&bytes).expect("a sound manifest");
        Self { manifest: Arc::new(manifest), id, base: directory.join("base") }
    }

    fn load(&self) -> (Weights, Box<dyn Model>, Tokenizer) {
        let files = base::files_within(&self.manifest.base.files, &self.base);
        let checkpoint = Checkpoint::of_files("random", files).expect("a sound checkpoint");
        let Base { checkpoint, weights, .. } = Base::of_run(&self.manifest, checkpoint).expect("the run's base");
        let model = load(&checkpoint, weights.tensors());
        let (model, tokenizer) = model.expect("a model");
        (weights, model, tokenizer)
    }

    fn trainer(&self, shape: &Shape, estimator: Estimator) -> Trainer {
        let (weights, model, tokenizer) = self.load();
        Trainer::new(Parts {
            run: self.id,
            manifest: self.manifest.clone(),
            weights,
            model: SuffixModel::new(model),
            objective: Box::new(NextToken),
            data: Some(data(&tokenizer, shape)),
            held_out: None,
            settings: ProbeSettings {
                epsilon: self.manifest.hyperparameters.epsilon,
                estimator,
                batch_size: shape.batch,
                data_seed: SEED,
            },
            normalizer: Normalizer::new(self.manifest.levels),
            random: Xoshiro256PlusPlus::seed_from_u64(SEED),
        })
    }
}

fn time(shape: &Shape) {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let run = Run::start(shape, directory.path());
    let (_weights, model, tokenizer) = run.load();
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
        let mut trainer = run.trainer(shape, estimator);
        let (mut steps, mut ratios) = (Vec::new(), Vec::new());
        for round in 0..rounds {
            let batch = data.batch(SEED, round, shape.batch).expect("a batch");
            let forward = |_| NextToken.measure(&*model, &batch).expect("a loss").mean();
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

/// Gradients a second of projection over those of fzoo, each step after one of the other.
fn projection(shape: &Shape) {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let run = Run::start(shape, directory.path());
    let (mut fzoo, mut projection) = (run.trainer(shape, Estimator::default()), run.trainer(shape, PROJECTION));
    let rounds = if shape.name == "260K" && !is_test() { 31 } else { 3 };
    let rate = |trainer: &mut Trainer| {
        let mut bytes = 0;
        let seconds = seconds(|| bytes = trainer.step(u64::MAX).expect("a step").own.len());
        bytes as f64 / seconds
    };
    // The first step has no own bytes to replay.
    rate(&mut projection);
    let rates: Vec<(f64, f64)> = (0..rounds).map(|_| (rate(&mut fzoo), rate(&mut projection))).collect();
    let ratio = median(rates.iter().map(|(fzoo, projection)| projection / fzoo).collect());
    println!(
        "{:>4}, {} x {}: {:.2} gradients a second with fzoo, {:.1} with projection of {}: {ratio:.1} times",
        shape.name,
        shape.batch,
        shape.length,
        median(rates.iter().map(|(fzoo, _)| *fzoo).collect()),
        median(rates.iter().map(|(_, projection)| *projection).collect()),
        Estimator::PROJECTIONS,
    );
    tell(&shape.figure("projection_over_fzoo"), ratio);
}

fn memory(shape: &Shape) {
    let directory = tempfile::tempdir().expect("a temporary directory");
    drop(Run::start(shape, directory.path()));
    let path = directory.path().to_str().expect("a printable path");
    // How much threads hold on to differs from run to run.
    let runs = if shape.name == "260K" { 9 } else { 3 };
    let peak = |kind: &str| {
        let peaks = (0..runs).map(|_| in_a_process_of_its_own(&["--bench", shape.name, kind, path]));
        peaks.collect::<Option<Vec<f64>>>().map(median)
    };
    let [Some(inference), Some(training), Some(projection)] = KINDS.map(peak) else {
        return println!("{:>4}: this system does not tell peak memory", shape.name);
    };
    println!(
        "{:>4}: peak memory {training:.1} MiB training, {projection:.1} MiB projecting, {inference:.1} MiB inference",
        shape.name
    );
    tell(&shape.figure("training_over_inference_memory"), training / inference);
    tell(&shape.figure("projection_over_inference_memory"), projection / inference);
}

/// In a process of its own: loads the run in the last argument, trains or infers a little, prints the peak.
fn print_peak(shape: &Shape, kind: &str) {
    let path = std::env::args().next_back().expect("a directory");
    let run = Run::open(path.as_ref());
    if kind != "inference" {
        let estimator = if kind == "projection" { PROJECTION } else { Estimator::default() };
        let mut trainer = run.trainer(shape, estimator);
        for _ in 0..2 {
            trainer.step(u64::MAX).expect("a step");
        }
    } else {
        let (_weights, model, tokenizer) = run.load();
        let batch = data(&tokenizer, shape).batch(SEED, 0, shape.batch).expect("a batch");
        for _ in 0..2 {
            NextToken.measure(&*model, &batch).expect("a loss").mean();
        }
    }
    if let Some(peak) = peak_memory_mib() {
        println!("{peak}");
    }
}
