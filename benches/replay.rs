//! Replay on one core: element·gradients per second of each kernel, and its time over that of a plain sweep of the same
//! memory.
//!
//! The limit for few entries is the memory (ratio 1), for many the generation of the signs.
//!
//! Then whole models: what a gradient costs of 64 that wait for one group, in the mean over the groups as they are
//! drawn and for the largest, with keys and decoding, beside the same gradients in a run of one group.

mod support;

use engine::{base::Base, kernel::Kernel, weights::Weights};
use protocol::{
    codec::MULTIPLIER_ONE,
    manifest::TensorSpec,
    replay::{Contribution, Sweep, TensorSweep},
    seed::{EntrySeed, TensorKey},
};
use support::{DEEP, SHAPES, Shape, is_test, is_wanted, median, paired, plain, seconds, settings, tell};

/// Entries that wait for a group.
const WAITING: u64 = 64;

/// Entries with bytes as a normalised projected gradient gives them, at one quantum per byte unit and more.
fn sweep(entries: usize) -> TensorSweep {
    let entry = |index: u64| {
        let words = std::array::from_fn(|word| (4 * index + word as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
        let spread: i16 = words.iter().map(|word: &u64| (word >> 56) as i16 - 128).sum::<i16>() / 4;
        (TensorKey { words, rounding: 0 }, if spread == 0 { 1 } else { spread })
    };
    TensorSweep { wide: vec![], narrow: (0..entries as u64).map(entry).collect(), shift: 3 }
}

fn kernels() {
    let elements: usize = if is_test() { 1 << 15 } else { 1 << 24 };
    let quantum = 2f32.powi(-24);
    let mut weights: Vec<f32> = (0..elements).map(|element| (element as i32 - (1 << 20)) as f32 * quantum).collect();
    println!("{elements} weights, {} MiB, one thread", elements >> 18);
    println!("{:<10}{:>8}{:>26}{:>22}", "kernel", "entries", "G element*gradients/s", "time / plain sweep");
    for kernel in Kernel::available() {
        for entries in [1, 2, 8, 16, 64, 256] {
            let sweep = sweep(entries);
            let rounds = if entries > 8 { 5 } else { 9 };
            let apply = |weights: &mut Vec<f32>| {
                kernel.sweep(weights, quantum, &sweep, 0);
            };
            let (seconds, ratio) = paired(rounds, &mut weights, |weights| plain(weights), apply);
            let rate = elements as f64 * entries as f64 / seconds / 1e9;
            println!("{:<10}{entries:>8}{rate:>26.2}{ratio:>22.2}", kernel.to_string());
            if entries == 64 {
                tell(&format!("replay_64_giga_per_second_core_{kernel}"), rate);
                if kernel == Kernel::best() {
                    tell("replay_64_giga_per_second_core", rate);
                }
            }
        }
    }
}

/// Entries of `group`, with bytes as a normalised projected gradient gives them.
fn waiting(group: u16) -> Sweep {
    let entry = |index: u64| {
        let mix = |word: u64| (4 * index + word + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let byte = (0..4).map(|word| (mix(word) >> 56) as i16 - 128).sum::<i16>() / 4;
        let bytes = std::array::from_fn(|at| (mix(at as u64) >> 40) as u8);
        Contribution { seed: EntrySeed { bytes, group }, byte: byte as i8, multiplier: MULTIPLIER_ONE, removed: false }
    };
    Sweep { probes: vec![], contributions: (0..WAITING).map(entry).collect() }
}

/// Milliseconds a gradient of those that wait for `group`.
fn milliseconds(weights: &mut Weights, group: u16) -> f64 {
    let sweep = waiting(group);
    let one = |weights: &mut Weights| seconds(|| weights.sweep(&sweep).expect("a sweep"));
    let times = (0..if is_test() { 1 } else { 5 }).map(|_| one(weights)).collect();
    median(times) * 1e3 / WAITING as f64
}

fn model(shape: &Shape) {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let base = Base::of_new_run(shape.checkpoint(directory.path()), &settings(), [0; 16]).expect("a base");
    let (mut weights, groups) = (base.weights, base.groups);
    let numbers = 0..groups.members.len() as u16;
    let times: Vec<f64> = numbers.clone().map(|group| milliseconds(&mut weights, group)).collect();
    let mean: f64 = numbers.zip(&times).map(|(group, time)| groups.share(group) * time).sum();
    let worst = times.iter().copied().fold(0.0, f64::max);
    let count = times.len();
    let specs: Vec<TensorSpec> = weights.specs().iter().map(|spec| TensorSpec { group: 0, ..spec.clone() }).collect();
    let mut weights = Weights::new(&specs, weights.tensors().clone()).expect("the same weights");
    let all = milliseconds(&mut weights, 0);
    println!(
        "{:>4}: {count} groups, {WAITING} entries waiting: {mean:.4} ms a gradient in the mean, {worst:.4} of the largest group, \
         {all:.4} if all were one group",
        shape.name
    );
    tell(&format!("replay_waiting_ms_{}", shape.name), mean);
}

fn main() {
    let named = SHAPES.iter().chain([&DEEP]).any(|shape| support::has_argument(shape.name));
    if !named {
        kernels();
    }
    let one_thread = rayon::ThreadPoolBuilder::new().num_threads(1).build().expect("a thread");
    for shape in [&SHAPES[0], &SHAPES[2], &DEEP].into_iter().filter(|shape| is_wanted(shape)) {
        if !is_test() || shape.name == SHAPES[0].name {
            one_thread.install(|| model(shape));
        }
    }
}
