//! Seeds: from (run, machine, incarnation, sample) to the key of one tensor's perturbation.

use serde::Serialize;

use crate::{machine::MachineId, manifest::RunId};

/// BLAKE3 derive-key context of an entry seed.
const ENTRY_SEED_CONTEXT: &str = "onebyte 1 entry seed";

/// The 32-byte seed σ of one ledger entry. Everything random about the entry follows from it.
///
/// `σ = BLAKE3.derive_key("onebyte 1 entry seed", run (32) ‖ key (32) ‖ incarnation (u64 LE) ‖ sample (u64 LE))`
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize)]
pub struct EntrySeed(pub [u8; 32]);

impl EntrySeed {
    /// Derives the seed of `sample` of `machine` in `run`.
    pub fn derive(run: &RunId, machine: &MachineId, sample: u64) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key(ENTRY_SEED_CONTEXT);
        hasher.update(&run.0);
        hasher.update(&machine.key);
        hasher.update(&machine.incarnation.to_le_bytes());
        hasher.update(&sample.to_le_bytes());
        Self(*hasher.finalize().as_bytes())
    }

    /// Derives the key of the tensor with canonical index `tensor`.
    ///
    /// 36 bytes of `BLAKE3.keyed_hash(σ, tensor (u32 LE))` in XOF mode: four u64 LE words, then the
    /// u32 LE rounding draw.
    pub fn tensor_key(&self, tensor: u32) -> TensorKey {
        let mut bytes = [0u8; 36];
        blake3::Hasher::new_keyed(&self.0).update(&tensor.to_le_bytes()).finalize_xof().fill(&mut bytes);
        let mut words = [0u64; 4];
        for (word, chunk) in words.iter_mut().zip(bytes.chunks_exact(8)) {
            *word =
                u64::from_le_bytes([chunk[0], chunk[1], chunk[2], chunk[3], chunk[4], chunk[5], chunk[6], chunk[7]]);
        }
        let rounding = u32::from_le_bytes([bytes[32], bytes[33], bytes[34], bytes[35]]);
        TensorKey { words, rounding }
    }
}

/// What one entry needs to know about one tensor: the key of its signs and its rounding draw.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TensorKey {
    /// Seeds of the four SplitMix64 streams that fill the lanes' states (see [`crate::perturbation`]).
    pub words: [u64; 4],
    /// u(σ, t): the draw of the seeded stochastic rounding (see [`crate::codec::decode`]).
    pub rounding: u32,
}
