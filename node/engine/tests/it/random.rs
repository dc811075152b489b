//! Random cases that can be had again.

use rand_xoshiro::{Xoshiro256PlusPlus, rand_core::SeedableRng};

/// A generator whose seed is printed; `ONEBYTE_SEED` repeats one.
pub fn generator() -> Xoshiro256PlusPlus {
    let given = std::env::var("ONEBYTE_SEED").ok().map(|seed| seed.parse().expect("ONEBYTE_SEED is a number"));
    let seed = given.unwrap_or_else(|| getrandom::u64().expect("the system has random numbers"));
    println!("ONEBYTE_SEED={seed}");
    Xoshiro256PlusPlus::seed_from_u64(seed)
}
