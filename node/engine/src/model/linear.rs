//! Linear layers.

use anyhow::Result;
use candle_core::{CpuStorage, CustomOp1, Layout, Shape, Tensor, backend::BackendStorage};

use super::{gradients, operations::add};
use crate::packed::Packed;

/// `x · weightᵀ + bias`.
pub struct Linear {
    /// [out, in], or [in, out] if it is stored transposed.
    pub weight: Weight,
    /// Whether it is.
    pub is_transposed: bool,
    /// [out].
    pub bias: Option<Tensor>,
    /// What an adapter adds.
    pub adapter: Option<LowRank>,
}

/// A matrix that a model computes with.
#[derive(Clone)]
pub enum Weight {
    /// f32: somebody may change it.
    Plain(Tensor),
    /// As it is stored: nobody does.
    Packed(Packed),
}

/// `scaling · x · aᵀ · bᵀ` (LoRA, arXiv 2106.09685, eq. 3).
pub struct LowRank {
    /// [rank, in].
    pub a: Tensor,
    /// [out, rank].
    pub b: Tensor,
    pub scaling: f64,
}

impl Linear {
    /// `x`: [N, in]; the result: [N, out].
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let y = match &self.weight {
            Weight::Plain(weight) => product(x, weight, self.is_transposed)?,
            Weight::Packed(weight) => packed_product(x, weight, self.is_transposed)?,
        };
        let y = match &self.adapter {
            Some(LowRank { a, b, scaling }) => add(y, &(product(&product(x, a, false)?, b, false)? * *scaling)?)?,
            None => y,
        };
        Ok(match &self.bias {
            Some(bias) if x.track_op() => y.apply_op1(Bias { bias: bias.clone() })?,
            Some(bias) => y.broadcast_add(bias)?,
            None => y,
        })
    }
}

/// `x · weightᵀ`, or `x · weight` if the weight is stored transposed.
fn product(x: &Tensor, weight: &Tensor, is_transposed: bool) -> candle_core::Result<Tensor> {
    match x.track_op() {
        true => x.apply_op1(Product { weight: weight.clone(), is_transposed }),
        false if is_transposed => x.matmul(weight),
        false => x.matmul(&weight.t()?),
    }
}

/// The same of a weight that is kept as it is stored.
fn packed_product(x: &Tensor, weight: &Packed, is_transposed: bool) -> candle_core::Result<Tensor> {
    let y = weight.product(&x.detach(), is_transposed)?;
    match x.track_op() {
        true => x.apply_op1(PackedProduct { weight: weight.clone(), is_transposed, y }),
        false => Ok(y),
    }
}

/// [`packed_product`], recorded: what was computed, as a function of `x`.
struct PackedProduct {
    weight: Packed,
    is_transposed: bool,
    y: Tensor,
}

impl CustomOp1 for PackedProduct {
    fn name(&self) -> &'static str {
        "packed linear"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        Ok((CpuStorage::F32(self.y.flatten_all()?.to_vec1()?), self.y.shape().clone()))
    }

    fn bwd(&self, _: &Tensor, _: &Tensor, gradient: &Tensor) -> candle_core::Result<Option<Tensor>> {
        self.weight.product(&gradient.contiguous()?, !self.is_transposed).map(Some)
    }
}

/// [`product`], recorded.
struct Product {
    weight: Tensor,
    is_transposed: bool,
}

impl CustomOp1 for Product {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn cpu_fwd(&self, x: &CpuStorage, xl: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        let (rows, inputs) = xl.shape().dims2()?;
        let (first, second) = self.weight.dims2()?;
        let (weight, wl) = self.weight.storage_and_layout();
        let candle_core::Storage::Cpu(weight) = &*weight else { candle_core::bail!("not on the CPU") };
        let (outputs, wl) = if self.is_transposed { (second, wl.clone()) } else { (first, wl.transpose(0, 1)?) };
        let y = x.matmul(weight, (1, rows, outputs, inputs), xl, &wl)?;
        Ok((y, (rows, outputs).into()))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, gradient: &Tensor) -> candle_core::Result<Option<Tensor>> {
        if gradients::is_wanted(&self.weight) {
            let x = x.detach();
            let own = if self.is_transposed { x.t()?.matmul(gradient)? } else { gradient.t()?.matmul(&x)? };
            gradients::hand_in(&self.weight, own)?;
        }
        match self.is_transposed {
            true => gradient.matmul(&self.weight.t()?).map(Some),
            false => gradient.matmul(&self.weight).map(Some),
        }
    }
}

/// `y + bias`, recorded.
struct Bias {
    bias: Tensor,
}

impl CustomOp1 for Bias {
    fn name(&self) -> &'static str {
        "bias"
    }

    fn cpu_fwd(&self, y: &CpuStorage, yl: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        let mut out = crate::device::slice(y, yl)?.to_vec();
        let (bias, bl) = self.bias.storage_and_layout();
        let candle_core::Storage::Cpu(bias) = &*bias else { candle_core::bail!("not on the CPU") };
        let bias = crate::device::slice(bias, bl)?;
        for row in out.chunks_exact_mut(bias.len()) {
            row.iter_mut().zip(bias).for_each(|(y, bias)| *y += bias);
        }
        Ok((CpuStorage::F32(out), yl.shape().clone()))
    }

    fn bwd(&self, _: &Tensor, _: &Tensor, gradient: &Tensor) -> candle_core::Result<Option<Tensor>> {
        if gradients::is_wanted(&self.bias) {
            gradients::hand_in(&self.bias, gradient.sum(0)?)?;
        }
        Ok(Some(gradient.clone()))
    }
}
