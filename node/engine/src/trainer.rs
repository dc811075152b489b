//! The trainer: measures own gradients and keeps the weights, without network or disk.

use anyhow::Result;
use protocol::{
    codec,
    machine::MachineId,
    manifest::{Manifest, RunId},
    replay::{self, Contribution, Sweep},
    replica::OwnByte,
    seed::EntrySeed,
    spsa::{self, Spsa},
};
use rand_xoshiro::{Xoshiro256PlusPlus, rand_core::Rng};
use std::{num::NonZeroU32, sync::Arc};

use crate::{
    data::{Batch, Dataset},
    model::{Evaluation, Llama},
    weights::{SweepReport, Weights},
};

/// What a machine chooses for its own probes.
#[derive(Clone, Debug)]
pub struct ProbeSettings {
    /// Size of the perturbation, as in the manifest unless chosen otherwise by the run.
    pub epsilon: f64,
    /// From losses to bytes.
    pub estimator: Estimator,
    /// Windows per batch.
    pub batch_size: usize,
    /// Seed of the own data order.
    pub data_seed: u64,
}

/// How own gradients are estimated. Nobody else needs to know: an entry's effect follows from its byte alone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Estimator {
    /// `probes` bytes from probes + 1 forwards on one batch.
    Fzoo {
        /// Bytes that share a batch and its baseline.
        probes: NonZeroU32,
    },
    /// One byte from two forwards.
    Spsa,
    /// One byte from two forwards, in units of the loss as the paper has it, not of the gradients' own size.
    Mezo,
}

impl Estimator {
    /// Probes that share a baseline, unless told otherwise.
    pub const PROBES: NonZeroU32 = NonZeroU32::new(16).expect("is not zero");
}

impl Default for Estimator {
    fn default() -> Self {
        Self::Fzoo { probes: Self::PROBES }
    }
}

/// Own model, weights and data.
pub struct Trainer {
    run: RunId,
    manifest: Arc<Manifest>,
    weights: Weights,
    model: Llama,
    data: Option<Dataset>,
    held_out: Option<Dataset>,
    settings: ProbeSettings,
    spsa: Spsa,
    random: Xoshiro256PlusPlus,
    machine: MachineId,
    next_sample: u64,
    swarm_step: u64,
    /// What the weights still lack: the restore of the last probe, its own byte, and peers' entries.
    owed: Sweep,
    waiting: usize,
    near_edge: Option<SweepReport>,
}

/// Own gradients that were measured together.
#[derive(Clone, Debug)]
pub struct Step {
    /// The bytes, in the order of their samples.
    pub own: Vec<OwnByte>,
    /// Mean of the losses, nats per token.
    pub loss: f64,
}

impl Trainer {
    /// Works on `weights`, which `model` shares. Without `data` it only replays.
    #[allow(clippy::too_many_arguments)]
    pub fn new(
        run: RunId,
        manifest: Arc<Manifest>,
        weights: Weights,
        model: Llama,
        data: Option<Dataset>,
        held_out: Option<Dataset>,
        settings: ProbeSettings,
        spsa: Spsa,
        random: Xoshiro256PlusPlus,
    ) -> Self {
        let machine = MachineId { key: [0; 32], incarnation: 0 };
        Self {
            run,
            manifest,
            weights,
            model,
            data,
            held_out,
            settings,
            spsa,
            random,
            machine,
            next_sample: 0,
            swarm_step: 0,
            owed: Sweep::default(),
            waiting: 0,
            near_edge: None,
        }
    }

    /// Whose samples come next, and from which number on.
    pub fn adopt(&mut self, machine: MachineId, next_sample: u64) {
        (self.machine, self.next_sample) = (machine, next_sample);
    }

    /// The machine and the sample that comes next.
    pub fn position(&self) -> (MachineId, u64) {
        (self.machine, self.next_sample)
    }

    /// The swarm step whose learning rate own bytes use.
    pub fn set_swarm_step(&mut self, swarm_step: u64) {
        self.swarm_step = swarm_step;
    }

    /// The normaliser's state, to survive a restart.
    pub fn spsa(&self) -> &Spsa {
        &self.spsa
    }

    /// The weight, if any, that is so near to its range's end that own probes should pause: its tensor, and how far it is
    /// from zero (1 is the end).
    pub fn near_edge(&self) -> Option<(&str, f64)> {
        let report = self.near_edge.as_ref()?;
        Some((&self.weights.specs()[report.tensor].name, report.share()))
    }

    /// Takes entries of others; they reach the weights with the next sweep.
    pub fn replay(&mut self, entries: Vec<Contribution>) {
        self.waiting += entries.len();
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
        let report = self.weights.sweep(sweep)?;
        // Only what takes entries out can heal, wherever the weights went on the way.
        if sweep.contributions.iter().any(|contribution| contribution.removed) {
            self.near_edge = Some(self.weights.peak()?).filter(SweepReport::near_edge);
        } else if report.near_edge() {
            self.near_edge = Some(report);
        }
        Ok(())
    }

    /// The next own gradients, at least one, none of them of `until_sample` or later. Each forward costs one sweep.
    pub fn step(&mut self, until_sample: u64) -> Result<Step> {
        let Some(data) = &self.data else { anyhow::bail!("this node has no data to train on") };
        let batch = data.batch(self.settings.data_seed, self.next_sample, self.settings.batch_size)?;
        match self.settings.estimator {
            Estimator::Fzoo { probes } => {
                let room = until_sample.saturating_sub(self.next_sample).max(1);
                self.one_sided(&batch, u64::from(probes.get()).min(room))
            }
            Estimator::Spsa | Estimator::Mezo => self.two_sided(&batch),
        }
    }

    /// One gradient from two forwards (MeZO, arXiv 2305.17333, algorithm 1).
    ///
    /// The first sweep does everything at once: restores the last probe, applies own bytes and all waiting entries, and moves
    /// to θ + εz. The second moves to θ − εz.
    fn two_sided(&mut self, batch: &Batch) -> Result<Step> {
        let seed = EntrySeed::derive(&self.run, &self.machine, self.next_sample);
        let plus = self.probe(seed, 1, batch)?;
        let minus = self.probe(seed, -1, batch)?;
        let g = spsa::projected_gradient(plus, minus, self.settings.epsilon);
        Ok(self.publish(&[g], &[plus, minus]))
    }

    /// `probes` gradients from one forward more than that (FZOO, arXiv 2506.09034): each at θ + εz_i, against one at θ.
    fn one_sided(&mut self, batch: &Batch, probes: u64) -> Result<Step> {
        self.settle()?;
        let mut losses = vec![self.model.loss(batch)?];
        for sample in self.next_sample..self.next_sample + probes {
            losses.push(self.probe(EntrySeed::derive(&self.run, &self.machine, sample), 1, batch)?);
        }
        let gradients = spsa::one_sided_gradients(losses[0], &losses[1..], self.settings.epsilon);
        Ok(self.publish(&gradients, &losses))
    }

    /// The loss at θ + `multiple` · εz, after whatever else the weights lack; the way back is owed.
    fn probe(&mut self, seed: EntrySeed, multiple: i32, batch: &Batch) -> Result<f64> {
        let mut forth = std::mem::take(&mut self.owed);
        match forth.probes.iter_mut().find(|(back, _)| *back == seed) {
            Some((_, back)) => *back += multiple,
            None => forth.probes.push((seed, multiple)),
        }
        self.sweep(&forth)?;
        self.owed.probes.push((seed, -multiple));
        self.model.loss(batch)
    }

    /// Own bytes for `gradients`, from the next sample on; the weights will have them with the next sweep.
    fn publish(&mut self, gradients: &[f64], losses: &[f64]) -> Step {
        let mut own = Vec::with_capacity(gradients.len());
        for g in gradients {
            let (machine, sample, swarm_step) = (self.machine, self.next_sample, self.swarm_step);
            let byte = self.encode(*g);
            let seed = EntrySeed::derive(&self.run, &machine, sample);
            self.owed.contributions.push(replay::contribution(seed, byte, swarm_step, &self.manifest.schedule));
            own.push(OwnByte { machine, sample, byte, swarm_step });
            self.next_sample += 1;
        }
        let loss = losses.iter().sum::<f64>() / losses.len() as f64;
        if own.iter().any(|own| own.byte == codec::VOID) {
            tracing::warn!(
                first_sample = own[0].sample,
                ?losses,
                "a loss is not finite: that sample is void. If it happens again and again, the learning rate of the run is too \
                 high for this model, or the data holds what the model cannot read"
            );
        }
        Step { own, loss }
    }

    fn encode(&mut self, g: f64) -> i8 {
        let uniform = (self.random.next_u64() >> 11) as f64 / (1u64 << 53) as f64;
        match self.settings.estimator {
            Estimator::Mezo => codec::encode(g, self.manifest.levels, uniform),
            Estimator::Fzoo { .. } | Estimator::Spsa => self.spsa.encode(g, uniform),
        }
    }

    /// Loss on the held-out text at the exact weights, or on its first windows if it has more than `windows_max`. None
    /// without held-out text.
    pub fn evaluate(&mut self, windows_max: usize) -> Result<Option<Evaluation>> {
        self.settle()?;
        let Some(held_out) = &self.held_out else { return Ok(None) };
        self.model.evaluate(held_out, self.settings.batch_size, Some(windows_max)).map(Some)
    }

    /// The exact weights.
    pub fn weights(&mut self) -> Result<&Weights> {
        self.settle()?;
        Ok(&self.weights)
    }
}
