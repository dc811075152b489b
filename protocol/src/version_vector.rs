//! The version vector in canonical form, its hash, and what two of them differ in.
//!
//! ```text
//! entry  = key (32) ‖ incarnation (u64 LE) ‖ kind (u8) ‖ height (u64 LE) ‖ head digest (32) ‖ floor (u64 LE)
//! bucket = BLAKE3.derive_key("onebyte 2 version vector", entries sorted by machine), zero if empty
//! root   = BLAKE3 of the 256 buckets
//! ```
//!
//! A machine belongs to the bucket of its handle's first byte. Kinds: 0 live (floor zero), 1 revoked from a floor on
//! (height and digest are those at the floor at most), 2 forked (a tombstone: height, digest and floor zero).
//! Machines without samples and without revocation have no entry.

use serde::{Deserialize, Serialize};

use crate::{machine::MachineId, segment::Digest};

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

/// The hash of a bucket with these entries, which must be in order.
pub fn hash_bucket<'a>(entries: impl Iterator<Item = (&'a MachineId, Standing)>) -> Digest {
    let mut bytes = Vec::new();
    for (machine, standing) in entries {
        bytes.extend_from_slice(&machine.key);
        bytes.extend_from_slice(&machine.incarnation.to_le_bytes());
        standing.write_to(&mut bytes);
    }
    if bytes.is_empty() { [0; 32] } else { blake3::derive_key(CONTEXT, &bytes) }
}
