//! The version vector in canonical form, its hash, and what two of them differ in.
//!
//! ```text
//! entry  = key (32) ‖ incarnation (u64 LE) ‖ kind (u8) ‖ height (u64 LE) ‖ head digest (32) ‖ floor (u64 LE)
//! bucket = BLAKE3.derive_key("onebyte 1 version vector", entries sorted by machine), zero if empty
//! root   = BLAKE3 of the 256 buckets
//! ```
//!
//! A machine belongs to the bucket of its handle's first byte. Kinds: 0 live (floor zero), 1 revoked from a floor on
//! (height and digest are those at the floor at most), 2 forked (a tombstone: height, digest and floor zero).
//! Machines without samples and without revocation have no entry.

use serde::{Deserialize, Serialize};
use std::{cell::OnceCell, collections::BTreeMap};

use crate::{machine::MachineId, manifest::combine_digests, segment::Digest};

/// Number of buckets.
pub const BUCKETS: usize = 256;
const CONTEXT: &str = "onebyte 1 version vector";

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

    fn hash_into(&self, hasher: &mut blake3::Hasher) {
        let (kind, height, head, floor) = match self {
            Self::Live { height, head } => (0u8, *height, *head, 0),
            Self::Revoked { floor, height, head } => (1, *height, *head, *floor),
            Self::Forked => (2, 0, [0; 32], 0),
        };
        hasher.update(&[kind]);
        hasher.update(&height.to_le_bytes());
        hasher.update(&head);
        hasher.update(&floor.to_le_bytes());
    }
}

/// {machine → standing}, hashed bucket by bucket. Hashes are computed when they are first asked for after a change.
#[derive(Clone, Debug)]
pub struct VersionVector {
    buckets: Vec<Bucket>,
    root: OnceCell<[u8; 32]>,
    revision: u64,
    samples: u64,
    machines: usize,
}

#[derive(Clone, Default, Debug)]
struct Bucket {
    standings: BTreeMap<MachineId, Standing>,
    hash: OnceCell<[u8; 32]>,
}

impl Bucket {
    fn hash(&self) -> [u8; 32] {
        *self.hash.get_or_init(|| {
            if self.standings.is_empty() {
                return [0; 32];
            }
            let mut hasher = blake3::Hasher::new_derive_key(CONTEXT);
            for (machine, standing) in &self.standings {
                hasher.update(&machine.key);
                hasher.update(&machine.incarnation.to_le_bytes());
                standing.hash_into(&mut hasher);
            }
            *hasher.finalize().as_bytes()
        })
    }
}

impl Default for VersionVector {
    fn default() -> Self {
        Self { buckets: vec![Bucket::default(); BUCKETS], root: OnceCell::new(), revision: 0, samples: 0, machines: 0 }
    }
}

impl VersionVector {
    /// Sets a machine's standing.
    pub fn set(&mut self, machine: MachineId, standing: Standing) {
        let bucket = &mut self.buckets[usize::from(machine.handle().0[0])];
        let old = bucket.standings.insert(machine, standing);
        if old != Some(standing) {
            bucket.hash.take();
            self.root.take();
            self.revision += 1;
        }
        self.machines += usize::from(old.is_none());
        self.samples = self.samples.saturating_sub(old.map_or(0, |old| old.height())).saturating_add(standing.height());
    }

    /// A machine's standing.
    pub fn get(&self, machine: &MachineId) -> Option<&Standing> {
        self.bucket(machine.handle().0[0]).get(machine)
    }

    /// How often a standing has changed: tells whether anything came, without hashing.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// Sum of the heights: the swarm step.
    pub fn samples(&self) -> u64 {
        self.samples
    }

    /// Number of machines.
    pub fn machines(&self) -> usize {
        self.machines
    }

    /// Entries in bucket order.
    pub fn entries(&self) -> impl Iterator<Item = (&MachineId, &Standing)> {
        self.buckets.iter().flat_map(|bucket| &bucket.standings)
    }

    /// Entries of one bucket.
    pub fn bucket(&self, bucket: u8) -> &BTreeMap<MachineId, Standing> {
        &self.buckets[usize::from(bucket)].standings
    }

    /// The hashes of all buckets, in their order.
    pub fn bucket_hashes(&self) -> Vec<[u8; 32]> {
        self.buckets.iter().map(Bucket::hash).collect()
    }

    /// The vector's hash: equal for equal effective sets.
    pub fn root(&self) -> [u8; 32] {
        *self.root.get_or_init(|| combine_digests(self.buckets.iter().map(Bucket::hash)))
    }
}
