//! A model's weights by name, while it is built.

use anyhow::{Context, Result, ensure};
use candle_core::{DType, Tensor};
use std::collections::BTreeMap;

use super::linear::Linear;
use crate::device;

/// Weights below a prefix of their Hugging Face names. What is taken shares the storage.
pub struct Parameters<'a> {
    tensors: &'a BTreeMap<String, Tensor>,
    prefix: String,
}

impl<'a> Parameters<'a> {
    /// All `tensors`, if each of `expected` is among them in its shape, f32, and contiguous where the model computes.
    pub fn new(tensors: &'a BTreeMap<String, Tensor>, expected: &[(String, Vec<usize>)]) -> Result<Self> {
        for (name, shape) in expected {
            let tensor = tensors.get(name).with_context(|| format!("tensor {name} is missing"))?;
            ensure!(tensor.dims() == shape, "tensor {name} has shape {:?}, expected {shape:?}", tensor.dims());
            let is_sound = tensor.dtype() == DType::F32 && device::holds(tensor);
            ensure!(is_sound, "tensor {name} must be contiguous f32 on the CPU");
        }
        Ok(Self { tensors, prefix: String::new() })
    }

    /// Those whose names go on with `name` and a dot.
    pub fn below(&self, name: &str) -> Self {
        Self { tensors: self.tensors, prefix: format!("{}{name}.", self.prefix) }
    }

    /// The tensor called `name`.
    pub fn tensor(&self, name: &str) -> Result<Tensor> {
        let name = format!("{}{name}", self.prefix);
        self.tensors.get(&name).cloned().with_context(|| format!("tensor {name} is missing"))
    }

    /// The linear layer called `name`.
    pub fn linear(&self, name: &str, has_bias: bool) -> Result<Linear> {
        let own = self.below(name);
        Ok(Linear { weight: own.tensor("weight")?, bias: has_bias.then(|| own.tensor("bias")).transpose()? })
    }
}
