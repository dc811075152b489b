//! The trainer: measures own gradients and keeps the weights exact. It has no thread, no network and no disk.

use anyhow::{Context, Result};
use candle_core::Tensor;
use protocol::{
    codec::MULTIPLIER_ONE,
    machine::MachineId,
    manifest::{Manifest, RunId, TensorSpec},
    replay::{self, Contribution, Sweep},
    replica::OwnByte,
    seed::{EntrySeed, EntrySeeds},
};
use rand_xoshiro::{Xoshiro256PlusPlus, rand_core::Rng};
use std::{collections::BTreeMap, sync::Arc};

use crate::{
    data::Dataset,
    estimator::{Company, Estimator, Measured, Normalizer, Probe, Stride, TRIALS_MAX, direction_scale},
    model::{Batch, Gradient, Model, Sampling, Stage, SuffixModel, Tokenizer, generate},
    objective::{Evaluation, Objective, evaluate_watched},
    weights::{SweepReport, Weights},
};

#[cfg(test)]
mod tests;

/// At least so many weights for each direction of one batch: fewer would be near to following the gradient itself.
const WEIGHTS_PER_PROJECTION: u64 = 100;

/// What a machine chooses for its own probes.
#[derive(Clone, Debug)]
pub struct ProbeSettings {
    /// Size of the perturbation, as in the manifest unless chosen otherwise by the run.
    pub epsilon: f64,
    /// From losses to bytes.
    pub estimator: Estimator,
    /// Windows or rows per batch.
    pub batch_size: usize,
    /// Seed of the own data order.
    pub data_seed: u64,
}

/// What a trainer is made of.
pub struct Parts {
    /// The hash of `manifest`.
    pub run: RunId,
    /// What the run agreed on.
    pub manifest: Arc<Manifest>,
    /// The exact weights, which `model` shares.
    pub weights: Weights,
    /// Computes with `weights`.
    pub model: SuffixModel,
    /// What is made smaller.
    pub objective: Box<dyn Objective>,
    /// Own text; without it the trainer only replays.
    pub data: Option<Dataset>,
    /// Text for [`Trainer::evaluate`].
    pub held_out: Option<Dataset>,
    /// How own gradients are measured.
    pub settings: ProbeSettings,
    /// As an earlier session left it, or new.
    pub normalizer: Normalizer,
    /// Draws the rounding of own bytes.
    pub random: Xoshiro256PlusPlus,
}

/// Own model, weights and data, at work.
pub struct Trainer {
    parts: Parts,
    machine: MachineId,
    next_sample: u64,
    swarm_step: u64,
    /// What the weights still lack: the restore of the last probe, its own byte, and peers' entries.
    owed: Sweep,
    /// Entries of others in `owed`.
    waiting: usize,
    company: Company,
    near_edge: Option<SweepReport>,
    /// Rows of the held-out text at a time.
    look_rows: usize,
    /// Where each group's first tensor is used.
    stages: Vec<Stage>,
}

/// Own gradients that were measured together.
#[derive(Clone, Debug)]
pub struct Step {
    /// The bytes, in the order of their samples.
    pub own: Vec<OwnByte>,
    /// Mean of the losses, nats per token; per row, where rows have choices.
    pub loss: f64,
}

/// By group: the stage of a forward at which its first tensor comes in. `stage`: of a tensor.
pub fn first_stages(manifest: &Manifest, stage: impl Fn(&str) -> Stage) -> Vec<Stage> {
    let mut stages = vec![Stage::Head; manifest.groups.members.len()];
    for spec in &manifest.tensors {
        let first = &mut stages[usize::from(spec.group)];
        *first = stage(&spec.name).min(*first);
    }
    stages
}

impl Trainer {
    /// At sample 0 of no machine: see [`Trainer::adopt`].
    pub fn new(parts: Parts) -> Self {
        let machine = MachineId { key: [0; 32], incarnation: 0 };
        Self {
            stages: first_stages(&parts.manifest, |tensor| parts.model.stage(tensor)),
            look_rows: parts.settings.batch_size,
            parts,
            machine,
            next_sample: 0,
            swarm_step: 0,
            owed: Sweep::default(),
            waiting: 0,
            company: Company::default(),
            near_edge: None,
        }
    }

    /// Rows of the held-out text that are looked at side by side, at least one: more take less time where weights are
    /// unpacked for each forward, and more memory. As many as a batch has, unless it is told.
    pub fn set_look_rows(&mut self, rows: usize) {
        self.look_rows = rows.max(1);
    }

    /// Whose samples come next, and from which number on.
    pub fn adopt(&mut self, machine: MachineId, next_sample: u64) {
        (self.machine, self.next_sample) = (machine, next_sample);
    }

    /// The machine and the sample that comes next.
    pub fn position(&self) -> (MachineId, u64) {
        (self.machine, self.next_sample)
    }

    /// The run whose samples they are.
    pub fn run(&self) -> &RunId {
        &self.parts.run
    }

    /// The swarm step whose learning rate own bytes use.
    pub fn set_swarm_step(&mut self, swarm_step: u64) {
        self.swarm_step = swarm_step;
    }

    /// The normaliser, to survive a restart.
    pub fn normalizer(&self) -> &Normalizer {
        &self.parts.normalizer
    }

    /// The weight, if any, that is so near to its range's end that own probes should pause: its tensor, and how far it
    /// is from zero (1 is the end).
    pub fn near_edge(&self) -> Option<(&str, f64)> {
        let report = self.near_edge.as_ref()?;
        Some((&self.parts.weights.specs()[report.tensor].name, report.share()))
    }

    /// Takes entries of others; they reach the weights with the next sweep.
    pub fn replay(&mut self, entries: Vec<Contribution>) {
        self.waiting += entries.len();
        self.company.came(entries.iter().filter(|entry| !entry.removed).count() as u64);
        self.owed.contributions.extend(entries);
    }

    /// Entries of others that wait for a sweep.
    pub fn waiting(&self) -> usize {
        self.waiting
    }

    /// Brings the weights to exactly base + contributions.
    pub fn settle(&mut self) -> Result<()> {
        let owed = std::mem::take(&mut self.owed);
        self.sweep(&owed)
    }

    fn sweep(&mut self, sweep: &Sweep) -> Result<()> {
        if sweep.is_empty() {
            return Ok(());
        }
        self.waiting = 0;
        let report = self.parts.weights.sweep(sweep)?;
        // The report is of where the weights went on the way, too: what heals is looked at when they are there.
        if sweep.contributions.iter().any(|contribution| contribution.removed) {
            self.near_edge = Some(self.parts.weights.peak()?).filter(SweepReport::near_edge);
        } else if report.near_edge() {
            self.near_edge = Some(report);
        } else if let Some(near) = &self.near_edge {
            // Its own tensor first: to look at all of them takes long, and would be due at each sweep.
            let is_clear = self.parts.weights.peak_of(near.tensor)?.is_clear();
            if is_clear {
                self.near_edge = Some(self.parts.weights.peak()?).filter(|peak| !peak.is_clear());
            }
        }
        Ok(())
    }

    /// The next own gradients, at least one, none of them of `until_sample` or later. Measured by forwards, they are
    /// all of one round: they move one group of tensors, and each forward costs one sweep.
    pub fn step(&mut self, until_sample: u64) -> Result<Step> {
        let Parts { run, settings, data, manifest, normalizer, .. } = &mut self.parts;
        let data = data.as_ref().context("this node has no data to train on")?;
        let groups = &manifest.groups;
        let group = groups.of_round(run, &self.machine, groups.round(self.next_sample));
        let (estimator, epsilon) = (settings.estimator, settings.epsilon * groups.epsilon_factor(group));
        let until_sample = match estimator {
            Estimator::Projection { .. } => until_sample,
            _ => until_sample.min(groups.round_end(self.next_sample)),
        };
        let batch = data.batch(settings.data_seed, normalizer.next_batch(), settings.batch_size)?;
        let samples_max = until_sample.saturating_sub(self.next_sample);
        // Others' entries reach the weights before the first loss. From then on only this group's weights change.
        self.parts.model.change_from(self.stages[usize::from(group)]);
        let measured = estimator.measure(&mut BatchProbe { trainer: self, batch: &batch }, epsilon, samples_max);
        self.parts.model.change_all();
        let measured = measured?;
        match estimator {
            Estimator::Projection { .. } => self.stride(&measured, &batch),
            _ => {
                let Parts { normalizer, manifest, random, .. } = &mut self.parts;
                let bytes = estimator.encode(&measured.gradients, normalizer, manifest.levels, || uniform(random));
                Ok(self.publish(bytes, &measured.losses))
            }
        }
    }

    /// The loss at θ + `multiple` · εz, after whatever else the weights lack; the way back is owed.
    ///
    /// One sweep does everything at once: it restores the last probe, applies own bytes and all waiting entries, and
    /// perturbs.
    fn probe(&mut self, seed: EntrySeed, multiple: i32, batch: &Batch) -> Result<f64> {
        let mut forth = std::mem::take(&mut self.owed);
        match forth.probes.iter_mut().find(|(back, _)| *back == seed) {
            Some((_, back)) => *back += multiple,
            None => forth.probes.push((seed, multiple)),
        }
        self.sweep(&forth)?;
        self.owed.probes.push((seed, -multiple));
        self.loss(batch)
    }

    /// The loss at the weights as they stand.
    fn loss(&self, batch: &Batch) -> Result<f64> {
        Ok(self.parts.objective.measure(&self.parts.model, batch)?.mean())
    }

    /// Own bytes for the slopes of `batch`, tried on it, and made shorter or longer as trials say: see [`Stride`].
    fn stride(&mut self, measured: &Measured, batch: &Batch) -> Result<Step> {
        let Manifest { hyperparameters, schedule, .. } = &*self.parts.manifest;
        let multiplier = f64::from(schedule.multiplier(self.swarm_step)) / f64::from(MULTIPLIER_ONE);
        let (rate, company) = (hyperparameters.learning_rate * multiplier, self.company.batch());
        let mut stride = Stride::new(measured, rate, company, &mut self.parts.normalizer);
        let mut trials = 0;
        loop {
            let Parts { normalizer, random, .. } = &mut self.parts;
            let bytes = stride.encode(normalizer, || uniform(random));
            let is_tried = trials < TRIALS_MAX && (trials > 0 || stride.is_to_try(normalizer));
            let step = self.publish(bytes, &measured.losses);
            if !is_tried {
                return Ok(step);
            }
            self.settle()?;
            let after = self.loss(batch)?;
            if stride.learn(&mut self.parts.normalizer, after) {
                return Ok(step);
            }
            self.retract(&step);
            trials += 1;
        }
    }

    /// Own bytes from the next sample on; the weights will have them with the next sweep.
    fn publish(&mut self, bytes: Vec<i8>, losses: &[f64]) -> Step {
        let (machine, swarm_step, first) = (self.machine, self.swarm_step, self.next_sample);
        let own = |(sample, byte)| OwnByte { machine, sample, byte, swarm_step };
        let own: Vec<OwnByte> = (first..).zip(bytes).map(own).collect();
        self.owe(&own, false);
        self.next_sample += own.len() as u64;
        Step { own, loss: losses.iter().sum::<f64>() / losses.len() as f64 }
    }

    /// Takes the last own bytes back, which nobody else has yet.
    fn retract(&mut self, step: &Step) {
        self.owe(&step.own, true);
        self.next_sample -= step.own.len() as u64;
    }

    fn owe(&mut self, own: &[OwnByte], removed: bool) {
        let Parts { run, manifest, .. } = &self.parts;
        let mut seeds = EntrySeeds::new(run, &self.machine, &manifest.groups);
        let entry = |own: &OwnByte| {
            let entry = replay::contribution(seeds.of(own.sample), own.byte, own.swarm_step, &manifest.schedule);
            Contribution { removed, ..entry }
        };
        self.owed.contributions.extend(own.iter().map(entry));
    }

    /// Loss on the held-out text at the exact weights, or on rows of it, evenly spread, that cost about `windows_max`
    /// windows of full length. None without held-out text.
    pub fn evaluate(&mut self, windows_max: usize) -> Result<Option<Evaluation>> {
        self.evaluate_watched(windows_max, &mut |_, _| {})
    }

    /// The same. `watch` hears now and then how many rows are done, of how many.
    pub fn evaluate_watched(
        &mut self,
        windows_max: usize,
        watch: &mut dyn FnMut(usize, usize),
    ) -> Result<Option<Evaluation>> {
        let Some(held_out) = &self.parts.held_out else { return Ok(None) };
        let rows_max = held_out.rows_of_windows(windows_max);
        self.look(rows_max, watch)
    }

    /// The same on at most so many rows.
    pub fn evaluate_rows(&mut self, rows_max: usize) -> Result<Option<Evaluation>> {
        self.look(rows_max, &mut |_, _| {})
    }

    fn look(&mut self, rows_max: usize, watch: &mut dyn FnMut(usize, usize)) -> Result<Option<Evaluation>> {
        self.settle()?;
        let Parts { objective, model, held_out, .. } = &self.parts;
        let Some(held_out) = held_out else { return Ok(None) };
        evaluate_watched(&**objective, model, held_out, self.look_rows, Some(rows_max), watch).map(Some)
    }

    /// What the model writes after `prompt` at the exact weights. Errors as [`generate`] does.
    pub fn complete(&mut self, tokenizer: &Tokenizer, prompt: &[u32], sampling: &Sampling) -> Result<String> {
        self.settle()?;
        let mut text = String::new();
        generate(&self.parts.model, tokenizer, prompt, sampling, |piece| {
            text.push_str(piece);
            Ok(())
        })?;
        Ok(text)
    }

    /// The exact weights.
    pub fn weights(&mut self) -> Result<&Weights> {
        self.settle()?;
        Ok(&self.parts.weights)
    }
}

/// Draws from [0, 1).
fn uniform(random: &mut Xoshiro256PlusPlus) -> f64 {
    (random.next_u64() >> 11) as f64 / (1u64 << 53) as f64
}

/// The trainer's weights on the way to and from the points that an estimator asks for, all on one batch.
struct BatchProbe<'a> {
    trainer: &'a mut Trainer,
    batch: &'a Batch,
}

impl Probe for BatchProbe<'_> {
    fn loss(&mut self) -> Result<f64> {
        self.trainer.settle()?;
        self.trainer.loss(self.batch)
    }

    fn loss_along(&mut self, index: u64, multiple: i32) -> Result<f64> {
        let Trainer { parts, machine, next_sample, .. } = &*self.trainer;
        let seed = EntrySeed::derive(&parts.run, machine, next_sample + index, &parts.manifest.groups);
        self.trainer.probe(seed, multiple, self.batch)
    }

    fn slopes(&mut self, count: u64) -> Result<(f64, Vec<f64>)> {
        self.trainer.settle()?;
        let Trainer { parts, machine, next_sample, .. } = &*self.trainer;
        let Parts { run, manifest, weights, model, objective, .. } = parts;
        let mut all = EntrySeeds::new(run, machine, &manifest.groups);
        let seeds = projected((*next_sample..).map(|sample| all.of(sample)), count, &manifest.tensors);
        let is_wanted = |spec: &&TensorSpec| seeds.iter().any(|seed| seed.group == spec.group);
        let specs = weights.specs().iter().filter(is_wanted);
        let wanted: Vec<Tensor> = specs.map(|spec| weights.tensors()[&spec.name].clone()).collect();
        let mut slopes = vec![0f64; seeds.len()];
        let scale = |spec: &TensorSpec| direction_scale(spec, manifest);
        let mut project = |gradients: Vec<Gradient>| weights.project(&seeds, &gradients, scale, &mut slopes);
        let loss = objective.differentiate(model, self.batch, &wanted, &mut project)?.mean();
        // What a loss that is not finite says of directions is nothing.
        let slope = |slope: f64| if loss.is_finite() { slope } else { f64::NAN };
        Ok((loss, slopes.into_iter().map(slope).collect()))
    }
}

/// The first `count` of `seeds`, or fewer: of each group no more than one for [`WEIGHTS_PER_PROJECTION`] of its
/// weights, but at least one.
fn projected(seeds: impl Iterator<Item = EntrySeed>, count: u64, specs: &[TensorSpec]) -> Vec<EntrySeed> {
    let weights_of =
        |group: u16| specs.iter().filter(|spec| spec.group == group).map(TensorSpec::elements).sum::<u64>();
    let mut room = BTreeMap::new();
    let has_room = |seed: &EntrySeed| {
        let room = room.entry(seed.group).or_insert_with(|| (weights_of(seed.group) / WEIGHTS_PER_PROJECTION).max(1));
        let has_room = *room > 0;
        *room = room.saturating_sub(1);
        has_room
    };
    seeds.take(count as usize).take_while(has_room).collect()
}
