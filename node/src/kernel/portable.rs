//! The sweep in plain Rust.

use protocol::{perturbation::LANES, replay::TensorSweep};

use super::vector::{Vector, add_words};

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
    fn add_terms(weights: &mut [f32], scale: f32, terms: &[Self], addends: &[i32], offset: i32) -> u32 {
        let inverse = 1.0 / scale;
        let mut peak = 0;
        for (lane, weights) in weights.chunks_mut(64).enumerate() {
            let words = terms.iter().zip(addends).map(|(term, addend)| (term.0[lane], *addend));
            let (full, tail) = weights.as_chunks_mut::<64>();
            for weights in full {
                let mut totals = [offset; 64];
                words.clone().for_each(|(word, addend)| add_word(&mut totals, word, addend));
                for (weight, total) in weights.iter_mut().zip(totals) {
                    let n = ((((*weight * inverse) as i32).wrapping_add(total)) << 7) >> 7;
                    peak = peak.max(n.unsigned_abs());
                    *weight = n as f32 * scale;
                }
            }
            peak = peak.max(add_words(tail, scale, words, offset));
        }
        peak
    }
}

/// Adds `addend` where the bit of `word` is set, sixteen elements against one constant vector of bits at a time.
#[inline(always)]
fn add_word(totals: &mut [i32; 64], word: u64, addend: i32) {
    for (quarter, totals) in totals.chunks_exact_mut(16).enumerate() {
        let bits = (word >> (16 * quarter)) as i32 & 0xFFFF;
        for (element, total) in totals.iter_mut().enumerate() {
            let bit = 1 << element;
            *total = total.wrapping_add(if bits & bit == bit { addend } else { 0 });
        }
    }
}

/// See [`super::Kernel::sweep`].
pub(super) fn sweep(weights: &mut [f32], scale: f32, sweep: &TensorSweep, first_block: u64) -> u32 {
    // SAFETY: the program runs, so the processor has what it was compiled for.
    unsafe { super::sweep::sweep::<Words>(weights, scale, sweep, first_block) }
}
