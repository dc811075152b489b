//! The sweep, generic over the vector unit.
//!
//! A direction with coefficient c moves an element with sign bit s by `c·(2s − 1)`. So all directions together move it
//! by a constant `−Σ c` and by `Σ 2c·s`. Wide directions, and narrow ones if they are few, are added as they stand: one
//! masked add each, of 32 or 16 bits per element. Many narrow ones are first summed in bit-sliced form: the sign bits
//! of 512 elements are one vector, |k| has at most eight binary digits, and digit p of every k contributes its vector
//! to column p (inverted if k < 0). A full adder on vectors takes three bits of column p to one of column p and one of
//! column p + 1, two logic operations for 512 elements where AVX-512 is at hand. What is left is one vector per binary
//! digit of the sum, added like a narrow direction.

use protocol::{
    perturbation::{BLOCK, STEP},
    replay::TensorSweep,
    seed::TensorKey,
};

use super::vector::{Addends, Vector};

/// Narrow directions of one round; Σ|k| ≤ 128 · 255 has [`PLANES_MAX`] binary digits.
const NARROW_MAX: usize = 128;
/// Wide directions of one round.
const WIDE_MAX: usize = 16;
/// Binary digits of Σ|k|.
const PLANES_MAX: usize = 15;
/// Binary digits of |k|.
const COLUMNS: usize = 8;
/// Sign vectors that are kept at a time, 16 KiB.
const SIGNS_MAX: usize = 256;

/// Directions that are summed before the weights are touched.
struct Round {
    /// Keys and inversion masks, first the direct directions (the wide ones, then narrow ones if they are few).
    directions: Vec<(TensorKey, u64)>,
    /// Number of direct directions.
    direct: usize,
    /// What the direct directions and the digits of the bit-sliced sum add.
    addends: Addends,
    /// Number of digits of the bit-sliced sum.
    planes: usize,
    /// Indices of the directions whose |k| has binary digit p, column by column.
    inputs: Vec<u16>,
    /// Ends of the columns in `inputs`.
    ends: [usize; COLUMNS],
}

impl Round {
    fn new(wide: &[(TensorKey, i32)], narrow: &[(TensorKey, i16)], shift: u8) -> Self {
        let sum: u32 = narrow.iter().map(|(_, k)| u32::from(k.unsigned_abs())).sum();
        let planes = sum.checked_ilog2().map_or(0, |digits| digits as usize + 1);
        let mut addends = Addends {
            wide: wide.iter().map(|(_, quanta)| quanta.wrapping_mul(2)).collect(),
            narrow: Vec::with_capacity(PLANES_MAX),
            shift: u32::from(shift) + 1,
            offset: wide.iter().fold(0, |offset: i32, (_, quanta)| offset.wrapping_sub(*quanta)),
        };
        let mut directions = Vec::with_capacity(wide.len() + narrow.len());
        directions.extend(wide.iter().map(|(key, _)| (*key, 0)));
        let sliced = narrow.len() > planes;
        if sliced {
            directions.extend(narrow.iter().map(|(key, k)| (*key, if *k < 0 { u64::MAX } else { 0 })));
            addends.narrow.extend((0..planes).map(|plane| 1 << plane));
            addends.offset = addends.offset.wrapping_sub((sum as i32) << shift);
        } else {
            directions.extend(narrow.iter().map(|(key, _)| (*key, 0)));
            addends.narrow.extend(narrow.iter().map(|(_, k)| *k));
            let sum: i32 = narrow.iter().map(|(_, k)| i32::from(*k)).sum();
            addends.offset = addends.offset.wrapping_sub(sum << shift);
        }
        let direct = if sliced { wide.len() } else { directions.len() };
        let planes = if sliced { planes } else { 0 };
        let mut round = Self { directions, direct, addends, planes, inputs: Vec::new(), ends: [0; COLUMNS] };
        if sliced {
            round.fill_columns(narrow);
        }
        round
    }

    fn fill_columns(&mut self, narrow: &[(TensorKey, i16)]) {
        self.inputs.reserve_exact(narrow.len() * COLUMNS);
        for (column, end) in self.ends.iter_mut().enumerate() {
            for (index, (_, k)) in (self.direct..).zip(narrow) {
                if (k.unsigned_abs() >> column) & 1 == 1 {
                    self.inputs.push(index as u16);
                }
            }
            *end = self.inputs.len();
        }
    }

    /// The directions whose |k| has binary digit `column`.
    #[inline(always)]
    fn column(&self, column: usize) -> &[u16] {
        let Some(end) = self.ends.get(column) else { return &[] };
        let start = if column == 0 { 0 } else { self.ends[column - 1] };
        &self.inputs[start..*end]
    }
}

/// Buffers of one call, reused from block to block.
struct Buffers<V> {
    /// Lane states of the round's directions.
    states: Vec<[V; 4]>,
    /// Sign vectors, step by step, within a step in the order of the directions.
    signs: Vec<V>,
    /// Carries into the next column.
    carries: [V; NARROW_MAX],
    /// Sign vectors of the direct directions, then one vector per binary digit of the narrow sum.
    terms: Vec<V>,
}

/// Adds `sweep` to `weights`, which start at block `first_block`; returns the largest |n|.
///
/// # Safety
/// The processor has every feature that `V` uses.
#[inline(always)]
pub(super) unsafe fn sweep<V: Vector>(weights: &mut [f32], scale: f32, sweep: &TensorSweep, first_block: u64) -> u32 {
    assert!(sweep.narrow.iter().all(|(_, k)| k.unsigned_abs() < 1 << COLUMNS), "a narrow coefficient beyond 255");
    let mut rounds = Vec::with_capacity(1);
    let (mut wide, mut narrow) = (sweep.wide.as_slice(), sweep.narrow.as_slice());
    while !(wide.is_empty() && narrow.is_empty()) {
        let (wide_now, wide_later) = wide.split_at(wide.len().min(WIDE_MAX));
        let (narrow_now, narrow_later) = narrow.split_at(narrow.len().min(NARROW_MAX));
        rounds.push(Round::new(wide_now, narrow_now, sweep.shift));
        (wide, narrow) = (wide_later, narrow_later);
    }
    let directions = rounds.iter().map(|round| round.directions.len()).max().unwrap_or(0);
    let mut buffers = Buffers {
        states: Vec::with_capacity(directions),
        signs: Vec::with_capacity(SIGNS_MAX.max(2 * directions)),
        carries: [V::splat(0); NARROW_MAX],
        terms: Vec::with_capacity(WIDE_MAX + PLANES_MAX),
    };
    let mut peak = 0;
    for (block, elements) in (first_block..).zip(weights.chunks_mut(BLOCK)) {
        for round in &rounds {
            peak = peak.max(sweep_block(elements, scale, round, block, &mut buffers));
        }
    }
    peak
}

/// One round over at most one block.
#[inline(always)]
fn sweep_block<V: Vector>(weights: &mut [f32], scale: f32, round: &Round, block: u64, buffers: &mut Buffers<V>) -> u32 {
    let count = round.directions.len();
    buffers.states.clear();
    for (key, _) in &round.directions {
        buffers.states.push(V::lane_states(key, block));
    }
    let steps_max = (SIGNS_MAX / count).clamp(2, BLOCK / STEP);
    let mut peak = 0;
    for chunk in weights.chunks_mut(steps_max * STEP) {
        let steps = chunk.len().div_ceil(STEP);
        buffers.signs.resize(steps * count, V::splat(0));
        for (index, (state, (_, mask))) in buffers.states.iter_mut().zip(&round.directions).enumerate() {
            advance(state, V::splat(*mask), &mut buffers.signs[index..], count);
        }
        for (step, signs) in chunk.chunks_mut(STEP).zip(buffers.signs.chunks_exact(count)) {
            if round.planes == 0 {
                peak = peak.max(V::add_terms(step, scale, signs, &round.addends));
                continue;
            }
            buffers.terms.clear();
            buffers.terms.extend_from_slice(&signs[..round.direct]);
            sum_columns(round, signs, &mut buffers.carries, &mut buffers.terms);
            peak = peak.max(V::add_terms(step, scale, &buffers.terms, &round.addends));
        }
    }
    peak
}

/// Advances the eight xoshiro256++ generators of one direction and leaves an output, xor `mask`, in every `stride`-th
/// of `signs`.
#[inline(always)]
fn advance<V: Vector>(state: &mut [V; 4], mask: V, signs: &mut [V], stride: usize) {
    let mut own = *state;
    for out in signs.iter_mut().step_by(stride) {
        *out = V::next(&mut own).xor(mask);
    }
    *state = own;
}

/// One full adder: sum and carry of three bits, 512 times.
#[inline(always)]
fn full_adder<V: Vector>(a: V, b: V, c: V) -> (V, V) {
    (V::xor3(a, b, c), V::majority(a, b, c))
}

/// Appends the binary digits of `Σ |k| · sign` to `digits`, the least first: column by column, the running sum and two
/// inputs make one carry.
// No closures in here: they would be compiled without the vector unit's instructions. And `sum` must stay in a
// register.
#[inline(always)]
fn sum_columns<V: Vector>(round: &Round, signs: &[V], carries: &mut [V; NARROW_MAX], digits: &mut Vec<V>) {
    let zero = V::splat(0);
    let mut carried = 0;
    for plane in 0..round.planes {
        let mut inputs = round.column(plane);
        let mut sum = zero;
        // A carry is written only where the two that made it, or earlier ones, were read.
        let mut written = 0;
        while written < carried / 2 {
            (sum, carries[written]) = full_adder(sum, carries[2 * written], carries[2 * written + 1]);
            written += 1;
        }
        if carried % 2 == 1 {
            let mut other = zero;
            if let [first, rest @ ..] = inputs {
                other = signs[usize::from(*first)];
                inputs = rest;
            }
            (sum, carries[written]) = full_adder(sum, carries[carried - 1], other);
            written += 1;
        }
        let (pairs, last) = inputs.as_chunks::<2>();
        let (out, _) = carries[written..].split_at_mut(pairs.len());
        for ([a, b], carry) in pairs.iter().zip(out) {
            (sum, *carry) = full_adder(sum, signs[usize::from(*a)], signs[usize::from(*b)]);
        }
        written += pairs.len();
        if let [last] = last {
            (sum, carries[written]) = full_adder(sum, signs[usize::from(*last)], zero);
            written += 1;
        }
        digits.push(sum);
        carried = written;
    }
}
