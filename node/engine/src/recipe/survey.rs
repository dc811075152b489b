//! What a few hundred gradients at the base say about the steps that a run can take.
//!
//! Two curves are measured on rows of the training text, by exact replay that is taken back exactly. Along the sum
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
    base::{AdapterSettings, Base, BaseSettings, Trained},
    data::Dataset,
    estimator::{Estimator, LOSS_NOISE, Normalizer},
    model::{self, Checkpoint, SuffixModel},
    objective,
    trainer::{Parts, ProbeSettings, Trainer},
    weights::Weights,
};

/// Gradients that are measured at the base, if there is time.
const GRADIENTS: u64 = 256;
/// Fewer say nothing, however long they take.
const GRADIENTS_MIN: u64 = 32;
/// Tokens on which the losses along a line are compared, if there is time.
const LINE_TOKENS: usize = 4_096;
/// Windows' worth of tokens on which they are compared at least.
const LINE_WINDOWS_MIN: usize = 4;
/// Losses that the two lines take, about.
const LINE_LOSSES: f64 = 20.0;
/// The lines take so many times as long as is planned at most: whoever gets no turn on this machine finds nothing.
const LINES_TIMES_MAX: u32 = 8;
/// The rate that is tried first; others by doubling or halving.
const RATE_FIRST: f64 = 5e-3;
/// Doublings at most.
const DOUBLINGS: i32 = 24;

/// What is surveyed.
pub struct Ground<'a> {
    /// The base.
    pub checkpoint: Checkpoint,
    /// Training text.
    pub data: &'a Dataset,
    /// What is made smaller.
    pub objective: ObjectiveLine,
    /// Of the run; its learning rate is not used.
    pub hyperparameters: Hyperparameters,
    /// What is trained of it, and beside it.
    pub trained: Trained,
    /// See [`BaseSettings`].
    pub adapters: Option<AdapterSettings>,
    /// Windows or rows per batch.
    pub batch_size: usize,
    /// Of the directions and of the batches.
    pub seed: u64,
    /// Time after which no further gradient is measured. The lines take about as long.
    pub time_max: Duration,
}

/// What was found. Rates are the manifest's.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Survey {
    /// Gradients that were measured.
    pub gradients: u64,
    /// Loss at the base on the rows of the lines, nats per token, or per row with choices.
    pub loss: f64,
    /// The rate whose step along the sum of the gradients gains most.
    pub greedy_rate: f64,
    /// What it gains, nats.
    pub gain: f64,
    /// What a random walk costs, nats per (rate² · steps): half the trace of the curvature along unit steps.
    pub walk_cost: f64,
}

/// Where losses are compared, and with what.
struct Line<'a> {
    trainer: Trainer,
    specs: Vec<TensorSpec>,
    /// Learning rate of `specs`.
    rate: f64,
    rows: usize,
    /// No further loss is measured.
    until: Instant,
    progress: &'a mut dyn FnMut(&str),
}

/// Surveys `ground`. `progress` is told what is being done.
pub fn survey(ground: Ground<'_>, progress: &mut dyn FnMut(&str)) -> Result<Survey> {
    let (mut trainer, manifest) = trainer(&ground)?;
    let (begin, mut own) = (Instant::now(), Vec::new());
    while (own.len() as u64) < GRADIENTS && ((own.len() as u64) < GRADIENTS_MIN || begin.elapsed() < ground.time_max) {
        progress(&format!("measuring at the base: {} of {GRADIENTS} gradients", own.len()));
        own.extend(trainer.step(GRADIENTS)?.own);
    }
    // A batch of sixteen gradients takes seventeen forwards.
    let row_seconds = begin.elapsed().as_secs_f64() / (1.0625 * own.len() as f64 * ground.batch_size as f64);
    let affordable = (ground.time_max.as_secs_f64() / LINE_LOSSES / row_seconds) as usize;
    let rows_of = |windows: usize| ground.data.rows_of_windows(windows);
    let rows = affordable.min(rows_of(LINE_TOKENS / ground.data.sequence_length())).max(rows_of(LINE_WINDOWS_MIN));
    let (machine, next_sample) = trainer.position();
    let entry = |sample, byte| {
        let seed = EntrySeed::derive(trainer.run(), &machine, sample, &manifest.groups);
        Contribution { seed, byte, multiplier: MULTIPLIER_ONE, removed: false }
    };
    let sum: Vec<Contribution> = own.iter().map(|own| entry(own.sample, own.byte)).collect();
    let walk: Vec<Contribution> = (next_sample..2 * next_sample).map(|sample| entry(sample, LEVELS as i8)).collect();
    let specs = manifest.tensors.clone();
    let until = Instant::now() + LINES_TIMES_MAX * ground.time_max.max(begin.elapsed());
    let mut line = Line { trainer, specs, rate: ground.hyperparameters.learning_rate, rows, until, progress };
    let loss = line.loss()?;
    let (greedy_rate, gain) = line.descend(&sum, loss)?;
    let walk_cost = line.wander(&walk, loss, greedy_rate, gain)? / next_sample as f64;
    Ok(Survey { gradients: next_sample, loss, greedy_rate, gain, walk_cost })
}

/// A trainer that stays at the base: its schedule is zero.
fn trainer(ground: &Ground<'_>) -> Result<(Trainer, Arc<Manifest>)> {
    let settings = BaseSettings {
        objective: ground.objective.clone(),
        hyperparameters: ground.hyperparameters,
        schedule: Schedule { knots: vec![Knot { step: 0, multiplier: 0 }] },
        ledger_samples_max: 2 * GRADIENTS,
        replay_budget: 1,
        authority: None,
        trained: ground.trained.clone(),
        adapters: ground.adapters.clone(),
    };
    let seed = ground.seed;
    // A run of its own, which nobody joins: its directions say nothing about those of the run to come.
    let nonce = (u128::from(seed) << 64).to_le_bytes();
    let base = Base::of_new_run(ground.checkpoint.clone(), &settings, nonce)?;
    let manifest = Arc::new(base.manifest(settings, base.write_to(std::io::sink())?.base)?);
    let (model, _) =
        model::load_adapted(&base.checkpoint, base.weights.tensors(), base.weights.packed(), &base.weights.adapters())?;
    let mut trainer = Trainer::new(Parts {
        run: manifest.run_id()?,
        weights: base.weights,
        model: SuffixModel::new(model),
        objective: objective::of(&ground.objective, ground.data)?,
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
        ensure!(
            Instant::now() < self.until,
            "it took much longer than planned: this machine is busy with something else"
        );
        let evaluation = self.trainer.evaluate_rows(self.rows)?.context("a survey has rows")?;
        Ok(evaluation.loss)
    }

    /// The loss after `entries` at learning rate `rate`, which are taken back.
    fn loss_after(&mut self, entries: &[Contribution], rate: f64, backwards: bool) -> Result<f64> {
        let specs: Vec<TensorSpec> = self.specs.iter().map(|spec| at_rate(spec, rate / self.rate)).collect();
        let mut weights = Weights::new(&specs, self.trainer.weights()?.trained())?;
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
        ensure!(
            least < loss - LOSS_NOISE * loss.abs(),
            "no step along the sum of the gradients makes the loss smaller"
        );
        let middle = rate;
        for candidate in [middle * 0.5f64.sqrt(), middle * 2f64.sqrt()] {
            let there = after(candidate)?;
            if there < least {
                (rate, least) = (candidate, there);
            }
        }
        Ok((rate, loss - least))
    }

    /// What a walk of `entries` costs, forth and back in the mean, nats per rate². It is measured where it costs
    /// between an eighth and all of `gain`, as it will in the run: nearer to the base it may even cost nothing.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{embedded, model::Tokenizer};
    use protocol::manifest::DirectionScale;

    const HYPERPARAMETERS: Hyperparameters = Hyperparameters {
        learning_rate: 1e-3,
        epsilon: 2e-2,
        planned_gradients: 1_000,
        direction_scale: DirectionScale::Rms,
    };

    /// Of the embedded model, which has all the time that it wants.
    fn ground(checkpoint: Checkpoint, data: &Dataset) -> Ground<'_> {
        Ground {
            checkpoint,
            data,
            objective: ObjectiveLine::NextToken,
            hyperparameters: HYPERPARAMETERS,
            trained: Trained::All,
            adapters: None,
            batch_size: 2,
            seed: 1,
            time_max: Duration::from_secs(3_600),
        }
    }

    #[test]
    fn a_survey_finds_what_can_be_gained() {
        let checkpoint = embedded::checkpoint().unwrap();
        let data = embedded::training(1, &Tokenizer::of(&checkpoint).unwrap(), 32).unwrap();
        let found = survey(ground(checkpoint, &data), &mut |_| ()).unwrap();
        assert_eq!(found.gradients, GRADIENTS);
        assert!(found.gain > 0.1 && found.gain < found.loss, "{found:?}");
        assert!(found.greedy_rate > 0.0 && found.walk_cost > 0.0, "{found:?}");
    }

    /// On a machine whose processors others had, a start looked for its rate for ever.
    #[test]
    fn no_loss_is_measured_once_the_time_is_up() {
        let checkpoint = embedded::checkpoint().unwrap();
        let data = embedded::training(1, &Tokenizer::of(&checkpoint).unwrap(), 32).unwrap();
        let (trainer, manifest) = trainer(&ground(checkpoint, &data)).unwrap();
        let (specs, until, mut progress) = (manifest.tensors.clone(), Instant::now(), |_: &str| ());
        let mut line = Line { trainer, specs, rate: 1e-3, rows: 4, until, progress: &mut progress };
        let refused = line.loss().unwrap_err().to_string();
        assert!(refused.contains("busy with something else"), "{refused}");
    }

    #[test]
    fn a_survey_of_choices_is_of_their_rows() {
        let checkpoint = embedded::checkpoint().unwrap();
        let tokenizer = Tokenizer::of(&checkpoint);
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("rows.jsonl");
        let row = |index: usize| {
            let (prompt, answer) = [("the sea", 0), ("the hill", 1), ("a sea", 0), ("one hill", 1)][index % 4];
            format!("{{\"prompt\": \"{prompt} is\", \"choices\": [\" wet\", \" high\"], \"answer\": {answer}}}\n")
        };
        std::fs::write(&path, (0..64).map(row).collect::<String>()).unwrap();
        let data = Dataset::load(&path, &tokenizer.unwrap(), 128).unwrap();
        let (hyperparameters, batch_size, time_max) = (HYPERPARAMETERS, 8, Duration::from_secs(3_600));
        let objective = objective::line(data.has_choices(), false).unwrap();
        let ground = |checkpoint, objective| Ground {
            checkpoint,
            data: &data,
            objective,
            hyperparameters,
            trained: Trained::All,
            adapters: None,
            batch_size,
            seed: 1,
            time_max,
        };
        let found = survey(ground(checkpoint.clone(), objective), &mut |_| ()).unwrap();
        assert!(found.gain > 0.0 && found.gain < found.loss && found.greedy_rate > 0.0, "{found:?}");
        assert!(survey(ground(checkpoint, ObjectiveLine::NextToken), &mut |_| ()).is_err());
    }

    #[test]
    fn a_rate_changes_what_an_entry_does_and_nothing_else() {
        let settings = BaseSettings {
            objective: ObjectiveLine::NextToken,
            hyperparameters: HYPERPARAMETERS,
            schedule: Schedule::default(),
            ledger_samples_max: 1,
            replay_budget: 1,
            authority: None,
            trained: Trained::All,
            adapters: None,
        };
        let base = Base::of_new_run(embedded::checkpoint().unwrap(), &settings, [0; 16]).unwrap();
        let spec = &base.weights.specs()[0];
        assert_eq!(&at_rate(spec, 1.0), spec);
        let quanta = |spec: &TensorSpec| spec.unit as f64 * 2f64.powi(i32::from(spec.shift));
        for factor in [1e-3, 0.3, 7.0, 1e3] {
            let other = at_rate(spec, factor);
            assert!(codec::unit_is_valid(other.unit));
            assert!((quanta(&other) / quanta(spec) / factor - 1.0).abs() < 1e-6);
            assert_eq!((other.epsilon, other.range_log2), (spec.epsilon, spec.range_log2));
        }
    }
}
