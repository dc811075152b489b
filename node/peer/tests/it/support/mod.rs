//! A laboratory: peers in one thread, with virtual disks, keys, trainers and links. It checks at every step what must
//! hold always; a test chooses what is held back, lost, refused or forged.

// Each file of tests uses a part of it.
#![allow(dead_code, unused_imports)]

mod disk;
mod lab;
mod node;
#[path = "../../../../../protocol/tests/support/small.rs"]
mod small;
mod trainer;

pub use disk::Disk;
pub use lab::{CHANNELS, Channel, Frame, Lab, Tempo};
pub use node::Node;

use peer::{GoalSettings, Run};
use protocol::{
    machine::MachineId,
    manifest::{Appendix, BASE_CHUNK_BYTES, BaseModel, Manifest, Role},
    segment::{Chunk, Digest, Segment},
    signature::{Ed25519Signer, Signer as _},
};

/// The key of node `number`.
pub fn signer(number: usize) -> Ed25519Signer {
    Ed25519Signer::from_seed(&secret(number))
}

/// The seed of that key.
pub fn secret(number: usize) -> [u8; 32] {
    *blake3::hash(format!("secret of node {number}").as_bytes()).as_bytes()
}

/// The machine of node `number` under an incarnation.
pub fn machine(number: usize, incarnation: u64) -> MachineId {
    MachineId { key: signer(number).key(), incarnation }
}

/// A base model of three chunks, the last one short.
pub fn base() -> Vec<Vec<u8>> {
    base_model().1.chunks(BASE_CHUNK_BYTES).map(<[u8]>::to_vec).collect()
}

/// Its description, and its bytes.
fn base_model() -> (BaseModel, Vec<u8>) {
    let weights: Vec<u8> = (0..600_000u32).map(|index| (index.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let files: [(Role, &str, &[u8]); 3] = [
        (Role::Config, "config.json", b"{}"),
        (Role::Tokenizer, "tokenizer.json", b"{}"),
        (Role::Weights, "model.safetensors", &weights),
    ];
    BaseModel::of_files("test", &files, &Appendix::default()).unwrap()
}

/// Digests of its chunks.
pub fn base_digests() -> Vec<Digest> {
    base().iter().map(|chunk| *blake3::hash(chunk).as_bytes()).collect()
}

/// The manifest of a small run.
pub fn manifest() -> Manifest {
    Manifest { base: base_model().0, ledger_samples_max: 1 << 20, ..small::manifest() }
}

/// The run of a manifest.
pub fn run_of(manifest: &Manifest) -> Run {
    Run::decode(&manifest.encode().unwrap()).unwrap()
}

/// The small run.
pub fn run() -> Run {
    run_of(&manifest())
}

/// Another run than that.
pub fn other_run() -> Run {
    run_of(&Manifest { nonce: [2; 16], ..manifest() })
}

/// To make so many own gradients, and to stay.
pub fn goal(samples: u64) -> GoalSettings {
    GoalSettings { samples: Some(samples), can_train: true, ..GoalSettings::default() }
}

/// Segments of `machine` that begin with sample 0, one for each length, each signed by node `number`.
pub fn ledger_of(number: usize, machine: MachineId, lengths: &[usize], byte: u8) -> Vec<Chunk> {
    let run = run().id;
    let (mut first, mut previous) = (0, [0; 32]);
    lengths
        .iter()
        .map(|length| {
            let bytes = vec![byte; *length];
            let segment = Segment { first, swarm_step: 0, bytes: &bytes };
            let (chunk, digest) = Chunk::sign(&run, machine, segment, previous, &signer(number));
            (first, previous) = (chunk.end(), digest);
            chunk
        })
        .collect()
}
