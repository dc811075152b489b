//! Keys and names of machines.

use peer::NodeId;

use crate::event::Number;

/// BLAKE3 derive-key context of a simulated machine's Ed25519 seed.
pub const SECRET_CONTEXT: &str = "onebyte simulator machine";

/// Everything random follows from the seed, keys too.
pub(super) fn secret(seed: u64, number: Number) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new_derive_key(SECRET_CONTEXT);
    hasher.update(&seed.to_le_bytes());
    hasher.update(&number.to_le_bytes());
    *hasher.finalize().as_bytes()
}

/// As peers know a machine.
pub(super) fn node_id(number: Number) -> NodeId {
    NodeId(u64::from(number))
}
