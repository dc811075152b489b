//! Every kernel, order, batching and thread count gives the bits of the scalar reference.
//!
//! The seed of the random cases is printed; `ONEBYTE_SEED` repeats one.

use candle_core::{Device, Tensor};
use engine::{kernel::Kernel, weights::Weights};
use protocol::{
    codec::MULTIPLIER_ONE,
    manifest::{ADAPTER_ONE, Adapter, Half, Origin, TensorSpec},
    perturbation::BLOCK,
    replay::{Contribution, Sweep, TensorSweep, sweep_reference},
    seed::{EntrySeed, TensorKey},
};
use rand_xoshiro::rand_core::Rng;
use std::collections::BTreeMap;

use crate::random::generator;

fn below(random: &mut impl Rng, bound: u64) -> u64 {
    random.next_u64() % bound
}

/// Weights on the grid, some of them at the very edges.
fn random_weights(random: &mut impl Rng, count: usize, quantum: f32) -> Vec<f32> {
    let n = |random: &mut dyn FnMut() -> u64| match random() % 8 {
        0 => -(1 << 24),
        1 => (1 << 24) - 1,
        2 => 0,
        _ => (random() >> 39) as i32 - (1 << 24),
    };
    (0..count).map(|_| n(&mut || random.next_u64()) as f32 * quantum).collect()
}

fn random_key(random: &mut impl Rng) -> TensorKey {
    TensorKey { words: std::array::from_fn(|_| random.next_u64()), rounding: random.next_u64() as u32 }
}

fn random_sweep(random: &mut impl Rng, wide: usize, narrow: usize) -> TensorSweep {
    let wide = (0..wide).map(|_| (random_key(random), random.next_u64() as i32)).collect();
    let narrow = (0..narrow).map(|index| {
        // At their largest, and all of one sign, now and then: the sum must not overflow.
        let k = if narrow == 128 || (narrow % 2 == 1 && index % 7 != 0) { 255 } else { 1 + below(random, 255) as i16 };
        (random_key(random), if narrow != 128 && below(random, 3) == 0 { -k } else { k })
    });
    TensorSweep { wide, narrow: narrow.collect(), shift: below(random, 17) as u8 }
}

fn bits(weights: &[f32]) -> Vec<u32> {
    weights.iter().map(|weight| weight.to_bits()).collect()
}

#[test]
fn every_kernel_equals_the_reference() {
    let mut random = generator();
    let mut cases = 0;
    for (count, largest) in
        [(1, 300), (63, 300), (64, 300), (512, 300), (513, 300), (16_384, 100), (16_385, 100), (100_000, 20)]
    {
        let mut shapes = vec![(0, 0), (1, 0), (0, 1), (2, 3), (0, 15), (0, 16), (3, 17), (17, 0), (1, 20)];
        shapes.extend([(0, 64), (2, 128), (1, 129), (20, 257), (0, 300)].iter().filter(|(w, n)| w + n <= largest));
        for (wide, narrow) in shapes {
            let quantum = 2f32.powi(below(&mut random, 41) as i32 - 24);
            let first_block = below(&mut random, 1 << 40);
            let base = random_weights(&mut random, count, quantum);
            let sweep = random_sweep(&mut random, wide, narrow);
            let mut expected = base.clone();
            sweep_reference(&mut expected, quantum, &sweep, first_block);
            let peak = expected.iter().map(|w| (w / quantum).abs() as u32).max();
            for kernel in Kernel::available() {
                let mut weights = base.clone();
                let seen = kernel.sweep(&mut weights, quantum, &sweep, first_block);
                let case = format!("{kernel}: {count} weights, {wide} wide, {narrow} narrow, shift {}", sweep.shift);
                assert!(bits(&weights) == bits(&expected), "{case}");
                assert!(!bits(&weights).contains(&(-0.0f32).to_bits()), "{case}: -0.0");
                if (1..=16).contains(&wide) && narrow <= 128 {
                    assert_eq!(Some(seen), peak, "{case}");
                }
                cases += 1;
            }
        }
    }
    println!("{cases} cases by {:?}", Kernel::available());
}

#[test]
fn a_slice_that_starts_later_gets_the_same_bits() {
    let mut random = generator();
    let quantum = 2f32.powi(-24);
    let base = random_weights(&mut random, 5 * BLOCK + 77, quantum);
    let sweep = random_sweep(&mut random, 1, 40);
    for kernel in Kernel::available() {
        let mut whole = base.clone();
        kernel.sweep(&mut whole, quantum, &sweep, 0);
        let mut parts = base.clone();
        let (head, tail) = parts.split_at_mut(2 * BLOCK);
        kernel.sweep(tail, quantum, &sweep, 2);
        kernel.sweep(head, quantum, &sweep, 0);
        assert!(bits(&whole) == bits(&parts), "{kernel}");
    }
}

#[test]
#[should_panic(expected = "beyond 255")]
fn a_narrow_coefficient_that_is_too_large_is_a_bug() {
    let key = TensorKey { words: [1, 2, 3, 4], rounding: 0 };
    let sweep = TensorSweep { wide: vec![], narrow: vec![(key, 256)], shift: 0 };
    Kernel::best().sweep(&mut [0.0; 64], 1.0, &sweep, 0);
}

/// Groups of the model's entries.
const GROUPS: u16 = 3;

/// A model of six tensors of three groups, some tiny, one of several blocks, and an adapter whose halves are in the
/// last group.
fn model(random: &mut impl Rng) -> (Vec<TensorSpec>, BTreeMap<String, Vec<f32>>) {
    let shapes: [&[u64]; 6] = [&[1], &[63], &[64, 8], &[3, 171], &[130, 128], &[41, 1000]];
    let mut specs: Vec<TensorSpec> = (0u8..)
        .zip(shapes)
        .map(|(index, shape)| TensorSpec {
            name: format!("layer.{index}"),
            shape: shape.to_vec(),
            group: u16::from(index) / 2,
            range_log2: index,
            epsilon: 16_777 >> index,
            unit: (1 << 32) + 987_654_321 * u64::from(index % 4),
            shift: index,
            origin: Origin::Base { digest: [0; 32] },
        })
        .collect();
    let values = |spec: &TensorSpec, random: &mut _| random_weights(random, spec.elements() as usize, spec.quantum());
    let mut values: BTreeMap<_, _> = specs.iter().map(|spec| (spec.name.clone(), values(spec, random))).collect();
    for (half, shape, initial) in [(Half::A, [8, 1000], 321), (Half::B, [41, 8], 0)] {
        let one = ADAPTER_ONE;
        let adapter = Adapter { half, rank: 8, scaling: 2 * one, direction_scale: one, initial };
        let name = format!("layer.5{}", half.suffix());
        let spec = TensorSpec { name, shape: shape.to_vec(), origin: Origin::Adapter(adapter), ..specs[4].clone() };
        let elements = spec.elements() as usize;
        values.insert(spec.name.clone(), adapter.initial_values(&spec.name, elements, spec.quantum(), &[7; 16]));
        specs.push(spec);
    }
    (specs, values)
}

fn load(specs: &[TensorSpec], values: &BTreeMap<String, Vec<f32>>) -> Weights {
    let tensor = |spec: &TensorSpec| {
        let shape: Vec<usize> = spec.shape.iter().map(|dimension| *dimension as usize).collect();
        Tensor::from_slice(&values[&spec.name], shape, &Device::Cpu).expect("a tensor of that shape")
    };
    let tensors = specs.iter().map(|spec| (spec.name.clone(), tensor(spec))).collect();
    Weights::new(specs, tensors).expect("weights on the grid")
}

fn random_seed(random: &mut impl Rng) -> EntrySeed {
    let bytes = std::array::from_fn(|_| random.next_u64() as u8);
    EntrySeed { bytes, group: below(random, GROUPS.into()) as u16 }
}

fn entries(random: &mut impl Rng, count: usize) -> Vec<Contribution> {
    let seeds: Vec<EntrySeed> = (0..count).map(|_| random_seed(random)).collect();
    let mut byte = || random.next_u64() as i8;
    let bytes: Vec<i8> = (0..count).map(|_| byte()).collect();
    let entry = |(seed, byte)| Contribution {
        seed,
        byte,
        multiplier: below(random, u64::from(MULTIPLIER_ONE) + 1) as u32,
        removed: false,
    };
    seeds.into_iter().zip(bytes).map(entry).collect()
}

fn shuffle<T>(random: &mut impl Rng, items: &mut [T]) {
    for at in (1..items.len()).rev() {
        items.swap(at, below(random, at as u64 + 1) as usize);
    }
}

/// Sweeps `entries` in batches of random sizes.
fn replay(random: &mut impl Rng, weights: &mut Weights, entries: &[Contribution]) {
    let mut rest = entries;
    while !rest.is_empty() {
        let limit = [1, 8, 64, 200][below(random, 4) as usize];
        let (batch, later) = rest.split_at(rest.len().min(1 + below(random, limit) as usize));
        let sweep = Sweep { probes: vec![], contributions: batch.to_vec() };
        weights.sweep(&sweep).expect("a sweep");
        rest = later;
    }
}

#[test]
fn a_hundred_orders_batchings_and_thread_counts_give_one_digest() {
    let mut random = generator();
    let (specs, values) = model(&mut random);
    let mut entries = entries(&mut random, 200);
    let mut expected = values.clone();
    for (index, spec) in (0..).zip(&specs) {
        let sweep = Sweep { probes: vec![], contributions: entries.clone() }.for_tensor(index, spec);
        sweep_reference(expected.get_mut(&spec.name).expect("a tensor"), spec.quantum(), &sweep, 0);
    }
    let expected = load(&specs, &expected).digest();
    assert_ne!(expected, load(&specs, &values).digest());
    let pools =
        [1, 2, 3, 5].map(|threads| rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads"));
    for order in 0..100 {
        shuffle(&mut random, &mut entries);
        for kernel in Kernel::available() {
            let mut weights = load(&specs, &values);
            weights.set_kernel(kernel);
            let pool = &pools[below(&mut random, 4) as usize];
            pool.install(|| replay(&mut random, &mut weights, &entries));
            assert_eq!(weights.digest(), expected, "order {order}, {kernel}, {} threads", pool.current_num_threads());
        }
    }
}

#[test]
fn removing_a_machines_entries_gives_the_weights_that_never_had_them() {
    let mut random = generator();
    let (specs, values) = model(&mut random);
    let (honest, mut hostile) = (entries(&mut random, 90), entries(&mut random, 60));
    (hostile[0].byte, hostile[0].multiplier) = (100, MULTIPLIER_ONE);
    let mut without = load(&specs, &values);
    replay(&mut random, &mut without, &honest);
    let mut weights = load(&specs, &values);
    let mut all = [honest.clone(), hostile.clone()].concat();
    shuffle(&mut random, &mut all);
    replay(&mut random, &mut weights, &all);
    assert_ne!(weights.digest(), without.digest());
    let mut removals: Vec<Contribution> =
        hostile.iter().map(|entry| Contribution { removed: true, ..*entry }).collect();
    shuffle(&mut random, &mut removals);
    replay(&mut random, &mut weights, &removals);
    assert_eq!(weights.digest(), without.digest());
    let again = Contribution { removed: true, ..hostile[0] };
    weights.sweep(&Sweep { probes: vec![], contributions: vec![again] }).expect("a sweep");
    assert_ne!(weights.digest(), without.digest(), "an entry that is removed twice shows");
}

#[test]
fn a_probe_there_across_and_back_restores_every_bit() {
    let mut random = generator();
    let (specs, values) = model(&mut random);
    let base = load(&specs, &values).digest();
    for kernel in Kernel::available() {
        let mut weights = load(&specs, &values);
        weights.set_kernel(kernel);
        for _ in 0..20 {
            let seed = random_seed(&mut random);
            for (multiple, moved) in [(1, true), (-2, true), (1, false)] {
                weights.sweep(&Sweep { probes: vec![(seed, multiple)], contributions: vec![] }).expect("a sweep");
                assert_eq!(weights.digest() != base, moved, "{kernel}");
            }
        }
    }
}

#[test]
fn the_fused_sweep_equals_its_three_parts() {
    let mut random = generator();
    let (specs, values) = model(&mut random);
    let mut own = entries(&mut random, 2);
    own[0].byte = 77;
    let peers = entries(&mut random, 30);
    let mut parts = load(&specs, &values);
    let probe = |seed, multiple| Sweep { probes: vec![(seed, multiple)], contributions: vec![] };
    parts.sweep(&probe(own[0].seed, -1)).expect("a sweep");
    let mut fused = load(&specs, &values);
    fused.sweep(&probe(own[0].seed, -1)).expect("a sweep");
    parts.sweep(&probe(own[0].seed, 1)).expect("restore");
    parts.sweep(&Sweep { probes: vec![], contributions: [&own[..1], &peers].concat() }).expect("update");
    parts.sweep(&probe(own[1].seed, 1)).expect("next probe");
    let probes = vec![(own[0].seed, 1), (own[1].seed, 1)];
    fused.sweep(&Sweep { probes, contributions: [&peers, &own[..1]].concat() }).expect("a sweep");
    assert_eq!(fused.digest(), parts.digest());
}

#[test]
fn a_hostile_push_wraps_around_and_heals() {
    let mut random = generator();
    let (specs, values) = model(&mut random);
    let base = load(&specs, &values).digest();
    let mut weights = load(&specs, &values);
    let seed = EntrySeed { bytes: [9; 32], group: 1 };
    let push = Sweep { probes: vec![(seed, i32::from(i16::MAX))], contributions: vec![] };
    let back = Sweep { probes: vec![(seed, -i32::from(i16::MAX))], contributions: vec![] };
    for _ in 0..10 {
        let report = weights.sweep(&push).expect("a sweep");
        assert!(report.peak <= 1 << 24);
    }
    assert!(weights.sweep(&Sweep::default()).expect("nothing").peak == 0, "an empty sweep looks at nothing");
    for _ in 0..10 {
        weights.sweep(&back).expect("a sweep");
    }
    assert_eq!(weights.digest(), base);
}
