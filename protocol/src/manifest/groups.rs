//! Groups of trained tensors: which part of the weights an entry moves. **Normative** from sample to group.
//!
//! The samples of one machine's incarnation are cut into *rounds*, `round = sample / round_samples`, whatever the
//! estimator, the probes and the restarts of their sender. All entries of a round move the tensors of one group and no
//! other. Which one is drawn, in proportion to the groups' weights:
//!
//! ```text
//! draw  = first 16 bytes (u128 LE) of
//!         BLAKE3.derive_key("onebyte 2 round group", run (32) ‖ key (32) ‖ incarnation (u64 LE) ‖ round (u64 LE))
//! t     = ⌊draw · W / 2^128⌋,   W = sum of the weights < 2^31
//! group = the first whose weight, added to those of all groups before it, exceeds t
//! ```
//!
//! No draw is rejected: a group's chance differs from weight / W by less than 2^-97. Where there is one group, nothing
//! is drawn.

use serde::{Deserialize, Serialize};

use super::RunId;
use crate::{error::InvalidManifest, machine::MachineId};

/// BLAKE3 derive-key context of a round's draw.
const ROUND_GROUP_CONTEXT: &str = "onebyte 2 round group";
/// Most groups of a run.
pub const GROUPS_MAX: usize = 1024;
/// Largest weight of a group.
const GROUP_WEIGHT_MAX: u32 = 1 << 20;
/// Most samples of a round.
const ROUND_SAMPLES_MAX: u32 = 1 << 16;
/// Samples of a round unless the starter says otherwise.
pub const ROUND_SAMPLES: u32 = 16;
/// One in the fixed point of a group's multiple of ε (Q16).
pub const EPSILON_ONE: u32 = 1 << 16;

/// One group of trained tensors.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Group {
    /// The group's share of all rounds is this over the sum of all weights.
    pub weight: u32,
    /// Multiple (Q16) of the run's ε at which its tensors are probed. It is in their [`super::TensorSpec::epsilon`]
    /// already; senders need it to know how far they went.
    pub epsilon: u32,
}

/// How the trained tensors are cut into groups.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Groups {
    /// By number, as [`super::TensorSpec::group`] names them.
    pub members: Vec<Group>,
    /// Samples of a round.
    pub round_samples: u32,
}

impl Groups {
    /// Groups of equal weight, all at the run's ε.
    pub fn equal(count: usize) -> Self {
        Self { members: vec![Group { weight: 1, epsilon: EPSILON_ONE }; count], round_samples: ROUND_SAMPLES }
    }

    /// The round of a sample.
    pub fn round(&self, sample: u64) -> u64 {
        sample / u64::from(self.round_samples)
    }

    /// The first sample behind the round of `sample`.
    pub fn round_end(&self, sample: u64) -> u64 {
        (self.round(sample) + 1).saturating_mul(u64::from(self.round_samples))
    }

    /// The group that the entries of one round of `machine` move: see the module's documentation.
    pub fn of_round(&self, run: &RunId, machine: &MachineId, round: u64) -> u16 {
        if self.members.len() == 1 {
            return 0;
        }
        let mut hasher = blake3::Hasher::new_derive_key(ROUND_GROUP_CONTEXT);
        hasher.update(&run.0);
        hasher.update(&machine.key);
        hasher.update(&machine.incarnation.to_le_bytes());
        hasher.update(&round.to_le_bytes());
        let mut draw = [0; 16];
        hasher.finalize_xof().fill(&mut draw);
        self.at(u128::from_le_bytes(draw))
    }

    /// The group that a draw, uniform in 0..2^128, stands for.
    fn at(&self, draw: u128) -> u16 {
        let total = u128::from(self.total_weight());
        let (high, low) = (draw >> 64, draw & u128::from(u64::MAX));
        let mut rest = (high * total + ((low * total) >> 64)) >> 64;
        let mut group = 0;
        for member in &self.members {
            let weight = u128::from(member.weight);
            if rest < weight {
                break;
            }
            rest -= weight;
            group += 1;
        }
        group
    }

    fn total_weight(&self) -> u64 {
        self.members.iter().map(|group| u64::from(group.weight)).sum()
    }

    /// The part of all rounds that is `group`'s, above 0 and at most 1.
    pub fn share(&self, group: u16) -> f64 {
        f64::from(self.members[usize::from(group)].weight) / self.total_weight() as f64
    }

    /// The multiple of the run's ε at which the tensors of `group` are probed.
    pub fn epsilon_factor(&self, group: u16) -> f64 {
        f64::from(self.members[usize::from(group)].epsilon) / f64::from(EPSILON_ONE)
    }

    /// Checks the bounds of all numbers, and that every group has a tensor among those of `used` groups.
    pub(super) fn validate(&self, used: impl Iterator<Item = u16>) -> Result<(), InvalidManifest> {
        let count = self.members.len();
        if !(1..=GROUPS_MAX).contains(&count) {
            return Err(InvalidManifest::Groups(count));
        }
        if !(1..=ROUND_SAMPLES_MAX).contains(&self.round_samples) {
            return Err(InvalidManifest::RoundSamples(self.round_samples));
        }
        for (group, member) in self.members.iter().enumerate() {
            if !(1..=GROUP_WEIGHT_MAX).contains(&member.weight) || member.epsilon == 0 {
                return Err(InvalidManifest::Group { group, weight: member.weight, epsilon: member.epsilon });
            }
        }
        let mut empty = vec![true; count];
        for group in used {
            let known = empty.get_mut(usize::from(group)).ok_or(InvalidManifest::UnknownGroup { group, count })?;
            *known = false;
        }
        match empty.iter().position(|empty| *empty) {
            Some(group) => Err(InvalidManifest::EmptyGroup(group)),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn weighted(weights: &[u32]) -> Groups {
        let member = |weight: &u32| Group { weight: *weight, epsilon: EPSILON_ONE };
        Groups { members: weights.iter().map(member).collect(), round_samples: ROUND_SAMPLES }
    }

    #[test]
    fn a_draw_stands_for_the_group_that_the_cumulative_weights_say() {
        let groups = weighted(&[1, 2, 5]);
        // Eighths of 2^128: the first and the last draw of each.
        for (eighth, group) in (0u128..).zip([0, 1, 1, 2, 2, 2, 2, 2]) {
            let first = eighth << 125;
            let last = first + ((1 << 125) - 1);
            assert_eq!((groups.at(first), groups.at(last)), (group, group), "eighth {eighth}");
        }
        let thirds = weighted(&[1, 1, 1]);
        let third = u128::MAX / 3;
        assert_eq!([third, third + 1, 2 * third, 2 * third + 1].map(|draw| thirds.at(draw)), [0, 1, 1, 2]);
        let largest = weighted(&vec![GROUP_WEIGHT_MAX; GROUPS_MAX]);
        assert_eq!((largest.at(0), largest.at(u128::MAX)), (0, GROUPS_MAX as u16 - 1));
    }

    #[test]
    fn rounds_are_drawn_in_proportion_to_the_weights() {
        let groups = weighted(&[1, 3, 4]);
        let machine = MachineId { key: [7; 32], incarnation: 9 };
        let mut counts = [0f64; 3];
        (0..8_000).for_each(|round| counts[usize::from(groups.of_round(&RunId([1; 32]), &machine, round))] += 1.0);
        for (count, expected) in counts.iter().zip([1_000.0f64, 3_000.0, 4_000.0]) {
            assert!((count - expected).abs() < 4.0 * expected.sqrt(), "{counts:?}");
        }
    }

    #[test]
    fn a_round_depends_on_run_key_incarnation_and_its_number_only() {
        let groups = weighted(&[1; 1000]);
        let machine = MachineId { key: [7; 32], incarnation: 9 };
        let of = |run: u8, machine: MachineId, round| groups.of_round(&RunId([run; 32]), &machine, round);
        let drawn = of(1, machine, 5);
        assert_eq!(of(1, machine, 5), drawn);
        let other_key = MachineId { key: [8; 32], ..machine };
        let other_incarnation = MachineId { incarnation: 10, ..machine };
        let others = [of(2, machine, 5), of(1, other_key, 5), of(1, other_incarnation, 5), of(1, machine, 6)];
        assert!(others.iter().all(|other| *other != drawn), "{drawn} and {others:?}");
    }

    #[test]
    fn rounds_begin_at_multiples_of_their_length() {
        let groups = weighted(&[1]);
        assert_eq!([0, 7, 15, 16, 17].map(|sample| groups.round(sample)), [0, 0, 0, 1, 1]);
        assert_eq!([0, 7, 15, 16, 17].map(|sample| groups.round_end(sample)), [16, 16, 16, 32, 32]);
    }
}
