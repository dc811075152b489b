//! Norms, fused.

use candle_core::{CpuStorage, CustomOp1, CustomOp2, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

use super::{
    gradients,
    vector::{VectorLoop, dispatch, dot},
};
use crate::device::{self, slice};

/// Elements per parallel task: large enough to be worth handing out.
const TASK_ELEMENTS: usize = 16 * 1024;

/// A norm of one of the kinds that families have.
pub enum Norm {
    Rms(RmsNorm),
    Layer(LayerNorm),
}

impl Norm {
    /// `x`: [.., H]; so is the result.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        match self {
            Self::Rms(norm) => norm.forward(x),
            Self::Layer(norm) => norm.forward(x),
        }
    }
}

/// `x · (weight + offset) / √(mean(x²) + epsilon)` over the last dimension (arXiv 1910.07467, eq. 4).
pub struct RmsNorm {
    /// [H].
    pub weight: Tensor,
    /// What is added to it: 1 where weights are stored as their distance from 1.
    pub offset: f64,
    pub epsilon: f64,
}

impl RmsNorm {
    /// `x`: [.., H]; so is the result.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let fused = FusedRmsNorm { epsilon: self.epsilon, offset: self.offset as f32 };
        match x.track_op() {
            true => x.apply_op1(RecordedRmsNorm { fused, weight: self.weight.clone() }),
            false => x.apply_op2_no_bwd(&self.weight, &fused),
        }
    }
}

struct FusedRmsNorm {
    epsilon: f64,
    offset: f32,
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
        let task = task_elements(width);
        let (epsilon, offset) = (self.epsilon as f32, self.offset);
        out.par_chunks_mut(task)
            .zip(x.par_chunks(task))
            .for_each(|(out, x)| dispatch(RmsNormRows { out, x, weight, offset, epsilon }));
        Ok((CpuStorage::F32(out), xl.shape().clone()))
    }
}

/// Elements of whole rows that are one task.
fn task_elements(width: usize) -> usize {
    (TASK_ELEMENTS / width).max(1) * width
}

struct RmsNormRows<'a> {
    out: &'a mut [f32],
    x: &'a [f32],
    weight: &'a [f32],
    offset: f32,
    epsilon: f32,
}

impl VectorLoop for RmsNormRows<'_> {
    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let width = self.weight.len();
        for (out, x) in self.out.chunks_exact_mut(width).zip(self.x.chunks_exact(width)) {
            let scale = 1.0 / (dot::<FMA>(x, x) / width as f32 + self.epsilon).sqrt();
            for ((out, x), weight) in out.iter_mut().zip(x).zip(self.weight) {
                *out = x * scale * (weight + self.offset);
            }
        }
    }
}

/// The norm where a graph is recorded.
struct RecordedRmsNorm {
    fused: FusedRmsNorm,
    weight: Tensor,
}

impl CustomOp1 for RecordedRmsNorm {
    fn name(&self) -> &'static str {
        "rms-norm"
    }

    fn cpu_fwd(&self, x: &CpuStorage, xl: &Layout) -> Result<(CpuStorage, Shape)> {
        let (weight, wl) = self.weight.storage_and_layout();
        let candle_core::Storage::Cpu(weight) = &*weight else { bail!("not on the CPU") };
        self.fused.cpu_fwd(x, xl, weight, wl)
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        let gradient = gradient.contiguous()?;
        let (out, sums) = device::read_all([x, &gradient, &self.weight], |[x, gradient, weight]| {
            rms_norm_backward(x, gradient, weight, &self.fused)
        })?;
        if gradients::is_wanted(&self.weight) {
            gradients::hand_in(&self.weight, Tensor::from_vec(sums, self.weight.shape(), x.device())?)?;
        }
        Tensor::from_vec(out, x.shape(), x.device()).map(Some)
    }
}

/// Gradients of the input and of the weights.
fn rms_norm_backward(x: &[f32], gradient: &[f32], weight: &[f32], norm: &FusedRmsNorm) -> (Vec<f32>, Vec<f32>) {
    let (epsilon, offset) = (norm.epsilon as f32, norm.offset);
    let task = task_elements(weight.len());
    let mut out = vec![0f32; x.len()];
    let parts: Vec<Vec<f32>> = out
        .par_chunks_mut(task)
        .zip(x.par_chunks(task).zip(gradient.par_chunks(task)))
        .map(|(out, (x, gradient))| {
            let mut sums = vec![0f32; weight.len()];
            dispatch(RmsNormBackward { out, sums: &mut sums, x, gradient, weight, offset, epsilon });
            sums
        })
        .collect();
    // In order: the sums do not depend on which thread did what.
    let mut sums = vec![0f32; weight.len()];
    for part in parts {
        sums.iter_mut().zip(part).for_each(|(sum, part)| *sum += part);
    }
    (out, sums)
}

/// With r = 1 / √(mean(x²) + epsilon): the gradient of x is `r · (g·w − x · r² · mean(x·g·w))`, that of w is
/// `Σ g·x·r`.
struct RmsNormBackward<'a> {
    out: &'a mut [f32],
    /// Gradient of the weights, added to.
    sums: &'a mut [f32],
    x: &'a [f32],
    gradient: &'a [f32],
    weight: &'a [f32],
    offset: f32,
    epsilon: f32,
}

impl VectorLoop for RmsNormBackward<'_> {
    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let width = self.weight.len();
        let rows = self.x.chunks_exact(width).zip(self.gradient.chunks_exact(width));
        for (out, (x, gradient)) in self.out.chunks_exact_mut(width).zip(rows) {
            for ((out, gradient), weight) in out.iter_mut().zip(gradient).zip(self.weight) {
                *out = gradient * (weight + self.offset);
            }
            let scale = 1.0 / (dot::<FMA>(x, x) / width as f32 + self.epsilon).sqrt();
            let shared = dot::<FMA>(x, out) / width as f32 * scale * scale;
            for (out, x) in out.iter_mut().zip(x) {
                *out = scale * (*out - x * shared);
            }
            for ((sum, gradient), x) in self.sums.iter_mut().zip(gradient).zip(x) {
                *sum += gradient * x * scale;
            }
        }
    }
}

/// `(x − mean) / √(variance + epsilon) · weight + bias` over the last dimension (arXiv 1607.06450, eq. 4).
pub struct LayerNorm {
    /// [H].
    pub weight: Tensor,
    /// [H].
    pub bias: Tensor,
    pub epsilon: f64,
}

impl LayerNorm {
    /// `x`: [.., H]; so is the result.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let op =
            RecordedLayerNorm { weight: self.weight.clone(), bias: self.bias.clone(), epsilon: self.epsilon as f32 };
        if x.track_op() { x.apply_op1(op) } else { x.apply_op1_no_bwd(&op) }
    }
}

struct RecordedLayerNorm {
    weight: Tensor,
    bias: Tensor,
    epsilon: f32,
}

/// One over the deviation of a row, and its mean.
fn scale_and_mean(row: &[f32], epsilon: f32) -> (f32, f32) {
    let width = row.len() as f64;
    let mean = row.iter().map(|x| f64::from(*x)).sum::<f64>() / width;
    let variance = row.iter().map(|x| (f64::from(*x) - mean).powi(2)).sum::<f64>() / width;
    ((1.0 / (variance + f64::from(epsilon)).sqrt()) as f32, mean as f32)
}

impl CustomOp1 for RecordedLayerNorm {
    fn name(&self) -> &'static str {
        "layer-norm"
    }

    fn cpu_fwd(&self, x: &CpuStorage, xl: &Layout) -> Result<(CpuStorage, Shape)> {
        let (x, width) = (slice(x, xl)?, self.weight.elem_count());
        if width == 0 || xl.dims().last() != Some(&width) {
            bail!("layer-norm of {:?} by {width} weights", xl.dims());
        }
        let mut out = vec![0f32; x.len()];
        device::read_all([&self.weight, &self.bias], |[weight, bias]| {
            out.par_chunks_mut(task_elements(width)).zip(x.par_chunks(task_elements(width))).for_each(|(out, x)| {
                for (out, x) in out.chunks_exact_mut(width).zip(x.chunks_exact(width)) {
                    let (scale, mean) = scale_and_mean(x, self.epsilon);
                    for (i, out) in out.iter_mut().enumerate() {
                        *out = (x[i] - mean) * scale * weight[i] + bias[i];
                    }
                }
            });
        })?;
        Ok((CpuStorage::F32(out), xl.shape().clone()))
    }

    /// With n = (x − mean) · r: the gradient of x is `r · (g·w − mean(g·w) − n · mean(g·w·n))`, that of w is `Σ g·n`,
    /// that of the bias `Σ g`.
    fn bwd(&self, x: &Tensor, _: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        let (gradient, width) = (gradient.contiguous()?, self.weight.elem_count());
        let (mut of_weight, mut of_bias) = (vec![0f32; width], vec![0f32; width]);
        let out = device::read_all([x, &gradient, &self.weight], |[x, gradient, weight]| {
            let mut out = vec![0f32; x.len()];
            let rows = x.chunks_exact(width).zip(gradient.chunks_exact(width));
            for (out, (x, gradient)) in out.chunks_exact_mut(width).zip(rows) {
                let (scale, mean) = scale_and_mean(x, self.epsilon);
                let (mut slope, mut along) = (0f64, 0f64);
                for i in 0..width {
                    let normed = (x[i] - mean) * scale;
                    of_weight[i] += gradient[i] * normed;
                    of_bias[i] += gradient[i];
                    slope += f64::from(gradient[i] * weight[i]);
                    along += f64::from(gradient[i] * weight[i] * normed);
                }
                let (slope, along) = ((slope / width as f64) as f32, (along / width as f64) as f32);
                for i in 0..width {
                    out[i] = scale * (gradient[i] * weight[i] - slope - (x[i] - mean) * scale * along);
                }
            }
            out
        })?;
        for (weight, sums) in [(&self.weight, of_weight), (&self.bias, of_bias)] {
            if gradients::is_wanted(weight) {
                gradients::hand_in(weight, Tensor::from_vec(sums, weight.shape(), x.device())?)?;
            }
        }
        Tensor::from_vec(out, x.shape(), x.device()).map(Some)
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
            let difference = (RmsNorm { weight, offset: 0.0, epsilon: 1e-5 }.forward(&x).unwrap() - plain).unwrap();
            let difference = difference.abs().unwrap().flatten_all().unwrap().max(0).unwrap();
            assert!(difference.to_scalar::<f32>().unwrap() < 1e-5, "differ by {difference}");
        }
    }

    #[test]
    fn its_gradients_agree_with_those_of_the_plain_formula() {
        use super::super::gradients::{
            Collector,
            testing::{assert_close, gradients, variable},
        };
        for (rows, width, offset) in [(1, 2, 0.0), (7, 15, 1.0), (300, 64, 0.0), (5, 172, 1.0)] {
            let (x, weight) = (variable(2.0, (rows, width)), variable(1.0, width));
            let scale = (x.sqr().unwrap().mean_keepdim(D::Minus1).unwrap() + 1e-5).unwrap().sqrt().unwrap();
            let shifted = (weight.as_tensor() + offset).unwrap();
            let plain = x.broadcast_div(&scale).unwrap().broadcast_mul(&shifted).unwrap();
            let expected = gradients(&plain, &[&x, &weight]);
            let norm = RmsNorm { weight: weight.as_detached_tensor(), offset, epsilon: 1e-5 };
            let collector = Collector::open(std::slice::from_ref(&norm.weight)).unwrap();
            let ours = gradients(&norm.forward(&x).unwrap(), &[&x]);
            assert_close(&ours[0], &expected[0], 1e-5);
            assert_close(&collector.take(true)[0].1, &expected[1], 1e-5);
        }
    }

    #[test]
    fn layer_norm_and_its_gradients_agree_with_the_plain_formula() {
        use super::super::gradients::{
            Collector,
            testing::{assert_close, gradients, variable},
        };
        for (rows, width) in [(3, 5), (7, 15), (300, 64)] {
            let (x, weight, bias) = (variable(2.0, (rows, width)), variable(1.0, width), variable(1.0, width));
            let centred = x.broadcast_sub(&x.mean_keepdim(D::Minus1).unwrap()).unwrap();
            let deviation = (centred.sqr().unwrap().mean_keepdim(D::Minus1).unwrap() + 1e-5).unwrap().sqrt().unwrap();
            let normed = centred.broadcast_div(&deviation).unwrap();
            let plain = normed.broadcast_mul(&weight).unwrap().broadcast_add(&bias).unwrap();
            let expected = gradients(&plain, &[&x, &weight, &bias]);
            let (weight, bias) = (weight.as_detached_tensor(), bias.as_detached_tensor());
            let norm = LayerNorm { weight: weight.clone(), bias: bias.clone(), epsilon: 1e-5 };
            let collector = Collector::open(&[weight.clone(), bias.clone()]).unwrap();
            let output = norm.forward(&x).unwrap();
            assert_close(&output, &plain, 1e-5);
            assert_close(&norm.forward(&x.as_detached_tensor()).unwrap(), &plain, 1e-5);
            let ours = gradients(&output, &[&x]);
            assert_close(&ours[0], &expected[0], 1e-5);
            for (id, gradient) in collector.take(true) {
                assert_close(&gradient, &expected[if id == weight.id() { 1 } else { 2 }], 1e-5);
            }
        }
    }

    #[test]
    fn a_weight_of_another_width_is_refused() {
        let x = Tensor::zeros((4, 8), DType::F32, &Device::Cpu).unwrap();
        let weight = Tensor::zeros(4, DType::F32, &Device::Cpu).unwrap();
        assert!(RmsNorm { weight, offset: 0.0, epsilon: 1e-5 }.forward(&x).is_err());
    }
}
