//! Fused element-wise operations of the forward pass: in place, but where a graph is recorded.

use candle_core::{CpuStorage, CustomOp1, CustomOp2, InplaceOp1, InplaceOp2, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

use super::{
    activation::Activation,
    vector::{VectorLoop, dispatch, exponential},
};
use crate::device::{self, slice, slice_mut};

/// Elements per parallel task: large enough to be worth handing out.
const TASK_ELEMENTS: usize = 16 * 1024;

/// `activation(x)`, in `x`'s storage unless a graph is recorded.
pub fn activate(x: Tensor, activation: Activation) -> Result<Tensor> {
    if x.track_op() {
        return x.apply_op1(Activate(activation));
    }
    x.inplace_op1(&Activate(activation))?;
    Ok(x)
}

struct Activate(Activation);

impl InplaceOp1 for Activate {
    fn name(&self) -> &'static str {
        "activate"
    }

    fn cpu_fwd(&self, x: &mut CpuStorage, xl: &Layout) -> Result<()> {
        let x = slice_mut(x, xl)?;
        x.par_chunks_mut(TASK_ELEMENTS).for_each(|x| dispatch(ActivateRows { x, activation: self.0 }));
        Ok(())
    }
}

struct ActivateRows<'a> {
    x: &'a mut [f32],
    activation: Activation,
}

impl VectorLoop for ActivateRows<'_> {
    #[inline(always)]
    fn run<const FMA: bool>(self) {
        self.x.iter_mut().for_each(|x| *x = self.activation.at::<FMA>(*x).0);
    }
}

impl CustomOp1 for Activate {
    fn name(&self) -> &'static str {
        "activate"
    }

    fn cpu_fwd(&self, x: &CpuStorage, xl: &Layout) -> Result<(CpuStorage, Shape)> {
        let mut out = CpuStorage::F32(slice(x, xl)?.to_vec());
        InplaceOp1::cpu_fwd(self, &mut out, &Layout::contiguous(xl.shape()))?;
        Ok((out, xl.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        let gradient = gradient.contiguous()?;
        let slopes = device::read_all([x, &gradient], |[x, gradient]| {
            let mut slopes = gradient.to_vec();
            slopes.par_chunks_mut(TASK_ELEMENTS).zip(x.par_chunks(TASK_ELEMENTS)).for_each(|(slopes, x)| {
                dispatch(ActivateBackward { slopes, x, activation: self.0 });
            });
            slopes
        })?;
        Tensor::from_vec(slopes, x.shape(), x.device()).map(Some)
    }
}

/// Multiplies gradients by the slopes at x.
struct ActivateBackward<'a> {
    slopes: &'a mut [f32],
    x: &'a [f32],
    activation: Activation,
}

impl VectorLoop for ActivateBackward<'_> {
    #[inline(always)]
    fn run<const FMA: bool>(self) {
        self.slopes.iter_mut().zip(self.x).for_each(|(slope, x)| *slope *= self.activation.at::<FMA>(*x).1);
    }
}

/// `activation(gate) · up`, in `gate`'s storage unless a graph is recorded. Shapes must be equal.
pub fn activate_multiply(gate: Tensor, up: &Tensor, activation: Activation) -> Result<Tensor> {
    let multiply = ActivateMultiply(activation);
    if gate.track_op() || up.track_op() {
        return gate.apply_op2(up, multiply);
    }
    gate.inplace_op2(up, &multiply)?;
    Ok(gate)
}

struct ActivateMultiply(Activation);

impl InplaceOp2 for ActivateMultiply {
    fn name(&self) -> &'static str {
        "activate-multiply"
    }

    fn cpu_fwd(&self, gate: &mut CpuStorage, gl: &Layout, up: &CpuStorage, ul: &Layout) -> Result<()> {
        in_place(gate, gl, up, ul, |gate, up| match self.0 {
            // The one that is everywhere has a loop without a branch.
            Activation::Silu => dispatch(SiluMultiplyRows { gate, up }),
            activation => dispatch(ActivateMultiplyRows { gate, up, activation }),
        })
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

struct ActivateMultiplyRows<'a> {
    gate: &'a mut [f32],
    up: &'a [f32],
    activation: Activation,
}

impl VectorLoop for ActivateMultiplyRows<'_> {
    #[inline(always)]
    fn run<const FMA: bool>(self) {
        self.gate.iter_mut().zip(self.up).for_each(|(gate, up)| *gate = self.activation.at::<FMA>(*gate).0 * up);
    }
}

impl CustomOp2 for ActivateMultiply {
    fn name(&self) -> &'static str {
        "activate-multiply"
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
                    dispatch(ActivateMultiplyBackward { gates, ups, gate, up, gradient, activation: self.0 });
                },
            );
            (gates, ups)
        })?;
        let tensor = |values| Tensor::from_vec(values, gate.shape(), gate.device());
        Ok((Some(tensor(gates)?), Some(tensor(ups)?)))
    }
}

/// With a the activation: the gradient of the gate is `g · up · a′(gate)`, that of `up` is `g · a(gate)`.
struct ActivateMultiplyBackward<'a> {
    gates: &'a mut [f32],
    ups: &'a mut [f32],
    gate: &'a [f32],
    up: &'a [f32],
    gradient: &'a [f32],
    activation: Activation,
}

impl VectorLoop for ActivateMultiplyBackward<'_> {
    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let inputs = self.gate.iter().zip(self.up).zip(self.gradient);
        for ((gates, ups), ((gate, up), gradient)) in self.gates.iter_mut().zip(self.ups).zip(inputs) {
            let (value, slope) = self.activation.at::<FMA>(*gate);
            *ups = gradient * value;
            *gates = gradient * up * slope;
        }
    }
}

/// `cap · tanh(x / cap)`, in `x`'s storage unless a graph is recorded.
pub fn soft_cap(x: Tensor, cap: f64) -> Result<Tensor> {
    let cap = SoftCap(cap as f32);
    if x.track_op() {
        return x.apply_op1(cap);
    }
    x.inplace_op1(&cap)?;
    Ok(x)
}

struct SoftCap(f32);

impl InplaceOp1 for SoftCap {
    fn name(&self) -> &'static str {
        "soft-cap"
    }

    fn cpu_fwd(&self, x: &mut CpuStorage, xl: &Layout) -> Result<()> {
        let x = slice_mut(x, xl)?;
        x.par_chunks_mut(TASK_ELEMENTS).for_each(|x| dispatch(SoftCapRows { x, cap: self.0 }));
        Ok(())
    }
}

struct SoftCapRows<'a> {
    x: &'a mut [f32],
    cap: f32,
}

impl VectorLoop for SoftCapRows<'_> {
    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let scale = 2.0 / self.cap;
        self.x.iter_mut().for_each(|x| *x = self.cap - 2.0 * self.cap / (1.0 + exponential::<FMA>(*x * scale)));
    }
}

impl CustomOp1 for SoftCap {
    fn name(&self) -> &'static str {
        "soft-cap"
    }

    fn cpu_fwd(&self, x: &CpuStorage, xl: &Layout) -> Result<(CpuStorage, Shape)> {
        let mut out = CpuStorage::F32(slice(x, xl)?.to_vec());
        InplaceOp1::cpu_fwd(self, &mut out, &Layout::contiguous(xl.shape()))?;
        Ok((out, xl.shape().clone()))
    }

    fn bwd(&self, _: &Tensor, capped: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        let gradient = gradient.contiguous()?;
        let cap = self.0;
        let slopes = device::read_all([capped, &gradient], |[capped, gradient]| {
            let slope = |(y, g): (&f32, &f32)| g * (1.0 - (y / cap) * (y / cap));
            capped.par_iter().zip(gradient).map(slope).collect::<Vec<f32>>()
        })?;
        Tensor::from_vec(slopes, capped.shape(), capped.device()).map(Some)
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
        super::{
            activation::Rare,
            gradients::testing::{assert_close, gradients, variable},
        },
        *,
    };
    use candle_core::Device;

    /// By candle's own operations, which have gradients of their own.
    fn plain(x: &Tensor, activation: Activation) -> Tensor {
        match activation {
            Activation::Silu => x.silu().unwrap(),
            Activation::Gelu => x.gelu_erf().unwrap(),
            Activation::GeluTanh => x.gelu().unwrap(),
            Activation::GeluQuick => (x * 1.702).unwrap().silu().unwrap().affine(1.0 / 1.702, 0.0).unwrap(),
            Activation::Relu => x.relu().unwrap(),
            Activation::Rare(rare) => plain_rare(x, rare).unwrap(),
        }
    }

    fn plain_rare(x: &Tensor, rare: Rare) -> Result<Tensor> {
        match rare {
            Rare::GeluClipped => x.gelu_erf()?.clamp(-10f64, 10f64),
            Rare::HardSwish => (x * (x + 3.0)?.clamp(0f64, 6f64)?)? / 6.0,
            Rare::LeakyRelu => x.relu()? - (x.neg()?.relu()? * 0.01)?,
            Rare::Linear => x * 1.0,
            Rare::Mish => x * (x.exp()? + 1.0)?.log()?.tanh()?,
            Rare::ReluSquared => x.relu()?.sqr(),
            Rare::ReluTo6 => x.clamp(0f64, 6f64),
            Rare::Sigmoid => (x.neg()?.exp()? + 1.0)?.recip(),
            Rare::Tanh => x.tanh(),
        }
    }

    #[test]
    fn activations_and_their_gradients_agree_with_the_plain_formulas() {
        for activation in Activation::names().split(", ").map(|name| Activation::named(name).unwrap()) {
            let (gate, up) = (variable(3.0, (300, 172)), variable(1.0, (300, 172)));
            let x = gate.as_tensor().clone();
            let expected = plain(&x, activation);
            let ours = activate(x.clone(), activation).unwrap();
            assert_close(&ours, &expected, 2e-6);
            assert_close(&activate(gate.as_detached_tensor().copy().unwrap(), activation).unwrap(), &expected, 2e-6);
            assert_close(&gradients(&ours, &[&gate])[0], &gradients(&expected, &[&gate])[0], 2e-5);
            let expected = (expected * up.as_tensor()).unwrap();
            let ours = activate_multiply(x.clone(), &up, activation).unwrap();
            assert_close(&ours, &expected, 2e-6);
            let detached = gate.as_detached_tensor().copy().unwrap();
            assert_close(&activate_multiply(detached, &up.as_detached_tensor(), activation).unwrap(), &expected, 2e-6);
            let (ours, expected) = (gradients(&ours, &[&gate, &up]), gradients(&expected, &[&gate, &up]));
            ours.iter().zip(&expected).for_each(|(ours, plain)| assert_close(ours, plain, 2e-5));
        }
    }

    #[test]
    fn a_soft_cap_and_its_gradient_agree_with_the_plain_formula() {
        let x = variable(40.0, (300, 172));
        let expected = ((x.as_tensor() / 30.0).unwrap().tanh().unwrap() * 30.0).unwrap();
        let ours = soft_cap(x.as_tensor().clone(), 30.0).unwrap();
        assert_close(&ours, &expected, 1e-6);
        assert_close(&soft_cap(x.as_detached_tensor().copy().unwrap(), 30.0).unwrap(), &expected, 1e-6);
        assert_close(&gradients(&ours, &[&x])[0], &gradients(&expected, &[&x])[0], 1e-5);
    }

    #[test]
    fn a_sum_and_its_gradients_agree_with_the_plain_formula() {
        let (x, up) = (variable(4.0, (300, 172)), variable(1.0, (300, 172)));
        let before = x.as_tensor().copy().unwrap();
        let ours = gradients(&add(x.as_tensor().clone(), &up).unwrap(), &[&x, &up]);
        assert_close(&ours[0], &ours[1], 0.0);
        assert_close(&before, x.as_tensor(), 0.0);
    }

    #[test]
    fn operations_refuse_shapes_that_do_not_fit() {
        let x = Tensor::zeros((4, 8), candle_core::DType::F32, &Device::Cpu).unwrap();
        let y = Tensor::zeros((8, 4), candle_core::DType::F32, &Device::Cpu).unwrap();
        assert!(add(x.clone(), &y).is_err());
        assert!(activate_multiply(x.clone(), &y, Activation::Silu).is_err());
        assert!(add(x, &y.t().unwrap()).is_err());
    }
}
