//! Draws from a seeded generator.

use rand_xoshiro::{Xoshiro256PlusPlus, rand_core::Rng};

/// Uniform in [0, 1).
pub fn uniform(random: &mut Xoshiro256PlusPlus) -> f64 {
    (random.next_u64() >> 11) as f64 / (1u64 << 53) as f64
}

/// Uniform in 0..`end`; 0 for an empty range.
pub fn below(random: &mut Xoshiro256PlusPlus, end: usize) -> usize {
    ((u128::from(random.next_u64()) * end as u128) >> 64) as usize
}

/// True with this probability.
pub fn chance(random: &mut Xoshiro256PlusPlus, probability: f64) -> bool {
    probability > 0.0 && uniform(random) < probability
}

/// Exponential with this mean.
pub fn exponential(random: &mut Xoshiro256PlusPlus, mean: f64) -> f64 {
    -mean * (1.0 - uniform(random)).ln()
}

/// Standard normal (the sum of twelve uniforms less six: no tails beyond six, and no transcendental function).
pub fn normal(random: &mut Xoshiro256PlusPlus) -> f64 {
    (0..6)
        .map(|_| {
            let word = random.next_u64();
            ((word >> 32) as f64 + (word & 0xffff_ffff) as f64) / 2f64.powi(32)
        })
        .sum::<f64>()
        - 6.0
}

/// Up to `count` different elements of `pool`, in random order.
pub fn sample<T: Copy>(random: &mut Xoshiro256PlusPlus, pool: &[T], count: usize) -> Vec<T> {
    let mut pool = pool.to_vec();
    let count = count.min(pool.len());
    for index in 0..count {
        let other = index + below(random, pool.len() - index);
        pool.swap(index, other);
    }
    pool.truncate(count);
    pool
}
