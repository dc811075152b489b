//! How far one batch of a projection may go: a trust region (Conn, Gould and Toint, 2000, algorithm 6.1.1).
//!
//! Bytes of one θ add up to one step along the gradient, of which the slopes say how far the loss of the batch falls to
//! first order. Tried on that batch before anybody else has them, they show how much of the fall the curvature takes
//! back. In a step of half the length that share is half as large, so trials tell how long the next step may be. It
//! needs no constant of the model: a rate that is far too high costs a few trials and diverges nowhere.
//!
//! What one trial says of the next batches is uncertain, so the radius follows the geometric mean of what it was and of
//! what the trial suggests; this batch's own step, if it is far too long, is made as short as its trial says.
//!
//! The *radius* is the length of a step in bytes that count in full: the number of bytes times their gain.

use serde::{Deserialize, Serialize};

/// Share of the predicted fall that the curvature may take back; the best step of a line search loses a half, and
/// random walks of many such steps are not taken back by later ones. Stories260K on Tiny Shakespeare came to 2.722 bits
/// per byte after 500 batches (1.1e-3 falling to a tenth, seed 1, 256 windows held out), with 0.25 to 2.732.
const TAKEN_BACK: f64 = 0.15;
/// The same of a step of bytes that are mostly 0, 1 and -1. A shorter one has fewer of them and loses the same share:
/// as long as a line search would go as far, with what others add, it is no use to shrink.
const TAKEN_BACK_FINEST: f64 = 0.5;
/// No step that was tried and loses more is kept.
const TAKEN_BACK_MAX: f64 = 0.75;
/// A step that loses more than so many times the share that it may is taken back, where a shorter one loses less.
const EXCESS_MAX: f64 = 1.5;
/// The first step of all is predicted to take this share off the loss at most: how many others begin is not known yet.
const FIRST_SHARE: f64 = 0.05;
/// What one trial may suggest, in lengths of its step.
const GROWTH: (f64, f64) = (0.125, 2.0);
/// Losses that differ by less than this share of themselves are equal.
pub const LOSS_NOISE: f64 = 1e-5;
/// The radius is never smaller, so that it can grow again.
const RADIUS_MIN: f64 = 1e-3;
/// A radius of so many lengths of a step is far away.
const FAR_WITHIN: f64 = 1.5;
/// Where steps stay far within the radius, one in so many is tried.
const UNTRIED: u32 = 8;

/// How far this machine's steps may go, from its own trials. Private to it, and stored with every checkpoint.
#[derive(Clone, Copy, PartialEq, Default, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct Trust {
    /// None before the first batch.
    radius: Option<f64>,
    search: Search,
    /// Batches since a step was tried.
    untried: u32,
}

/// The search for the first radius.
#[derive(Clone, Copy, PartialEq, Default, Debug, Serialize, Deserialize)]
enum Search {
    /// At the first batch of a process, when nobody knows how many others begin.
    #[default]
    #[serde(alias = "Goes")]
    Begins,
    /// Steps may be longer, as far as is known: longer ones are tried on the same batch.
    #[serde(skip_deserializing)]
    Goes,
    Over,
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
}

impl Trust {
    /// Hears of a new batch's loss: one that is not finite says that steps are too long.
    pub fn watch(&mut self, loss: f64) {
        if !loss.is_finite() {
            self.radius = self.radius.map(|radius| (radius * GROWTH.0).max(RADIUS_MIN));
            self.untried = UNTRIED;
        }
    }

    /// How long the next step may be, at most `length`. `fall` is what the slopes say that a step of that length takes
    /// off the loss `before`.
    pub fn bound(&mut self, length: f64, fall: f64, before: f64) -> f64 {
        let first = || if fall > 0.0 { length * FIRST_SHARE * before.abs() / fall } else { length };
        let radius = *self.radius.get_or_insert_with(|| first().clamp(RADIUS_MIN, length.max(RADIUS_MIN)));
        length.min(radius)
    }

    /// Whether the next step is to be tried; to be asked once a batch. Those that stay far within the radius say little
    /// about its border.
    pub fn is_to_try(&mut self, length: f64) -> bool {
        let is_far_within = self.radius.is_some_and(|radius| FAR_WITHIN * length < radius);
        self.untried += 1;
        !is_far_within || self.untried >= UNTRIED
    }

    /// Learns from a trial; the length of the step that is to be tried instead, if this one is to be taken back.
    pub fn learn(&mut self, trial: &Trial) -> Option<f64> {
        let Trial { length, finest, before, after, predicted, crowd } = *trial;
        let (shrunk, grown) = GROWTH;
        // Not finite counts as everything: comparisons with it are false.
        let taken_back = after - before + predicted - LOSS_NOISE * before.abs();
        let allowed = TAKEN_BACK / crowd_share(crowd);
        let is_finest = length <= finest;
        let allowed = if is_finest { allowed.max(TAKEN_BACK_FINEST / crowd) } else { allowed };
        let factor = if taken_back <= 0.0 { grown } else { allowed * predicted / taken_back };
        let factor = if factor.is_finite() { factor.clamp(shrunk, grown) } else { shrunk };
        let radius = self.radius.unwrap_or(length);
        let may_be_longer = factor >= grown && length >= radius;
        let is_to_go_on = self.search == Search::Goes && may_be_longer;
        let goes = self.search != Search::Over && may_be_longer;
        self.search = if goes { Search::Goes } else { Search::Over };
        let suggested = length * factor;
        self.radius = Some(if goes { suggested } else { (radius * suggested).sqrt() }.max(RADIUS_MIN));
        self.untried = 0;
        let most = if is_finest { TAKEN_BACK_MAX } else { TAKEN_BACK_MAX.min(EXCESS_MAX * allowed) };
        let is_kept = taken_back <= most * predicted && !is_to_go_on;
        (!is_kept).then_some(suggested.max(RADIUS_MIN))
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
        Trial { length, finest: 0.0, before, after, predicted, crowd: 1.0 }
    }

    /// After the first batch, with steps of at most `length`.
    fn begun(length: f64) -> Trust {
        let mut trust = Trust::default();
        assert_eq!(trust.bound(length, 0.01, 4.0), length, "little is predicted, so all of it may be gone");
        trust
    }

    /// As a trainer does: a batch's step is tried until it is good.
    fn step(trust: &mut Trust, longest: f64, trial: impl Fn(f64) -> Trial) -> f64 {
        let mut length = trust.bound(longest, 1.0, 4.0);
        for _ in 0..20 {
            match trust.learn(&trial(length)) {
                Some(another) => length = another.min(longest),
                None => return length,
            }
        }
        panic!("twenty trials of one batch: {trust:?}");
    }

    fn steps(trust: &mut Trust, longest: f64, trial: impl Fn(f64) -> Trial) -> f64 {
        (0..20).map(|_| step(trust, longest, &trial)).last().unwrap()
    }

    #[test]
    fn trials_find_the_length_that_loses_a_set_share_to_the_curvature() {
        for curvature in [0.2, 0.6, 3.0] {
            let length = steps(&mut begun(1.0), 1.0, |length| trial(length, curvature));
            assert!((length * curvature / TAKEN_BACK - 1.0).abs() < 1e-2, "{curvature}: {length}");
        }
    }

    #[test]
    fn a_batch_that_differs_from_the_others_moves_the_radius_half_the_way() {
        let mut trust = begun(1.0);
        let usual = steps(&mut trust, 1.0, |length| trial(length, 0.6));
        let odd = step(&mut trust, 1.0, |length| trial(length, 2.4));
        assert!((odd / usual - 0.25).abs() < 0.01, "its own step is as short as it must be: {odd} of {usual}");
        let next = trust.bound(1.0, 1.0, 4.0);
        assert!((0.24..0.6).contains(&(next / usual)), "{next} of {usual}");
    }

    #[test]
    fn a_step_that_loses_far_more_than_it_may_is_taken_back() {
        assert_eq!(begun(1.0).learn(&trial(1.0, 1.4 * TAKEN_BACK)), None);
        let shorter = begun(1.0).learn(&trial(1.0, 1.6 * TAKEN_BACK)).unwrap();
        assert!((shorter - 1.0 / 1.6).abs() < 1e-3, "{shorter}");
        for after in [f64::NAN, f64::INFINITY] {
            let mut trust = begun(1.0);
            assert_eq!(trust.learn(&Trial { after, ..trial(1.0, 0.0) }), Some(GROWTH.0), "{after}");
        }
        let mut trust = begun(1.0);
        trust.watch(f64::NAN);
        assert_eq!(trust.bound(1.0, 1.0, 4.0), GROWTH.0, "nor can a loss that is not finite be trusted");
    }

    /// Regression: where each single byte loses more than the share that is allowed, the radius went to nothing.
    #[test]
    fn a_step_of_the_finest_bytes_shrinks_only_where_a_line_search_would() {
        for (curvature, shrinks) in [(0.4, false), (0.7, true)] {
            let mut trust = begun(1.0);
            trust.learn(&Trial { finest: 1.0, ..trial(1.0, curvature) });
            assert_eq!(trust.bound(2.0, 1.0, 4.0) < 1.0, shrinks, "{curvature}");
        }
    }

    #[test]
    fn the_radius_doubles_at_most_and_never_ends() {
        let mut trust = begun(1.0);
        assert_eq!(trust.learn(&trial(1.0, 0.0)), None);
        assert_eq!(trust.bound(100.0, 1.0, 4.0), 2.0);
        for _ in 0..1_000 {
            let length = trust.bound(1.0, 1.0, 4.0);
            trust.learn(&Trial { after: f64::NAN, ..trial(length, 0.0) });
        }
        let smallest = trust.bound(1.0, 1.0, 4.0);
        assert!(smallest > 0.0);
        let nothing = Trial { predicted: 0.0, after: 4.0, ..trial(smallest, 0.0) };
        assert_eq!(trust.learn(&nothing), None, "no byte moved anything");
        assert!(trust.bound(1.0, 1.0, 4.0) > smallest);
    }

    #[test]
    fn the_first_step_is_bounded_by_the_loss_and_the_second_batch_finds_how_far_steps_may_go() {
        let mut trust = Trust::default();
        let first = trust.bound(400.0, 2.0, 4.0);
        assert_eq!(first, 400.0 * FIRST_SHARE * 4.0 / 2.0);
        assert!(trust.is_to_try(first));
        assert_eq!(trust.learn(&trial(first, 0.0)), None, "it is not tried again");
        let mut trust = begun(0.01);
        assert_eq!(step(&mut trust, 100.0, |length| trial(length, 0.01)), 0.01);
        let second = step(&mut trust, 100.0, |length| trial(length, 0.01));
        assert!((5.0..20.0).contains(&second), "{second}");
    }

    #[test]
    fn a_crowd_makes_it_smaller() {
        let after = |crowd: f64| steps(&mut begun(1.0), 1.0, |length| Trial { crowd, ..trial(length, 0.6) });
        assert!((after(2.0) / after(1.0) - 0.5f64.sqrt()).abs() < 2e-3);
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
            (0..64).filter(|index| step(index)).count()
        };
        assert!((7..14).contains(&tried(0.001)), "{}", tried(0.001));
        assert_eq!(tried(1.0), 64);
    }

    #[test]
    fn what_earlier_releases_stored_is_read() {
        let stored =
            r#"{"radius": 3.5, "untried": 1, "rises": 2, "recent": {"count": 0, "mean": 0.0, "squares": 0.0}}"#;
        let trust: Trust = serde_json::from_str(stored).unwrap();
        assert_eq!(trust, Trust { radius: Some(3.5), untried: 1, ..Trust::default() });
        let searching = serde_json::to_string(&Trust { search: Search::Goes, ..trust }).unwrap();
        assert_eq!(serde_json::from_str::<Trust>(&searching).unwrap(), trust, "a restart begins anew");
    }
}
