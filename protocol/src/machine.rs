//! Who made an entry: an Ed25519 key and a random incarnation.

use serde::{Deserialize, Serialize};
use std::fmt;

/// A machine: the Ed25519 public key behind its libp2p PeerId, and the random incarnation it took when its
/// ledger began. A machine in doubt about its own ledger starts over under a new incarnation.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct MachineId {
    /// Ed25519 public key.
    pub key: [u8; 32],
    /// Drawn at random when the ledger is opened.
    pub incarnation: u64,
}

/// Sixteen bytes that stand for a machine on the wire once it has been introduced.
///
/// `BLAKE3.derive_key("onebyte 2 handle", key (32) ‖ incarnation (u64 LE))`, first 16 bytes: finding two machines with
/// one handle takes 2^64 work, and the signature inside a message names the machine in full anyway.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Handle(pub [u8; 16]);

impl MachineId {
    /// The short name used on the wire.
    pub fn handle(&self) -> Handle {
        let mut hasher = blake3::Hasher::new_derive_key("onebyte 2 handle");
        hasher.update(&self.key);
        hasher.update(&self.incarnation.to_le_bytes());
        let mut handle = [0u8; 16];
        hasher.finalize_xof().fill(&mut handle);
        Handle(handle)
    }
}

/// Bytes of the key in a machine's name.
const KEY_BYTES: usize = 6;
/// Hexadecimal digits of the incarnation in a machine's short name.
const INCARNATION_DIGITS: usize = 4;

/// The beginning of the key and of the incarnation, for people; `{:#}` with the whole incarnation, which no other
/// machine of the key has.
impl fmt::Display for MachineId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for byte in &self.key[..KEY_BYTES] {
            write!(f, "{byte:02x}")?;
        }
        match f.alternate() {
            true => write!(f, ".{:016x}", self.incarnation),
            false => write!(f, ".{:0INCARNATION_DIGITS$x}", self.incarnation >> (64 - 4 * INCARNATION_DIGITS)),
        }
    }
}

/// What people are shown of a name in full (`{:#}`). A short one stays as it is.
pub fn short_name(name: &str) -> &str {
    name.get(..2 * KEY_BYTES + 1 + INCARNATION_DIGITS).unwrap_or(name)
}

impl fmt::Debug for MachineId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for byte in &self.0[..6] {
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_see_the_beginning_of_a_name() {
        let machine = MachineId { key: [0xab; 32], incarnation: 0x0123_4567_89ab_cdef };
        let (short, full) = (machine.to_string(), format!("{machine:#}"));
        assert_eq!((&*short, &*full), ("abababababab.0123", "abababababab.0123456789abcdef"));
        for name in [&short, &full] {
            assert_eq!(short_name(name), short);
        }
        assert_eq!(short_name("none"), "none");
    }
}
