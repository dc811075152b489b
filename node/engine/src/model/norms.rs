//! Norms, fused. Forward only: no gradients pass through them.

use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

use super::vector::{LANES, VectorLoop, dispatch, multiply_add, sum_lanes};
use crate::device::slice;

/// Elements per parallel task: large enough to be worth handing out.
const TASK_ELEMENTS: usize = 16 * 1024;

/// `x · weight / √(mean(x²) + epsilon)` over the last dimension (arXiv 1910.07467, eq. 4).
pub struct RmsNorm {
    /// [H].
    pub weight: Tensor,
    pub epsilon: f64,
}

impl RmsNorm {
    /// `x`: [.., H]; so is the result.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        x.apply_op2_no_bwd(&self.weight, &FusedRmsNorm { epsilon: self.epsilon })
    }
}

struct FusedRmsNorm {
    epsilon: f64,
}

impl CustomOp2 for FusedRmsNorm {
    fn name(&self) -> &'static str {
        "rms-norm"
    }

    fn cpu_fwd(&self, x: &CpuStorage, xl: &Layout, w: &CpuStorage, wl: &Layout) -> Result<(CpuStorage, Shape)> {
        let (x, weight) = (slice(x, xl)?, slice(w, wl)?);
        let width = weight.len();
        if width == 0 || xl.dims().last() != Some(&width) {
            bail!("rms-norm of {:?} by {width} weights", xl.dims());
        }
        let mut out = vec![0f32; x.len()];
        let task = (TASK_ELEMENTS / width).max(1) * width;
        let epsilon = self.epsilon as f32;
        out.par_chunks_mut(task)
            .zip(x.par_chunks(task))
            .for_each(|(out, x)| dispatch(RmsNormRows { out, x, weight, epsilon }));
        Ok((CpuStorage::F32(out), xl.shape().clone()))
    }
}

struct RmsNormRows<'a> {
    out: &'a mut [f32],
    x: &'a [f32],
    weight: &'a [f32],
    epsilon: f32,
}

impl VectorLoop for RmsNormRows<'_> {
    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let width = self.weight.len();
        for (out, x) in self.out.chunks_exact_mut(width).zip(self.x.chunks_exact(width)) {
            let mut sums = [0f32; LANES];
            let (chunks, rest) = x.as_chunks::<LANES>();
            for chunk in chunks {
                for lane in 0..LANES {
                    sums[lane] = multiply_add::<FMA>(chunk[lane], chunk[lane], sums[lane]);
                }
            }
            let sum = sum_lanes(sums) + rest.iter().map(|v| v * v).sum::<f32>();
            let scale = 1.0 / (sum / width as f32 + self.epsilon).sqrt();
            for ((out, x), weight) in out.iter_mut().zip(x).zip(self.weight) {
                *out = x * scale * weight;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{D, DType, Device};

    #[test]
    fn rms_norm_agrees_with_the_plain_formula() {
        for width in [1usize, 15, 64, 172] {
            let x = Tensor::randn(0f32, 2.0, (7, 5, width), &Device::Cpu).unwrap();
            let weight = Tensor::randn(1f32, 0.5, width, &Device::Cpu).unwrap();
            let scale = (x.sqr().unwrap().mean_keepdim(D::Minus1).unwrap() + 1e-5).unwrap().sqrt().unwrap();
            let plain = x.broadcast_div(&scale).unwrap().broadcast_mul(&weight).unwrap();
            let difference = (RmsNorm { weight, epsilon: 1e-5 }.forward(&x).unwrap() - plain).unwrap();
            let difference = difference.abs().unwrap().flatten_all().unwrap().max(0).unwrap();
            assert!(difference.to_scalar::<f32>().unwrap() < 1e-5, "differ by {difference}");
        }
    }

    #[test]
    fn a_weight_of_another_width_is_refused() {
        let x = Tensor::zeros((4, 8), DType::F32, &Device::Cpu).unwrap();
        let weight = Tensor::zeros(4, DType::F32, &Device::Cpu).unwrap();
        assert!(RmsNorm { weight, epsilon: 1e-5 }.forward(&x).is_err());
    }
}
