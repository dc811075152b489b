//! How fast a machine replays.

use anyhow::Result;
use protocol::{
    codec::{LEVELS, MULTIPLIER_ONE},
    machine::MachineId,
    manifest::{Groups, REPLAY_BUDGET_MAX, RunId},
    replay::{Contribution, Sweep},
    seed::EntrySeeds,
};
use std::time::{Duration, Instant};

use crate::weights::{ENTRIES_PER_SWEEP, Weights};

/// A new run's swarm makes at most one gradient for so many that its starter can replay: machines may be four times
/// slower than the starter's, or keep time for own gradients.
const HEADROOM: f64 = 4.0;
/// A look that took this long has told enough.
const LOOK: Duration = Duration::from_millis(150);
/// Entries of the first look.
const ENTRIES: u64 = 64;

/// Gradients a second that this machine replays, with the groups drawn as a run draws them. The weights are moved and
/// moved back: afterwards they are the same to the bit.
pub fn replay_rate(weights: &mut Weights, groups: &Groups) -> Result<f64> {
    let mut entries = ENTRIES;
    loop {
        let begun = Instant::now();
        for removed in [false, true] {
            weights.sweep(&made_up(entries, groups, removed))?;
        }
        let took = begun.elapsed();
        if took >= LOOK || entries >= ENTRIES_PER_SWEEP as u64 {
            return Ok(2.0 * entries as f64 / took.as_secs_f64().max(1e-9));
        }
        entries *= 2;
    }
}

/// The replay budget of a run that a machine starts which replays `rate` gradients a second: two digits of it, since a
/// measurement has no more.
pub fn replay_budget(rate: f64) -> u32 {
    let budget = (rate / HEADROOM).clamp(1.0, f64::from(REPLAY_BUDGET_MAX)) as u32;
    let unit = 10u32.pow(budget.ilog10().saturating_sub(1));
    budget / unit * unit
}

/// Entries of a run that does not exist.
fn made_up(entries: u64, groups: &Groups, removed: bool) -> Sweep {
    let (run, machine) = (RunId([0; 32]), MachineId { key: [0; 32], incarnation: 0 });
    let mut seeds = EntrySeeds::new(&run, &machine, groups);
    let entry = |sample| Contribution {
        seed: seeds.of(sample),
        byte: if sample % 2 == 0 { LEVELS as i8 } else { -(LEVELS as i8) },
        multiplier: MULTIPLIER_ONE,
        removed,
    };
    Sweep { probes: Vec::new(), contributions: (0..entries).map(entry).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        base::{Base, BaseSettings, Trained},
        embedded,
    };
    use protocol::manifest::{DirectionScale, Hyperparameters, ObjectiveLine, Schedule};

    #[test]
    fn measuring_the_rate_leaves_the_weights_as_they_were() {
        let hyperparameters = Hyperparameters {
            learning_rate: 1e-2,
            epsilon: 2e-2,
            planned_gradients: 10_000,
            direction_scale: DirectionScale::Rms,
        };
        let settings = BaseSettings {
            objective: ObjectiveLine::NextToken,
            hyperparameters,
            schedule: Schedule::default(),
            ledger_samples_max: 1,
            replay_budget: 1,
            authority: None,
            trained: Trained::All,
            adapters: None,
        };
        let Base { mut weights, groups, .. } =
            Base::of_new_run(embedded::checkpoint().unwrap(), &settings, [0; 16]).unwrap();
        let before = weights.digest();
        weights.sweep(&made_up(ENTRIES, &groups, false)).unwrap();
        assert_ne!(weights.digest(), before, "the entries do move the weights");
        weights.sweep(&made_up(ENTRIES, &groups, true)).unwrap();
        assert!(replay_rate(&mut weights, &groups).unwrap() > 0.0);
        assert_eq!(weights.digest(), before);
    }

    #[test]
    fn a_budget_is_a_quarter_of_the_rate_within_what_a_manifest_allows() {
        let rates = [0.0, 1.0, 39.0, 4_000.0, 4.0 * 12_999.0, 1e12];
        assert_eq!(rates.map(replay_budget), [1, 1, 9, 1_000, 12_000, 16_000_000]);
    }
}
