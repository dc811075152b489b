//! The model that a run starts from.

use serde::{Deserialize, Serialize};

use crate::error::InvalidManifest;

/// Bytes per chunk of the base model, the unit that is fetched and checked.
pub const BASE_CHUNK_BYTES: usize = 256 * 1024;

/// Where the base model's bytes come from and how they are checked.
///
/// The base is one string of bytes, `config.json ‖ tokenizer.json ‖ tensors`, the tensors being the snapped values, f32
/// LE, in the order of the manifest's table. It is cut in chunks of [`BASE_CHUNK_BYTES`]; `chunks_root` is the BLAKE3
/// of their concatenated BLAKE3 digests.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct BaseModel {
    /// What the starter called it, for people.
    pub source: String,
    /// Bytes of config.json.
    pub config_bytes: u64,
    /// BLAKE3 of config.json.
    pub config_digest: [u8; 32],
    /// Bytes of tokenizer.json.
    pub tokenizer_bytes: u64,
    /// BLAKE3 of tokenizer.json.
    pub tokenizer_digest: [u8; 32],
    /// BLAKE3 of the concatenated chunk digests.
    pub chunks_root: [u8; 32],
}

impl BaseModel {
    /// Checks the bounds of the files' sizes.
    pub(super) fn validate(&self) -> Result<(), InvalidManifest> {
        match self.config_bytes <= 1 << 20 && self.tokenizer_bytes <= 1 << 28 {
            true => Ok(()),
            false => Err(InvalidManifest::BaseFiles),
        }
    }
}

/// BLAKE3 of concatenated digests.
pub fn combine_digests(digests: impl IntoIterator<Item = [u8; 32]>) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    for digest in digests {
        hasher.update(&digest);
    }
    *hasher.finalize().as_bytes()
}
