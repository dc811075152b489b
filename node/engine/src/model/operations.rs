//! Fused element-wise operations of the forward pass: in place, but where a graph is recorded.

use candle_core::{CpuStorage, CustomOp2, InplaceOp2, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

use super::vector::{VectorLoop, dispatch, exponential};
use crate::device::{self, slice, slice_mut};

/// Elements per parallel task: large enough to be worth handing out.
const TASK_ELEMENTS: usize = 16 * 1024;

/// `silu(gate) · up`, in `gate`'s storage unless a graph is recorded. Shapes must be equal.
pub fn silu_multiply(gate: Tensor, up: &Tensor) -> Result<Tensor> {
    if gate.track_op() || up.track_op() {
        return gate.apply_op2(up, SiluMultiply);
    }
    gate.inplace_op2(up, &SiluMultiply)?;
    Ok(gate)
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

impl CustomOp2 for SiluMultiply {
    fn name(&self) -> &'static str {
        "silu-multiply"
    }

    fn cpu_fwd(&self, gate: &CpuStorage, gl: &Layout, up: &CpuStorage, ul: &Layout) -> Result<(CpuStorage, Shape)> {
        let mut out = CpuStorage::F32(slice(gate, gl)?.to_vec());
        let layout = Layout::contiguous(gl.shape());
        InplaceOp2::cpu_fwd(self, &mut out, &layout, up, ul)?;
        Ok((out, gl.shape().clone()))
    }

    fn bwd(
        &self,
        gate: &Tensor,
        up: &Tensor,
        _: &Tensor,
        gradient: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let gradient = gradient.contiguous()?;
        let (gates, ups) = device::read_all([gate, up, &gradient], |[gate, up, gradient]| {
            let (mut gates, mut ups) = (vec![0f32; gate.len()], vec![0f32; gate.len()]);
            let inputs = gate.par_chunks(TASK_ELEMENTS).zip(up.par_chunks(TASK_ELEMENTS));
            let outputs = gates.par_chunks_mut(TASK_ELEMENTS).zip(ups.par_chunks_mut(TASK_ELEMENTS));
            outputs.zip(inputs.zip(gradient.par_chunks(TASK_ELEMENTS))).for_each(
                |((gates, ups), ((gate, up), gradient))| {
                    dispatch(SiluMultiplyBackward { gates, ups, gate, up, gradient });
                },
            );
            (gates, ups)
        })?;
        let tensor = |values| Tensor::from_vec(values, gate.shape(), gate.device());
        Ok((Some(tensor(gates)?), Some(tensor(ups)?)))
    }
}

/// With σ the logistic function: the gradient of the gate is `g · up · σ · (1 + gate · (1 − σ))`, that of `up` is `g ·
/// gate · σ`.
struct SiluMultiplyBackward<'a> {
    gates: &'a mut [f32],
    ups: &'a mut [f32],
    gate: &'a [f32],
    up: &'a [f32],
    gradient: &'a [f32],
}

impl VectorLoop for SiluMultiplyBackward<'_> {
    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let inputs = self.gate.iter().zip(self.up).zip(self.gradient);
        for ((gates, ups), ((gate, up), gradient)) in self.gates.iter_mut().zip(self.ups).zip(inputs) {
            let sigma = 1.0 / (1.0 + exponential::<FMA>(-gate));
            *ups = gradient * gate * sigma;
            *gates = gradient * up * sigma * (1.0 + gate * (1.0 - sigma));
        }
    }
}

/// `x + y`, in `x`'s storage unless a graph is recorded. Shapes must be equal.
pub fn add(x: Tensor, y: &Tensor) -> Result<Tensor> {
    if x.track_op() || y.track_op() {
        return x.add(y);
    }
    add_in_place(&x, y)?;
    Ok(x)
}

/// `x ← x + y`. Shapes must be equal.
pub fn add_in_place(x: &Tensor, y: &Tensor) -> Result<()> {
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
    use super::{
        super::gradients::testing::{assert_close, gradients, variable},
        *,
    };
    use candle_core::Device;

    #[test]
    fn silu_multiply_agrees_with_the_plain_formula() {
        let gate = Tensor::randn(0f32, 4.0, (300, 172), &Device::Cpu).unwrap();
        let up = Tensor::randn(0f32, 1.0, (300, 172), &Device::Cpu).unwrap();
        let plain = (gate.silu().unwrap() * &up).unwrap();
        assert_close(&silu_multiply(gate, &up).unwrap(), &plain, 1e-6);
    }

    #[test]
    fn their_gradients_agree_with_those_of_the_plain_formulas() {
        let (gate, up) = (variable(4.0, (300, 172)), variable(1.0, (300, 172)));
        let x = gate.as_tensor().clone();
        let ours = gradients(&silu_multiply(x.clone(), &up).unwrap(), &[&gate, &up]);
        let expected = gradients(&(x.silu().unwrap() * up.as_tensor()).unwrap(), &[&gate, &up]);
        ours.iter().zip(&expected).for_each(|(ours, plain)| assert_close(ours, plain, 1e-5));
        let before = x.copy().unwrap();
        let ours = gradients(&add(x.clone(), &up).unwrap(), &[&gate, &up]);
        assert_close(&ours[0], &ours[1], 0.0);
        assert_close(&before, &x, 0.0);
    }

    #[test]
    fn operations_refuse_shapes_that_do_not_fit() {
        let x = Tensor::zeros((4, 8), candle_core::DType::F32, &Device::Cpu).unwrap();
        let y = Tensor::zeros((8, 4), candle_core::DType::F32, &Device::Cpu).unwrap();
        assert!(add(x.clone(), &y).is_err());
        assert!(silu_multiply(x.clone(), &y).is_err());
        assert!(add(x, &y.t().unwrap()).is_err());
    }
}
