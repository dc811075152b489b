//! A held-out set that all machines of a run look at.

use serde::{Deserialize, Serialize};

use super::BASE_CHUNK_BYTES;
use crate::error::InvalidManifest;

/// Largest shared held-out set, bytes.
const HELD_OUT_BYTES_MAX: u64 = 1 << 30;

/// A shared held-out set: one file, fetched in chunks as the base is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct HeldOut {
    /// Length of the file.
    pub bytes: u64,
    /// BLAKE3 of the file.
    pub digest: [u8; 32],
    /// BLAKE3 of the concatenated digests of its chunks of [`BASE_CHUNK_BYTES`].
    pub chunks_root: [u8; 32],
}

impl HeldOut {
    /// Number of its chunks.
    pub fn chunks(&self) -> u64 {
        self.bytes.div_ceil(BASE_CHUNK_BYTES as u64)
    }

    /// Checks its length.
    pub(super) fn validate(&self) -> Result<(), InvalidManifest> {
        match (1..=HELD_OUT_BYTES_MAX).contains(&self.bytes) {
            true => Ok(()),
            false => Err(InvalidManifest::HeldOut(self.bytes)),
        }
    }
}
