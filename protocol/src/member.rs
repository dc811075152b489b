//! Admissions and withdrawals: what a run's authority says of a key.
//!
//! ```text
//! signed admission  = "onebyte 2 admission"  ‖ run (32) ‖ key (32)
//! signed withdrawal = "onebyte 2 withdrawal" ‖ run (32) ‖ key (32) ‖ named incarnations (u32 LE)
//!                     ‖ (incarnation (u64 LE) ‖ floor (u64 LE)) for each, ascending by incarnation
//! digest of floors  = BLAKE3.derive_key("onebyte 2 floors", (incarnation (u64 LE) ‖ floor (u64 LE)) for each,
//! ascending)
//! ```
//!
//! A withdrawn key's named incarnations keep their samples below their floor; of all its other incarnations nothing
//! counts. A withdrawal outweighs an admission, for good. Two withdrawals merge to the lower floor of each incarnation,
//! where one that is not named has the floor 0: so only those that both name keep anything. What a key comes to follows
//! from the set of its statements, in whatever order they come.

use serde::{Deserialize, Serialize};

use crate::{
    error::InvalidChunk,
    manifest::{Manifest, Membership, RunId},
    segment::Digest,
    signature::{Signature, Signer, Verifier},
};

/// Most incarnations that one withdrawal names.
pub const NAMED_MAX: usize = 32;
/// Most signed parts of a withdrawal. Each but one of them is the only one that keeps some named incarnation's floor
/// low, or leaves it out.
const PARTS_MAX: usize = NAMED_MAX + 1;

const ADMISSION_TAG: &[u8] = b"onebyte 2 admission";
const WITHDRAWAL_TAG: &[u8] = b"onebyte 2 withdrawal";
const FLOORS_CONTEXT: &str = "onebyte 2 floors";

/// (incarnation, first sample that does not count), ascending by incarnation, each floor at least 1.
pub type Floors = Vec<(u64, u64)>;

/// The authority lets a key contribute.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Admission {
    /// Whose.
    pub key: [u8; 32],
    /// The authority's, over the signed admission.
    pub signature: Signature,
}

/// One signed withdrawal.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct Part {
    floors: Floors,
    signature: Signature,
}

/// The authority lets a key contribute no more. All that it has said of that, merged: at least one signed part, of
/// which none could be left out.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Withdrawal {
    /// Whose.
    pub key: [u8; 32],
    parts: Vec<Part>,
}

/// How a key stands with the authority, as a version vector lists it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum MemberStanding {
    /// It may contribute.
    Admitted,
    /// It may not any more. The digest of its floors.
    Withdrawn(Digest),
}

/// What is known of a key. An admission is of no more interest after a withdrawal.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Member {
    /// Admitted.
    Admitted(Admission),
    /// Withdrawn.
    Withdrawn {
        /// What the authority signed.
        withdrawal: Withdrawal,
        /// What it comes to.
        floors: Floors,
    },
}

fn floors_bytes(floors: &[(u64, u64)]) -> Vec<u8> {
    floors.iter().flat_map(|(incarnation, floor)| [incarnation.to_le_bytes(), floor.to_le_bytes()].concat()).collect()
}

impl Admission {
    /// What is signed.
    pub fn message(run: &RunId, key: &[u8; 32]) -> Vec<u8> {
        [ADMISSION_TAG, &run.0, key].concat()
    }

    /// Signs with the authority's key.
    pub fn sign(run: &RunId, key: [u8; 32], authority: &dyn Signer) -> Self {
        Self { key, signature: authority.sign(&Self::message(run, &key)) }
    }

    /// Checks that the run has admissions, and that this is its authority's.
    pub fn verify(&self, run: &RunId, manifest: &Manifest, verifier: &dyn Verifier) -> Result<(), InvalidChunk> {
        let authority = manifest.authority.as_ref().ok_or(InvalidChunk::NotAuthority)?;
        if manifest.membership != Membership::ByAuthority {
            return Err(InvalidChunk::NoAdmissions);
        }
        let valid = verifier.verify(authority, &Self::message(run, &self.key), &self.signature);
        if valid { Ok(()) } else { Err(InvalidChunk::NotAuthority) }
    }
}

/// What two withdrawals come to: of the incarnations that both name, the lower floor.
fn lower(left: &[(u64, u64)], right: &[(u64, u64)]) -> Floors {
    let floor = |incarnation: u64| {
        right.binary_search_by_key(&incarnation, |(named, _)| *named).ok().and_then(|index| right.get(index))
    };
    let named = left.iter().filter_map(|(incarnation, left)| Some((*incarnation, floor(*incarnation)?.1.min(*left))));
    named.collect()
}

/// What the parts come to, without number `left_out`.
fn merged(parts: &[Part], left_out: Option<usize>) -> Option<Floors> {
    let others = parts.iter().enumerate().filter(|(index, _)| Some(*index) != left_out);
    others.map(|(_, part)| part.floors.clone()).reduce(|left, right| lower(&left, &right))
}

impl Withdrawal {
    /// What is signed. `floors` ascending by incarnation.
    pub fn message(run: &RunId, key: &[u8; 32], floors: &[(u64, u64)]) -> Vec<u8> {
        [WITHDRAWAL_TAG, &run.0, key, &(floors.len() as u32).to_le_bytes(), &floors_bytes(floors)].concat()
    }

    /// Signs with the authority's key. `floors` in any order; those of 0 say nothing. Beyond [`NAMED_MAX`]
    /// incarnations, those with the highest floors are named.
    pub fn sign(run: &RunId, key: [u8; 32], floors: &[(u64, u64)], authority: &dyn Signer) -> Self {
        let mut floors: Floors = floors.iter().copied().filter(|(_, floor)| *floor > 0).collect();
        floors.sort_unstable_by_key(|(incarnation, floor)| (std::cmp::Reverse(*floor), *incarnation));
        floors.truncate(NAMED_MAX);
        floors.sort_unstable();
        floors.dedup_by_key(|(incarnation, _)| *incarnation);
        let signature = authority.sign(&Self::message(run, &key, &floors));
        Self { key, parts: vec![Part { floors, signature }] }
    }

    /// What it comes to.
    pub fn floors(&self) -> Floors {
        merged(&self.parts, None).unwrap_or_default()
    }

    /// Checks every bound. Nothing else may be done before with one that came from elsewhere.
    pub fn check_shape(&self) -> Result<(), InvalidChunk> {
        let is_sound = |part: &Part| {
            part.floors.len() <= NAMED_MAX
                && part.floors.is_sorted_by(|a, b| a.0 < b.0)
                && part.floors.iter().all(|(_, floor)| *floor > 0)
        };
        let is_bounded = !self.parts.is_empty() && self.parts.len() <= PARTS_MAX;
        if is_bounded && self.parts.iter().all(is_sound) { Ok(()) } else { Err(InvalidChunk::Withdrawal) }
    }

    /// Checks every bound, and that each part is the authority's.
    pub fn verify(&self, run: &RunId, manifest: &Manifest, verifier: &dyn Verifier) -> Result<(), InvalidChunk> {
        let authority = manifest.authority.as_ref().ok_or(InvalidChunk::NotAuthority)?;
        self.check_shape()?;
        let signed =
            |part: &Part| verifier.verify(authority, &Self::message(run, &self.key, &part.floors), &part.signature);
        if self.parts.iter().all(signed) { Ok(()) } else { Err(InvalidChunk::NotAuthority) }
    }

    /// Takes in another of the same key, and leaves out the parts that change nothing.
    fn merge(&mut self, other: Self) {
        self.parts.extend(other.parts);
        let all = merged(&self.parts, None);
        let mut index = 0;
        while index < self.parts.len() {
            match merged(&self.parts, Some(index)) == all {
                true => drop(self.parts.remove(index)),
                false => index += 1,
            }
        }
    }
}

impl Member {
    /// After a withdrawal.
    pub fn withdrawn(withdrawal: Withdrawal) -> Self {
        let mut only = Withdrawal { key: withdrawal.key, parts: Vec::new() };
        only.merge(withdrawal);
        Self::Withdrawn { floors: only.floors(), withdrawal: only }
    }

    /// After this as well, if that changes what the key comes to.
    pub fn after(&self, withdrawal: &Withdrawal) -> Option<Self> {
        match self {
            Self::Admitted(_) => Some(Self::withdrawn(withdrawal.clone())),
            Self::Withdrawn { withdrawal: known, floors } => {
                let lower = lower(floors, &withdrawal.floors());
                if lower == *floors {
                    return None;
                }
                let mut known = known.clone();
                known.merge(withdrawal.clone());
                Some(Self::Withdrawn { withdrawal: known, floors: lower })
            }
        }
    }

    /// First sample of an incarnation that does not count.
    pub fn floor(&self, incarnation: u64) -> u64 {
        match self {
            Self::Admitted(_) => u64::MAX,
            Self::Withdrawn { floors, .. } => {
                floors.iter().find(|(named, _)| *named == incarnation).map_or(0, |(_, floor)| *floor)
            }
        }
    }

    /// As a version vector lists it.
    pub fn standing(&self) -> MemberStanding {
        match self {
            Self::Admitted(_) => MemberStanding::Admitted,
            Self::Withdrawn { floors, .. } => {
                MemberStanding::Withdrawn(blake3::derive_key(FLOORS_CONTEXT, &floors_bytes(floors)))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::signature::Ed25519Signer;
    use rand_xoshiro::{
        Xoshiro256PlusPlus,
        rand_core::{Rng, SeedableRng},
    };

    const RUN: RunId = RunId([1; 32]);
    const KEY: [u8; 32] = [2; 32];

    fn withdrawal(floors: &[(u64, u64)]) -> Withdrawal {
        Withdrawal::sign(&RUN, KEY, floors, &Ed25519Signer::from_seed(&[3; 32]))
    }

    fn after_all(all: &[Withdrawal]) -> Member {
        let mut member = Member::withdrawn(all[0].clone());
        for withdrawal in &all[1..] {
            if let Some(after) = member.after(withdrawal) {
                member = after;
            }
        }
        member
    }

    #[test]
    fn two_withdrawals_merge_to_the_lower_floor_and_who_is_named_once_keeps_nothing() {
        let both = after_all(&[withdrawal(&[(7, 10), (8, 3)]), withdrawal(&[(7, 4), (9, 5)])]);
        assert_eq!([7, 8, 9, 10].map(|incarnation| both.floor(incarnation)), [4, 0, 0, 0]);
        let Member::Withdrawn { withdrawal: kept, .. } = &both else { panic!("withdrawn") };
        assert_eq!(kept.parts.len(), 2);
        // One that says less than is known changes nothing; one that says all takes the place of the others.
        assert_eq!(both.after(&withdrawal(&[(7, 5), (8, 1)])), None);
        let none = both.after(&withdrawal(&[])).unwrap();
        assert_eq!(none.floor(7), 0);
        let Member::Withdrawn { withdrawal: kept, .. } = none else { panic!("withdrawn") };
        assert_eq!(kept.parts.len(), 1);
    }

    #[test]
    fn more_incarnations_than_may_be_named_leave_out_those_with_the_least() {
        let many: Floors = (0..40).map(|incarnation| (incarnation, 100 - incarnation)).collect();
        let member = Member::withdrawn(withdrawal(&many));
        assert_eq!((member.floor(0), member.floor(31), member.floor(32)), (100, 69, 0));
    }

    /// All of a small world's withdrawals, many sets of them, each in two orders.
    #[test]
    fn what_a_key_comes_to_follows_from_the_set_and_stays_small() {
        let mut random = Xoshiro256PlusPlus::seed_from_u64(1);
        for _ in 0..500 {
            let below = |random: &mut Xoshiro256PlusPlus, end: u64| random.next_u64() % end;
            let all: Vec<Withdrawal> = (0..1 + below(&mut random, 12))
                .map(|_| {
                    let floors: Floors = (0..5).map(|named| (named, below(&mut random, 6))).collect();
                    withdrawal(&floors)
                })
                .collect();
            let mut other = all.clone();
            other.rotate_left(below(&mut random, all.len() as u64) as usize);
            other.reverse();
            let (first, second) = (after_all(&all), after_all(&other));
            assert_eq!(first.standing(), second.standing());
            let floor_in = |withdrawal: &Withdrawal, named: u64| {
                withdrawal.floors().iter().find(|(other, _)| *other == named).map_or(0, |(_, floor)| *floor)
            };
            for named in 0..5 {
                assert_eq!(Some(first.floor(named)), all.iter().map(|withdrawal| floor_in(withdrawal, named)).min());
            }
            for member in [first, second] {
                let Member::Withdrawn { withdrawal, floors } = member else { panic!("withdrawn") };
                assert_eq!(withdrawal.floors(), floors);
                let named = withdrawal.parts.iter().map(|part| part.floors.len()).min();
                assert!(withdrawal.parts.len() <= named.unwrap() + 1, "{} parts", withdrawal.parts.len());
            }
        }
    }
}
