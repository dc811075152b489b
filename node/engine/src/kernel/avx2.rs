//! Sweep and projection with 256-bit vectors.
#![cfg(target_arch = "x86_64")]

use protocol::{perturbation::LANES, replay::TensorSweep, seed::TensorKey};
use std::arch::x86_64::*;

use super::{
    project::{Project, RUN},
    vector::{Addends, Vector},
};

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

// SAFETY of the intrinsics: only `sweep` and `project` below get here, and their callers have detected AVX2.
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

/// Elements to a table: eight patterns of signs are one register.
const WIDTH: usize = 3;
/// Tables to the elements of 32 signs; the last has two elements.
const TABLES: usize = (RUN / 2).div_ceil(WIDTH);

impl Project for Halves {
    type Tables = [[__m256; TABLES]; 2];

    #[inline(always)]
    fn tables(elements: &[f32; RUN]) -> Self::Tables {
        // SAFETY: as above.
        unsafe { tables(elements) }
    }

    #[inline(always)]
    fn add_products(states: &mut [[Self; 4]], tables: &[Self::Tables], sums: &mut [f64]) {
        for (state, sums) in states.iter_mut().zip(sums.as_chunks_mut::<LANES>().0) {
            // SAFETY: as above.
            unsafe { add_products(state, tables, sums) }
        }
    }
}

/// [`Project::tables`].
///
/// # Safety
/// The processor has AVX2.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn tables(elements: &[f32; RUN]) -> [[__m256; TABLES]; 2] {
    let signs = [
        _mm256_setr_ps(-1.0, 1.0, -1.0, 1.0, -1.0, 1.0, -1.0, 1.0),
        _mm256_setr_ps(-1.0, -1.0, 1.0, 1.0, -1.0, -1.0, 1.0, 1.0),
        _mm256_setr_ps(-1.0, -1.0, -1.0, -1.0, 1.0, 1.0, 1.0, 1.0),
    ];
    std::array::from_fn(|half| {
        let elements = &elements[RUN / 2 * half..][..RUN / 2];
        std::array::from_fn(|run| {
            let mut sums = _mm256_setzero_ps();
            for (element, signs) in elements[WIDTH * run..].iter().zip(signs) {
                sums = _mm256_add_ps(sums, _mm256_mul_ps(_mm256_set1_ps(*element), signs));
            }
            sums
        })
    })
}

/// [`Project::add_products`] of eight directions.
///
/// # Safety
/// The processor has AVX2.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn add_products(state: &mut [Halves; 4], tables: &[[[__m256; TABLES]; 2]], sums: &mut [f64; LANES]) {
    let mut own = *state;
    let mut partial = [_mm256_setzero_ps(); 2];
    for tables in tables {
        let [a, b] = Halves::next(&mut own).0.map(|half| _mm256_castsi256_ps(half));
        // The first 32 signs of every direction, then the others; the directions in the order of `ORDER`.
        let mut halves = [
            _mm256_castps_si256(_mm256_shuffle_ps::<0b10_00_10_00>(a, b)),
            _mm256_castps_si256(_mm256_shuffle_ps::<0b11_01_11_01>(a, b)),
        ];
        for (first, second) in tables[0].iter().zip(&tables[1]) {
            for (half, table) in [first, second].into_iter().enumerate() {
                // Of the index only the last three bits are looked at.
                let sums = _mm256_permutevar8x32_ps(*table, halves[half]);
                partial[half] = _mm256_add_ps(partial[half], sums);
                halves[half] = _mm256_srli_epi32::<{ WIDTH as i32 }>(halves[half]);
            }
        }
    }
    *state = own;
    const ORDER: [usize; LANES] = [0, 1, 4, 5, 2, 3, 6, 7];
    let mut totals = [0f32; LANES];
    // SAFETY: eight numbers are written.
    unsafe { _mm256_storeu_ps(totals.as_mut_ptr(), _mm256_add_ps(partial[0], partial[1])) };
    ORDER.into_iter().zip(totals).for_each(|(direction, total)| sums[direction] += f64::from(total));
}

/// See [`super::Kernel::project`].
///
/// # Safety
/// The processor has AVX2.
#[target_feature(enable = "avx2")]
pub(super) unsafe fn project(gradient: &[f32], keys: &[TensorKey], first_block: u64, sums: &mut [f64]) {
    // SAFETY: the caller's.
    unsafe { super::project::project::<Halves>(gradient, keys, first_block, sums) }
}
