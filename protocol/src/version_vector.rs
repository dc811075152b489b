//! The version vector in canonical form, its hash, and what two of them differ in.
//!
//! ```text
//! member = key (32) ‖ kind (u8) ‖ digest of the floors (32)
//! ledger = key (32) ‖ incarnation (u64 LE) ‖ kind (u8) ‖ height (u64 LE) ‖ head digest (32) ‖ floor (u64 LE)
//! bucket = BLAKE3.derive_key("onebyte 2 version vector", members (u32 LE) ‖ members sorted by key ‖ ledgers sorted by
//! machine),
//!          zero if there are none
//! root   = BLAKE3 of the 256 buckets
//! ```
//!
//! A machine belongs to the bucket of its handle's first byte, a key to that of its own first byte. Members are the
//! keys of which the authority said something: 0 admitted (digest zero), 1 withdrawn. Kinds of ledgers: 0 live (floor
//! zero), 1 limited by a floor, the lowest of the authority's revocation and the key's withdrawal (height and digest
//! are those at the floor at most), 2 forked (a tombstone: height, digest and floor zero).
//!
//! No entry have machines without samples that count, unless they are forked or the authority's revocation is their
//! lowest floor; and machines of which nothing can count: those of keys that are not admitted, and those that a
//! withdrawal does not name.

use serde::{Deserialize, Serialize};

use crate::{machine::MachineId, member::MemberStanding, segment::Digest};

/// Number of buckets.
pub const BUCKETS: usize = 256;
const CONTEXT: &str = "onebyte 2 version vector";

/// How a machine's ledger stands, canonically.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Standing {
    /// All samples below `height` count.
    Live {
        /// Number of samples.
        height: u64,
        /// Digest of the last segment.
        head: Digest,
    },
    /// Samples from `floor` on are withdrawn.
    Revoked {
        /// First withdrawn sample.
        floor: u64,
        /// Samples known, at most `floor`.
        height: u64,
        /// Digest of the segment that holds sample `height − 1`.
        head: Digest,
    },
    /// The machine signed two histories.
    Forked,
}

impl Standing {
    /// Samples that count.
    pub fn height(&self) -> u64 {
        match self {
            Self::Live { height, .. } | Self::Revoked { height, .. } => *height,
            Self::Forked => 0,
        }
    }

    fn write_to(&self, bytes: &mut Vec<u8>) {
        let (kind, height, head, floor) = match self {
            Self::Live { height, head } => (0u8, *height, *head, 0),
            Self::Revoked { floor, height, head } => (1, *height, *head, *floor),
            Self::Forked => (2, 0, [0; 32], 0),
        };
        bytes.push(kind);
        bytes.extend_from_slice(&height.to_le_bytes());
        bytes.extend_from_slice(&head);
        bytes.extend_from_slice(&floor.to_le_bytes());
    }
}

/// What an entry is about. In each bucket, keys come first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub enum Subject {
    /// A key of which the authority said something.
    Member([u8; 32]),
    /// A machine.
    Ledger(MachineId),
}

impl Subject {
    /// The bucket that it belongs to.
    pub fn bucket(&self) -> u8 {
        match self {
            Self::Member(key) => key[0],
            Self::Ledger(machine) => machine.handle().0[0],
        }
    }
}

/// One entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Entry {
    /// How a key stands with the authority.
    Member([u8; 32], MemberStanding),
    /// How a machine's ledger stands.
    Ledger(MachineId, Standing),
}

impl Entry {
    /// What it is about.
    pub fn subject(&self) -> Subject {
        match self {
            Self::Member(key, _) => Subject::Member(*key),
            Self::Ledger(machine, _) => Subject::Ledger(*machine),
        }
    }
}

/// The hash of a bucket with these entries, each kind of which must be in order.
pub fn hash_bucket(entries: impl Iterator<Item = Entry>) -> Digest {
    let (mut members, mut ledgers, mut count) = (Vec::new(), Vec::new(), 0u32);
    for entry in entries {
        match entry {
            Entry::Member(key, standing) => {
                count += 1;
                let (kind, digest) = match standing {
                    MemberStanding::Admitted => (0u8, [0; 32]),
                    MemberStanding::Withdrawn(floors) => (1, floors),
                };
                members.extend([&key[..], &[kind], &digest].concat());
            }
            Entry::Ledger(machine, standing) => {
                ledgers.extend_from_slice(&machine.key);
                ledgers.extend_from_slice(&machine.incarnation.to_le_bytes());
                standing.write_to(&mut ledgers);
            }
        }
    }
    match members.is_empty() && ledgers.is_empty() {
        true => [0; 32],
        false => blake3::derive_key(CONTEXT, &[&count.to_le_bytes()[..], &members, &ledgers].concat()),
    }
}
