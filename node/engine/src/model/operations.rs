//! Fused element-wise operations of the forward pass. Forward only: no gradients pass through them.

use candle_core::{CpuStorage, InplaceOp2, Layout, Result, Tensor, bail};
use rayon::prelude::*;

use super::vector::{VectorLoop, dispatch, exponential};
use crate::device::{slice, slice_mut};

/// Elements per parallel task: large enough to be worth handing out.
const TASK_ELEMENTS: usize = 16 * 1024;

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

impl VectorLoop for SiluMultiplyRows<'_> {
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

impl VectorLoop for AddRows<'_> {
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
    use candle_core::Device;

    fn assert_close(a: &Tensor, b: &Tensor) {
        let difference = (a - b).unwrap().abs().unwrap().flatten_all().unwrap().max(0).unwrap();
        assert!(difference.to_scalar::<f32>().unwrap() < 1e-5, "differ by {difference}");
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
        assert!(add(&x, &y.t().unwrap()).is_err());
    }
}
