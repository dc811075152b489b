//! Seeds: from (run, machine, incarnation, sample) to the group that an entry moves and the key of each tensor's
//! perturbation.

use serde::Serialize;

use crate::{
    machine::MachineId,
    manifest::{Groups, RunId},
};

/// BLAKE3 derive-key context of an entry seed.
const ENTRY_SEED_CONTEXT: &str = "onebyte 2 entry seed";

/// The 32-byte seed σ of one ledger entry, from which everything random about it follows, and the group of tensors that
/// the entry moves.
///
/// `σ = BLAKE3.derive_key("onebyte 2 entry seed", run (32) ‖ key (32) ‖ incarnation (u64 LE) ‖ sample (u64 LE))`; the
/// group is that of the sample's round ([`Groups::of_round`]).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize)]
pub struct EntrySeed {
    /// σ.
    pub bytes: [u8; 32],
    /// Number of the group.
    pub group: u16,
}

impl EntrySeed {
    /// Derives the seed of `sample` of `machine` in `run`. Of many samples: [`EntrySeeds`].
    pub fn derive(run: &RunId, machine: &MachineId, sample: u64, groups: &Groups) -> Self {
        EntrySeeds::new(run, machine, groups).of(sample)
    }

    /// Derives the key of the tensor with canonical index `tensor`, counted over all groups.
    pub fn tensor_key(&self, tensor: u32) -> TensorKey {
        tensor_key(&self.bytes, tensor)
    }
}

/// The seeds of one machine's samples. What consecutive ones share is computed once.
pub struct EntrySeeds<'a> {
    run: &'a RunId,
    machine: &'a MachineId,
    groups: &'a Groups,
    /// Has taken in run, key and incarnation.
    prefix: blake3::Hasher,
    /// The last round that was asked for, and its group.
    round: Option<(u64, u16)>,
}

impl<'a> EntrySeeds<'a> {
    /// Of `machine` in `run`, whose tensors are cut into `groups`.
    pub fn new(run: &'a RunId, machine: &'a MachineId, groups: &'a Groups) -> Self {
        let mut prefix = blake3::Hasher::new_derive_key(ENTRY_SEED_CONTEXT);
        prefix.update(&run.0);
        prefix.update(&machine.key);
        prefix.update(&machine.incarnation.to_le_bytes());
        Self { run, machine, groups, prefix, round: None }
    }

    /// The seed of `sample`.
    pub fn of(&mut self, sample: u64) -> EntrySeed {
        let round = self.groups.round(sample);
        let group = match self.round {
            Some((known, group)) if known == round => group,
            _ => self.groups.of_round(self.run, self.machine, round),
        };
        self.round = Some((round, group));
        let mut hasher = self.prefix.clone();
        hasher.update(&sample.to_le_bytes());
        EntrySeed { bytes: *hasher.finalize().as_bytes(), group }
    }
}

/// Derives the key of tensor number `tensor` under seed `seed`.
///
/// 36 bytes of `BLAKE3.keyed_hash(seed, tensor (u32 LE))` in XOF mode: four u64 LE words, then the u32 LE rounding
/// draw.
pub fn tensor_key(seed: &[u8; 32], tensor: u32) -> TensorKey {
    let mut bytes = [0u8; 36];
    blake3::Hasher::new_keyed(seed).update(&tensor.to_le_bytes()).finalize_xof().fill(&mut bytes);
    let mut words = [0u64; 4];
    for (word, chunk) in words.iter_mut().zip(bytes.chunks_exact(8)) {
        *word = u64::from_le_bytes([chunk[0], chunk[1], chunk[2], chunk[3], chunk[4], chunk[5], chunk[6], chunk[7]]);
    }
    let rounding = u32::from_le_bytes([bytes[32], bytes[33], bytes[34], bytes[35]]);
    TensorKey { words, rounding }
}

/// What one entry needs to know about one tensor: the key of its signs and its rounding draw.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TensorKey {
    /// Seeds of the four SplitMix64 streams that fill the lanes' states (see [`crate::perturbation`]).
    pub words: [u64; 4],
    /// u(σ, t): the draw of the seeded stochastic rounding (see [`crate::codec::decode`]).
    pub rounding: u32,
}
