//! The sweep with 256-bit vectors.
#![cfg(target_arch = "x86_64")]

use protocol::{perturbation::LANES, replay::TensorSweep};
use std::arch::x86_64::*;

use super::vector::{Addends, Vector};

/// Lanes 0..4 and 4..8.
#[derive(Clone, Copy)]
#[repr(align(64))]
struct Halves([__m256i; 2]);

impl Halves {
    #[inline(always)]
    fn zip(self, other: Self, f: impl Fn(__m256i, __m256i) -> __m256i) -> Self {
        Self([f(self.0[0], other.0[0]), f(self.0[1], other.0[1])])
    }

    /// The sign bits in element order.
    #[inline(always)]
    fn words(&self) -> &[u64; LANES] {
        // SAFETY: both are 64 bytes of plain integers, and this is aligned more strictly.
        unsafe { &*std::ptr::from_ref(self).cast() }
    }
}

// SAFETY of the intrinsics: only `sweep` below gets here, and its caller has detected AVX2.
impl Vector for Halves {
    #[inline(always)]
    fn splat(word: u64) -> Self {
        Self([unsafe { _mm256_set1_epi64x(word as i64) }; 2])
    }

    #[inline(always)]
    fn load(words: &[u64; LANES]) -> Self {
        let half = |at: usize| unsafe { _mm256_loadu_si256(words[at..at + LANES / 2].as_ptr().cast()) };
        Self([half(0), half(LANES / 2)])
    }

    #[inline(always)]
    fn add(self, other: Self) -> Self {
        self.zip(other, |a, b| unsafe { _mm256_add_epi64(a, b) })
    }

    #[inline(always)]
    fn xor(self, other: Self) -> Self {
        self.zip(other, |a, b| unsafe { _mm256_xor_si256(a, b) })
    }

    #[inline(always)]
    fn shift_left<const BITS: u32>(self) -> Self {
        Self(self.0.map(|half| unsafe { _mm256_sll_epi64(half, _mm_cvtsi32_si128(BITS as i32)) }))
    }

    #[inline(always)]
    fn rotate_left<const BITS: u32>(self) -> Self {
        let right = |half| unsafe { _mm256_srl_epi64(half, _mm_cvtsi32_si128(64 - BITS as i32)) };
        self.shift_left::<BITS>().zip(Self(self.0.map(right)), |a, b| unsafe { _mm256_or_si256(a, b) })
    }

    #[inline(always)]
    fn majority(a: Self, b: Self, c: Self) -> Self {
        let either = a.xor(b).zip(c, |either, c| unsafe { _mm256_and_si256(either, c) });
        let both = a.zip(b, |a, b| unsafe { _mm256_and_si256(a, b) });
        both.zip(either, |a, b| unsafe { _mm256_or_si256(a, b) })
    }

    #[inline(always)]
    fn add_terms(weights: &mut [f32], scale: f32, terms: &[Self], addends: &Addends) -> u32 {
        let (mut full, mut tail_peak) = (weights, 0);
        let whole = full.len() / 64;
        if full.len() % 64 != 0 {
            let (head, tail) = full.split_at_mut(64 * whole);
            tail_peak = addends.add_words(tail, scale, terms.iter().map(|term| term.words()[whole]));
            full = head;
        }
        // SAFETY: as above.
        tail_peak.max(unsafe { add_terms(full.as_chunks_mut().0, scale, terms, addends) })
    }
}

/// [`Vector::add_terms`] for whole words.
///
/// # Safety
/// The processor has AVX2.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn add_terms(weights: &mut [[f32; 64]], scale: f32, terms: &[Halves], addends: &Addends) -> u32 {
    let (scale, inverse) = (_mm256_set1_ps(scale), _mm256_set1_ps(1.0 / scale));
    let bit = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
    let bits = [bit, _mm256_slli_epi32::<8>(bit), _mm256_slli_epi32::<16>(bit), _mm256_slli_epi32::<24>(bit)];
    let bits16 = _mm256_setr_epi16(1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, i16::MIN);
    let shift = _mm_cvtsi32_si128(addends.shift as i32);
    let (wide, narrow) = terms.split_at(addends.wide.len());
    let mut peak = _mm256_setzero_si256();
    for (lane, weights) in weights.iter_mut().enumerate() {
        for (half, weights) in weights.as_chunks_mut::<32>().0.iter_mut().enumerate() {
            let mut totals = [_mm256_set1_epi32(addends.offset); 4];
            for (term, addend) in wide.iter().zip(&addends.wide) {
                let signs = _mm256_set1_epi32((term.words()[lane] >> (32 * half)) as i32);
                let addend = _mm256_set1_epi32(*addend);
                for (total, bits) in totals.iter_mut().zip(bits) {
                    let set = _mm256_cmpeq_epi32(_mm256_and_si256(signs, bits), bits);
                    *total = _mm256_add_epi32(*total, _mm256_and_si256(set, addend));
                }
            }
            if !narrow.is_empty() {
                let mut sums = [_mm256_setzero_si256(); 2];
                for (term, addend) in narrow.iter().zip(&addends.narrow) {
                    let addend = _mm256_set1_epi16(*addend);
                    for (quarter, sum) in sums.iter_mut().enumerate() {
                        let signs = _mm256_set1_epi16((term.words()[lane] >> (32 * half + 16 * quarter)) as i16);
                        let set = _mm256_cmpeq_epi16(_mm256_and_si256(signs, bits16), bits16);
                        *sum = _mm256_add_epi16(*sum, _mm256_and_si256(set, addend));
                    }
                }
                for (pair, sum) in totals.as_chunks_mut::<2>().0.iter_mut().zip(sums) {
                    let quarters = [_mm256_castsi256_si128(sum), _mm256_extracti128_si256::<1>(sum)];
                    for (total, quarter) in pair.iter_mut().zip(quarters) {
                        let quarter = _mm256_sll_epi32(_mm256_cvtepi16_epi32(quarter), shift);
                        *total = _mm256_add_epi32(*total, quarter);
                    }
                }
            }
            for (total, weights) in totals.into_iter().zip(weights.as_chunks_mut::<8>().0) {
                // SAFETY: eight weights are read and written.
                let weight = unsafe { _mm256_loadu_ps(weights.as_ptr()) };
                let n = _mm256_add_epi32(_mm256_cvttps_epi32(_mm256_mul_ps(weight, inverse)), total);
                let n = _mm256_srai_epi32::<7>(_mm256_slli_epi32::<7>(n));
                peak = _mm256_max_epu32(peak, _mm256_abs_epi32(n));
                // SAFETY: as above.
                unsafe { _mm256_storeu_ps(weights.as_mut_ptr(), _mm256_mul_ps(_mm256_cvtepi32_ps(n), scale)) };
            }
        }
    }
    let mut peaks = [0u32; 8];
    // SAFETY: eight integers are written.
    unsafe { _mm256_storeu_si256(peaks.as_mut_ptr().cast(), peak) };
    peaks.into_iter().fold(0, u32::max)
}

/// See [`super::Kernel::sweep`].
///
/// # Safety
/// The processor has AVX2.
#[target_feature(enable = "avx2")]
pub(super) unsafe fn sweep(weights: &mut [f32], scale: f32, sweep: &TensorSweep, first_block: u64) -> u32 {
    // SAFETY: the caller's.
    unsafe { super::sweep::sweep::<Halves>(weights, scale, sweep, first_block) }
}
