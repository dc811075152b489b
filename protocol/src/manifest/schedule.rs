//! The learning rate over the run.

use serde::{Deserialize, Serialize};

use crate::{codec::MULTIPLIER_ONE, error::InvalidManifest};

/// Largest swarm step that a segment may carry: 2^40.
pub const SWARM_STEP_MAX: u64 = 1 << 40;
/// Most knots of a schedule.
pub const KNOTS_MAX: usize = 256;

/// One knot of the learning-rate schedule.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Knot {
    /// Swarm step of the knot.
    pub step: u64,
    /// Multiplier there, Q24, at most one.
    pub multiplier: u32,
}

/// Piecewise linear learning-rate multiplier over the swarm step, constant before the first knot and after the last. No
/// knots: constant one.
#[derive(Clone, Default, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Schedule {
    /// In strictly increasing order of step.
    pub knots: Vec<Knot>,
}

impl Schedule {
    /// The multiplier (Q24) at `step`. Before the first knot it is the first knot's, after the last the last's; from
    /// knot (s₀, m₀) inclusive to the next (s₁, m₁) exclusive it is `m₀ + ⌊(m₁ − m₀)·(step − s₀) / (s₁ − s₀)⌋`.
    pub fn multiplier(&self, step: u64) -> u32 {
        let Some(first) = self.knots.first() else { return MULTIPLIER_ONE };
        if step <= first.step {
            return first.multiplier;
        }
        for pair in self.knots.windows(2) {
            let (from, to) = (pair[0], pair[1]);
            if step < to.step {
                let rise = i128::from(to.multiplier) - i128::from(from.multiplier);
                let run = i128::from(to.step - from.step);
                let part = (rise * i128::from(step - from.step)).div_euclid(run);
                return (i128::from(from.multiplier) + part) as u32;
            }
        }
        self.knots.last().map_or(MULTIPLIER_ONE, |knot| knot.multiplier)
    }

    /// Checks that knots increase, within the steps that a segment may carry, that no multiplier is larger than one,
    /// and that there are not too many.
    pub(super) fn validate(&self) -> Result<(), InvalidManifest> {
        let knots = &self.knots;
        if knots.len() > KNOTS_MAX {
            return Err(InvalidManifest::Knots(knots.len()));
        }
        let is_sound = |knot: &Knot| knot.multiplier <= MULTIPLIER_ONE && knot.step <= SWARM_STEP_MAX;
        match knots.is_sorted_by(|a, b| a.step < b.step) && knots.iter().all(is_sound) {
            true => Ok(()),
            false => Err(InvalidManifest::Schedule),
        }
    }
}
