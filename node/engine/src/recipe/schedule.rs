//! How a run's learning rate falls.

use protocol::{
    codec::MULTIPLIER_ONE,
    manifest::{KNOTS_MAX, Knot, SWARM_STEP_MAX, Schedule},
};

/// Knots of an inverse square root for each doubling of the swarm step: the lines between them are within 0.5% of it.
const KNOTS_PER_DOUBLING: u32 = 4;

/// A straight fall from one to `last` (0 to 1) at swarm step `gradients`, and `last` from there on.
pub fn linear(gradients: u64, last: f64) -> Schedule {
    let end = gradients.clamp(1, SWARM_STEP_MAX);
    Schedule { knots: vec![knot(0, 1.0), knot(end, last)] }
}

/// `1 / √(1 + step / gradients)`: 0.71 at swarm step `gradients`, 0.3 at ten times that.
pub fn inverse_square_root(gradients: u64) -> Schedule {
    let scale = gradients.max(1) as f64;
    let mut knots = vec![knot(0, 1.0)];
    for doubling in 0.. {
        // The square root of 1 + x bends most at x = 1, so knots are even in the logarithm of 1 + x.
        let x = 2f64.powf(f64::from(doubling + 1) / f64::from(KNOTS_PER_DOUBLING)) - 1.0;
        let step = (scale * x).round();
        if step > SWARM_STEP_MAX as f64 || knots.len() == KNOTS_MAX {
            break;
        }
        let next = knot(step as u64, 1.0 / (1.0 + step / scale).sqrt());
        if next.step > knots[knots.len() - 1].step {
            knots.push(next);
        }
    }
    Schedule { knots }
}

fn knot(step: u64, multiplier: f64) -> Knot {
    Knot { step, multiplier: (multiplier.clamp(0.0, 1.0) * f64::from(MULTIPLIER_ONE)).round() as u32 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(schedule: &Schedule, step: u64) -> f64 {
        f64::from(schedule.multiplier(step)) / f64::from(MULTIPLIER_ONE)
    }

    #[test]
    fn a_linear_fall_ends_where_the_run_is_planned_to_end() {
        let schedule = linear(1_000, 0.4);
        for (step, expected) in [(0, 1.0), (500, 0.7), (1_000, 0.4), (1_000_000, 0.4)] {
            assert!((at(&schedule, step) - expected).abs() < 1e-6, "{step}");
        }
        assert_eq!(linear(0, 0.4).knots.len(), 2, "knots are at different steps whatever is planned");
    }

    #[test]
    fn an_inverse_square_root_falls_for_as_long_as_a_run_can_last() {
        for gradients in [1, 3_000, 1 << 30] {
            let schedule = inverse_square_root(gradients);
            assert!(schedule.knots.len() <= KNOTS_MAX);
            assert!(schedule.knots.is_sorted_by(|a, b| a.step < b.step));
            for step in (0..40).map(|log2| 1u64 << log2) {
                let expected = 1.0 / (1.0 + step as f64 / gradients as f64).sqrt();
                // Multipliers are whole multiples of 2^-24.
                let error = (at(&schedule, step) - expected).abs();
                assert!(error < 0.005 * expected + 2f64.powi(-23), "{step} of {gradients}");
            }
        }
    }
}
