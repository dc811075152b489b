//! Trained tensors as bytes: f32, little-endian, row-major, in canonical order.

use anyhow::{Context, Result};
use candle_core::Tensor;
use protocol::manifest::{TensorSpec, combine_digests};
use rayon::prelude::*;
use std::{
    collections::BTreeMap,
    io::{Read, Write},
};

use super::{Weights, grid::dimensions};
use crate::device;

/// Values that are converted at a time.
const COPY_VALUES: usize = 1 << 14;

impl Weights {
    /// BLAKE3 of the concatenated BLAKE3 digests of the tensors (f32 LE, row-major) in canonical order.
    pub fn digest(&self) -> [u8; 32] {
        let digest = |spec: &TensorSpec| tensor_digest(&self.tensors[&spec.name]);
        let digests: Result<Vec<_>> = self.specs.par_iter().map(digest).collect();
        combine_digests(digests.expect("type and layout were checked when the tensors were taken over"))
    }

    /// Writes all trained tensors, f32 LE, row-major, in canonical order.
    pub fn write_to(&self, out: &mut dyn Write) -> Result<()> {
        for spec in &self.specs {
            device::for_each_bytes(&self.tensors[&spec.name], |bytes| Ok(out.write_all(bytes)?))
                .with_context(|| format!("writing tensor {}", spec.name))?;
        }
        Ok(())
    }

    /// Reads what [`Self::write_to`] wrote, one tensor at a time, and checks every value. Leaves what follows unread.
    pub fn read_from(specs: &[TensorSpec], input: &mut dyn Read) -> Result<Self> {
        let mut tensors = BTreeMap::new();
        for spec in specs {
            let values = read_values(spec, input).with_context(|| format!("reading tensor {}", spec.name))?;
            let tensor = device::tensor(values, dimensions(spec)?)?;
            tensors.insert(spec.name.clone(), tensor);
        }
        Self::new(specs, tensors)
    }
}

/// BLAKE3 of a tensor's values, f32 LE, row-major: the digest of a [`TensorSpec`].
pub fn tensor_digest(tensor: &Tensor) -> Result<[u8; 32]> {
    let mut hasher = blake3::Hasher::new();
    device::for_each_bytes(tensor, |bytes| {
        hasher.update(bytes);
        Ok(())
    })?;
    Ok(*hasher.finalize().as_bytes())
}

fn read_values(spec: &TensorSpec, input: &mut dyn Read) -> Result<Vec<f32>> {
    let elements: usize = dimensions(spec)?.iter().product();
    let mut values = Vec::new();
    values
        .try_reserve_exact(elements)
        .with_context(|| format!("{elements} values do not fit this machine's memory"))?;
    let mut buffer = vec![0u8; 4 * elements.min(COPY_VALUES)];
    while values.len() < elements {
        let bytes = &mut buffer[..4 * (elements - values.len()).min(COPY_VALUES)];
        input.read_exact(bytes).with_context(|| format!("after {} of {elements} values", values.len()))?;
        values.extend(bytes.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)));
    }
    Ok(values)
}
