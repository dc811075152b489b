//! Products by a frozen matrix: in f32, tile by tile from what is stored, and by candle's quantised matmul; times as
//! ratios to f32, and the largest difference as a part of the largest value.
//!
//! `cargo run --release --example packed`

use anyhow::Result;
use candle_core::{
    Device, Module, Tensor,
    quantized::{GgmlDType, QMatMul, QTensor},
};
use engine::packed::Packed;
use std::time::Instant;

/// Outputs and inputs of the layer.
const SHAPE: (usize, usize) = (1536, 2048);

fn main() -> Result<()> {
    let weight = Tensor::randn(0f32, 0.02, SHAPE, &Device::Cpu)?;
    println!("| type | rows | stored, over f32 | candle's, over f32 | candle's differs by |\n|---|---|---|---|---|");
    for kind in [GgmlDType::F16, GgmlDType::BF16, GgmlDType::Q8_0, GgmlDType::Q4_1, GgmlDType::Q4K] {
        let quantised = QTensor::quantize(&weight, kind)?;
        let plain = quantised.dequantize(&Device::Cpu)?;
        let packed = Packed::new(kind, SHAPE.into(), quantised.data()?.into_owned())?;
        let theirs = QMatMul::from_qtensor(quantised)?;
        for rows in [1, 16, 128, 1024] {
            let x = Tensor::randn(0f32, 1.0, (rows, SHAPE.1), &Device::Cpu)?;
            let exact = x.matmul(&plain.t()?)?;
            let difference = largest(&(theirs.forward(&x)? - &exact)?)? / largest(&exact)?;
            let base = best_s(|| x.matmul(&plain.t()?))?;
            let own = best_s(|| packed.product(&x, false))?;
            let other = best_s(|| theirs.forward(&x))?;
            println!("| {kind:?} | {rows} | {:.2} | {:.2} | {difference:.1e} |", own / base, other / base);
        }
    }
    Ok(())
}

fn largest(x: &Tensor) -> candle_core::Result<f32> {
    x.abs()?.flatten_all()?.max(0)?.to_scalar()
}

/// The best time of some, seconds.
fn best_s(f: impl Fn() -> candle_core::Result<Tensor>) -> candle_core::Result<f64> {
    const REPETITIONS: usize = 7;
    let mut best = f64::INFINITY;
    for _ in 0..REPETITIONS {
        let begun = Instant::now();
        f()?;
        best = best.min(begun.elapsed().as_secs_f64());
    }
    Ok(best)
}
