//! From losses to bytes: the sender's half of the codec.
//!
//! Nothing here is normative. What an entry does follows from its byte alone; how a machine came to it (estimator, normaliser, the
//! draw of the rounding) is its own business. That makes one learning rate fit all machines, whatever their data.
//!
//! With ±1 directions z and a probe at θ ± εz, the projected gradient is (Spall, 1992; MeZO, arXiv 2305.17333, eq. 1)
//! `g = (L(θ + εz) − L(θ − εz)) / 2ε`. ε is the manifest's real-valued epsilon, the same for every tensor: the per-tensor scale s_t is
//! part of the direction.

use serde::{Deserialize, Serialize};

use crate::codec;

/// `(loss_plus − loss_minus) / 2ε`. Not finite if either loss is not.
pub fn projected_gradient(loss_plus: f64, loss_minus: f64, epsilon: f64) -> f64 {
    (loss_plus - loss_minus) / (2.0 * epsilon)
}

/// One-sided projected gradients of probes that share a batch and a baseline (FZOO, arXiv 2506.09034): `(L(θ + εz_i) − L(θ)) / ε`, less
/// their mean where there are at least two, since the curvature adds nearly the same to all of them. A loss that is not
/// finite gives a value that is not finite and leaves the others alone; so does, for all, the baseline.
pub fn one_sided_gradients(baseline: f64, losses: &[f64], epsilon: f64) -> Vec<f64> {
    let slopes = losses.iter().map(|loss| (loss - baseline) / epsilon);
    let finite: Vec<f64> = slopes.clone().filter(|slope| slope.is_finite()).collect();
    let mean = if finite.len() < 2 { 0.0 } else { finite.iter().sum::<f64>() / finite.len() as f64 };
    slopes.map(|slope| slope - mean).collect()
}

/// Samples after which the normaliser forgets at its slowest.
const MEMORY_SAMPLES: u64 = 256;
/// One sample counts for at most this many times the RMS before it.
const OUTLIER_MAX: f64 = 4.0;

/// Running root mean square of this machine's own projected gradients.
///
/// Each finite g enters the mean square with weight `1 / min(samples, 256)`: a plain mean at first, so that the very first
/// sample has a scale (its own magnitude), and an exponential average of the last 256 or so later, so that it follows the loss down.
/// From the second sample on, |g| counts for at most four times the RMS so far: one outlier raises it by at most
/// `√(1 + 15 / samples)`, while a real change of scale still comes through, geometrically. A value that is not finite changes nothing.
#[derive(Clone, Copy, PartialEq, Default, Debug, Serialize, Deserialize)]
pub struct Normalizer {
    mean_square: f64,
    samples: u64,
}

impl Normalizer {
    /// Takes in g and returns it over the RMS that includes it: 0 while every g was 0, not finite if g is not.
    pub fn normalize(&mut self, g: f64) -> f64 {
        if !g.is_finite() {
            return f64::NAN;
        }
        // A square that overflows would poison the mean for good.
        let magnitude = g.abs().min(1e150);
        let limit = if self.mean_square > 0.0 { OUTLIER_MAX * self.rms() } else { magnitude };
        let square = magnitude.min(limit).powi(2);
        self.samples = (self.samples + 1).min(MEMORY_SAMPLES);
        self.mean_square += (square - self.mean_square) / self.samples as f64;
        let rms = self.rms();
        if rms > 0.0 { g / rms } else { 0.0 }
    }

    /// The RMS so far, in units of g; 0 before the first sample.
    pub fn rms(&self) -> f64 {
        self.mean_square.sqrt()
    }
}

/// The default estimator's state, private to the machine, small enough to be stored with every checkpoint.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
pub struct Spsa {
    normalizer: Normalizer,
    levels: u8,
}

impl Spsa {
    /// Starts without history. `levels` is the manifest's.
    pub fn new(levels: u8) -> Self {
        Self { normalizer: Normalizer::default(), levels }
    }

    /// The byte for projected gradient `g`, with `uniform` in [0, 1) for the stochastic rounding. [`codec::VOID`] if `g` is not finite;
    /// the history is then as before.
    pub fn encode(&mut self, g: f64, uniform: f64) -> i8 {
        codec::encode(self.normalizer.normalize(g), self.levels, uniform)
    }

    /// The running RMS of g.
    pub fn rms(&self) -> f64 {
        self.normalizer.rms()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::{LEVELS, VOID};

    /// A fixed sequence in [−1, 1).
    fn noise(count: usize) -> Vec<f64> {
        let mut state = 1u64;
        let mut next = || {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 11) as f64 / (1u64 << 52) as f64 - 1.0
        };
        (0..count).map(|_| next()).collect()
    }

    #[test]
    fn the_projected_gradient_of_a_line_is_its_slope() {
        assert_eq!(projected_gradient(2.0 + 3.0 * 0.25, 2.0 - 3.0 * 0.25, 0.25), 3.0);
        assert!(!projected_gradient(f64::NAN, 1.0, 1e-3).is_finite());
        assert!(!projected_gradient(1.0, f64::INFINITY, 1e-3).is_finite());
    }

    #[test]
    fn one_sided_gradients_lose_what_all_probes_share() {
        let (baseline, epsilon, slopes) = (2.0, 0.25, [3.0, -1.0, -2.0]);
        for curvature in [0.0, 0.5] {
            let losses = slopes.map(|slope| baseline + epsilon * slope + curvature);
            assert_eq!(one_sided_gradients(baseline, &losses, epsilon), slopes);
        }
        assert_eq!(one_sided_gradients(baseline, &[2.5], epsilon), [2.0], "one probe has nobody to share with");
        assert!(one_sided_gradients(baseline, &[], epsilon).is_empty());
    }

    #[test]
    fn a_one_sided_loss_that_is_not_finite_is_void_alone() {
        let gradients = one_sided_gradients(1.0, &[1.5, f64::NAN, 0.5, f64::INFINITY], 0.5);
        assert_eq!((gradients[0], gradients[2]), (1.0, -1.0));
        assert!(!gradients[1].is_finite() && !gradients[3].is_finite());
        assert!(one_sided_gradients(f64::NAN, &[1.0, 2.0], 0.5).iter().all(|g| !g.is_finite()));
    }

    #[test]
    fn the_first_sample_is_one_standard_deviation() {
        for g in [1e-12, 0.3, -7.0, 1e200] {
            let byte = Spsa::new(LEVELS).encode(g, 0.0);
            let expected = if g == 1e200 { 127 } else { 32 * g.signum() as i8 };
            assert_eq!(byte, expected, "{g}");
        }
        assert_eq!(Spsa::new(LEVELS).encode(0.0, 0.99), 0);
    }

    #[test]
    fn any_scale_of_g_gives_the_same_bytes() {
        let bytes = |scale: f64| -> Vec<i8> {
            let mut spsa = Spsa::new(LEVELS);
            noise(1000).iter().map(|g| spsa.encode(g * scale, 0.5)).collect()
        };
        assert_eq!(bytes(1.0), bytes(2f64.powi(-40)));
        assert_eq!(bytes(1.0), bytes(2f64.powi(40)));
        let squares: f64 = bytes(1.0)[100..].iter().map(|b| f64::from(*b).powi(2)).sum::<f64>() / 900.0;
        assert!((squares.sqrt() / 32.0 - 1.0).abs() < 0.05, "RMS of the bytes is {}", squares.sqrt());
    }

    #[test]
    fn one_outlier_hardly_moves_the_scale_and_a_lasting_change_does() {
        let mut normalizer = Normalizer::default();
        noise(500).iter().for_each(|g| {
            normalizer.normalize(*g);
        });
        let before = normalizer.rms();
        normalizer.normalize(1e6);
        assert!(normalizer.rms() < 1.05 * before);
        noise(2000).iter().for_each(|g| {
            normalizer.normalize(100.0 * g);
        });
        assert!((normalizer.rms() / before / 100.0 - 1.0).abs() < 0.1, "followed a hundredfold rise");
        noise(4000).iter().for_each(|g| {
            normalizer.normalize(*g);
        });
        assert!((normalizer.rms() / before - 1.0).abs() < 0.1, "followed the fall back");
    }

    #[test]
    fn an_outlier_as_the_first_sample_is_forgotten() {
        let mut normalizer = Normalizer::default();
        normalizer.normalize(1e4);
        noise(5000).iter().for_each(|g| {
            normalizer.normalize(*g);
        });
        assert!((normalizer.rms() * 3f64.sqrt() - 1.0).abs() < 0.1, "uniform noise has RMS 1/sqrt(3)");
    }

    #[test]
    fn a_loss_that_is_not_finite_is_void_and_leaves_no_trace() {
        let mut spsa = Spsa::new(LEVELS);
        spsa.encode(0.5, 0.5);
        let before = spsa;
        for g in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, projected_gradient(f64::NAN, 1.0, 1e-3)] {
            assert_eq!(spsa.encode(g, 0.5), VOID);
        }
        assert_eq!(spsa, before);
    }

    #[test]
    fn the_history_survives_a_restart() {
        let mut spsa = Spsa::new(LEVELS);
        noise(300).iter().for_each(|g| {
            spsa.encode(*g, 0.5);
        });
        let bytes = bincode::serde::encode_to_vec(spsa, bincode::config::standard()).unwrap();
        let (mut again, _): (Spsa, _) = bincode::serde::decode_from_slice(&bytes, bincode::config::standard()).unwrap();
        assert_eq!(again, spsa);
        assert!(noise(100).iter().all(|g| again.encode(*g, 0.25) == spsa.encode(*g, 0.25)));
    }

    #[test]
    fn rounding_is_unbiased_over_the_draw() {
        let mean =
            |value: f64| (0..1000).map(|i| f64::from(codec::encode(value, 32, f64::from(i) / 1000.0))).sum::<f64>();
        for value in [0.01, -0.01, 1.234, -2.5] {
            assert!((mean(value) / 1000.0 - 32.0 * value).abs() < 2e-3, "{value}");
        }
    }
}
