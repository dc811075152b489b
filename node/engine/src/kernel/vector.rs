//! What the sweep asks of a vector unit.

use protocol::{
    perturbation::{LANES, lane_state, lane_states},
    seed::TensorKey,
};

/// One 64-bit word of each of the eight lanes, or 512 sign bits in element order: 64 bytes.
///
/// The methods of an implementation may use instructions that the program was not compiled for. They are reached
/// through [`super::sweep::sweep`] and [`super::project::project`] only, whose callers answer for the processor.
pub(super) trait Vector: Copy {
    /// `word` in every lane.
    fn splat(word: u64) -> Self;
    /// Lane by lane from memory.
    fn load(words: &[u64; LANES]) -> Self;
    /// Lane-wise sum modulo 2^64.
    fn add(self, other: Self) -> Self;
    /// Bitwise exclusive or.
    fn xor(self, other: Self) -> Self;
    /// Lane-wise shift towards the most significant bit.
    fn shift_left<const BITS: u32>(self) -> Self;
    /// Lane-wise rotation towards the most significant bit.
    fn rotate_left<const BITS: u32>(self) -> Self;

    /// Full adder: the sum bit of three bits.
    fn xor3(a: Self, b: Self, c: Self) -> Self {
        a.xor(b).xor(c)
    }

    /// Full adder: the carry of three bits.
    fn majority(a: Self, b: Self, c: Self) -> Self;

    /// State words of the eight lanes of `block`, word by word.
    fn lane_states(key: &TensorKey, block: u64) -> [Self; 4] {
        let lanes = lane_states(key, block);
        std::array::from_fn(|word| Self::load(&std::array::from_fn(|lane| lanes[lane][word])))
    }

    /// State words of lane `lane` of `block` of eight directions, word by word: one direction in each 64-bit word.
    fn states_of(keys: &[TensorKey; LANES], block: u64, lane: usize) -> [Self; 4] {
        let states = keys.map(|key| lane_state(&key, block, lane));
        std::array::from_fn(|word| Self::load(&states.map(|state| state[word])))
    }

    /// The outputs of the eight xoshiro256++ generators at `state`, which advances.
    #[inline(always)]
    fn next(state: &mut [Self; 4]) -> Self {
        let [s0, s1, s2, s3] = *state;
        let out = s0.add(s3).rotate_left::<23>().add(s0);
        let (crossed, mixed) = (s2.xor(s0), s3.xor(s1));
        *state = [s0.xor(mixed), s1.xor(crossed), crossed.xor(s1.shift_left::<17>()), mixed.rotate_left::<45>()];
        out
    }

    /// Adds to at most 512 weights what `addends` says about `terms`; returns the largest |n| that results.
    fn add_terms(weights: &mut [f32], scale: f32, terms: &[Self], addends: &Addends) -> u32;
}

/// What a set bit of each of a list of sign vectors ("terms") adds to a weight: first the wide ones, then the narrow
/// ones.
pub(super) struct Addends {
    /// In quanta.
    pub wide: Vec<i32>,
    /// In units of `2^shift` quanta. Any sum of them fits an i16.
    pub narrow: Vec<i16>,
    /// Unit of the narrow ones, at most 30.
    pub shift: u32,
    /// Added to every weight, quanta.
    pub offset: i32,
}

impl Addends {
    /// Adds to fewer than 64 weights, whose bits are one word of each term: the tail of a tensor.
    pub fn add_words(&self, weights: &mut [f32], scale: f32, words: impl Iterator<Item = u64> + Clone) -> u32 {
        let narrow = self.narrow.iter().map(|addend| i32::from(*addend) << self.shift);
        let addends = self.wide.iter().copied().chain(narrow);
        let mut peak = 0;
        for (element, weight) in weights.iter_mut().enumerate() {
            let set = words.clone().zip(addends.clone()).filter(|(word, _)| (word >> element) & 1 == 1);
            let total = set.fold(self.offset, |total, (_, addend)| total.wrapping_add(addend));
            let n = ((((*weight / scale) as i32).wrapping_add(total)) << 7) >> 7;
            peak = peak.max(n.unsigned_abs());
            *weight = n as f32 * scale;
        }
        peak
    }
}
