//! A log of a million gradients, as people meet it: seconds of each command on a state directory, and bytes of the
//! exported file. Eight machines, signatures as a node makes them. The limit is what the bytes themselves take: one
//! each.

#[path = "support/state.rs"]
mod state;
mod support;

use node::{
    log::{Log, export, onlooker},
    storage::records,
};
use protocol::{
    machine::MachineId,
    manifest::{Manifest, RunId},
    replica::{Record, Replica},
    segment::{CHUNK_SAMPLES_MAX, CHUNK_SEGMENTS_MAX, Chunk, Digest, Part, Segment},
    signature::{Ed25519Signer, Signature, Signer as _},
};
use rand_xoshiro::{
    Xoshiro256PlusPlus,
    rand_core::{Rng, SeedableRng},
};
use std::{path::Path, process::Command};
use support::{is_test, seconds, shapes, tell};

const MACHINES: u8 = 8;

/// How the swarm step grows from one segment to the next.
#[derive(Clone, Copy, Debug)]
enum Steps {
    /// Not at all.
    Constant,
    /// By what eight machines make in ten seconds, every ten seconds, as `node` has it; 20 segments come meanwhile.
    EveryTenSeconds,
    /// By up to twice what eight machines make meanwhile, every time.
    Jitter,
}

fn main() {
    let gradients: u64 = if is_test() { 40_000 } else { 1_000_000 };
    let directory = tempfile::tempdir().expect("a temporary directory");
    let Some(shape) = shapes().next() else { return };
    let opened = state::start(shape, &directory.path().join("state"));
    let (run, manifest) = (opened.run, opened.manifest.clone());
    let replica = replica(&run, &manifest, gradients, 64, Steps::EveryTenSeconds);
    let mut stored = Vec::new();
    for chunk in replica.machines().flat_map(|(_, ledger, _)| ledger.chunks()) {
        stored.push(records::to_row(&Record::Chunk(chunk.clone())).expect("a record"));
    }
    opened.state.commit(&stored).expect("room on the disk");
    drop(opened);
    commands(directory.path(), gradients);
    for segment in [64, 1] {
        for steps in [Steps::Constant, Steps::EveryTenSeconds, Steps::Jitter] {
            let replica = self::replica(&run, &manifest, gradients, segment, steps);
            let mut file = Vec::new();
            let wrote = seconds(|| export::write(&mut file, &manifest.encode().expect("a manifest"), &replica));
            let read =
                seconds(|| export::read(&file[..], file.len() as u64, "the export").map(drop).expect("a sound file"));
            let bytes = file.len() as f64;
            println!(
                "{gradients} gradients, {segment:>2} a segment, swarm step {steps:?}: {bytes} bytes, {:.3} a gradient; {wrote:.2} s to \
                 write, {read:.2} s to read and check",
                bytes / gradients as f64
            );
            tell(
                &format!("log_file_bytes_per_gradient_{segment}_a_segment_{steps:?}").to_lowercase(),
                bytes / gradients as f64,
            );
        }
    }
}

/// What people type, each in a process of its own.
fn commands(directory: &Path, gradients: u64) {
    let path = |name: &str| directory.join(name).display().to_string();
    let (state, file, fresh) = (path("state"), path("log.1byte"), path("fresh"));
    let opened = seconds(|| Log::of_state(Path::new(&state)).map(drop).expect("a sound log"));
    println!("{gradients} gradients: {opened:.2} s to open, every signature checked");
    tell("log_open_seconds", opened);
    for (name, arguments) in [
        ("show", vec!["show", "--state", &state]),
        ("stat", vec!["stat", "--state", &state]),
        ("export", vec!["export", "--state", &state, "--out", &file]),
        ("show_file", vec!["show", "--file", &file]),
        ("import", vec!["import", "--file", &file, "--state", &fresh]),
        ("diff", vec!["diff", &fresh, &file]),
    ] {
        let took = seconds(|| {
            let output = Command::new(env!("CARGO_BIN_EXE_node")).arg("log").args(&arguments).output();
            let output = output.expect("the program starts");
            assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
        });
        println!("{took:>8.2} s  node log {name}");
        tell(&format!("log_{name}_seconds"), took);
    }
}

/// A log of `gradients`, the same number from each machine, in segments of `segment` bytes.
fn replica(run: &RunId, manifest: &Manifest, gradients: u64, segment: usize, steps: Steps) -> Replica {
    let mut replica = onlooker(*run, manifest).expect("random numbers");
    for seed in 1..=MACHINES {
        let signer = Ed25519Signer::from_seed(&[seed; 32]);
        let machine = MachineId { key: signer.key(), incarnation: seed.into() };
        let mut random = Xoshiro256PlusPlus::seed_from_u64(seed.into());
        let (mut first, mut previous) = (0, [0; 32]);
        let mut swarm_step = if matches!(steps, Steps::Constant) { gradients } else { 0 };
        let end = gradients / u64::from(MACHINES);
        let mut number = 0u64;
        while first < end {
            let room = CHUNK_SAMPLES_MAX.min(segment * CHUNK_SEGMENTS_MAX) as u64;
            let bytes: Vec<u8> = (0..room.min(end - first)).map(|_| random.next_u64() as u8).collect();
            let lengths = bytes.chunks(segment).map(|bytes| bytes.len() as u16);
            let parts: Vec<Part> = lengths
                .map(|samples| {
                    number += 1;
                    swarm_step += increase(steps, number, segment as u64, &mut random);
                    Part { samples, swarm_step }
                })
                .collect();
            let signature = Signature([0; 64]);
            let (chunk, head) = sign(run, Chunk { machine, first, previous, parts, bytes, signature }, &signer);
            (first, previous) = (chunk.end(), head);
            replica.restore_chunk(chunk).expect("a sound chunk");
        }
    }
    replica
}

fn increase(steps: Steps, number: u64, segment: u64, random: &mut Xoshiro256PlusPlus) -> u64 {
    let meanwhile = u64::from(MACHINES) * segment;
    match steps {
        Steps::Constant => 0,
        Steps::EveryTenSeconds if number.is_multiple_of(20) => 20 * meanwhile - 10 + random.next_u64() % 20,
        Steps::EveryTenSeconds => 0,
        Steps::Jitter => random.next_u64() % (2 * meanwhile + 1),
    }
}

/// A whole chunk under the signature of its last segment.
fn sign(run: &RunId, unsigned: Chunk, signer: &Ed25519Signer) -> (Chunk, Digest) {
    let digests = unsigned.digests(run);
    let before = digests.iter().rev().nth(1).copied().unwrap_or(unsigned.previous);
    let last: Segment<'_> = unsigned.segments().last().expect("a chunk has segments");
    let (signed, head) = Chunk::sign(run, unsigned.machine, last, before, signer);
    (Chunk { signature: signed.signature, ..unsigned }, head)
}
