//! How many threads compute.

use std::{env, num::NonZero, thread};

/// What rayon and candle read it from.
const VARIABLE: &str = "RAYON_NUM_THREADS";

/// Settles how many threads compute: what `RAYON_NUM_THREADS` says, else one for each core that this process may use.
/// candle asks for the number at every matrix product, and reads all of /proc/cpuinfo for it where the variable is not
/// set. `wanted` goes before both.
///
/// # Safety
///
/// No other thread may run: this writes to the environment.
pub unsafe fn settle(wanted: Option<NonZero<usize>>) {
    if wanted.is_some() || env::var_os(VARIABLE).is_none() {
        let threads = wanted.map_or_else(cores, NonZero::get);
        // SAFETY: no other thread reads the environment, says the caller.
        unsafe { env::set_var(VARIABLE, threads.to_string()) };
    }
}

/// Cores that this process may use.
pub fn cores() -> usize {
    thread::available_parallelism().map_or(1, NonZero::get)
}
