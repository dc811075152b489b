//! Every kernel's projections are those of the scalar stream: exactly where f32 sums are exact, else to rounding.
//!
//! The seed of the random cases is printed; `ONEBYTE_SEED` repeats one.

use engine::kernel::Kernel;
use protocol::{
    perturbation::{BLOCK, BlockSigns, STEP, sign},
    seed::TensorKey,
};
use rand_xoshiro::rand_core::Rng;

use crate::random::generator;

fn keys(random: &mut impl Rng, count: usize) -> Vec<TensorKey> {
    let mut key =
        || TensorKey { words: std::array::from_fn(|_| random.next_u64()), rounding: random.next_u64() as u32 };
    (0..count).map(|_| key()).collect()
}

/// From the stream's definition, one element at a time.
fn reference(gradient: &[f32], key: &TensorKey, first_block: u64) -> f64 {
    let mut sum = 0.0;
    for (block, elements) in (first_block..).zip(gradient.chunks(BLOCK)) {
        let mut signs = BlockSigns::new(key, block);
        for step in elements.chunks(STEP) {
            let bits = signs.next_step();
            sum += step.iter().enumerate().map(|(j, g)| f64::from(sign(&bits, j)) * f64::from(*g)).sum::<f64>();
        }
    }
    sum
}

const LENGTHS: [usize; 12] = [1, 3, 63, 64, 65, 511, 512, 513, 8_192, 16_384, 16_385, 50_000];

#[test]
fn whole_numbers_give_the_exact_sums_of_the_stream() {
    let mut random = generator();
    for length in LENGTHS {
        for count in [1, 7, 16, 17, 40] {
            let gradient: Vec<f32> = (0..length).map(|_| (random.next_u64() % 2001) as f32 - 1000.0).collect();
            let first_block = random.next_u64() % (1 << 40);
            let keys = keys(&mut random, count);
            let expected: Vec<f64> = keys.iter().map(|key| reference(&gradient, key, first_block)).collect();
            for kernel in Kernel::available() {
                let mut sums = vec![0f64; count];
                kernel.project(&gradient, &keys, first_block, &mut sums);
                assert_eq!(sums, expected, "{kernel}: {length} elements, {count} directions");
            }
        }
    }
}

#[test]
fn other_numbers_agree_to_rounding() {
    let mut random = generator();
    for length in LENGTHS {
        let gradient: Vec<f32> = (0..length)
            .map(|_| {
                f32::from_bits((random.next_u64() as u32 & 0x807F_FFFF) | (100 + random.next_u64() as u32 % 20) << 23)
            })
            .collect();
        let keys = keys(&mut random, 20);
        // A block is summed 64 · 16 elements at a time in f32, each sum of at most 256 parts: 256 · 2^-24 of the
        // largest sum that they could have.
        let tolerance = gradient.iter().map(|g| f64::from(g.abs())).sum::<f64>() * 256.0 * 2f64.powi(-24);
        for kernel in Kernel::available() {
            let mut sums = vec![0f64; keys.len()];
            kernel.project(&gradient, &keys, 3, &mut sums);
            for (key, sum) in keys.iter().zip(&sums) {
                let expected = reference(&gradient, key, 3);
                assert!((sum - expected).abs() <= tolerance, "{kernel}: {sum} is {expected}, {length} elements");
            }
        }
    }
}

#[test]
fn sums_are_added_to_what_is_there_and_a_tensor_may_come_in_parts() {
    let mut random = generator();
    let gradient: Vec<f32> = (0..3 * BLOCK + 100).map(|_| (random.next_u64() % 101) as f32 - 50.0).collect();
    let keys = keys(&mut random, 5);
    for kernel in Kernel::available() {
        let mut whole = vec![1.0; 5];
        kernel.project(&gradient, &keys, 7, &mut whole);
        let mut parts = vec![1.0; 5];
        kernel.project(&gradient[BLOCK..], &keys, 8, &mut parts);
        kernel.project(&gradient[..BLOCK], &keys, 7, &mut parts);
        assert_eq!(whole, parts, "{kernel}");
    }
}

#[test]
fn a_gradient_that_is_not_finite_shows_in_every_sum() {
    let mut random = generator();
    let mut gradient = vec![1f32; 2000];
    let keys = keys(&mut random, 3);
    for bad in [f32::NAN, f32::INFINITY] {
        gradient[1234] = bad;
        for kernel in Kernel::available() {
            let mut sums = vec![0f64; 3];
            kernel.project(&gradient, &keys, 0, &mut sums);
            assert!(sums.iter().all(|sum| !sum.is_finite()), "{kernel}: {sums:?}");
        }
    }
}
