//! Scalar reference replay over exact weights. **Normative**; every fast kernel is compared with it bit for bit.
//!
//! A weight is an integer n, −2^24 ≤ n < 2^24, times its tensor's quantum 2^(range_log2 − 24), held in an f32 that
//! represents it exactly; zero is +0.0. Moving a weight adds whole quanta in the group Z/2^25: the sum is taken modulo
//! 2^32 (i32, wrapping) and its low 25 bits are sign-extended. Addition in a group commutes and inverts, so the weights
//! are a function of the *set* of contributions and of nothing else. An entry moves the tensors of its round's group
//! (see [`crate::manifest::Groups`]) and no other.

use serde::Serialize;

use crate::{
    codec,
    manifest::{Schedule, TensorSpec},
    perturbation::{BLOCK, BlockSigns, STEP, sign},
    seed::{EntrySeed, TensorKey},
};

/// One entry on its way into the weights, or out of them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub struct Contribution {
    /// Seed of the entry, and the group that it moves.
    pub seed: EntrySeed,
    /// The ledger byte.
    pub byte: i8,
    /// Learning-rate multiplier (Q24) at the swarm step of the entry's segment.
    pub multiplier: u32,
    /// True to take the entry out again (a revocation, or an own byte that was never signed).
    pub removed: bool,
}

impl Contribution {
    /// Quanta, in units of `2^shift`, by which this moves an element whose sign is +1: −k, or +k if removed.
    pub fn quanta(&self, spec: &TensorSpec, key: &TensorKey) -> i32 {
        let k = codec::decode(self.byte, codec::unit_at(spec.unit, self.multiplier), key.rounding);
        if self.removed { k } else { -k }
    }
}

/// Everything that one pass over the weights adds: probes (multiples of ε·z) and contributions.
///
/// The trainer's fused sweep is one of these: +1 of the last probe (restore), its own contribution, all waiting
/// contributions of peers, and +1 of the next probe.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct Sweep {
    /// (seed, multiple): adds `multiple · ε_t · z` to every tensor of the seed's group.
    pub probes: Vec<(EntrySeed, i32)>,
    /// Entries to apply or remove.
    pub contributions: Vec<Contribution>,
}

/// A [`Sweep`] resolved for one tensor: `n += Σ wide_c · z + 2^shift · Σ narrow_k · z`.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct TensorSweep {
    /// Directions with any coefficient, in quanta.
    pub wide: Vec<(TensorKey, i32)>,
    /// Directions with |coefficient| ≤ 255, in units of `2^shift` quanta. Never zero.
    pub narrow: Vec<(TensorKey, i16)>,
    /// Shift of the narrow sum.
    pub shift: u8,
}

impl Sweep {
    /// Whether the sweep would change nothing.
    pub fn is_empty(&self) -> bool {
        self.probes.is_empty() && self.contributions.is_empty()
    }

    /// Resolves the sweep for tensor number `index`. A seed that is probed and contributes (the own entry) becomes one
    /// wide direction, so that its signs are generated once. Directions of other groups, or with coefficient zero, are
    /// left out.
    pub fn for_tensor(&self, index: u32, spec: &TensorSpec) -> TensorSweep {
        let mut wide: Vec<(EntrySeed, TensorKey, i32)> = self
            .probes
            .iter()
            .filter(|(seed, _)| seed.group == spec.group)
            .map(|(seed, multiple)| (*seed, seed.tensor_key(index), multiple.wrapping_mul(spec.epsilon as i32)))
            .collect();
        let mut narrow = Vec::new();
        for contribution in self.contributions.iter().filter(|contribution| contribution.seed.group == spec.group) {
            if let Some((_, key, sum)) = wide.iter_mut().find(|(seed, ..)| *seed == contribution.seed) {
                *sum = sum.wrapping_add(contribution.quanta(spec, key) << spec.shift);
                continue;
            }
            let key = contribution.seed.tensor_key(index);
            let quanta = contribution.quanta(spec, &key);
            if quanta != 0 {
                narrow.push((key, quanta as i16));
            }
        }
        let wide = wide.into_iter().filter(|(.., sum)| *sum != 0).map(|(_, key, sum)| (key, sum)).collect();
        TensorSweep { wide, narrow, shift: spec.shift }
    }
}

/// `schedule`'s multiplier, the seed and the byte of one entry, as a contribution.
pub fn contribution(seed: EntrySeed, byte: i8, swarm_step: u64, schedule: &Schedule) -> Contribution {
    Contribution { seed, byte, multiplier: schedule.multiplier(swarm_step), removed: false }
}

/// Adds `quanta` to one weight in Z/2^25. `scale` is the quantum, a power of two.
#[inline]
pub fn add_quanta(weight: f32, quanta: i32, scale: f32) -> f32 {
    let n = (weight / scale) as i32;
    ((n.wrapping_add(quanta) << 7) >> 7) as f32 * scale
}

/// Snaps a base weight to the nearest multiple of the quantum, ties to even, −0.0 to +0.0. In range by choice of the
/// range.
pub fn snap(weight: f32, scale: f32) -> f32 {
    (weight / scale).round_ties_even() as i32 as f32 * scale
}

/// The reference sweep over `weights`, whose first element is the first of block `first_block`.
pub fn sweep_reference(weights: &mut [f32], scale: f32, sweep: &TensorSweep, first_block: u64) {
    let narrow = sweep.narrow.iter().map(|(key, k)| (key, i32::from(*k) << sweep.shift));
    for (key, quanta) in sweep.wide.iter().map(|(key, c)| (key, *c)).chain(narrow) {
        for (block, elements) in (first_block..).zip(weights.chunks_mut(BLOCK)) {
            let mut signs = BlockSigns::new(key, block);
            for step in elements.chunks_mut(STEP) {
                let bits = signs.next_step();
                for (element, weight) in step.iter_mut().enumerate() {
                    *weight = add_quanta(*weight, quanta.wrapping_mul(sign(&bits, element)), scale);
                }
            }
        }
    }
}
