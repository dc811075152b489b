//! The probe's sweeps as the trainer makes them, through [`Weights`]: perturb (+ε z, −2ε z), and the fused sweep
//! (restore, own entry, next probe) against the same as three sweeps. A small model of many tensors, and one large
//! tensor.

mod support;

use candle_core::{Device, Tensor};
use engine::weights::Weights;
use protocol::{
    codec::MULTIPLIER_ONE,
    manifest::{Origin, TensorSpec},
    replay::{Contribution, Sweep},
    seed::EntrySeed,
};
use support::{is_test, paired, plain, tell};

const LARGE: &str = "large tensor";

fn weights(shapes: &[(usize, usize)]) -> Weights {
    let spec = |(index, (rows, columns)): (usize, &(usize, usize))| TensorSpec {
        name: format!("tensor.{index:03}"),
        shape: vec![*rows as u64, *columns as u64],
        group: 0,
        range_log2: 0,
        epsilon: 16_777,
        unit: 1 << 32,
        shift: 0,
        origin: Origin::Base { digest: [0; 32] },
    };
    let specs: Vec<TensorSpec> = shapes.iter().enumerate().map(spec).collect();
    let zeros =
        |(rows, columns): &(usize, usize)| Tensor::zeros((*rows, *columns), candle_core::DType::F32, &Device::Cpu);
    let tensors = specs.iter().zip(shapes).map(|(spec, shape)| (spec.name.clone(), zeros(shape).expect("memory")));
    Weights::new(&specs, tensors.collect()).expect("zeros are on the grid")
}

fn probe(seed: u8, multiple: i32) -> (EntrySeed, i32) {
    (EntrySeed { bytes: [seed; 32], group: 0 }, multiple)
}

fn own(seed: u8) -> Contribution {
    Contribution {
        seed: EntrySeed { bytes: [seed; 32], group: 0 },
        byte: 32,
        multiplier: MULTIPLIER_ONE,
        removed: false,
    }
}

fn measure(name: &str, shapes: &[(usize, usize)], rounds: usize) {
    let elements: usize = shapes.iter().map(|(rows, columns)| rows * columns).sum();
    println!("{name}: {elements} weights, {} tensors, {} threads", shapes.len(), rayon::current_num_threads());
    let mut state = (weights(shapes), vec![0.5f32; elements]);
    let one = |sweep: Sweep| vec![sweep];
    let cases = [
        ("perturb", one(Sweep { probes: vec![probe(1, 1)], contributions: vec![] })),
        (
            "fused restore, own, next",
            one(Sweep { probes: vec![probe(1, 1), probe(2, 1)], contributions: vec![own(1)] }),
        ),
        (
            "the same as three",
            vec![
                Sweep { probes: vec![probe(1, 1)], contributions: vec![] },
                Sweep { probes: vec![], contributions: vec![own(1)] },
                Sweep { probes: vec![probe(2, 1)], contributions: vec![] },
            ],
        ),
    ];
    for (case, sweeps) in &cases {
        let run = |state: &mut (Weights, Vec<f32>)| {
            for sweep in sweeps {
                state.0.sweep(sweep).expect("a sweep");
            }
        };
        let (seconds, ratio) = paired(rounds, &mut state, |state| plain(&mut state.1), run);
        println!("  {case:<26}{:>10.1} us{ratio:>8.2} x plain sweep (one thread)", seconds * 1e6);
        if *case == "perturb" && name == LARGE {
            tell("perturb_over_sweep", ratio);
        }
    }
}

fn main() {
    let mut small = vec![(512, 64), (1, 64)];
    for _ in 0..5 {
        small.extend([(64, 64), (32, 64), (32, 64), (64, 64), (172, 64), (172, 64), (64, 172), (1, 64), (1, 64)]);
    }
    let large = if is_test() { (64, 1024) } else { (16_384, 1024) };
    measure("small model", &small, if is_test() { 3 } else { 301 });
    measure(LARGE, &[large], if is_test() { 3 } else { 9 });
}
