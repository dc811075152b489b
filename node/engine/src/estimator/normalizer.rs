//! From projected gradients of any size to bytes: each over the running RMS of this machine's own.
//!
//! That makes one learning rate fit all machines, whatever their data. What an entry does follows from its byte alone.
//! One RMS serves all groups of tensors: one for each made every group move as much as the others, however little it
//! has to gain, and learnt less (ARCHITECTURE, *Decisions*).

use protocol::codec;
use serde::{Deserialize, Serialize};

use super::trust::Trust;

/// Samples after which the normaliser forgets at its slowest.
const MEMORY_SAMPLES: u64 = 256;
/// Batches after which it forgets at its slowest, where it learns one value a batch.
const MEMORY_BATCHES: u64 = 16;
/// One sample counts for at most this many times the RMS before it.
const OUTLIER_MAX: f64 = 4.0;

/// The scale of a machine's own projected gradients, and how many batches they came from: private to it, and small
/// enough to be stored with every checkpoint.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
pub struct Normalizer {
    #[serde(rename = "normalizer")]
    scale: RunningRms,
    pub(super) levels: u8,
    /// Of slopes that come many from a batch: they are of one size, which is the batch's.
    #[serde(default, skip_serializing_if = "RunningRms::is_new")]
    batches: RunningRms,
    /// How far a step of many bytes may go.
    #[serde(default, skip_serializing_if = "Trust::is_new")]
    pub(super) trust: Trust,
    /// Batches so far. Samples do not tell: a batch gives one byte or a thousand.
    #[serde(default, skip_serializing_if = "is_zero")]
    measured: u64,
}

fn is_zero(count: &u64) -> bool {
    *count == 0
}

impl Normalizer {
    /// Starts without history. `levels`: bytes to a standard deviation, the manifest's.
    pub fn new(levels: u8) -> Self {
        Self {
            scale: RunningRms::default(),
            levels,
            batches: RunningRms::default(),
            trust: Trust::default(),
            measured: 0,
        }
    }

    /// Number of the next batch, from 0; each call counts one.
    pub fn next_batch(&mut self) -> u64 {
        self.measured += 1;
        self.measured - 1
    }

    /// The byte for projected gradient `g`, with `uniform` in [0, 1) for the stochastic rounding. [`codec::VOID`] if
    /// `g` is not finite; the history is then as before.
    pub fn encode(&mut self, g: f64, uniform: f64) -> i8 {
        codec::encode(self.scale.normalize(g), self.levels, uniform)
    }

    /// Takes in the slopes of one batch: it counts once, with the RMS of those that are finite.
    pub(super) fn take_in_batch(&mut self, slopes: &[f64]) {
        let squares: Vec<f64> = finite(slopes).map(|g| g.abs().min(1e150).powi(2)).collect();
        if !squares.is_empty() {
            self.batches.take_in((squares.iter().sum::<f64>() / squares.len() as f64).sqrt(), MEMORY_BATCHES);
        }
    }

    /// The bytes for slopes of the batch that was taken in last, `gain` times as large as others' bytes are; `uniform`
    /// draws from [0, 1) for the stochastic rounding. Slopes that are not finite are [`codec::VOID`].
    pub(super) fn encode_batch(&self, slopes: &[f64], gain: f64, mut uniform: impl FnMut() -> f64) -> Vec<i8> {
        slopes.iter().map(|g| codec::encode(self.normalized(*g, gain), self.levels, uniform())).collect()
    }

    /// `Σ ĝ·g` over the finite slopes g of the batch that was taken in last, where ĝ is g normalised: how far the loss
    /// falls to first order, for a learning rate of one and bytes that count in full.
    pub(super) fn fall(&self, slopes: &[f64]) -> f64 {
        finite(slopes).map(|g| self.normalized(g, 1.0) * g).sum()
    }

    fn normalized(&self, g: f64, gain: f64) -> f64 {
        let rms = self.batches.value();
        if rms > 0.0 { gain * g / rms } else { 0.0 * g }
    }
}

fn finite(slopes: &[f64]) -> impl Iterator<Item = f64> {
    slopes.iter().copied().filter(|slope| slope.is_finite())
}

/// Running root mean square of this machine's own projected gradients.
///
/// Each finite g enters the mean square with weight `1 / min(samples, 256)`: a plain mean at first, so that the very
/// first sample has a scale (its own magnitude), and an exponential average of the last 256 or so later, so that it
/// follows the loss down. From the second sample on, |g| counts for at most four times the RMS so far: one outlier
/// raises it by at most `√(1 + 15 / samples)`, while a real change of scale still comes through, geometrically. A value
/// that is not finite changes nothing.
#[derive(Clone, Copy, PartialEq, Default, Debug, Serialize, Deserialize)]
struct RunningRms {
    mean_square: f64,
    samples: u64,
}

impl RunningRms {
    /// Takes in g and returns it over the RMS that includes it: 0 while every g was 0, not finite if g is not.
    fn normalize(&mut self, g: f64) -> f64 {
        if !g.is_finite() {
            return f64::NAN;
        }
        self.take_in(g, MEMORY_SAMPLES);
        let rms = self.value();
        if rms > 0.0 { g / rms } else { 0.0 }
    }

    /// Takes in a finite g; it counts for one part in `memory` at least.
    fn take_in(&mut self, g: f64, memory: u64) {
        // A square that overflows would poison the mean for good.
        let magnitude = g.abs().min(1e150);
        let limit = if self.mean_square > 0.0 { OUTLIER_MAX * self.value() } else { magnitude };
        let square = magnitude.min(limit).powi(2);
        self.samples = (self.samples + 1).min(memory);
        self.mean_square += (square - self.mean_square) / self.samples as f64;
    }

    fn is_new(&self) -> bool {
        *self == Self::default()
    }

    /// The RMS so far, in units of g; 0 before the first sample.
    fn value(&self) -> f64 {
        self.mean_square.sqrt()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use codec::{LEVELS, VOID};

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
    fn the_first_sample_is_one_standard_deviation() {
        for g in [1e-12, 0.3, -7.0, 1e200] {
            let byte = Normalizer::new(LEVELS).encode(g, 0.0);
            let expected = if g == 1e200 { 127 } else { 32 * g.signum() as i8 };
            assert_eq!(byte, expected, "{g}");
        }
        assert_eq!(Normalizer::new(LEVELS).encode(0.0, 0.99), 0);
    }

    #[test]
    fn any_scale_of_g_gives_the_same_bytes() {
        let bytes = |scale: f64| -> Vec<i8> {
            let mut normalizer = Normalizer::new(LEVELS);
            noise(1000).iter().map(|g| normalizer.encode(g * scale, 0.5)).collect()
        };
        assert_eq!(bytes(1.0), bytes(2f64.powi(-40)));
        assert_eq!(bytes(1.0), bytes(2f64.powi(40)));
        let squares: f64 = bytes(1.0)[100..].iter().map(|b| f64::from(*b).powi(2)).sum::<f64>() / 900.0;
        assert!((squares.sqrt() / 32.0 - 1.0).abs() < 0.05, "RMS of the bytes is {}", squares.sqrt());
    }

    #[test]
    fn one_outlier_hardly_moves_the_scale_and_a_lasting_change_does() {
        let mut rms = RunningRms::default();
        noise(500).iter().for_each(|g| {
            rms.normalize(*g);
        });
        let before = rms.value();
        rms.normalize(1e6);
        assert!(rms.value() < 1.05 * before);
        noise(2000).iter().for_each(|g| {
            rms.normalize(100.0 * g);
        });
        assert!((rms.value() / before / 100.0 - 1.0).abs() < 0.1, "followed a hundredfold rise");
        noise(4000).iter().for_each(|g| {
            rms.normalize(*g);
        });
        assert!((rms.value() / before - 1.0).abs() < 0.1, "followed the fall back");
    }

    #[test]
    fn an_outlier_as_the_first_sample_is_forgotten() {
        let mut rms = RunningRms::default();
        rms.normalize(1e4);
        noise(5000).iter().for_each(|g| {
            rms.normalize(*g);
        });
        assert!((rms.value() * 3f64.sqrt() - 1.0).abs() < 0.1, "uniform noise has RMS 1/sqrt(3)");
    }

    #[test]
    fn a_loss_that_is_not_finite_is_void_and_leaves_no_trace() {
        let mut normalizer = Normalizer::new(LEVELS);
        normalizer.encode(0.5, 0.5);
        let before = normalizer;
        for g in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            assert_eq!(normalizer.encode(g, 0.5), VOID);
        }
        assert_eq!(normalizer, before);
    }

    #[test]
    fn the_history_survives_a_restart() {
        let mut normalizer = Normalizer::new(LEVELS);
        noise(300).iter().for_each(|g| {
            normalizer.encode(*g, 0.5);
        });
        let json = serde_json::to_vec(&normalizer).unwrap();
        let mut again: Normalizer = serde_json::from_slice(&json).unwrap();
        assert_eq!(again, normalizer);
        assert!(noise(100).iter().all(|g| again.encode(*g, 0.25) == normalizer.encode(*g, 0.25)));
    }

    #[test]
    fn a_batch_counts_once_and_its_bytes_are_of_one_size() {
        let mut normalizer = Normalizer::new(LEVELS);
        let slopes = noise(1000);
        let mut rms = |scale: f64, gain: f64| {
            let slopes: Vec<f64> = slopes.iter().map(|g| g * scale).collect();
            normalizer.take_in_batch(&slopes);
            let bytes = normalizer.encode_batch(&slopes, gain, || 0.5);
            (bytes.iter().map(|byte| f64::from(*byte).powi(2)).sum::<f64>() / 1000.0).sqrt() / 32.0
        };
        assert!((rms(3.0, 1.0) - 1.0).abs() < 0.02, "a new one takes the first batch as its scale");
        assert!((rms(3.0, 0.25) - 0.25).abs() < 0.02);
        assert!(rms(12.0, 1.0) > 1.5, "a batch of another size does not pass for an ordinary one");
        for _ in 0..100 {
            rms(12.0, 1.0);
        }
        assert!((rms(12.0, 1.0) - 1.0).abs() < 0.02, "a lasting change does");
        assert_eq!(normalizer.encode(0.5, 0.0), 32, "single samples have a scale of their own");
    }

    #[test]
    fn slopes_that_are_not_finite_are_void_and_a_batch_of_zeros_is_zero() {
        let mut normalizer = Normalizer::new(LEVELS);
        let encode = |normalizer: &mut Normalizer, slopes: &[f64], uniform: f64| {
            normalizer.take_in_batch(slopes);
            normalizer.encode_batch(slopes, 1.0, || uniform)
        };
        assert_eq!(encode(&mut normalizer, &[0.0, 0.0], 0.9), [0, 0]);
        assert_eq!(encode(&mut normalizer, &[f64::NAN; 2], 0.9), [VOID; 2]);
        assert_eq!(
            normalizer,
            Normalizer { batches: RunningRms { samples: 1, ..RunningRms::default() }, ..Normalizer::new(LEVELS) }
        );
        assert_eq!(encode(&mut normalizer, &[2.0, f64::INFINITY, -2.0], 0.0)[1], VOID);
    }

    #[test]
    fn it_is_stored_as_in_the_first_release() {
        let mut normalizer = Normalizer::new(LEVELS);
        normalizer.encode(0.5, 0.5);
        let json = r#"{"normalizer":{"mean_square":0.25,"samples":1},"levels":32}"#;
        assert_eq!(serde_json::to_string(&normalizer).unwrap(), json);
        assert_eq!(serde_json::from_str::<Normalizer>(json).unwrap(), normalizer);
    }
}
