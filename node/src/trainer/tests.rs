use super::*;
use crate::{
    embedded,
    opened::Opened,
    storage::{BaseSettings, StateDir, start_run},
};
use protocol::{
    codec::MULTIPLIER_ONE,
    machine::MachineId,
    manifest::{DirectionScale, Hyperparameters, Schedule},
    replay::{self, Contribution, Sweep},
    replica::OwnByte,
    seed::EntrySeed,
    spsa::Spsa,
};
use rand_xoshiro::{Xoshiro256PlusPlus, rand_core::SeedableRng};
use std::num::NonZeroU32;

const MACHINE: MachineId = MachineId { key: [3; 32], incarnation: 7 };

fn run(directory: &std::path::Path) -> Opened {
    let state = StateDir::create_or_open(directory).unwrap();
    let hyperparameters = Hyperparameters {
        learning_rate: 3e-4,
        epsilon: 1e-3,
        planned_gradients: 1_000,
        direction_scale: DirectionScale::Rms,
    };
    let (schedule, authority) = (Schedule::default(), None);
    let settings = BaseSettings { hyperparameters, schedule, ledger_samples_max: 1 << 20, authority };
    start_run(&state, embedded::checkpoint().unwrap(), settings).unwrap();
    Opened::of(state).unwrap()
}

fn trainer(opened: &Opened, estimator: Estimator) -> Trainer {
    let weights = opened.base_weights().unwrap();
    let (model, tokenizer) = opened.model(&weights).unwrap();
    let data = embedded::training(1, &tokenizer, 16).unwrap();
    let epsilon = opened.manifest.hyperparameters.epsilon;
    let settings = ProbeSettings { epsilon, estimator, batch_size: 1, data_seed: 1 };
    let (spsa, random) = (Spsa::new(opened.manifest.levels), Xoshiro256PlusPlus::seed_from_u64(1));
    let manifest = opened.manifest.clone();
    let mut trainer = Trainer::new(opened.run, manifest, weights, model, Some(data), None, settings, spsa, random);
    trainer.adopt(MACHINE, 0);
    trainer
}

fn entry(opened: &Opened, own: &OwnByte) -> Contribution {
    let seed = EntrySeed::derive(&opened.run, &own.machine, own.sample);
    replay::contribution(seed, own.byte, own.swarm_step, &opened.manifest.schedule)
}

#[test]
fn whatever_the_estimator_the_weights_hold_what_was_published_and_no_more() {
    let directory = tempfile::tempdir().unwrap();
    let opened = run(directory.path());
    let three = Estimator::Fzoo { probes: NonZeroU32::new(3).unwrap() };
    for estimator in [three, Estimator::Spsa, Estimator::Mezo] {
        let mut trainer = trainer(&opened, estimator);
        let (mut own, mut entries) = (Vec::new(), Vec::new());
        for sample in 0..3 {
            own.extend(trainer.step(u64::MAX).unwrap().own);
            // Another machine's gradient arrives between the steps.
            let seed = EntrySeed([sample; 32]);
            let other = Contribution { seed, byte: 90, multiplier: MULTIPLIER_ONE, removed: false };
            entries.push(other);
            trainer.replay(vec![other]);
        }
        assert_eq!(own.len(), if estimator == three { 9 } else { 3 }, "{estimator:?}");
        assert!(own.iter().zip(0..).all(|(own, sample)| own.sample == sample && own.machine == MACHINE));
        assert!(own.iter().any(|own| own.byte != 0), "{estimator:?} measured nothing");
        let mut expected = opened.base_weights().unwrap();
        entries.extend(own.iter().map(|own| entry(&opened, own)));
        expected.sweep(&Sweep { probes: Vec::new(), contributions: entries }).unwrap();
        assert_eq!(trainer.weights().unwrap().digest(), expected.digest(), "{estimator:?}");
    }
}

#[test]
fn no_sample_beyond_the_limit_is_measured() {
    let directory = tempfile::tempdir().unwrap();
    let opened = run(directory.path());
    let mut trainer = trainer(&opened, Estimator::default());
    let lengths: Vec<usize> = (0..2).map(|_| trainer.step(20).unwrap().own.len()).collect();
    assert_eq!(lengths, [16, 4]);
    assert_eq!(trainer.position(), (MACHINE, 20));
}
