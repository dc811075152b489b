//! A model's weights by name, while it is built.

use anyhow::{Context, Result, ensure};
use candle_core::{DType, Tensor};
use std::collections::BTreeMap;

use super::{
    architecture::Adapters,
    linear::{Linear, LowRank, Weight},
};
use crate::{device, packed::Packed};

/// A model's weights. What is taken shares the storage.
pub struct Parameters<'a> {
    tensors: &'a BTreeMap<String, Tensor>,
    packed: &'a BTreeMap<String, Packed>,
    adapters: &'a Adapters,
}

impl<'a> Parameters<'a> {
    /// All `tensors`, if each of `expected` is among them in its shape, f32, contiguous where the model computes, or is
    /// among `packed` in its shape.
    pub fn new(
        tensors: &'a BTreeMap<String, Tensor>,
        packed: &'a BTreeMap<String, Packed>,
        expected: &[(String, Vec<usize>)],
        adapters: &'a Adapters,
    ) -> Result<Self> {
        for (name, shape) in expected {
            if let Some(packed) = packed.get(name) {
                ensure!(
                    packed.shape() == shape[..],
                    "tensor {name} has shape {:?}, expected {shape:?}",
                    packed.shape()
                );
                continue;
            }
            let tensor = tensors.get(name).with_context(|| format!("tensor {name} is missing"))?;
            ensure!(tensor.dims() == shape, "tensor {name} has shape {:?}, expected {shape:?}", tensor.dims());
            let is_sound = tensor.dtype() == DType::F32 && device::holds(tensor);
            ensure!(is_sound, "tensor {name} must be contiguous f32 on the CPU");
        }
        Ok(Self { tensors, packed, adapters })
    }

    /// The tensor called `name`.
    pub fn tensor(&self, name: &str) -> Result<Tensor> {
        self.tensors.get(name).cloned().with_context(|| format!("tensor {name} is missing"))
    }

    /// The matrix called `name`.
    pub fn matrix(&self, name: &str) -> Result<Weight> {
        match self.packed.get(name) {
            Some(packed) => Ok(Weight::Packed(packed.clone())),
            None => self.tensor(name).map(Weight::Plain),
        }
    }

    /// The linear layer called `name`, with a bias if there is one.
    pub fn linear(&self, name: &str, is_transposed: bool) -> Result<Linear> {
        let bias = self.tensors.get(&format!("{name}.bias")).cloned();
        let weight = self.matrix(&format!("{name}.weight"))?;
        let adapter = self.adapters.get(name).map(|scaling| self.low_rank(name, *scaling)).transpose()?;
        if let Some(LowRank { a, b, .. }) = &adapter {
            let (first, second) = match &weight {
                Weight::Plain(weight) => weight.dims2()?,
                Weight::Packed(weight) => weight.shape().into(),
            };
            let (outputs, inputs) = if is_transposed { (second, first) } else { (first, second) };
            let fits = a.dims2()?.1 == inputs && b.dims2()?.0 == outputs && a.dims2()?.0 == b.dims2()?.1;
            ensure!(fits, "adapter of {name}: {:?} and {:?} do not fit {inputs} to {outputs}", a.dims(), b.dims());
        }
        Ok(Linear { weight, is_transposed, bias, adapter })
    }

    fn low_rank(&self, name: &str, scaling: f64) -> Result<LowRank> {
        let half = |half: &str| {
            let tensor = self.tensor(&format!("{name}.{half}.weight"))?;
            ensure!(
                tensor.dtype() == DType::F32 && device::holds(&tensor),
                "adapter {name}.{half} must be contiguous f32 on the CPU"
            );
            Ok(tensor)
        };
        Ok(LowRank { a: half("lora_A")?, b: half("lora_B")?, scaling })
    }
}
