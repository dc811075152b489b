//! The trainer: measures own gradients and keeps the weights, on its own thread, without network or disk.

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
use std::sync::Arc;

use crate::{
    dataset::Dataset,
    model::{Evaluation, Llama},
    weights::Weights,
};

pub mod thread;

/// What a machine chooses for its own probes.
#[derive(Clone, Debug)]
pub struct ProbeSettings {
    /// Size of the perturbation, as in the manifest unless chosen otherwise by the run.
    pub epsilon: f64,
    /// Windows per batch.
    pub batch_size: usize,
    /// Seed of the own data order.
    pub data_seed: u64,
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
    near_edge: bool,
}

/// One own gradient.
#[derive(Clone, Copy, Debug)]
pub struct Step {
    /// The byte, and where it belongs.
    pub own: OwnByte,
    /// Mean of the two losses, nats per token.
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
            near_edge: false,
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

    /// Whether some weight is so near to its range's end that own probes should pause.
    pub fn near_edge(&self) -> bool {
        self.near_edge
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
        // Only what takes entries out can heal; a sweep that touches little says little.
        let heals = sweep.contributions.iter().any(|contribution| contribution.removed);
        self.near_edge = report.near_edge() || self.near_edge && !heals;
        Ok(())
    }

    /// One own gradient by two-sided SPSA (MeZO, algorithm 1): two forwards, two sweeps.
    ///
    /// The first sweep does everything at once: restores the last probe, applies its byte and all waiting entries, and moves
    /// to θ + εz. The second moves to θ − εz.
    pub fn step(&mut self) -> Result<Step> {
        let Some(data) = &self.data else { anyhow::bail!("this node has no data to train on") };
        let seed = EntrySeed::derive(&self.run, &self.machine, self.next_sample);
        let batch = data.batch(self.settings.data_seed, self.next_sample, self.settings.batch_size)?;
        let mut forth = std::mem::take(&mut self.owed);
        forth.probes.push((seed, 1));
        self.sweep(&forth)?;
        let plus = self.model.loss(&batch)?;
        self.sweep(&Sweep { probes: vec![(seed, -2)], contributions: Vec::new() })?;
        self.owed.probes.push((seed, 1));
        let minus = self.model.loss(&batch)?;
        let byte = self.encode(plus, minus);
        self.owed.contributions.push(replay::contribution(seed, byte, self.swarm_step, &self.manifest.schedule));
        let own = OwnByte { machine: self.machine, sample: self.next_sample, byte, swarm_step: self.swarm_step };
        self.next_sample += 1;
        Ok(Step { own, loss: (plus + minus) / 2.0 })
    }

    fn encode(&mut self, plus: f64, minus: f64) -> i8 {
        let uniform = (self.random.next_u64() >> 11) as f64 / (1u64 << 53) as f64;
        let g = spsa::projected_gradient(plus, minus, self.settings.epsilon);
        let byte = self.spsa.encode(g, uniform);
        if byte == codec::VOID {
            tracing::warn!(
                sample = self.next_sample,
                loss_plus = plus,
                loss_minus = minus,
                "the loss is not finite: this sample is void. If it happens again and again, the learning rate of the run \
                 is too high for this model, or the data holds what the model cannot read"
            );
        }
        byte
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
