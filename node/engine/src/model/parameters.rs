//! A model's weights by name, while it is built.

use anyhow::{Context, Result, ensure};
use candle_core::{DType, Tensor};
use std::collections::BTreeMap;

use super::linear::Linear;
use crate::device;

/// A model's weights. What is taken shares the storage.
pub struct Parameters<'a>(&'a BTreeMap<String, Tensor>);

impl<'a> Parameters<'a> {
    /// All `tensors`, if each of `expected` is among them in its shape, f32, and contiguous where the model computes.
    pub fn new(tensors: &'a BTreeMap<String, Tensor>, expected: &[(String, Vec<usize>)]) -> Result<Self> {
        for (name, shape) in expected {
            let tensor = tensors.get(name).with_context(|| format!("tensor {name} is missing"))?;
            ensure!(tensor.dims() == shape, "tensor {name} has shape {:?}, expected {shape:?}", tensor.dims());
            let is_sound = tensor.dtype() == DType::F32 && device::holds(tensor);
            ensure!(is_sound, "tensor {name} must be contiguous f32 on the CPU");
        }
        Ok(Self(tensors))
    }

    /// The tensor called `name`.
    pub fn tensor(&self, name: &str) -> Result<Tensor> {
        self.0.get(name).cloned().with_context(|| format!("tensor {name} is missing"))
    }

    /// The linear layer called `name`, with a bias if there is one.
    pub fn linear(&self, name: &str, is_transposed: bool) -> Result<Linear> {
        let bias = self.0.get(&format!("{name}.bias")).cloned();
        Ok(Linear { weight: self.tensor(&format!("{name}.weight"))?, is_transposed, bias })
    }
}
