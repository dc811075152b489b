//! Sweep and projection with 512-bit vectors.
#![cfg(target_arch = "x86_64")]

use protocol::{perturbation::LANES, replay::TensorSweep, seed::TensorKey};
use std::arch::x86_64::*;

use super::{
    project::{Project, RUN},
    vector::{Addends, Vector},
};

/// The increment of SplitMix64.
const GAMMA: u64 = 0x9E37_79B9_7F4A_7C15;

/// All eight lanes.
#[derive(Clone, Copy)]
#[repr(transparent)]
struct Lanes(__m512i);

impl Lanes {
    /// The sign bits in element order.
    #[inline(always)]
    fn words(&self) -> &[u64; LANES] {
        // SAFETY: both are 64 bytes of plain integers, and this is aligned more strictly.
        unsafe { &*std::ptr::from_ref(self).cast() }
    }
}

// SAFETY of the intrinsics: only `sweep` and `project` below get here, and their callers have detected AVX-512 F, BW,
// DQ and VL.
impl Vector for Lanes {
    #[inline(always)]
    fn splat(word: u64) -> Self {
        Self(unsafe { _mm512_set1_epi64(word as i64) })
    }

    #[inline(always)]
    fn load(words: &[u64; LANES]) -> Self {
        Self(unsafe { _mm512_loadu_si512(words.as_ptr().cast()) })
    }

    #[inline(always)]
    fn add(self, other: Self) -> Self {
        Self(unsafe { _mm512_add_epi64(self.0, other.0) })
    }

    #[inline(always)]
    fn xor(self, other: Self) -> Self {
        Self(unsafe { _mm512_xor_si512(self.0, other.0) })
    }

    #[inline(always)]
    fn shift_left<const BITS: u32>(self) -> Self {
        Self(unsafe { _mm512_slli_epi64::<BITS>(self.0) })
    }

    #[inline(always)]
    fn rotate_left<const BITS: u32>(self) -> Self {
        Self(unsafe { _mm512_rolv_epi64(self.0, _mm512_set1_epi64(i64::from(BITS))) })
    }

    #[inline(always)]
    fn xor3(a: Self, b: Self, c: Self) -> Self {
        Self(unsafe { _mm512_ternarylogic_epi64::<0x96>(a.0, b.0, c.0) })
    }

    #[inline(always)]
    fn majority(a: Self, b: Self, c: Self) -> Self {
        Self(unsafe { _mm512_ternarylogic_epi64::<0xE8>(a.0, b.0, c.0) })
    }

    #[inline(always)]
    fn lane_states(key: &TensorKey, block: u64) -> [Self; 4] {
        // SAFETY: as above.
        key.words.map(|word| Self(unsafe { split_mix(word, block.wrapping_mul(LANES as u64)) }))
    }

    #[inline(always)]
    fn states_of(keys: &[TensorKey; LANES], block: u64, lane: usize) -> [Self; 4] {
        let index = block.wrapping_mul(LANES as u64).wrapping_add(lane as u64);
        std::array::from_fn(|word| {
            let words = Self::load(&keys.map(|key| key.words[word]));
            // SAFETY: as above.
            Self(unsafe { split_mix_of(words.0, index) })
        })
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

/// Outputs `first` to `first + 7` of the SplitMix64 generator seeded with `seed`.
///
/// # Safety
/// The processor has AVX-512 F and DQ.
#[inline]
#[target_feature(enable = "avx512f,avx512dq")]
unsafe fn split_mix(seed: u64, first: u64) -> __m512i {
    let splat = |word: u64| _mm512_set1_epi64(word as i64);
    let index = _mm512_add_epi64(splat(first), _mm512_setr_epi64(1, 2, 3, 4, 5, 6, 7, 8));
    mix(_mm512_add_epi64(splat(seed), _mm512_mullo_epi64(index, splat(GAMMA))))
}

/// Output `index` of eight SplitMix64 generators with these seeds.
///
/// # Safety
/// The processor has AVX-512 F and DQ.
#[inline]
#[target_feature(enable = "avx512f,avx512dq")]
unsafe fn split_mix_of(seeds: __m512i, index: u64) -> __m512i {
    let offset = index.wrapping_add(1).wrapping_mul(GAMMA);
    mix(_mm512_add_epi64(seeds, _mm512_set1_epi64(offset as i64)))
}

/// SplitMix64's finalizer.
#[inline]
#[target_feature(enable = "avx512f,avx512dq")]
fn mix(z: __m512i) -> __m512i {
    let splat = |word: u64| _mm512_set1_epi64(word as i64);
    let z = _mm512_xor_si512(z, _mm512_srli_epi64::<30>(z));
    let z = _mm512_mullo_epi64(z, splat(0xBF58_476D_1CE4_E5B9));
    let z = _mm512_xor_si512(z, _mm512_srli_epi64::<27>(z));
    let z = _mm512_mullo_epi64(z, splat(0x94D0_49BB_1331_11EB));
    _mm512_xor_si512(z, _mm512_srli_epi64::<31>(z))
}

/// [`Vector::add_terms`] for whole words.
///
/// # Safety
/// The processor has AVX-512 F, BW, DQ and VL.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
unsafe fn add_terms(weights: &mut [[f32; 64]], scale: f32, terms: &[Lanes], addends: &Addends) -> u32 {
    let (scale, inverse) = (_mm512_set1_ps(scale), _mm512_set1_ps(1.0 / scale));
    let shift = _mm_cvtsi32_si128(addends.shift as i32);
    let (wide, narrow) = terms.split_at(addends.wide.len());
    let mut peak = _mm512_setzero_si512();
    for (lane, weights) in weights.iter_mut().enumerate() {
        let mut totals = [_mm512_set1_epi32(addends.offset); 4];
        for (term, addend) in wide.iter().zip(&addends.wide) {
            let word = term.words()[lane];
            let addend = _mm512_set1_epi32(*addend);
            for (quarter, total) in totals.iter_mut().enumerate() {
                *total = _mm512_mask_add_epi32(*total, (word >> (16 * quarter)) as __mmask16, *total, addend);
            }
        }
        if !narrow.is_empty() {
            let mut sums = [_mm512_setzero_si512(); 2];
            for (term, addend) in narrow.iter().zip(&addends.narrow) {
                let word = term.words()[lane];
                let addend = _mm512_set1_epi16(*addend);
                for (half, sum) in sums.iter_mut().enumerate() {
                    *sum = _mm512_mask_add_epi16(*sum, (word >> (32 * half)) as __mmask32, *sum, addend);
                }
            }
            for (pair, sum) in totals.as_chunks_mut::<2>().0.iter_mut().zip(sums) {
                let halves = [_mm512_castsi512_si256(sum), _mm512_extracti64x4_epi64::<1>(sum)];
                for (total, half) in pair.iter_mut().zip(halves) {
                    *total = _mm512_add_epi32(*total, _mm512_sll_epi32(_mm512_cvtepi16_epi32(half), shift));
                }
            }
        }
        for (total, weights) in totals.into_iter().zip(weights.as_chunks_mut::<16>().0) {
            // SAFETY: sixteen weights are read and written.
            let weight = unsafe { _mm512_loadu_ps(weights.as_ptr()) };
            let n = _mm512_add_epi32(_mm512_cvttps_epi32(_mm512_mul_ps(weight, inverse)), total);
            let n = _mm512_srai_epi32::<7>(_mm512_slli_epi32::<7>(n));
            peak = _mm512_max_epu32(peak, _mm512_abs_epi32(n));
            // SAFETY: as above.
            unsafe { _mm512_storeu_ps(weights.as_mut_ptr(), _mm512_mul_ps(_mm512_cvtepi32_ps(n), scale)) };
        }
    }
    _mm512_reduce_max_epu32(peak)
}

/// See [`super::Kernel::sweep`].
///
/// # Safety
/// The processor has AVX-512 F, BW, DQ and VL.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
pub(super) unsafe fn sweep(weights: &mut [f32], scale: f32, sweep: &TensorSweep, first_block: u64) -> u32 {
    // SAFETY: the caller's.
    unsafe { super::sweep::sweep::<Lanes>(weights, scale, sweep, first_block) }
}

/// Elements to a table: sixteen patterns of signs are one register.
const WIDTH: usize = 4;

impl Project for Lanes {
    type Tables = [__m512; RUN / WIDTH];

    #[inline(always)]
    fn tables(elements: &[f32; RUN]) -> Self::Tables {
        // SAFETY: as above.
        unsafe { tables(elements) }
    }

    #[inline(always)]
    fn add_products(states: &mut [[Self; 4]], tables: &[Self::Tables], sums: &mut [f64]) {
        let groups = states.as_chunks_mut::<2>().0.iter_mut().zip(sums.as_chunks_mut::<{ 2 * LANES }>().0);
        for (states, sums) in groups {
            // SAFETY: as above.
            unsafe { add_products(states, tables, sums) }
        }
    }
}

/// [`Project::tables`].
///
/// # Safety
/// The processor has AVX-512 F.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn tables(elements: &[f32; RUN]) -> [__m512; RUN / WIDTH] {
    let signs = [0xAAAA, 0xCCCC, 0xF0F0, 0xFF00]
        .map(|set: __mmask16| _mm512_mask_mov_ps(_mm512_set1_ps(-1.0), set, _mm512_set1_ps(1.0)));
    std::array::from_fn(|run| {
        let mut sums = _mm512_setzero_ps();
        for (j, signs) in signs.into_iter().enumerate() {
            sums = _mm512_fmadd_ps(_mm512_set1_ps(elements[WIDTH * run + j]), signs, sums);
        }
        sums
    })
}

/// [`Project::add_products`] of one group: sixteen directions.
///
/// # Safety
/// The processor has AVX-512 F.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn add_products(states: &mut [[Lanes; 4]; 2], tables: &[[__m512; RUN / WIDTH]], sums: &mut [f64; 2 * LANES]) {
    let low = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    let high = _mm512_add_epi32(low, _mm512_set1_epi32(1));
    let [mut first, mut second] = *states;
    let mut partial = [_mm512_setzero_ps(); 4];
    for tables in tables {
        let (signs, more) = (Lanes::next(&mut first).0, Lanes::next(&mut second).0);
        // The first 32 signs of every direction, then the others.
        let mut halves = [_mm512_permutex2var_epi32(signs, low, more), _mm512_permutex2var_epi32(signs, high, more)];
        for run in 0..RUN / WIDTH / 2 {
            for half in 0..2 {
                // Of the index only the last four bits are looked at.
                let sums = _mm512_permutexvar_ps(halves[half], tables[RUN / WIDTH / 2 * half + run]);
                let partial = &mut partial[2 * half + run % 2];
                *partial = _mm512_add_ps(*partial, sums);
                halves[half] = _mm512_srli_epi32::<{ WIDTH as u32 }>(halves[half]);
            }
        }
    }
    *states = [first, second];
    let total = _mm512_add_ps(_mm512_add_ps(partial[0], partial[1]), _mm512_add_ps(partial[2], partial[3]));
    let mut totals = [0f32; 2 * LANES];
    // SAFETY: sixteen numbers are written.
    unsafe { _mm512_storeu_ps(totals.as_mut_ptr(), total) };
    sums.iter_mut().zip(totals).for_each(|(sum, total)| *sum += f64::from(total));
}

/// See [`super::Kernel::project`].
///
/// # Safety
/// The processor has AVX-512 F, BW, DQ and VL.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
pub(super) unsafe fn project(gradient: &[f32], keys: &[TensorKey], first_block: u64, sums: &mut [f64]) {
    // SAFETY: the caller's.
    unsafe { super::project::project::<Lanes>(gradient, keys, first_block, sums) }
}
