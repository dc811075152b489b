//! The one encoding of everything that travels or rests: bincode 2, standard configuration (little-endian,
//! variable-length integers), within hard bounds.

use serde::{Serialize, de::DeserializeOwned};

use crate::error::WireError;

/// Encodes with bincode's standard configuration; fails beyond `LIMIT` bytes.
pub fn encode<T: Serialize, const LIMIT: usize>(value: &T) -> Result<Vec<u8>, WireError> {
    let config = bincode::config::standard().with_limit::<LIMIT>();
    let bytes = bincode::serde::encode_to_vec(value, config).map_err(|e| WireError::Malformed(e.to_string()))?;
    if bytes.len() > LIMIT {
        return Err(WireError::TooLarge { bytes: bytes.len(), limit: LIMIT });
    }
    Ok(bytes)
}

/// Decodes with bincode's standard configuration; refuses more than `LIMIT` bytes, allocations beyond it, and
/// leftovers.
pub fn decode<T: DeserializeOwned, const LIMIT: usize>(bytes: &[u8]) -> Result<T, WireError> {
    if bytes.len() > LIMIT {
        return Err(WireError::TooLarge { bytes: bytes.len(), limit: LIMIT });
    }
    let config = bincode::config::standard().with_limit::<LIMIT>();
    let (value, consumed) =
        bincode::serde::decode_from_slice(bytes, config).map_err(|e| WireError::Malformed(e.to_string()))?;
    if consumed != bytes.len() {
        return Err(WireError::Trailing(bytes.len() - consumed));
    }
    Ok(value)
}
