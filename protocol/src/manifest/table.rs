//! The trained tensors and their integer arithmetic.

use serde::{Deserialize, Serialize};

use super::adapter::{ADAPTER_RANK_MAX, Adapter, Half};
use crate::{codec, error::InvalidManifest};

/// A weight n satisfies −2^24 ≤ n < 2^24.
pub const WEIGHT_BITS: i32 = 24;
/// Largest shift: one entry stays within the range.
pub const SHIFT_MAX: u8 = 16;
/// Largest log2 of a range.
pub const RANGE_LOG2_MAX: u8 = 40;

/// Where a trained tensor's first values come from.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Origin {
    /// From the base model.
    Base {
        /// BLAKE3 of the snapped base values, f32 LE, row-major.
        digest: [u8; 32],
    },
    /// From the manifest itself.
    Adapter(Adapter),
}

/// One trained tensor: its place in the model and its integer arithmetic.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct TensorSpec {
    /// Name in the Hugging Face checkpoint, or an adapter's.
    pub name: String,
    /// Dimensions, row-major.
    pub shape: Vec<u64>,
    /// Number of the group whose rounds move it.
    pub group: u16,
    /// log2 of the range R; the quantum is 2^(range_log2 − 24).
    pub range_log2: u8,
    /// Size of the perturbation step, quanta: ε times the tensor's scale s and its group's factor.
    pub epsilon: u32,
    /// Quanta · 2^−shift per byte unit at multiplier one, Q32.
    pub unit: u64,
    /// The smallest shift for which |k| ≤ 255.
    pub shift: u8,
    /// Where its first values come from.
    pub origin: Origin,
}

impl TensorSpec {
    /// Number of elements (valid manifests do not overflow).
    pub fn elements(&self) -> u64 {
        self.shape.iter().product()
    }

    /// log2 of the quantum.
    fn quantum_log2(&self) -> i32 {
        i32::from(self.range_log2) - WEIGHT_BITS
    }

    /// The quantum, an exact power of two.
    pub fn quantum(&self) -> f32 {
        2f32.powi(self.quantum_log2())
    }

    /// BLAKE3 of the snapped base values; None for an adapter, which is not in the base.
    pub fn base_digest(&self) -> Option<[u8; 32]> {
        match self.origin {
            Origin::Base { digest } => Some(digest),
            Origin::Adapter(_) => None,
        }
    }

    /// What adapter it is a half of; None for a tensor of the base.
    pub fn adapter(&self) -> Option<Adapter> {
        match self.origin {
            Origin::Base { .. } => None,
            Origin::Adapter(adapter) => Some(adapter),
        }
    }

    /// Whether replay's bounds hold for the integers.
    fn is_sound(&self) -> bool {
        self.range_log2 <= RANGE_LOG2_MAX
            && self.shift <= SHIFT_MAX
            && codec::unit_is_valid(self.unit)
            && (1..1 << (WEIGHT_BITS - 1)).contains(&self.epsilon)
    }
}

/// Checks the table of tensors: order, shapes, integers, and that adapters have both halves.
pub(super) fn validate(tensors: &[TensorSpec]) -> Result<(), InvalidManifest> {
    if tensors.is_empty() || !tensors.is_sorted_by(|a, b| a.name < b.name) {
        return Err(InvalidManifest::TensorOrder);
    }
    let mut parameters = 0u64;
    for tensor in tensors {
        let elements = tensor.shape.iter().try_fold(1u64, |product, d| product.checked_mul(*d));
        parameters = match elements.and_then(|elements| parameters.checked_add(elements)) {
            Some(sum) if elements != Some(0) && sum < 1 << 44 => sum,
            _ => return Err(InvalidManifest::Shape(tensor.name.clone())),
        };
        if !tensor.is_sound() {
            return Err(InvalidManifest::Arithmetic(tensor.name.clone()));
        }
        if let Some(adapter) = tensor.adapter() {
            check_adapter(tensor, adapter, tensors)
                .map_err(|what| InvalidManifest::Adapter { tensor: tensor.name.clone(), what })?;
        }
    }
    Ok(())
}

/// Checks one half of an adapter, and that the other one is among `tensors`; says what is wrong.
fn check_adapter(tensor: &TensorSpec, adapter: Adapter, tensors: &[TensorSpec]) -> Result<(), &'static str> {
    let linear = adapter.linear(&tensor.name).ok_or("is not named after a linear layer and its half")?;
    let find = |name: String| tensors.binary_search_by(|tensor| tensor.name.cmp(&name)).ok().map(|at| &tensors[at]);
    let (inner, outer) = match (adapter.half, tensor.shape.as_slice()) {
        (Half::A, [inner, outer]) | (Half::B, [outer, inner]) => (*inner, *outer),
        _ => return Err("is not a matrix"),
    };
    if inner != u64::from(adapter.rank) || !(1..=ADAPTER_RANK_MAX).contains(&adapter.rank) {
        return Err("has a shape that is not of its rank, or a rank outside 1..=4096");
    }
    if adapter.scaling == 0 || adapter.direction_scale == 0 {
        return Err("has a factor of zero");
    }
    let initial = if adapter.half == Half::A { 1..1 << WEIGHT_BITS } else { 0..1 };
    if !initial.contains(&adapter.initial) {
        return Err("begins outside its range, A at zero, or B at another value");
    }
    let other = find(format!("{linear}{}", adapter.half.other().suffix())).ok_or("lacks its other half")?;
    let other_adapter = other.adapter().filter(|other| other.half != adapter.half).ok_or("lacks its other half")?;
    if (other_adapter.rank, other_adapter.scaling, other.group) != (adapter.rank, adapter.scaling, tensor.group) {
        return Err("differs from its other half in rank, scaling or group");
    }
    // Only where the layer itself is trained, too, does the table know its shape.
    let dimension = if adapter.half == Half::A { 1 } else { 0 };
    match find(format!("{linear}.weight")) {
        Some(layer) if layer.shape.len() != 2 || layer.shape[dimension] != outer => {
            Err("does not fit its layer's shape")
        }
        _ => Ok(()),
    }
}
