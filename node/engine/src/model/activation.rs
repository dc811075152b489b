//! What a neuron makes of its input, by the names that transformers has for it (`activations.py`).

use super::vector::exponential;

/// See the module's documentation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Activation {
    /// x · logistic(x).
    Silu,
    /// x · Φ(x), by the error function.
    Gelu,
    /// The same by tanh, √(2/π) · (x + 0.044715 x³).
    GeluTanh,
    /// x · logistic(1.702 x).
    GeluQuick,
    /// max(x, 0).
    Relu,
    /// One that few models have.
    Rare(Rare),
}

/// Activations whose loops are not worth a vector unit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Rare {
    /// Gelu, from −10 to 10.
    GeluClipped,
    /// x · max(0, min(x + 3, 6)) / 6.
    HardSwish,
    /// x above 0, else 0.01 x.
    LeakyRelu,
    /// x.
    Linear,
    /// x · tanh(ln(1 + eˣ)).
    Mish,
    /// max(x, 0)².
    ReluSquared,
    /// From 0 to 6.
    ReluTo6,
    Sigmoid,
    Tanh,
}

/// The names in a config. Those of `prelu` and `xielu`, which have weights, are not among them.
const NAMES: [(&str, Activation); 20] = [
    ("silu", Activation::Silu),
    ("swish", Activation::Silu),
    ("gelu", Activation::Gelu),
    ("gelu_python", Activation::Gelu),
    ("gelu_new", Activation::GeluTanh),
    ("gelu_pytorch_tanh", Activation::GeluTanh),
    ("gelu_fast", Activation::GeluTanh),
    ("gelu_python_tanh", Activation::GeluTanh),
    ("gelu_accurate", Activation::GeluTanh),
    ("quick_gelu", Activation::GeluQuick),
    ("relu", Activation::Relu),
    ("gelu_10", Activation::Rare(Rare::GeluClipped)),
    ("hardswish", Activation::Rare(Rare::HardSwish)),
    ("leaky_relu", Activation::Rare(Rare::LeakyRelu)),
    ("linear", Activation::Rare(Rare::Linear)),
    ("mish", Activation::Rare(Rare::Mish)),
    ("relu2", Activation::Rare(Rare::ReluSquared)),
    ("relu6", Activation::Rare(Rare::ReluTo6)),
    ("sigmoid", Activation::Rare(Rare::Sigmoid)),
    ("tanh", Activation::Rare(Rare::Tanh)),
];

impl Activation {
    /// By its name in a config; None if there is none.
    pub fn named(name: &str) -> Option<Self> {
        NAMES.iter().find(|(known, _)| *known == name).map(|(_, activation)| *activation)
    }

    /// All names, for people.
    pub fn names() -> String {
        NAMES.map(|(name, _)| name).join(", ")
    }

    /// Its value and its slope at `x`.
    #[inline(always)]
    pub fn at<const FMA: bool>(self, x: f32) -> (f32, f32) {
        let logistic = |x: f32| 1.0 / (1.0 + exponential::<FMA>(-x));
        match self {
            Self::Silu => {
                let sigma = logistic(x);
                (x * sigma, sigma * (1.0 + x * (1.0 - sigma)))
            }
            Self::GeluQuick => {
                let sigma = logistic(1.702 * x);
                (x * sigma, sigma * (1.0 + 1.702 * x * (1.0 - sigma)))
            }
            Self::GeluTanh => {
                // (1 + tanh u) / 2 is the logistic function of 2u.
                const TWICE: f32 = 2.0 * 0.797_884_6;
                let sigma = logistic(TWICE * (x + 0.044715 * x * x * x));
                (x * sigma, sigma + x * sigma * (1.0 - sigma) * TWICE * (1.0 + 3.0 * 0.044715 * x * x))
            }
            Self::Gelu => {
                let phi = 0.5 * (1.0 + libm::erff(x * std::f32::consts::FRAC_1_SQRT_2));
                (x * phi, phi + x * 0.398_942_3 * exponential::<FMA>(-0.5 * x * x))
            }
            Self::Relu => (x.max(0.0), if x > 0.0 { 1.0 } else { 0.0 }),
            Self::Rare(rare) => rare.at(x),
        }
    }
}

impl Rare {
    /// Its value and its slope at `x`. A call, so that the loops of the others stay small.
    #[inline(never)]
    fn at(self, x: f32) -> (f32, f32) {
        let within = |is_within: bool| if is_within { 1f32 } else { 0.0 };
        let sigmoid = |x: f32| 1.0 / (1.0 + libm::expf(-x));
        match self {
            Self::GeluClipped => {
                let (value, slope) = Activation::Gelu.at::<false>(x);
                (value.clamp(-10.0, 10.0), slope * within(value.abs() <= 10.0))
            }
            Self::HardSwish => match x {
                x if x <= -3.0 => (0.0, 0.0),
                x if x >= 3.0 => (x, 1.0),
                x => (x * (x + 3.0) / 6.0, x / 3.0 + 0.5),
            },
            Self::LeakyRelu => {
                if x > 0.0 {
                    (x, 1.0)
                } else {
                    (0.01 * x, 0.01)
                }
            }
            Self::Linear => (x, 1.0),
            Self::Mish => {
                let t = libm::tanhf(libm::log1pf(libm::expf(x)));
                (x * t, t + x * (1.0 - t * t) * sigmoid(x))
            }
            Self::ReluSquared => (x.max(0.0) * x.max(0.0), 2.0 * x.max(0.0)),
            Self::ReluTo6 => (x.clamp(0.0, 6.0), within(x > 0.0 && x < 6.0)),
            Self::Sigmoid => {
                let sigma = sigmoid(x);
                (sigma, sigma * (1.0 - sigma))
            }
            Self::Tanh => {
                let t = libm::tanhf(x);
                (t, 1.0 - t * t)
            }
        }
    }
}
