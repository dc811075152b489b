//! Replay on one core: element·gradients per second of each kernel, and its time over that of a plain sweep of the same
//! memory.
//!
//! The limit for few entries is the memory (ratio 1), for many the generation of the signs.

mod support;

use engine::kernel::Kernel;
use protocol::{replay::TensorSweep, seed::TensorKey};
use support::{is_test, paired, plain, tell};

/// Entries with bytes as a normalised projected gradient gives them, at one quantum per byte unit and more.
fn sweep(entries: usize) -> TensorSweep {
    let entry = |index: u64| {
        let words = std::array::from_fn(|word| (4 * index + word as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
        let spread: i16 = words.iter().map(|word: &u64| (word >> 56) as i16 - 128).sum::<i16>() / 4;
        (TensorKey { words, rounding: 0 }, if spread == 0 { 1 } else { spread })
    };
    TensorSweep { wide: vec![], narrow: (0..entries as u64).map(entry).collect(), shift: 3 }
}

fn main() {
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
