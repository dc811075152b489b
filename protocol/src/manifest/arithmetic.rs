//! The integers of the table, chosen once, in floating point, by the machine that starts a run.

use serde::{Deserialize, Serialize};

use super::{
    groups::Groups,
    table::{Origin, RANGE_LOG2_MAX, SHIFT_MAX, TensorSpec, WEIGHT_BITS},
};
use crate::{
    codec::{self, LEVELS},
    error::InvalidManifest,
};

/// Times the planned gradients that may all move an element one way.
const DIRECTED: f64 = 10.0;
/// Quanta that ε and a gradient of average size must at least have.
const QUANTA_MIN: f64 = 4.0;
/// Smallest scale of a tensor's directions, as a share of the rms over all trained base tensors.
const SCALE_MIN: f64 = 0.1;

/// How directions are scaled between tensors.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DirectionScale {
    /// s_t = rms(B_t), at least a tenth of the rms over all: rates and ε are shares of a tensor's own size.
    Rms,
    /// s_t = 1.
    Uniform,
}

impl DirectionScale {
    /// s of a tensor whose root mean square is `rms`, where that of all trained base tensors is `rms_all` (if that is
    /// zero, s is 1).
    pub fn of(self, rms: f64, rms_all: f64) -> f64 {
        match self {
            Self::Rms if rms_all > 0.0 => rms.max(SCALE_MIN * rms_all),
            Self::Rms | Self::Uniform => 1.0,
        }
    }
}

/// Real-valued choices of whoever starts a run. Only their integer consequences enter replay.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
pub struct Hyperparameters {
    /// Move of an element with s_t = 1 per standard deviation of the projected gradient, were all tensors one group.
    pub learning_rate: f64,
    /// Size of the perturbation of an element with s_t = 1.
    pub epsilon: f64,
    /// Gradients that the ranges leave room for.
    pub planned_gradients: u64,
    /// Scaling of directions between tensors.
    pub direction_scale: DirectionScale,
}

/// The integers of one tensor: see [`choose_arithmetic`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TensorArithmetic {
    /// As in [`super::TensorSpec`].
    pub range_log2: u8,
    /// As in [`super::TensorSpec`].
    pub epsilon: u32,
    /// As in [`super::TensorSpec`].
    pub unit: u64,
    /// As in [`super::TensorSpec`].
    pub shift: u8,
}

impl TensorArithmetic {
    /// The quantum, an exact power of two.
    pub fn quantum(&self) -> f32 {
        2f32.powi(i32::from(self.range_log2) - WEIGHT_BITS)
    }

    /// The row of the table of a tensor that has these integers.
    pub fn row(self, name: &str, shape: Vec<u64>, group: u16, origin: Origin) -> TensorSpec {
        let Self { range_log2, epsilon, unit, shift } = self;
        TensorSpec { name: name.into(), shape, group, range_log2, epsilon, unit, shift, origin }
    }
}

/// Chooses range, ε, unit and shift of a tensor of `group` whose largest magnitude is `max_abs` and whose directions
/// have scale `scale` (s).
///
/// With p the group's share of the rounds, `step = learning_rate·s / √p` is the move of a gradient of average size (a
/// byte of `levels`): rarer moves that are larger by √(1/p) come to the same walk. `R` is the smallest power of two
/// that is at least 1, `2·max_abs` and `max_abs + 10·planned·p·step`: ten times the planned gradients of average size
/// may move an element one way, which is 2.5 times the planned ones at the largest byte (127/32 of that size). `q =
/// R·2^-24`, `ε = max(1, round(ε·s·factor/q))` with the group's factor, `unit = step / (levels·q·2^shift)` in Q32.
///
/// Errors if the range or a number is beyond what the table can express, or if room for the planned gradients would
/// leave less than four quanta to ε or to a step: rounding them to whole quanta would then be felt.
pub fn choose_arithmetic(
    max_abs: f64,
    scale: f64,
    groups: &Groups,
    group: u16,
    settings: &Hyperparameters,
) -> Result<TensorArithmetic, InvalidManifest> {
    let Hyperparameters { learning_rate, epsilon, planned_gradients: planned, .. } = *settings;
    let share = groups.share(group);
    let step = learning_rate * scale / share.sqrt();
    if !(step.is_finite() && step > 0.0) {
        return Err(InvalidManifest::LearningRate(learning_rate));
    }
    if !(epsilon.is_finite() && epsilon > 0.0) {
        return Err(InvalidManifest::Epsilon(epsilon));
    }
    let directed = DIRECTED * planned as f64 * share * step;
    let needed = (2.0 * max_abs).max(max_abs + directed).max(1.0);
    if !needed.is_finite() || needed > 2f64.powi(RANGE_LOG2_MAX.into()) {
        return Err(InvalidManifest::Range(needed));
    }
    let range_log2 = (0..=RANGE_LOG2_MAX).find(|log2| 2f64.powi((*log2).into()) >= needed).unwrap_or(RANGE_LOG2_MAX);
    let quantum = 2f64.powi(i32::from(range_log2) - WEIGHT_BITS);
    let epsilon_quanta = (epsilon * scale * groups.epsilon_factor(group) / quantum).round().max(1.0);
    for (what, quanta) in [("epsilon", epsilon_quanta), ("a step", step / quantum)] {
        if quanta < QUANTA_MIN && needed <= max_abs + directed {
            return Err(InvalidManifest::Coarse { what, quanta, range: needed, planned });
        }
    }
    if epsilon_quanta >= 2f64.powi(WEIGHT_BITS - 1) {
        return Err(InvalidManifest::Epsilon(epsilon));
    }
    let quanta = step / (f64::from(LEVELS) * quantum);
    let q32 = |shift: u8| (quanta / f64::from(1u32 << shift) * 2f64.powi(32)).round() as u64;
    let shift = (0..=SHIFT_MAX)
        .find(|shift| codec::unit_is_valid(q32(*shift)))
        .ok_or(InvalidManifest::LearningRate(learning_rate))?;
    Ok(TensorArithmetic { range_log2, epsilon: epsilon_quanta as u32, unit: q32(shift), shift })
}
