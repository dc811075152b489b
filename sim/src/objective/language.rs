//! A real language model, trained by the trainer that `node` runs, too.

use anyhow::{Context, Result, ensure};
use engine::{
    base::{self, BaseSettings, Started, Trained},
    data::Dataset,
    embedded,
    estimator::{Estimator, Normalizer},
    model::{Architecture, Checkpoint, SuffixModel, Tokenizer},
    objective,
    trainer::{Parts, ProbeSettings, Trainer},
    weights::{ENTRIES_PER_SWEEP, Weights},
};
use protocol::{
    machine::MachineId,
    manifest::{Manifest, RunId, Schedule},
    replay::{Contribution, Sweep},
    replica::{LedgerRange, OwnByte, Replica},
};
use rand_xoshiro::{Xoshiro256PlusPlus, rand_core::SeedableRng};
use std::sync::Arc;

use super::{Base, LEDGER_SAMPLES_MAX, Learner, Objective, Resumed, hyperparameters, nonce};
use crate::scenario::{LanguageSettings, Sender};

/// As `node` plans.
const PLANNED_GRADIENTS: u64 = 100_000;
/// Windows of a look at the held-out text.
const EVALUATION_WINDOWS: usize = 128;

/// See the module's documentation.
pub struct Language {
    settings: LanguageSettings,
    manifest: Arc<Manifest>,
    run: RunId,
    architecture: Box<dyn Architecture>,
    tokenizer: Tokenizer,
    base: Base,
    /// As [`Learner::snapshot`] makes them.
    base_weights: Vec<u8>,
    texts: Option<(Dataset, Dataset)>,
    seed: u64,
}

impl Language {
    /// Loads the model as `node` does. `authority` is the key that may revoke.
    pub fn new(
        settings: &LanguageSettings,
        replay_budget: u32,
        authority: Option<[u8; 32]>,
        seed: u64,
    ) -> Result<Self> {
        ensure!(
            settings.model.is_none() || settings.data.is_some(),
            "a model of one's own needs a text to train on: --data <file or directory>"
        );
        let hyperparameters = hyperparameters(settings.learning_rate, settings.epsilon, PLANNED_GRADIENTS);
        let checkpoint = match &settings.model {
            Some(directory) => Checkpoint::load(directory)?,
            None => embedded::checkpoint()?,
        };
        let architecture = checkpoint.architecture()?;
        let tokenizer = Tokenizer::of(&checkpoint)?;
        let length = settings.sequence_length;
        let texts = settings.data.as_ref().map(|path| Dataset::load_split(path, &tokenizer, length)).transpose()?;
        let has_choices = texts.as_ref().is_some_and(|(data, _)| data.has_choices());
        let base_settings = BaseSettings {
            objective: objective::line(has_choices, false)?,
            hyperparameters,
            schedule: Schedule::default(),
            ledger_samples_max: LEDGER_SAMPLES_MAX,
            replay_budget,
            authority,
            trained: Trained::All,
            adapters: None,
        };
        let Started { manifest, base, string } = base::start(checkpoint, base_settings, nonce(seed))?;
        let mut base_weights = Vec::new();
        base.weights.write_to(&mut base_weights)?;
        let base = Base::new(string);
        let run = manifest.run_id()?;
        let settings = settings.clone();
        Ok(Self {
            settings,
            manifest: Arc::new(manifest),
            run,
            architecture,
            tokenizer,
            base,
            base_weights,
            texts,
            seed,
        })
    }

    /// Own and held-out text of machine `number`: the embedded task's are written by its grammar, each machine's anew;
    /// a text that was given is everyone's, each machine in its own order.
    fn texts(&self, number: u32) -> Result<(Dataset, Dataset)> {
        let length = self.settings.sequence_length;
        match &self.texts {
            Some((data, held_out)) => Ok((data.clone(), held_out.clone())),
            None => Ok((
                embedded::training(self.data_seed(number), &self.tokenizer, length)?,
                embedded::held_out(&self.tokenizer, length)?,
            )),
        }
    }

    fn estimator(&self, sender: &Sender) -> Result<Estimator> {
        let chosen = match sender.estimator {
            Some(_) => Estimator::new(sender.estimator, None, sender.projections),
            None => Estimator::new(self.settings.estimator, self.settings.probes, self.settings.projections),
        };
        Ok(chosen?.unwrap_or_default())
    }

    fn data_seed(&self, number: u32) -> u64 {
        self.seed.wrapping_mul(0x9E37_79B9_7F4A_7C15).wrapping_add(u64::from(number)) >> 1
    }
}

impl Objective for Language {
    fn manifest(&self) -> &Arc<Manifest> {
        &self.manifest
    }

    fn run(&self) -> RunId {
        self.run
    }

    fn base(&self) -> Option<&Base> {
        (!embedded::is_of(&self.manifest.base)).then_some(&self.base)
    }

    fn batch_samples(&self, sender: &Sender) -> Result<u64> {
        Ok(self.estimator(sender)?.samples())
    }

    fn learner(&self, number: u32, sender: &Sender, resumed: Option<Resumed<'_>>) -> Result<Box<dyn Learner>> {
        let (data, held_out) = self.texts(number)?;
        let (mut bytes, normalizer) = match &resumed {
            Some(resumed) => (resumed.weights, resumed.normalizer),
            None => (&self.base_weights[..], Normalizer::new(self.manifest.levels)),
        };
        let weights = Weights::read_from(&self.manifest.tensors, &mut bytes)?;
        let model = self.architecture.model(weights.tensors())?;
        let settings = ProbeSettings {
            epsilon: self.manifest.hyperparameters.epsilon,
            batch_size: self.settings.batch_size,
            estimator: self.estimator(sender)?,
            data_seed: self.data_seed(number),
        };
        Ok(Box::new(LanguageLearner(Trainer::new(Parts {
            run: self.run,
            manifest: self.manifest.clone(),
            weights,
            model: SuffixModel::new(model),
            objective: objective::of(&self.manifest.objective, &data)?,
            data: Some(data),
            held_out: Some(held_out),
            settings,
            normalizer,
            random: Xoshiro256PlusPlus::seed_from_u64(self.data_seed(number) ^ 0xb17e),
        }))))
    }

    fn digest_from_base(&self, replica: &Replica) -> Result<[u8; 32]> {
        let mut weights = Weights::read_from(&self.manifest.tensors, &mut &self.base_weights[..])?;
        for contributions in replica.batches(replica.effective_ranges(), ENTRIES_PER_SWEEP) {
            weights.sweep(&Sweep { probes: Vec::new(), contributions })?;
        }
        Ok(weights.digest())
    }

    fn loss_unit(&self) -> &'static str {
        match &self.texts {
            Some((data, _)) if data.has_choices() => "nats per row",
            _ => "nats per token",
        }
    }
}

struct LanguageLearner(Trainer);

impl Learner for LanguageLearner {
    fn adopt(&mut self, machine: MachineId, next_sample: u64) {
        self.0.adopt(machine, next_sample);
    }

    fn position(&self) -> (MachineId, u64) {
        self.0.position()
    }

    fn set_swarm_step(&mut self, swarm_step: u64) {
        self.0.set_swarm_step(swarm_step);
    }

    fn replay(&mut self, entries: Vec<Contribution>) -> Result<()> {
        self.0.replay(entries);
        Ok(())
    }

    fn replay_ledger(&mut self, replica: &Replica, range: LedgerRange) -> Result<()> {
        for contributions in replica.batches([range], ENTRIES_PER_SWEEP) {
            self.0.replay(contributions);
            if self.0.waiting() >= ENTRIES_PER_SWEEP {
                self.0.settle()?;
            }
        }
        Ok(())
    }

    fn step(&mut self, until_sample: u64) -> Result<Vec<OwnByte>> {
        Ok(self.0.step(until_sample)?.own)
    }

    fn loss(&mut self) -> Result<f64> {
        let evaluation = self.0.evaluate(EVALUATION_WINDOWS)?.context("there is a held-out text")?;
        Ok(evaluation.loss)
    }

    fn digest(&mut self) -> Result<[u8; 32]> {
        Ok(self.0.weights()?.digest())
    }

    fn snapshot(&mut self) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.0.weights()?.write_to(&mut bytes)?;
        Ok(bytes)
    }

    fn normalizer(&self) -> Normalizer {
        *self.0.normalizer()
    }

    fn near_edge(&self) -> bool {
        self.0.near_edge().is_some()
    }
}
