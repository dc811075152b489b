//! The secret of a private run.
//!
//! The manifest holds a commitment to it, so that everybody who has the run's id can tell the right secret. Who
//! connects shows that it has it without saying it: [`Secret::connection`] is the prologue of every Noise handshake,
//! and a handshake with another prologue fails before a byte of anything else.
//!
//! ```text
//! commitment = BLAKE3.derive_key("onebyte 2 private run", secret 16)
//! prologue   = BLAKE3.derive_key("onebyte 2 private connection", secret 16)
//! ```

use std::fmt;

/// Bytes of a secret.
pub const SECRET_BYTES: usize = 16;

/// See the module's documentation. Drawn at random by the starter.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Secret(pub [u8; SECRET_BYTES]);

impl Secret {
    /// What the manifest of its run holds ([`crate::manifest::Manifest::private`]).
    pub fn commitment(&self) -> [u8; 32] {
        blake3::derive_key("onebyte 2 private run", &self.0)
    }

    /// What both ends of every connection must have in common.
    pub fn connection(&self) -> [u8; 32] {
        blake3::derive_key("onebyte 2 private connection", &self.0)
    }
}

impl fmt::Debug for Secret {
    /// Not the secret: debug output ends up in logs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_follows_from_a_secret_stays_as_it_is_and_says_nothing_of_it() {
        let secret = Secret([7; SECRET_BYTES]);
        let hex = |bytes: [u8; 32]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        assert_eq!(hex(secret.commitment()), COMMITMENT);
        assert_eq!(hex(secret.connection()), CONNECTION);
        assert_eq!(format!("{secret:?}"), "Secret(..)");
    }

    const COMMITMENT: &str = "8b1fceec512561586acd3e1863d206d81eaa94bbb70ec98fe1e225ea204facb4";
    const CONNECTION: &str = "c73c6e61da1627ce580ecc615936219c8e1c10ff7ae842865fc4b198b94d4335";
}
