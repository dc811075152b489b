//! Anti-entropy: what to fetch, given two standings of one machine. Pure decisions.

use serde::{Deserialize, Serialize};

use crate::{machine::MachineId, version_vector::Standing};

/// What a neighbour has that we lack.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Want {
    /// Chunks of `machine` from sample `from` on.
    Samples {
        /// Whose ledger.
        machine: MachineId,
        /// First sample that is missing.
        from: u64,
    },
    /// The fork proof or the authority's withdrawal.
    Revocation {
        /// Whose.
        machine: MachineId,
    },
}

/// What to ask a neighbour who says that `machine` stands at `theirs`, where here it stands at `ours` and its ledger
/// has `height` samples (more than the canonical height if some are revoked).
///
/// Equal heights under different heads are a fork: fetching the last segment brings the proof.
pub fn want(machine: MachineId, ours: Option<&Standing>, height: u64, theirs: &Standing) -> Option<Want> {
    let (our_floor, our_head) = match ours {
        Some(Standing::Forked) => return None,
        Some(Standing::Revoked { floor, head, .. }) => (*floor, *head),
        Some(Standing::Live { head, .. }) => (u64::MAX, *head),
        None => (u64::MAX, [0; 32]),
    };
    let (their_floor, their_height, their_head) = match theirs {
        Standing::Forked => return Some(Want::Revocation { machine }),
        Standing::Revoked { floor, height, head } => (*floor, *height, head),
        Standing::Live { height, head } => (u64::MAX, *height, head),
    };
    let ours = height.min(our_floor);
    if their_floor < our_floor {
        Some(Want::Revocation { machine })
    } else if their_height.min(our_floor) > ours {
        Some(Want::Samples { machine, from: ours })
    } else if their_height == ours && ours > 0 && *their_head != our_head {
        Some(Want::Samples { machine, from: ours - 1 })
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MACHINE: MachineId = MachineId { key: [7; 32], incarnation: 1 };

    fn live(height: u64, head: u8) -> Standing {
        Standing::Live { height, head: [head; 32] }
    }

    fn revoked(floor: u64, height: u64) -> Standing {
        Standing::Revoked { floor, height, head: [1; 32] }
    }

    #[test]
    fn asks_for_exactly_what_is_missing() {
        let samples = |from| Some(Want::Samples { machine: MACHINE, from });
        let revocation = Some(Want::Revocation { machine: MACHINE });
        let table = [
            (None, 0, live(5, 1), samples(0)),
            (Some(live(5, 1)), 5, live(5, 1), None),
            (Some(live(5, 1)), 5, live(4, 9), None),
            (Some(live(5, 1)), 5, live(9, 2), samples(5)),
            (Some(live(5, 1)), 5, live(5, 2), samples(4)),
            (Some(live(5, 1)), 5, Standing::Forked, revocation),
            (None, 0, Standing::Forked, revocation),
            (Some(Standing::Forked), 0, live(9, 1), None),
            (Some(Standing::Forked), 0, Standing::Forked, None),
            (Some(live(5, 1)), 5, revoked(3, 3), revocation),
            (Some(revoked(3, 3)), 8, live(9, 2), None),
            (Some(revoked(3, 2)), 2, live(9, 2), samples(2)),
            (Some(revoked(7, 5)), 5, revoked(3, 3), revocation),
            (Some(revoked(3, 3)), 5, revoked(7, 7), None),
            (Some(revoked(3, 2)), 2, revoked(7, 7), samples(2)),
            (Some(revoked(3, 3)), 5, revoked(3, 3), None),
        ];
        for (ours, height, theirs, expected) in table {
            assert_eq!(want(MACHINE, ours.as_ref(), height, &theirs), expected, "{ours:?} {height} {theirs:?}");
        }
    }
}
