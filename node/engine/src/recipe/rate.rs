//! From a survey to a learning rate, and how it falls.
//!
//! Along a run the loss falls about with the logarithm of the way, K nats for each e-fold, and every step of rate η
//! costs a random walk of w·η² nats that later steps hardly take back. Over N gradients
//!
//! ```text
//! loss = L₀ − K·ln(1 + N·η/τ) + w·N·η²      least where  η·(η + τ/N) = K / (2·w·N)
//! ```
//!
//! Short runs get the greedy rate of a single step, long ones one that falls with √N. K and τ are the survey's: a
//! line search along a gradient without noise gains K, at twice the distance τ.

use protocol::manifest::Schedule;

use super::{schedule, survey::Survey};

/// What is left of the rate when a run of known length ends.
pub const LAST: f64 = 0.4;
/// The rate of a run without a planned length falls as `1/√(1 + gradients / this)`.
const OPEN_GRADIENTS: u64 = 2_000;
/// The walk's cost grows as the loss falls: in the middle of a run it is about this many times the base's.
const WALK_GROWTH: f64 = 2.5;
/// Noise has at most this share in what bends the line: more cannot be told from all.
const NOISE_SHARE_MAX: f64 = 0.75;

/// How a run's learning rate falls from its first value, by its planned length in gradients.
pub fn schedule(gradients: Option<u64>) -> Schedule {
    match gradients {
        Some(gradients) => schedule::linear(gradients, LAST),
        None => schedule::inverse_square_root(OPEN_GRADIENTS),
    }
}

/// The learning rate at swarm step 0 for a run that falls as `schedule` says.
pub fn first_rate(survey: &Survey, gradients: Option<u64>) -> f64 {
    match gradients {
        // The mean of the squares is that of the constant rate.
        Some(gradients) => constant_rate(survey, gradients) / ((1.0 + LAST + LAST * LAST) / 3.0).sqrt(),
        // Which is best at each moment t for a run that ends at 2·t.
        None => constant_rate(survey, 2 * OPEN_GRADIENTS),
    }
}

/// The best constant rate over `gradients`.
fn constant_rate(survey: &Survey, gradients: u64) -> f64 {
    let (n, bytes) = (gradients.max(1) as f64, survey.gradients as f64);
    let walk = WALK_GROWTH * survey.walk_cost;
    // The line bends by the curvature along the gradient and by the noise in the sum; only the first is K's.
    let noise = survey.walk_cost * bytes * survey.greedy_rate * survey.greedy_rate / survey.gain;
    let per_fold = survey.gain / (1.0 - noise.min(NOISE_SHARE_MAX));
    let onset = per_fold * survey.greedy_rate * bytes / (2.0 * survey.gain);
    let half = onset / (2.0 * n);
    (half * half + per_fold / (2.0 * walk * n)).sqrt() - half
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As stories260K on Tiny Shakespeare gives it.
    const SURVEY: Survey = Survey { gradients: 256, loss: 4.58, greedy_rate: 5.6e-3, gain: 0.54, walk_cost: 21.0 };

    #[test]
    fn a_long_run_goes_slower_and_a_short_one_not_faster_than_greedily() {
        let rates = [1, 1_000, 16_000, 64_000, 1 << 30].map(|gradients| constant_rate(&SURVEY, gradients));
        assert!(rates.is_sorted_by(|a, b| a > b), "{rates:?}");
        assert!((rates[2] / rates[3] - 2.0).abs() < 0.1, "{rates:?}");
        assert!(rates[0] < 1.0 && rates[4] > 0.0, "{rates:?}");
    }

    #[test]
    fn the_rate_that_was_best_on_stories_is_found() {
        let rate = first_rate(&SURVEY, Some(15_000));
        assert!((6.7e-4..1.1e-3).contains(&rate), "{rate:e}");
    }

    #[test]
    fn noise_that_explains_everything_still_gives_a_rate() {
        let noisy = Survey { walk_cost: 1e9, ..SURVEY };
        assert!(constant_rate(&noisy, 1_000).is_finite() && constant_rate(&noisy, 1_000) > 0.0);
    }
}
