//! Sweep and projection in plain Rust.

use protocol::{perturbation::LANES, replay::TensorSweep, seed::TensorKey};

use super::{
    project::{Project, RUN},
    vector::{Addends, Vector},
};

/// Eight words; the compiler finds what vector instructions the target has by itself.
#[derive(Clone, Copy)]
#[repr(align(64))]
struct Words([u64; LANES]);

impl Words {
    #[inline(always)]
    fn zip(self, other: Self, f: impl Fn(u64, u64) -> u64) -> Self {
        Self(std::array::from_fn(|lane| f(self.0[lane], other.0[lane])))
    }
}

impl Vector for Words {
    #[inline(always)]
    fn splat(word: u64) -> Self {
        Self([word; LANES])
    }

    #[inline(always)]
    fn load(words: &[u64; LANES]) -> Self {
        Self(*words)
    }

    #[inline(always)]
    fn add(self, other: Self) -> Self {
        self.zip(other, u64::wrapping_add)
    }

    #[inline(always)]
    fn xor(self, other: Self) -> Self {
        self.zip(other, |a, b| a ^ b)
    }

    #[inline(always)]
    fn shift_left<const BITS: u32>(self) -> Self {
        Self(self.0.map(|word| word << BITS))
    }

    #[inline(always)]
    fn rotate_left<const BITS: u32>(self) -> Self {
        Self(self.0.map(|word| word.rotate_left(BITS)))
    }

    #[inline(always)]
    fn majority(a: Self, b: Self, c: Self) -> Self {
        let either = a.zip(b, |a, b| a ^ b);
        let both = a.zip(b, |a, b| a & b);
        both.zip(either.zip(c, |either, c| either & c), |both, one| both | one)
    }

    #[inline(always)]
    fn add_terms(weights: &mut [f32], scale: f32, terms: &[Self], addends: &Addends) -> u32 {
        let inverse = 1.0 / scale;
        let (wide, narrow) = terms.split_at(addends.wide.len());
        let (mut peak, mut highest) = (0, 0);
        for (lane, weights) in weights.chunks_mut(64).enumerate() {
            let (full, tail) = weights.as_chunks_mut::<64>();
            for weights in full {
                let mut totals = [addends.offset; 64];
                for (term, addend) in wide.iter().zip(&addends.wide) {
                    add_wide(&mut totals, term.0[lane], *addend);
                }
                if !narrow.is_empty() {
                    let mut sums = [0i16; 64];
                    for (term, addend) in narrow.iter().zip(&addends.narrow) {
                        add_narrow(&mut sums, term.0[lane], *addend);
                    }
                    for (total, sum) in totals.iter_mut().zip(sums) {
                        *total = total.wrapping_add(i32::from(sum) << addends.shift);
                    }
                }
                for (weight, total) in weights.iter_mut().zip(totals) {
                    let n = (whole(*weight * inverse).wrapping_add(total) << 7) >> 7;
                    highest = highest.max(n.abs());
                    *weight = n as f32 * scale;
                }
            }
            peak = peak.max(addends.add_words(tail, scale, terms.iter().map(|term| term.0[lane])));
        }
        peak.max(highest.unsigned_abs())
    }
}

/// A whole number of at most 25 bits as an integer, by way of the low bits of a sum's mantissa: conversions that
/// saturate, as `as` does, or that hold for whatever a caller passes, are not vectorised everywhere.
#[inline(always)]
fn whole(n: f32) -> i32 {
    (f64::from(n) + 1.5 * (1u64 << 52) as f64).to_bits() as i32
}

/// Adds `addend` where the bit of `word` is set, sixteen elements against one constant vector of bits at a time.
#[inline(always)]
fn add_wide(totals: &mut [i32; 64], word: u64, addend: i32) {
    for (quarter, totals) in totals.chunks_exact_mut(16).enumerate() {
        let bits = (word >> (16 * quarter)) as i32;
        for (element, total) in totals.iter_mut().enumerate() {
            let bit = 1 << element;
            *total = total.wrapping_add(if bits & bit == bit { addend } else { 0 });
        }
    }
}

/// As [`add_wide`], in 16 bits.
#[inline(always)]
fn add_narrow(sums: &mut [i16; 64], word: u64, addend: i16) {
    for (quarter, sums) in sums.chunks_exact_mut(16).enumerate() {
        let bits = (word >> (16 * quarter)) as i16;
        for (element, sum) in sums.iter_mut().enumerate() {
            let bit = 1 << element;
            *sum = sum.wrapping_add(if bits & bit == bit { addend } else { 0 });
        }
    }
}

/// See [`super::Kernel::sweep`].
pub(super) fn sweep(weights: &mut [f32], scale: f32, sweep: &TensorSweep, first_block: u64) -> u32 {
    // SAFETY: the program runs, so the processor has what it was compiled for.
    unsafe { super::sweep::sweep::<Words>(weights, scale, sweep, first_block) }
}

/// Elements to a table.
const WIDTH: usize = 4;

impl Project for Words {
    type Tables = [[f32; 1 << WIDTH]; RUN / WIDTH];

    #[inline(always)]
    fn tables(elements: &[f32; RUN]) -> Self::Tables {
        let table = |run: usize| {
            std::array::from_fn(|signs| {
                let signed = |j: usize| {
                    if (signs >> j) & 1 == 1 { elements[WIDTH * run + j] } else { -elements[WIDTH * run + j] }
                };
                (signed(0) + signed(1)) + (signed(2) + signed(3))
            })
        };
        std::array::from_fn(table)
    }

    #[inline(always)]
    fn add_products(states: &mut [[Self; 4]], tables: &[Self::Tables], sums: &mut [f64]) {
        for (state, sums) in states.iter_mut().zip(sums.as_chunks_mut::<LANES>().0) {
            let (mut own, mut partial) = (*state, [0f32; LANES]);
            for tables in tables {
                let mut signs = Self::next(&mut own).0;
                for table in tables {
                    for (signs, partial) in signs.iter_mut().zip(&mut partial) {
                        *partial += table[(*signs & ((1 << WIDTH) - 1)) as usize];
                        *signs >>= WIDTH;
                    }
                }
            }
            *state = own;
            sums.iter_mut().zip(partial).for_each(|(sum, partial)| *sum += f64::from(partial));
        }
    }
}

/// See [`super::Kernel::project`].
pub(super) fn project(gradient: &[f32], keys: &[TensorKey], first_block: u64, sums: &mut [f64]) {
    // SAFETY: the program runs, so the processor has what it was compiled for.
    unsafe { super::project::project::<Words>(gradient, keys, first_block, sums) }
}
