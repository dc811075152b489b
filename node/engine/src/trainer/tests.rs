use super::*;
use crate::{
    base::{self, Base, BaseSettings, Started, Trained},
    embedded,
    model::{self, Checkpoint, OriginalFile},
    objective::{LossSum, NextToken},
};
use protocol::{
    codec::MULTIPLIER_ONE,
    manifest::{BaseFile, DirectionScale, Hyperparameters, ObjectiveLine, Schedule},
};
use rand_xoshiro::rand_core::SeedableRng;
use std::{collections::BTreeSet, num::NonZeroU32, sync::Mutex};

const MACHINE: MachineId = MachineId { key: [3; 32], incarnation: 7 };

/// A new run on the embedded model, and its base.
struct Run {
    id: RunId,
    manifest: Arc<Manifest>,
    string: Vec<u8>,
}

impl Run {
    fn new() -> Self {
        Self::training(Trained::All)
    }

    fn training(trained: Trained) -> Self {
        Self::at_rate(3e-3, trained)
    }

    fn at_rate(learning_rate: f64, trained: Trained) -> Self {
        let hyperparameters = Hyperparameters {
            learning_rate,
            epsilon: 1e-2,
            planned_gradients: 1_000,
            direction_scale: DirectionScale::Rms,
        };
        let (schedule, authority) = (Schedule::default(), None);
        let settings = BaseSettings {
            objective: ObjectiveLine::NextToken,
            hyperparameters,
            schedule,
            ledger_samples_max: 1 << 20,
            replay_budget: 1_000_000,
            authority,
            trained,
            adapters: None,
        };
        let Started { manifest, string, .. } = base::start(embedded::checkpoint().unwrap(), settings, [5; 16]).unwrap();
        Self { id: manifest.run_id().unwrap(), manifest: Arc::new(manifest), string }
    }

    /// From the string, as whoever fetched it does.
    fn base(&self) -> Base {
        let mut rest = &self.string[..];
        let file = |file: &BaseFile| {
            let (bytes, behind) = rest.split_at(file.bytes as usize);
            rest = behind;
            OriginalFile::in_memory(file.role, &file.name, bytes.to_vec())
        };
        let files = self.manifest.base.files.iter().map(file).collect();
        Base::of_run(&self.manifest, Checkpoint::of_files("fetched", files).unwrap()).unwrap()
    }

    fn weights(&self) -> Weights {
        self.base().weights
    }

    fn trainer(&self, estimator: Estimator) -> Trainer {
        let weights = self.weights();
        let checkpoint = embedded::checkpoint().unwrap();
        let (tensors, packed) = (weights.tensors(), weights.packed());
        let (model, tokenizer) = model::load_adapted(&checkpoint, tensors, packed, &weights.adapters()).unwrap();
        let epsilon = self.manifest.hyperparameters.epsilon;
        let mut trainer = Trainer::new(Parts {
            run: self.id,
            manifest: self.manifest.clone(),
            weights,
            model: SuffixModel::new(model),
            objective: Box::new(NextToken),
            data: Some(embedded::training(1, &tokenizer, 16).unwrap()),
            held_out: None,
            settings: ProbeSettings { epsilon, estimator, batch_size: 1, data_seed: 1 },
            normalizer: Normalizer::new(self.manifest.levels),
            random: Xoshiro256PlusPlus::seed_from_u64(1),
        });
        trainer.adopt(MACHINE, 0);
        trainer
    }

    fn entry(&self, own: &OwnByte) -> Contribution {
        let seed = EntrySeed::derive(&self.id, &own.machine, own.sample, &self.manifest.groups);
        replay::contribution(seed, own.byte, own.swarm_step, &self.manifest.schedule)
    }
}

#[test]
fn whatever_the_estimator_the_weights_hold_what_was_published_and_no_more() {
    let run = Run::new();
    let three = Estimator::Fzoo { probes: NonZeroU32::new(3).unwrap() };
    let four = Estimator::Projection { projections: NonZeroU32::new(4).unwrap() };
    for estimator in [three, Estimator::Spsa, Estimator::Mezo, four] {
        let mut trainer = run.trainer(estimator);
        let (mut own, mut entries) = (Vec::new(), Vec::new());
        for sample in 0..3 {
            own.extend(trainer.step(u64::MAX).unwrap().own);
            // Another machine's gradient arrives between the steps.
            let seed = EntrySeed { bytes: [sample; 32], group: u16::from(sample) };
            let other = Contribution { seed, byte: 90, multiplier: MULTIPLIER_ONE, removed: false };
            entries.push(other);
            trainer.replay(vec![other]);
        }
        let bytes = if estimator == three { 9 } else { 3 };
        assert_eq!(own.len(), if estimator == four { 12 } else { bytes }, "{estimator:?}");
        assert!(own.iter().zip(0..).all(|(own, sample)| own.sample == sample && own.machine == MACHINE));
        assert!(own.iter().any(|own| own.byte != 0), "{estimator:?} measured nothing");
        let mut expected = run.weights();
        entries.extend(own.iter().map(|own| run.entry(own)));
        expected.sweep(&Sweep { probes: Vec::new(), contributions: entries }).unwrap();
        assert_eq!(trainer.weights().unwrap().digest(), expected.digest(), "{estimator:?}");
    }
}

/// Once only entries that were taken out ended the rest, and where others had moved the weight away it lasted until a
/// restart.
#[test]
fn a_weight_that_others_move_away_from_its_edge_is_near_it_no_more() {
    let run = Run::new();
    let mut trainer = run.trainer(Estimator::Spsa);
    let seed = EntrySeed { bytes: [9; 32], group: 0 };
    let mut is_near_after = |byte: i8| {
        trainer.replay(vec![Contribution { seed, byte, multiplier: MULTIPLIER_ONE, removed: false }; 32]);
        trainer.settle().unwrap();
        trainer.near_edge().is_some()
    };
    assert!((0..2_000).any(|_| is_near_after(127)), "no weight came near its edge");
    let back = (0..2_000).take_while(|_| is_near_after(-127)).count();
    assert!((1..2_000).contains(&back), "{back} times");
    assert!(!is_near_after(127), "what came back a little is not near yet");
}

/// Next tokens, and which batches were measured.
struct Seen(Arc<Mutex<Vec<Vec<u32>>>>);

impl Seen {
    fn note(&self, batch: &Batch) {
        let (tokens, mut seen) = (batch.tokens.to_vec1().unwrap(), self.0.lock().unwrap());
        if seen.last() != Some(&tokens) {
            seen.push(tokens);
        }
    }
}

impl Objective for Seen {
    fn unit(&self) -> &'static str {
        Objective::unit(&NextToken)
    }

    fn measure(&self, model: &dyn Model, batch: &Batch) -> Result<LossSum> {
        self.note(batch);
        NextToken.measure(model, batch)
    }

    fn differentiate(
        &self,
        model: &dyn Model,
        batch: &Batch,
        wanted: &[Tensor],
        hand_out: &mut dyn FnMut(Vec<Gradient>) -> Result<()>,
    ) -> Result<LossSum> {
        self.note(batch);
        NextToken.differentiate(model, batch, wanted, hand_out)
    }
}

/// A batch gives one byte or a thousand: an epoch is all rows once, however many bytes come of it.
#[test]
fn every_row_is_measured_once_before_any_is_measured_again() {
    let run = Run::new();
    let tokenizer = model::Tokenizer::of(&embedded::checkpoint().unwrap()).unwrap();
    let three = Estimator::Fzoo { probes: NonZeroU32::new(3).unwrap() };
    let four = Estimator::Projection { projections: NonZeroU32::new(4).unwrap() };
    for estimator in [three, Estimator::Spsa, four] {
        let mut trainer = run.trainer(estimator);
        let seen = Arc::new(Mutex::new(Vec::new()));
        trainer.parts.objective = Box::new(Seen(seen.clone()));
        trainer.parts.data = Some(Dataset::from_text("one two three four five six", &tokenizer, 4).unwrap());
        let rows = trainer.parts.data.as_ref().unwrap().windows();
        for _ in 0..rows {
            trainer.step(u64::MAX).unwrap();
        }
        let seen = seen.lock().unwrap();
        let different: BTreeSet<&Vec<u32>> = seen.iter().collect();
        assert_eq!((seen.len(), different.len()), (rows, rows), "{estimator:?}");
    }
}

/// Found on SmolLM2-135M: a thousand bytes of one θ, each of a size that suits a probe, made the loss rise.
#[test]
fn a_projection_lowers_the_loss_at_a_rate_that_is_far_too_high() {
    let run = Run::at_rate(0.2, Trained::All);
    let mut trainer = run.trainer(Estimator::Projection { projections: NonZeroU32::new(256).unwrap() });
    let batch = trainer.parts.data.as_ref().unwrap().batch(2, 0, 32).unwrap();
    let before = trainer.loss(&batch).unwrap();
    let mut expected = run.weights();
    for _ in 0..8 {
        let own = trainer.step(u64::MAX).unwrap().own;
        let contributions = own.iter().map(|own| run.entry(own)).collect();
        expected.sweep(&Sweep { probes: Vec::new(), contributions }).unwrap();
    }
    assert_eq!(trainer.weights().unwrap().digest(), expected.digest(), "what was tried in vain is out again");
    let after = trainer.loss(&batch).unwrap();
    assert!(after < before, "{before} → {after}");
}

/// The scale, the stream, the groups and the order of the samples are those of probes: `⟨∇, s·z⟩` is the slope between
/// θ + εz and θ − εz, to what the curvature and the rounding of losses make of it, times the factor by which an entry
/// moves its group further since it moves no other.
#[test]
fn a_projection_is_the_slope_that_a_probe_finds() {
    let run = Run::new();
    let mut trainer = run.trainer(Estimator::default());
    let (epsilon, groups) = (run.manifest.hyperparameters.epsilon, &run.manifest.groups);
    let batch = trainer.parts.data.as_ref().unwrap().batch(1, 0, 4).unwrap();
    let mut probe = BatchProbe { trainer: &mut trainer, batch: &batch };
    let (loss, slopes) = probe.slopes(40).unwrap();
    assert_eq!(slopes.len(), 40);
    assert!((probe.loss().unwrap() - loss).abs() < 1e-5);
    let size = (slopes.iter().map(|slope| slope.powi(2)).sum::<f64>() / 40.0).sqrt();
    for (index, slope) in (0..).zip(&slopes) {
        let difference = probe.loss_along(index, 1).unwrap() - probe.loss_along(index, -1).unwrap();
        let group = groups.of_round(&run.id, &MACHINE, groups.round(index));
        let found = difference / (2.0 * epsilon * groups.epsilon_factor(group)) / groups.share(group).sqrt();
        assert!((found - slope).abs() < 0.03 * size, "sample {index}: {found} and {slope}, rms {size}");
    }
}

#[test]
fn a_batch_projects_each_group_on_at_most_a_hundredth_as_many_directions_as_it_has_weights() {
    let run = Run::new();
    let mut trainer = run.trainer(Estimator::Projection { projections: NonZeroU32::new(4096).unwrap() });
    let own = trainer.step(u64::MAX).unwrap().own.len() as u64;
    let group = |sample: u64| EntrySeed::derive(&run.id, &MACHINE, sample, &run.manifest.groups).group;
    let in_group = |of: u16| (0..own).filter(|sample| group(*sample) == of).count() as u64;
    let most = |of: u16| {
        let specs = run.manifest.tensors.iter().filter(|spec| spec.group == of);
        specs.map(TensorSpec::elements).sum::<u64>() / 100
    };
    assert!((0..run.manifest.groups.members.len() as u16).all(|of| in_group(of) <= most(of)));
    assert!(own == 4096 || in_group(group(own)) == most(group(own)), "no fewer than there may be");
    assert_eq!(trainer.step(own + 7).unwrap().own.len(), 7);
}

#[test]
fn no_sample_beyond_the_limit_is_measured() {
    let run = Run::new();
    let mut trainer = run.trainer(Estimator::default());
    let lengths: Vec<usize> = (0..2).map(|_| trainer.step(20).unwrap().own.len()).collect();
    assert_eq!(lengths, [16, 4]);
    assert_eq!(trainer.position(), (MACHINE, 20));
}

#[test]
fn only_what_the_table_lists_is_trained_and_the_rest_is_exported_as_it_was() {
    let is_trained = |name: &str| name.contains("layers.1.mlp");
    let names: Vec<String> = embedded::checkpoint().unwrap().shapes().map(|(name, _)| name.to_owned()).collect();
    let run = Run::training(Trained::Only(names.iter().filter(|name| is_trained(name)).cloned().collect()));
    assert!(run.manifest.tensors.iter().all(|spec| is_trained(&spec.name)) && run.manifest.tensors.len() == 3);
    let before = embedded::checkpoint().unwrap();
    let mut trainer = run.trainer(Estimator::default());
    let other = Contribution {
        seed: EntrySeed { bytes: [9; 32], group: 0 },
        byte: 127,
        multiplier: MULTIPLIER_ONE,
        removed: false,
    };
    for _ in 0..3 {
        trainer.step(u64::MAX).unwrap();
        trainer.replay(vec![other]);
    }
    let weights = trainer.weights().unwrap();
    assert_ne!(weights.digest(), run.manifest.base_digest());
    for name in &names {
        let values = |tensor: &candle_core::Tensor| tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let is_moved = values(&weights.values(name).unwrap()) != values(&before.tensor(name).unwrap());
        assert_eq!(is_moved, is_trained(name), "{name}");
    }
    let directory = tempfile::tempdir().unwrap();
    model::export(directory.path(), &run.base().checkpoint, &weights.trained()).unwrap();
    let exported = Checkpoint::load(directory.path()).unwrap();
    let bytes = |checkpoint: &Checkpoint, name: &str| {
        let mut all = Vec::new();
        checkpoint
            .for_each_bytes(name, |bytes| {
                all.extend_from_slice(bytes);
                Ok(())
            })
            .unwrap();
        all
    };
    for name in names.iter().filter(|name| !is_trained(name)) {
        assert_eq!(bytes(&exported, name), bytes(&before, name), "{name}");
    }
    let trained = exported.tensor(&run.manifest.tensors[0].name).unwrap();
    assert_eq!(crate::weights::tensor_digest(&trained).unwrap(), {
        crate::weights::tensor_digest(&weights.tensors()[&run.manifest.tensors[0].name]).unwrap()
    });
}
