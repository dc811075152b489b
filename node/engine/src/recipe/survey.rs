//! What a few hundred gradients at the base say about the steps that a run can take.
//!
//! Two curves are measured on windows of the training text, by exact replay that is taken back exactly. Along the sum
//! of the gradients the loss falls and rises again: the most that it falls is the *gain*. Along a random walk of as
//! many steps it only rises: that is what the noise in every step costs.

use anyhow::{Context, Result, ensure};
use protocol::{
    codec::{self, LEVELS, MULTIPLIER_ONE},
    machine::MachineId,
    manifest::{Hyperparameters, Knot, Manifest, ObjectiveLine, Schedule, TensorSpec},
    replay::{Contribution, Sweep},
    seed::EntrySeed,
};
use rand_xoshiro::{Xoshiro256PlusPlus, rand_core::SeedableRng};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use crate::{
    base::{Base, BaseSettings},
    data::Dataset,
    estimator::{Estimator, Normalizer},
    model::{self, Checkpoint, SuffixModel},
    objective::NextToken,
    trainer::{Parts, ProbeSettings, Trainer},
    weights::Weights,
};

/// Gradients that are measured at the base, if there is time.
const GRADIENTS: u64 = 256;
/// Fewer say nothing, however long they take.
const GRADIENTS_MIN: u64 = 32;
/// Predicted tokens on which the losses along a line are compared.
const LINE_TOKENS: usize = 2_048;
/// The rate that is tried first; others by doubling or halving.
const RATE_FIRST: f64 = 1e-3;
/// Doublings at most.
const DOUBLINGS: i32 = 24;

/// What is surveyed.
pub struct Ground<'a> {
    /// The base; its tensors are snapped in place, and end as the base again.
    pub checkpoint: Checkpoint,
    /// Training text.
    pub data: &'a Dataset,
    /// Of the run; its learning rate is not used.
    pub hyperparameters: Hyperparameters,
    /// Windows per batch.
    pub batch_size: usize,
    /// Time after which no further gradient is measured.
    pub time_max: Duration,
}

/// What was found. Rates are the manifest's.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Survey {
    /// Gradients that were measured.
    pub gradients: u64,
    /// Loss at the base on the windows of the lines, nats.
    pub loss: f64,
    /// The rate whose step along the sum of the gradients gains most.
    pub greedy_rate: f64,
    /// What it gains, nats.
    pub gain: f64,
    /// What a random walk costs, nats per (rate² · steps): half the trace of the curvature along unit steps.
    pub walk_cost: f64,
}

struct Line<'a> {
    trainer: Trainer,
    specs: Vec<TensorSpec>,
    /// Learning rate of `specs`.
    rate: f64,
    windows: usize,
    progress: &'a mut dyn FnMut(&str),
}

/// Surveys `ground`. `progress` is told what is being done.
pub fn survey(ground: Ground<'_>, progress: &mut dyn FnMut(&str)) -> Result<Survey> {
    let windows = (LINE_TOKENS / ground.data.sequence_length()).clamp(1, ground.data.windows());
    let (mut trainer, manifest) = trainer(&ground)?;
    let (begin, mut own) = (Instant::now(), Vec::new());
    while (own.len() as u64) < GRADIENTS && (own.len() as u64 <= GRADIENTS_MIN || begin.elapsed() < ground.time_max) {
        progress(&format!("measuring at the base: {} of {GRADIENTS} gradients", own.len()));
        own.extend(trainer.step(GRADIENTS)?.own);
    }
    let (machine, next_sample) = trainer.position();
    let entry = |sample, byte| {
        let seed = EntrySeed::derive(trainer.run(), &machine, sample, &manifest.groups);
        Contribution { seed, byte, multiplier: MULTIPLIER_ONE, removed: false }
    };
    let sum: Vec<Contribution> = own.iter().map(|own| entry(own.sample, own.byte)).collect();
    let walk: Vec<Contribution> = (next_sample..2 * next_sample).map(|sample| entry(sample, LEVELS as i8)).collect();
    let specs = manifest.tensors.clone();
    let mut line = Line { trainer, specs, rate: ground.hyperparameters.learning_rate, windows, progress };
    let loss = line.loss()?;
    let (greedy_rate, gain) = line.descend(&sum, loss)?;
    let walk_cost = line.wander(&walk, loss, greedy_rate, gain)? / next_sample as f64;
    Ok(Survey { gradients: next_sample, loss, greedy_rate, gain, walk_cost })
}

/// A trainer that stays at the base: its schedule is zero.
fn trainer(ground: &Ground<'_>) -> Result<(Trainer, Arc<Manifest>)> {
    let mut random = [0u8; 24];
    getrandom::fill(&mut random).context("no random numbers from the system")?;
    let settings = BaseSettings {
        objective: ObjectiveLine::NextToken,
        hyperparameters: ground.hyperparameters,
        schedule: Schedule { knots: vec![Knot { step: 0, multiplier: 0 }] },
        ledger_samples_max: 2 * GRADIENTS,
        authority: None,
    };
    let base = Base::of_new_run(ground.checkpoint.clone(), &ground.hyperparameters)?;
    let (nonce, seed) = random.split_at(16);
    let (nonce, seed) = (nonce.try_into()?, u64::from_le_bytes(seed.try_into()?));
    let manifest = Arc::new(base.manifest(settings, nonce, &[])?);
    let (model, _) = model::load(&base.config, &base.tokenizer, base.weights.tensors())?;
    let mut trainer = Trainer::new(Parts {
        run: manifest.run_id()?,
        weights: base.weights,
        model: SuffixModel::new(model),
        objective: Box::new(NextToken),
        data: Some(ground.data.clone()),
        held_out: Some(ground.data.clone()),
        settings: ProbeSettings {
            epsilon: ground.hyperparameters.epsilon,
            estimator: Estimator::default(),
            batch_size: ground.batch_size,
            data_seed: seed,
        },
        normalizer: Normalizer::new(manifest.levels),
        random: Xoshiro256PlusPlus::seed_from_u64(seed),
        manifest: manifest.clone(),
    });
    trainer.adopt(MachineId { key: [0; 32], incarnation: 0 }, 0);
    Ok((trainer, manifest))
}

impl Line<'_> {
    fn loss(&mut self) -> Result<f64> {
        let evaluation = self.trainer.evaluate(self.windows)?.context("a survey has windows")?;
        Ok(evaluation.loss)
    }

    /// The loss after `entries` at learning rate `rate`, which are taken back.
    fn loss_after(&mut self, entries: &[Contribution], rate: f64, backwards: bool) -> Result<f64> {
        let specs: Vec<TensorSpec> = self.specs.iter().map(|spec| at_rate(spec, rate / self.rate)).collect();
        let mut weights = Weights::new(&specs, self.trainer.weights()?.tensors().clone())?;
        let sweep = |removed| {
            let contributions = entries.iter().map(|entry| Contribution { removed, ..*entry }).collect();
            Sweep { probes: Vec::new(), contributions }
        };
        weights.sweep(&sweep(backwards))?;
        let loss = self.loss();
        weights.sweep(&sweep(!backwards))?;
        loss
    }

    /// The rate along `entries` with the least loss, and how far that is below `loss`.
    fn descend(&mut self, entries: &[Contribution], loss: f64) -> Result<(f64, f64)> {
        let mut after = |rate: f64| -> Result<f64> {
            (self.progress)(&format!("looking along their sum, at {rate:.1e}"));
            self.loss_after(entries, rate, false)
        };
        let (mut rate, mut least) = (RATE_FIRST, after(RATE_FIRST)?);
        let factor = if least < loss { 2.0 } else { 0.5 };
        for _ in 0..DOUBLINGS {
            let there = after(rate * factor)?;
            let is_past_the_valley = least < loss && (there.is_nan() || there >= least);
            if is_past_the_valley {
                break;
            }
            (rate, least) = (rate * factor, there);
        }
        ensure!(least < loss, "no step along the sum of the gradients makes the loss smaller");
        let middle = rate;
        for candidate in [middle * 0.5f64.sqrt(), middle * 2f64.sqrt()] {
            let there = after(candidate)?;
            if there < least {
                (rate, least) = (candidate, there);
            }
        }
        Ok((rate, loss - least))
    }

    /// What a walk of `entries` costs, forth and back in the mean, nats per rate². It is measured where it costs between
    /// an eighth and all of `gain`, as it will in the run: nearer to the base it may even cost nothing.
    fn wander(&mut self, entries: &[Contribution], loss: f64, rate: f64, gain: f64) -> Result<f64> {
        let (mut rate, mut cost, mut was_dear) = (rate, f64::INFINITY, false);
        for _ in 0..DOUBLINGS {
            (self.progress)(&format!("walking at random, at {rate:.1e}"));
            let there = (self.loss_after(entries, rate, false)? + self.loss_after(entries, rate, true)?) / 2.0;
            cost = there - loss;
            if cost.is_finite() && cost <= gain && (was_dear || cost > gain / 8.0) {
                break;
            }
            was_dear = cost.is_nan() || cost > gain;
            rate *= if was_dear { 0.5f64.sqrt() } else { 2f64.sqrt() };
        }
        ensure!(cost.is_finite(), "the loss is not finite near the base");
        Ok(cost.max(gain / 8.0) / (rate * rate))
    }
}

/// The same tensor at `factor` times the learning rate.
fn at_rate(spec: &TensorSpec, factor: f64) -> TensorSpec {
    let mut quanta = spec.unit as f64 * 2f64.powi(i32::from(spec.shift)) * factor;
    let mut shift = 0;
    while !codec::unit_is_valid(quanta.round() as u64) {
        (quanta, shift) = (quanta / 2.0, shift + 1);
    }
    TensorSpec { unit: quanta.round() as u64, shift, ..spec.clone() }
}
