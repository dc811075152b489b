//! Anti-entropy: what to fetch, given two standings of one machine. Pure decisions.

use serde::{Deserialize, Serialize};

use crate::{machine::MachineId, member::MemberStanding, version_vector::Standing};

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
    /// The fork proof or the authority's revocation.
    Revocation {
        /// Whose.
        machine: MachineId,
    },
    /// The authority's admission or withdrawal.
    Member {
        /// Whose.
        key: [u8; 32],
    },
}

/// What to ask a neighbour who says that `machine` stands at `theirs`, where here it stands at `ours`, its samples
/// below
/// `floor` may count, and its ledger has `height` samples (more than the canonical height if some do not count).
///
/// Equal heights under different heads are a fork: fetching the last segment brings the proof.
pub fn want(machine: MachineId, ours: Option<&Standing>, height: u64, floor: u64, theirs: &Standing) -> Option<Want> {
    let our_floor = floor;
    let our_head = match ours {
        Some(Standing::Forked) => return None,
        Some(Standing::Revoked { head, .. } | Standing::Live { head, .. }) => *head,
        None => [0; 32],
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

/// What to ask a neighbour who says that `key` stands at `theirs`, where here it stands at `ours`.
///
/// Who of two that know different withdrawals knows more cannot be told: each asks the other.
pub fn want_member(key: [u8; 32], ours: Option<&MemberStanding>, theirs: &MemberStanding) -> Option<Want> {
    let is_news = match (ours, theirs) {
        (None, _) => true,
        (Some(_), MemberStanding::Admitted) => false,
        (Some(ours), theirs) => ours != theirs,
    };
    is_news.then_some(Want::Member { key })
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
            let floor = match ours {
                Some(Standing::Revoked { floor, .. }) => floor,
                _ => u64::MAX,
            };
            assert_eq!(want(MACHINE, ours.as_ref(), height, floor, &theirs), expected, "{ours:?} {height} {theirs:?}");
        }
    }

    #[test]
    fn of_a_ledger_that_a_withdrawal_limits_it_asks_for_what_counts() {
        let samples = Some(Want::Samples { machine: MACHINE, from: 0 });
        assert_eq!(want(MACHINE, None, 0, 4, &revoked(4, 4)), samples);
        assert_eq!(want(MACHINE, None, 0, 4, &live(9, 1)), samples, "they know nothing of the withdrawal yet");
        assert_eq!(want(MACHINE, None, 0, 4, &revoked(2, 0)), Some(Want::Revocation { machine: MACHINE }));
    }

    #[test]
    fn a_key_is_asked_about_unless_nothing_more_can_be_known() {
        let (admitted, some, other) =
            (MemberStanding::Admitted, MemberStanding::Withdrawn([1; 32]), MemberStanding::Withdrawn([2; 32]));
        let asks = |ours: Option<&_>, theirs| want_member([7; 32], ours, theirs).is_some();
        assert!(
            asks(None, &admitted) && asks(None, &some) && asks(Some(&admitted), &some) && asks(Some(&some), &other)
        );
        assert!(!asks(Some(&admitted), &admitted) && !asks(Some(&some), &admitted) && !asks(Some(&some), &some));
    }
}
