//! How far one batch of a projection may go: a trust region (Conn, Gould and Toint, 2000, algorithm 6.1.1).
//!
//! Bytes of one θ add up to one step along the gradient, of which the slopes say how far the loss of the batch falls to
//! first order. Tried on that batch before anybody else has them, they show how much of the fall the curvature takes
//! back. In a step of half the length that share is half as large, so one trial tells how long the next step may be. It
//! needs no constant of the model: a rate that is far too high costs a few trials and diverges nowhere.
//!
//! A trial does not tell what is true of this batch alone. So the losses of batches, each of which is new to the
//! weights, are watched as well: where they rise for sure, the share is halved.
//!
//! The *radius* is the length of a step in bytes that count in full: the number of bytes times their gain.

use serde::{Deserialize, Serialize};

/// Share of the predicted fall that the curvature may take back; the best step of a line search loses a half. Where the
/// rate was best by hand (stories260K on Tiny Shakespeare, 60 batches of 8 x 128) it took 0.10 to 0.24 back, at half
/// that rate 0.06, at twice the rate 0.22 to 0.5.
const TAKEN_BACK: f64 = 0.15;
/// A trial that loses more than this share of the predicted fall is taken back, and the step tried anew.
const TAKEN_BACK_MAX: f64 = 0.75;
/// The same of a step of bytes that are mostly 0, 1 and -1. A shorter one has fewer of them and loses the same share:
/// as long as a line search would go as far, with what others add, it is no use to shrink.
const TAKEN_BACK_FINEST: f64 = 0.5;
/// The first step of all is predicted to take this share off the loss at most: how many others begin is not known yet.
const FIRST_SHARE: f64 = 0.05;
/// What one trial may change the radius by.
const GROWTH: (f64, f64) = (0.125, 2.0);
/// Losses that differ by less than this share of themselves are equal.
pub const LOSS_NOISE: f64 = 1e-5;
/// The radius is never smaller, so that it can grow again.
const RADIUS_MIN: f64 = 1e-3;
/// Batches whose mean loss is compared with an earlier one.
const WINDOW: u32 = 8;
/// By so many standard errors the mean must rise.
const RISE: f64 = 2.5;
/// Batches that go untried after one whose step was shorter than it might have been.
const UNTRIED: u32 = 3;

/// How far this machine's steps may go, from its own trials. Private to it, and stored with every checkpoint.
#[derive(Clone, Copy, PartialEq, Default, Debug, Serialize, Deserialize)]
pub struct Trust {
    /// None before the first batch.
    radius: Option<f64>,
    /// Batches that need no trial.
    untried: u32,
    /// How often losses rose.
    rises: u32,
    /// Losses that are not compared yet.
    recent: Window,
    /// The losses that were least since they rose.
    least: Option<Window>,
}

/// Losses of batches, nats.
#[derive(Clone, Copy, PartialEq, Default, Debug, Serialize, Deserialize)]
struct Window {
    count: u32,
    mean: f64,
    /// Sum of the squared differences from the mean.
    squares: f64,
}

impl Window {
    /// Takes in one more (Welford, 1962).
    fn take_in(&mut self, loss: f64) {
        self.count += 1;
        let off = loss - self.mean;
        self.mean += off / f64::from(self.count);
        self.squares += off * (loss - self.mean);
    }

    /// The squared standard error of the mean, of two or more losses.
    fn error_squared(&self) -> f64 {
        self.squares / f64::from(self.count) / f64::from(self.count - 1)
    }
}

/// A step that was tried. Losses are those of its own batch, nats.
#[derive(Clone, Copy, Debug)]
pub struct Trial {
    /// Length, in bytes that count in full.
    pub length: f64,
    /// The length at which bytes of one standard deviation are 1.
    pub finest: f64,
    /// At θ.
    pub before: f64,
    /// After the step.
    pub after: f64,
    /// How far the slopes say that the loss falls.
    pub predicted: f64,
    /// Bytes of the whole swarm for each of this step, at least 1.
    pub crowd: f64,
    /// The schedule's multiplier: what it makes shorter is not made longer here.
    pub multiplier: f64,
}

impl Trust {
    /// Watches the loss of a new batch. One that is not finite says that steps are too long.
    pub fn watch(&mut self, loss: f64) {
        if !loss.is_finite() {
            self.radius = self.radius.map(|radius| (radius * GROWTH.0).max(RADIUS_MIN));
            self.untried = 0;
            return;
        }
        self.recent.take_in(loss);
        if self.recent.count < WINDOW {
            return;
        }
        let recent = std::mem::take(&mut self.recent);
        let least = *self.least.get_or_insert(recent);
        let error = (recent.error_squared() + least.error_squared()).sqrt();
        if recent.mean > least.mean + RISE * error {
            self.rises += 1;
            self.radius = self.radius.map(|radius| (radius / 2.0).max(RADIUS_MIN));
            self.least = Some(recent);
        } else if recent.mean < least.mean {
            self.least = Some(recent);
        }
    }

    /// How long the next step may be, at most `length`. `fall` is what the slopes say that a step of that length takes
    /// off the loss `before`.
    pub fn bound(&mut self, length: f64, fall: f64, before: f64) -> f64 {
        let first = || if fall > 0.0 { length * FIRST_SHARE * before.abs() / fall } else { length };
        let radius = *self.radius.get_or_insert_with(|| first().clamp(RADIUS_MIN, length.max(RADIUS_MIN)));
        length.min(radius)
    }

    /// Whether the next step is to be tried; to be asked once a batch. Those that stay far within the radius, at a
    /// run's end perhaps, say nothing about its border.
    pub fn is_to_try(&mut self, length: f64) -> bool {
        let is_far_within = self.radius.is_some_and(|radius| length < radius / 4.0);
        let is_trusted = self.untried > 0;
        self.untried = self.untried.saturating_sub(1);
        !is_trusted && !is_far_within
    }

    /// Learns from a trial; false if the step is to be taken back, and a shorter one tried.
    pub fn learn(&mut self, trial: &Trial) -> bool {
        let Trial { length, finest, before, after, predicted, crowd, multiplier } = *trial;
        let (shrunk, grown) = GROWTH;
        // Not finite counts as everything: comparisons with it are false.
        let taken_back = after - before + predicted - LOSS_NOISE * before.abs();
        let caution = 0.5f64.powi(self.rises.min(64) as i32) * multiplier;
        let allowed = TAKEN_BACK * caution / crowd_share(crowd);
        let allowed = if length <= finest { allowed.max(TAKEN_BACK_FINEST * caution / crowd) } else { allowed };
        let factor = if taken_back <= 0.0 { grown } else { allowed * predicted / taken_back };
        let factor = if factor.is_finite() { factor.clamp(shrunk, grown) } else { shrunk };
        let was_bounded = self.radius.is_some_and(|radius| length >= radius);
        self.radius = Some((length * factor).max(RADIUS_MIN));
        self.untried = if factor >= 1.0 && !was_bounded { UNTRIED } else { 0 };
        taken_back <= TAKEN_BACK_MAX * predicted
    }

    pub(super) fn is_new(&self) -> bool {
        *self == Self::default()
    }
}

/// What the curvature takes back of the steps of a whole swarm, over what it takes back of one of them alone. Of what
/// all steps have in common it is `crowd` times the share, of what is random in each the same share: most of a step is
/// random, but what it has in common has the most curvature. The root of `crowd` was best of what was tried: four
/// machines of stories260K on Tiny Shakespeare came to 2.80 bits per byte after 125 batches each, by `crowd` itself to
/// 2.95, and one alone to 2.89.
fn crowd_share(crowd: f64) -> f64 {
    crowd.max(1.0).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A step of this length along a line on which the loss is `4 − length + curvature · length²`.
    fn trial(length: f64, curvature: f64) -> Trial {
        let (before, predicted) = (4.0, length);
        let after = before - predicted + curvature * length * length;
        Trial { length, finest: 0.0, before, after, predicted, crowd: 1.0, multiplier: 1.0 }
    }

    fn begun(length: f64) -> Trust {
        let mut trust = Trust::default();
        assert_eq!(trust.bound(length, 0.01, 4.0), length, "little is predicted, so all of it may be gone");
        trust
    }

    #[test]
    fn one_trial_finds_the_length_that_loses_a_set_share_to_the_curvature() {
        for curvature in [0.6, 1.1] {
            let mut trust = begun(1.0);
            trust.learn(&trial(1.0, curvature));
            let length = trust.bound(1.0, 1.0, 4.0);
            assert!((length * curvature - TAKEN_BACK).abs() < 1e-3 && length < 1.0, "{curvature}: {length}");
            trust.learn(&trial(length, curvature));
            assert!((trust.bound(1.0, 1.0, 4.0) - length).abs() < 1e-3, "and stays there");
        }
    }

    #[test]
    fn a_step_that_hardly_lowers_the_loss_is_taken_back() {
        assert!(begun(1.0).learn(&trial(1.0, 0.7)));
        assert!(!begun(1.0).learn(&trial(1.0, 0.8)));
        for after in [f64::NAN, f64::INFINITY] {
            let mut trust = begun(1.0);
            assert!(!trust.learn(&Trial { after, ..trial(1.0, 0.0) }), "{after}");
            assert_eq!(trust.bound(1.0, 1.0, 4.0), GROWTH.0, "{after}");
        }
        let mut trust = begun(1.0);
        trust.watch(f64::NAN);
        assert_eq!(trust.bound(1.0, 1.0, 4.0), GROWTH.0, "nor can a loss that is not finite be trusted");
    }

    /// Regression: where each single byte loses more than the share that is allowed, the radius went to nothing.
    #[test]
    fn a_step_of_the_finest_bytes_shrinks_only_where_a_line_search_would() {
        for (curvature, multiplier, shrinks) in [(0.3, 1.0, false), (0.7, 1.0, true), (0.3, 0.5, true)] {
            let mut trust = begun(1.0);
            assert!(trust.learn(&Trial { finest: 1.0, multiplier, ..trial(1.0, curvature) }));
            assert_eq!(trust.bound(2.0, 1.0, 4.0) < 1.0, shrinks, "{curvature}");
        }
    }

    #[test]
    fn the_radius_doubles_at_most_and_never_ends() {
        let mut trust = begun(1.0);
        assert!(trust.learn(&trial(1.0, 0.0)));
        assert_eq!(trust.bound(100.0, 1.0, 4.0), 2.0);
        for _ in 0..1_000 {
            let length = trust.bound(1.0, 1.0, 4.0);
            trust.learn(&Trial { after: f64::NAN, ..trial(length, 0.0) });
        }
        let smallest = trust.bound(1.0, 1.0, 4.0);
        assert!(smallest > 0.0);
        assert!(trust.learn(&Trial { predicted: 0.0, after: 4.0, ..trial(smallest, 0.0) }), "no byte moved anything");
        assert!(trust.bound(1.0, 1.0, 4.0) > smallest);
    }

    #[test]
    fn the_first_step_is_bounded_by_the_loss() {
        let mut trust = Trust::default();
        assert_eq!(trust.bound(400.0, 2.0, 4.0), 400.0 * FIRST_SHARE * 4.0 / 2.0);
        assert!(trust.is_to_try(40.0));
    }

    #[test]
    fn losses_that_rise_for_sure_make_it_smaller_and_noise_does_not() {
        let noise = |index: u32| if index.is_multiple_of(2) { 0.1 } else { -0.1 };
        let after = |slope: f64| {
            let mut trust = begun(1.0);
            (0..10 * WINDOW).for_each(|index| trust.watch(3.0 + noise(index) + slope * f64::from(index)));
            trust
        };
        assert_eq!(after(0.0).bound(1.0, 1.0, 4.0), 1.0);
        assert_eq!(after(-0.05).bound(1.0, 1.0, 4.0), 1.0);
        let mut risen = after(0.05);
        assert!(risen.bound(1.0, 1.0, 4.0) < 0.01, "{risen:?}");
        risen.learn(&trial(1.0, 0.6));
        assert!(risen.bound(1.0, 1.0, 4.0) < 0.9 * TAKEN_BACK / 0.6, "and it stays smaller");
    }

    #[test]
    fn a_crowd_and_a_schedule_make_it_smaller() {
        let after = |crowd: f64, multiplier: f64| {
            let mut trust = begun(1.0);
            trust.learn(&Trial { crowd, multiplier, ..trial(1.0, 0.6) });
            trust.bound(1.0, 1.0, 4.0)
        };
        assert!((after(2.0, 1.0) / after(1.0, 1.0) - 0.5f64.sqrt()).abs() < 1e-6);
        assert!((after(1.0, 0.5) / after(1.0, 1.0) - 0.5).abs() < 1e-6);
    }

    #[test]
    fn trials_are_rare_where_steps_are_short_anyway_and_not_where_the_radius_bounds_them() {
        let tried = |curvature: f64| {
            let mut trust = begun(1.0);
            let mut step = |_: &i32| {
                let length = trust.bound(1.0, 1.0, 4.0);
                let is_tried = trust.is_to_try(length);
                if is_tried {
                    trust.learn(&trial(length, curvature));
                }
                is_tried
            };
            (0..21).filter(|index| step(index)).count()
        };
        assert_eq!(tried(0.01), 6);
        assert_eq!(tried(1.0), 21);
        let mut trust = begun(1.0);
        assert!(!trust.is_to_try(0.2), "a short last batch says nothing");
    }
}
