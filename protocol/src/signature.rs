//! Signatures, behind two small traits so that a simulator can share the work of checking them.

use ed25519_dalek::{Signer as _, SigningKey, VerifyingKey};
use serde::{Deserialize, Serialize};
use std::fmt;

/// An Ed25519 signature (64 bytes).
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Signature(pub [u8; 64]);

impl fmt::Debug for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0[..4].iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl Serialize for Signature {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        // Two halves, because serde's arrays end at 32.
        let (left, right): (&[u8; 32], &[u8; 32]) = match (self.0[..32].try_into(), self.0[32..].try_into()) {
            (Ok(left), Ok(right)) => (left, right),
            _ => return Err(serde::ser::Error::custom("a signature has 64 bytes")),
        };
        (left, right).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Signature {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (left, right) = <([u8; 32], [u8; 32])>::deserialize(deserializer)?;
        let mut bytes = [0u8; 64];
        bytes[..32].copy_from_slice(&left);
        bytes[32..].copy_from_slice(&right);
        Ok(Self(bytes))
    }
}

/// Checks signatures.
pub trait Verifier: Send {
    /// Whether `signature` is `key`'s over `message`. Weak keys are refused.
    fn verify(&self, key: &[u8; 32], message: &[u8], signature: &Signature) -> bool;
}

/// Signs with one machine's key.
pub trait Signer: Send {
    /// The public key.
    fn key(&self) -> [u8; 32];
    /// Signs `message`.
    fn sign(&self, message: &[u8]) -> Signature;
}

/// Ed25519 with `verify_strict`, which refuses weak keys and malleable signatures (never batched: batch verification
/// accepts what single verification refuses, and two nodes must not disagree).
#[derive(Clone, Copy, Default, Debug)]
pub struct Ed25519Verifier;

impl Verifier for Ed25519Verifier {
    fn verify(&self, key: &[u8; 32], message: &[u8], signature: &Signature) -> bool {
        let Ok(key) = VerifyingKey::from_bytes(key) else { return false };
        key.verify_strict(message, &ed25519_dalek::Signature::from_bytes(&signature.0)).is_ok()
    }
}

/// An Ed25519 secret key.
pub struct Ed25519Signer(SigningKey);

impl Ed25519Signer {
    /// From the 32-byte seed of RFC 8032.
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        Self(SigningKey::from_bytes(seed))
    }
}

impl Signer for Ed25519Signer {
    fn key(&self) -> [u8; 32] {
        self.0.verifying_key().to_bytes()
    }

    fn sign(&self, message: &[u8]) -> Signature {
        Signature(self.0.sign(message).to_bytes())
    }
}
