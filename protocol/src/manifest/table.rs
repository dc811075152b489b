//! The trained tensors and their integer arithmetic.

use serde::{Deserialize, Serialize};

use crate::{
    codec::{self, LEVELS},
    error::InvalidManifest,
};

/// A weight n satisfies −2^24 ≤ n < 2^24.
pub const WEIGHT_BITS: i32 = 24;
/// Largest shift: one entry stays within the range.
const SHIFT_MAX: u8 = 16;

/// One trained tensor: its place in the model and its integer arithmetic.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct TensorSpec {
    /// Name in the Hugging Face checkpoint.
    pub name: String,
    /// Dimensions, row-major.
    pub shape: Vec<u64>,
    /// log2 of the range R; the quantum is 2^(range_log2 − 24).
    pub range_log2: u8,
    /// Size of the perturbation step ε, quanta.
    pub epsilon: u32,
    /// Quanta · 2^−shift per byte unit at multiplier one, Q32.
    pub unit: u64,
    /// The smallest shift for which |k| ≤ 255.
    pub shift: u8,
    /// BLAKE3 of the snapped base values, f32 LE, row-major.
    pub digest: [u8; 32],
}

impl TensorSpec {
    /// Number of elements (valid manifests do not overflow).
    pub fn elements(&self) -> u64 {
        self.shape.iter().product()
    }

    /// log2 of the quantum.
    pub fn quantum_log2(&self) -> i32 {
        i32::from(self.range_log2) - WEIGHT_BITS
    }

    /// The quantum, an exact power of two.
    pub fn quantum(&self) -> f32 {
        2f32.powi(self.quantum_log2())
    }
    /// Whether replay's bounds hold for the integers.
    pub(super) fn is_sound(&self) -> bool {
        self.range_log2 <= 40
            && self.shift <= SHIFT_MAX
            && codec::unit_is_valid(self.unit)
            && (1..1 << (WEIGHT_BITS - 1)).contains(&self.epsilon)
    }
}

/// How directions are scaled between tensors.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DirectionScale {
    /// s_t = rms(B_t) / rms(all), at least 0.1: every tensor moves in proportion to its own size.
    Rms,
    /// s_t = 1.
    Uniform,
}

/// Real-valued choices of whoever starts a run. Only their integer consequences enter replay.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
pub struct Hyperparameters {
    /// Move of an element with s_t = 1 per standard deviation of the projected gradient.
    pub learning_rate: f64,
    /// Size of the perturbation of an element with s_t = 1.
    pub epsilon: f64,
    /// Gradients that the ranges leave room for.
    pub planned_gradients: u64,
    /// Scaling of directions between tensors.
    pub direction_scale: DirectionScale,
}

/// Statistics of one base tensor, from which its arithmetic is chosen.
#[derive(Clone, Copy, Debug)]
pub struct TensorStatistics {
    /// max |B|.
    pub max_abs: f64,
    /// Root mean square of B.
    pub rms: f64,
}

/// The integers of one tensor: see [`choose_arithmetic`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TensorArithmetic {
    /// As in [`TensorSpec`].
    pub range_log2: u8,
    /// As in [`TensorSpec`].
    pub epsilon: u32,
    /// As in [`TensorSpec`].
    pub unit: u64,
    /// As in [`TensorSpec`].
    pub shift: u8,
}

/// Chooses range, ε, unit and shift of one tensor. Run once, by the machine that starts the run.
///
/// `s = rms / rms_all`, at least 0.1 (or 1 for `Uniform`). `R` is the smallest power of two that is at least 1,
/// `2·max|B|` and `max|B| + 8·learning_rate·s·√planned`. `q = R·2^-24`, `ε = max(1, round(ε·s/q))`, `unit =
/// learning_rate·s / (levels·q·2^shift)` in Q32.
pub fn choose_arithmetic(
    statistics: &TensorStatistics,
    rms_all: f64,
    settings: &Hyperparameters,
) -> Result<TensorArithmetic, InvalidManifest> {
    let scale = match settings.direction_scale {
        DirectionScale::Uniform => 1.0,
        DirectionScale::Rms if rms_all > 0.0 => (statistics.rms / rms_all).max(0.1),
        DirectionScale::Rms => 1.0,
    };
    let learning_rate = settings.learning_rate * scale;
    let walk = 8.0 * learning_rate * (settings.planned_gradients as f64).sqrt();
    let needed = (2.0 * statistics.max_abs).max(statistics.max_abs + walk).max(1.0);
    if !needed.is_finite() || needed > 2f64.powi(40) {
        return Err(InvalidManifest::Range(needed));
    }
    let range_log2 = (0..=40).find(|log2| 2f64.powi(*log2) >= needed).unwrap_or(40);
    let quantum = 2f64.powi(range_log2 - WEIGHT_BITS);
    let epsilon = (settings.epsilon * scale / quantum).round().max(1.0);
    if !(settings.epsilon.is_finite() && settings.epsilon > 0.0) || epsilon >= 2f64.powi(WEIGHT_BITS - 1) {
        return Err(InvalidManifest::Epsilon(settings.epsilon));
    }
    let quanta = learning_rate / (f64::from(LEVELS) * quantum);
    if !(quanta.is_finite() && quanta > 0.0) {
        return Err(InvalidManifest::LearningRate(settings.learning_rate));
    }
    let q32 = |shift: u8| (quanta / f64::from(1u32 << shift) * 2f64.powi(32)).round() as u64;
    let shift = (0..=SHIFT_MAX)
        .find(|shift| codec::unit_is_valid(q32(*shift)))
        .ok_or(InvalidManifest::LearningRate(settings.learning_rate))?;
    Ok(TensorArithmetic { range_log2: range_log2 as u8, epsilon: epsilon as u32, unit: q32(shift), shift })
}
