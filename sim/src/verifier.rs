//! Real signatures, each checked once: all machines of a simulation share the memory of what was found.

use protocol::signature::{Ed25519Verifier, Signature, Verifier};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

/// Entries at which the memory is emptied; each takes some 80 bytes.
const REMEMBERED_MAX: usize = 4 << 20;

/// Remembers verdicts by the BLAKE3 of (key, signature, message).
#[derive(Clone, Default)]
pub struct RememberingVerifier(Arc<Mutex<HashMap<[u8; 32], bool>>>);

impl Verifier for RememberingVerifier {
    fn verify(&self, key: &[u8; 32], message: &[u8], signature: &Signature) -> bool {
        let mut hasher = blake3::Hasher::new();
        hasher.update(key);
        hasher.update(&signature.0);
        hasher.update(message);
        let name = *hasher.finalize().as_bytes();
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= REMEMBERED_MAX {
            known.clear();
        }
        *known.entry(name).or_insert_with(|| Ed25519Verifier.verify(key, message, signature))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::signature::{Ed25519Signer, Signer};

    #[test]
    fn remembers_both_verdicts_and_confuses_nothing() {
        let signer = Ed25519Signer::from_seed(&[7; 32]);
        let verifier = RememberingVerifier::default();
        let signature = signer.sign(b"this");
        for _ in 0..2 {
            assert!(verifier.verify(&signer.key(), b"this", &signature));
            assert!(!verifier.verify(&signer.key(), b"that", &signature));
            assert!(!verifier.verify(&[9; 32], b"this", &signature));
        }
    }
}
