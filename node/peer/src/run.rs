//! A run as its manifest describes it, shared by all who hold it.

use protocol::{
    error::WireError,
    manifest::{Manifest, RunId},
};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use std::sync::Arc;

/// A valid manifest, its encoding, and the run id that follows from it. Cloning shares all of it.
#[derive(Clone, Debug)]
pub struct Run {
    /// BLAKE3 of `bytes`.
    pub id: RunId,
    /// Decoded and validated.
    pub manifest: Arc<Manifest>,
    /// As it goes to joiners.
    pub bytes: Arc<[u8]>,
}

impl Run {
    /// Decodes and validates.
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        let (manifest, id) = Manifest::decode(bytes)?;
        Ok(Self { id, manifest: Arc::new(manifest), bytes: bytes.into() })
    }
}

impl Serialize for Run {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.bytes.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Run {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::decode(&Vec::<u8>::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}
