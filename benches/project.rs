//! Projection on one core: element·gradients per second of each kernel, and its time over that of a plain reading sweep
//! of the same gradient.
//!
//! The limit for few directions is the memory (ratio 1), for many the generation of the signs and one look-up and one
//! addition for every few elements.

mod support;

use engine::kernel::Kernel;
use protocol::seed::TensorKey;
use support::{is_test, paired, tell};

fn keys(count: usize) -> Vec<TensorKey> {
    let word = |index: usize| (index as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    (0..count).map(|key| TensorKey { words: std::array::from_fn(|i| word(4 * key + i)), rounding: 0 }).collect()
}

/// The least that any function of all elements costs.
fn read(gradient: &[f32]) {
    let (chunks, _) = gradient.as_chunks::<32>();
    let mut sums = [0f32; 32];
    for chunk in chunks {
        sums.iter_mut().zip(chunk).for_each(|(sum, g)| *sum += g);
    }
    std::hint::black_box(sums);
}

fn main() {
    let elements: usize = if is_test() { 1 << 15 } else { 1 << 24 };
    let mut gradient: Vec<f32> = (0..elements).map(|element| ((element * 7919) % 2003) as f32 - 1001.0).collect();
    println!("{elements} elements, {} MiB, one thread", elements >> 18);
    println!("{:<10}{:>12}{:>26}{:>22}", "kernel", "directions", "G element*gradients/s", "time / plain reading");
    for kernel in Kernel::available() {
        for directions in [16, 64, 256, 1024] {
            let keys = keys(directions);
            let rounds = if directions > 64 { 3 } else { 7 };
            let project = |gradient: &mut Vec<f32>| {
                let mut sums = vec![0f64; directions];
                kernel.project(gradient, &keys, 0, &mut sums);
                std::hint::black_box(sums);
            };
            let (seconds, ratio) = paired(rounds, &mut gradient, |gradient| read(gradient), project);
            let rate = elements as f64 * directions as f64 / seconds / 1e9;
            println!("{:<10}{directions:>12}{rate:>26.2}{ratio:>22.2}", kernel.to_string());
            if directions == 256 && kernel == Kernel::best() {
                tell("project_256_giga_per_second_core", rate);
            }
        }
    }
}
