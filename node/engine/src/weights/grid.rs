//! The grid that a trained tensor's values lie on.

use anyhow::{Context, Result, bail, ensure};
use candle_core::{DType, Tensor};
use protocol::manifest::{TensorSpec, WEIGHT_BITS};

use crate::device;

/// The shape of `spec`, if this machine can address so many elements.
pub fn dimensions(spec: &TensorSpec) -> Result<Vec<usize>> {
    let dimensions: Result<Vec<usize>, _> = spec.shape.iter().map(|dimension| usize::try_from(*dimension)).collect();
    dimensions
        .ok()
        .filter(|dimensions| dimensions.iter().try_fold(1usize, |product, d| product.checked_mul(*d)).is_some())
        .with_context(|| format!("tensor {} of shape {:?} is too large for this machine", spec.name, spec.shape))
}

/// Checks that `tensor` is what `spec` says, and one that sweeps reach.
pub fn check_layout(spec: &TensorSpec, tensor: &Tensor) -> Result<()> {
    let name = &spec.name;
    ensure!(
        tensor.dims() == dimensions(spec)?,
        "tensor {name} has shape {:?}, the run has {:?}; use the run's base model",
        tensor.dims(),
        spec.shape
    );
    ensure!(tensor.dtype() == DType::F32, "tensor {name} is {:?}; convert it to f32", tensor.dtype());
    ensure!(device::holds(tensor), "tensor {name} is not contiguous on the CPU");
    ensure!(!tensor.is_variable(), "tensor {name} is a variable, which records a graph; pass a plain tensor");
    Ok(())
}

/// Checks that every value is n · `quantum` with −2^24 ≤ n < 2^24, and no −0.0.
pub fn check_grid(name: &str, values: &[f32], quantum: f32) -> Result<()> {
    let edge = (1i32 << WEIGHT_BITS) as f32;
    let on_grid = |value: &f32| {
        let n = value / quantum;
        n as i32 as f32 == n && -edge <= n && n < edge && value.to_bits() != (-0.0f32).to_bits()
    };
    // Without a branch per value first, then the place of the offender.
    if values.iter().fold(true, |all, value| all & on_grid(value)) {
        return Ok(());
    }
    let at = values.iter().position(|value| !on_grid(value)).unwrap_or_default();
    bail!(
        "tensor {name} has {:?} at element {at}, which is not a multiple of {quantum:e} within ±{:e}; snap it, or fetch the \
         run's own base",
        values[at],
        edge * quantum
    )
}
