//! Fused element-wise operations of the forward pass. Forward only: no gradients pass through them.

use candle_core::{CpuStorage, CustomOp2, InplaceOp2, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

use super::vector::{Kernel, LANES, dispatch, exponential, multiply_add, sum_lanes};

/// Elements per parallel task: large enough to be worth handing out.
const TASK_ELEMENTS: usize = 16 * 1024;

/// The contiguous f32 elements of a tensor.
pub fn slice<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    match (storage, layout.contiguous_offsets()) {
        (CpuStorage::F32(values), Some((from, to))) => Ok(&values[from..to]),
        _ => bail!("expected contiguous f32 values, got {:?} with {layout:?}", storage_dtype(storage)),
    }
}

fn slice_mut<'a>(storage: &'a mut CpuStorage, layout: &Layout) -> Result<&'a mut [f32]> {
    match (storage, layout.contiguous_offsets()) {
        (CpuStorage::F32(values), Some((from, to))) => Ok(&mut values[from..to]),
        _ => bail!("expected contiguous f32 values, got {layout:?}"),
    }
}

fn storage_dtype(storage: &CpuStorage) -> candle_core::DType {
    use candle_core::backend::BackendStorage;
    storage.dtype()
}

/// `x · weight / √(mean(x²) + epsilon)` over the last dimension; `x`: [.., H], `weight`: [H].
pub fn rms_norm(x: &Tensor, weight: &Tensor, epsilon: f64) -> Result<Tensor> {
    x.apply_op2_no_bwd(weight, &RmsNorm { epsilon })
}

struct RmsNorm {
    epsilon: f64,
}

impl CustomOp2 for RmsNorm {
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

impl Kernel for RmsNormRows<'_> {
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

/// `gate ← silu(gate) · up`, in place. Shapes must be equal.
pub fn silu_multiply(gate: &Tensor, up: &Tensor) -> Result<()> {
    gate.inplace_op2(up, &SiluMultiply)
}

struct SiluMultiply;

impl InplaceOp2 for SiluMultiply {
    fn name(&self) -> &'static str {
        "silu-multiply"
    }

    fn cpu_fwd(&self, gate: &mut CpuStorage, gl: &Layout, up: &CpuStorage, ul: &Layout) -> Result<()> {
        in_place(gate, gl, up, ul, |gate, up| dispatch(SiluMultiplyRows { gate, up }))
    }
}

struct SiluMultiplyRows<'a> {
    gate: &'a mut [f32],
    up: &'a [f32],
}

impl Kernel for SiluMultiplyRows<'_> {
    #[inline(always)]
    fn run<const FMA: bool>(self) {
        for (gate, up) in self.gate.iter_mut().zip(self.up) {
            *gate = *gate * up / (1.0 + exponential::<FMA>(-*gate));
        }
    }
}

/// `x ← x + y`, in place. Shapes must be equal.
pub fn add(x: &Tensor, y: &Tensor) -> Result<()> {
    x.inplace_op2(y, &Add)
}

struct Add;

impl InplaceOp2 for Add {
    fn name(&self) -> &'static str {
        "add"
    }

    fn cpu_fwd(&self, x: &mut CpuStorage, xl: &Layout, y: &CpuStorage, yl: &Layout) -> Result<()> {
        in_place(x, xl, y, yl, |x, y| dispatch(AddRows { x, y }))
    }
}

struct AddRows<'a> {
    x: &'a mut [f32],
    y: &'a [f32],
}

impl Kernel for AddRows<'_> {
    #[inline(always)]
    fn run<const FMA: bool>(self) {
        self.x.iter_mut().zip(self.y).for_each(|(x, y)| *x += y);
    }
}

fn in_place(
    x: &mut CpuStorage,
    xl: &Layout,
    y: &CpuStorage,
    yl: &Layout,
    task: impl Fn(&mut [f32], &[f32]) + Sync,
) -> Result<()> {
    if xl.dims() != yl.dims() {
        bail!("shapes differ: {:?} and {:?}", xl.dims(), yl.dims());
    }
    let (x, y) = (slice_mut(x, xl)?, slice(y, yl)?);
    x.par_chunks_mut(TASK_ELEMENTS).zip(y.par_chunks(TASK_ELEMENTS)).for_each(|(x, y)| task(x, y));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{D, Device};

    fn assert_close(a: &Tensor, b: &Tensor) {
        let difference = (a - b).unwrap().abs().unwrap().flatten_all().unwrap().max(0).unwrap();
        assert!(difference.to_scalar::<f32>().unwrap() < 1e-5, "differ by {difference}");
    }

    #[test]
    fn rms_norm_agrees_with_the_plain_formula() {
        for width in [1usize, 15, 64, 172] {
            let x = Tensor::randn(0f32, 2.0, (7, 5, width), &Device::Cpu).unwrap();
            let weight = Tensor::randn(1f32, 0.5, width, &Device::Cpu).unwrap();
            let scale = (x.sqr().unwrap().mean_keepdim(D::Minus1).unwrap() + 1e-5).unwrap().sqrt().unwrap();
            let plain = x.broadcast_div(&scale).unwrap().broadcast_mul(&weight).unwrap();
            assert_close(&rms_norm(&x, &weight, 1e-5).unwrap(), &plain);
        }
    }

    #[test]
    fn silu_multiply_agrees_with_the_plain_formula() {
        let gate = Tensor::randn(0f32, 4.0, (300, 172), &Device::Cpu).unwrap();
        let up = Tensor::randn(0f32, 1.0, (300, 172), &Device::Cpu).unwrap();
        let plain = (gate.silu().unwrap() * &up).unwrap();
        silu_multiply(&gate, &up).unwrap();
        assert_close(&gate, &plain);
    }

    #[test]
    fn operations_refuse_shapes_that_do_not_fit() {
        let x = Tensor::zeros((4, 8), candle_core::DType::F32, &Device::Cpu).unwrap();
        let y = Tensor::zeros((8, 4), candle_core::DType::F32, &Device::Cpu).unwrap();
        assert!(add(&x, &y).is_err());
        assert!(silu_multiply(&x, &y).is_err());
        assert!(rms_norm(&x, &Tensor::zeros(4, candle_core::DType::F32, &Device::Cpu).unwrap(), 1e-5).is_err());
        assert!(add(&x, &y.t().unwrap()).is_err());
    }
}
