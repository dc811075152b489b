//! The format against its documentation, and against damage of every kind.

use protocol::{
    machine::MachineId,
    manifest::{Manifest, PROTOCOL_VERSION, RunId},
    replica::Replica,
    revocation::Revocation,
    segment::{CHUNK_SAMPLES_MAX, CHUNK_SEGMENTS_MAX, Chunk, Part, Segment},
    signature::{Ed25519Signer, Signature, Signer},
    statement::Statement,
};
use rand_xoshiro::{
    Xoshiro256PlusPlus,
    rand_core::{Rng, SeedableRng},
};

use super::{Header, Totals, read, read::decode_payload, write, write::payload};
use crate::{
    log::{Content, onlooker},
    small,
};

const AUTHORITY: [u8; 32] = [9; 32];

fn manifest() -> Manifest {
    let mut manifest = small::manifest();
    manifest.tensors[0].shape = vec![4, 4];
    Manifest { ledger_samples_max: 1 << 32, authority: Some(Ed25519Signer::from_seed(&AUTHORITY).key()), ..manifest }
}

/// A machine that signs segments of the lengths and steps that `parts` draws.
fn grow(replica: &mut Replica, run: &RunId, seed: u8, samples: u64, mut part: impl FnMut() -> (u64, u64)) -> MachineId {
    let signer = Ed25519Signer::from_seed(&[seed; 32]);
    let machine = MachineId { key: signer.key(), incarnation: u64::from(seed) << 48 };
    let (mut first, mut previous, mut swarm_step) = (0u64, [0; 32], 0);
    let mut random = Xoshiro256PlusPlus::seed_from_u64(seed.into());
    while first < samples {
        let (length, increase) = part();
        swarm_step += increase;
        let bytes: Vec<u8> = (0..length.min(samples - first)).map(|_| random.next_u64() as u8).collect();
        let (chunk, digest) =
            Chunk::sign(run, machine, Segment { first, swarm_step, bytes: &bytes }, previous, &signer);
        (first, previous) = (chunk.end(), digest);
        replica.restore_chunk(chunk).unwrap();
    }
    machine
}

/// A few machines, one of them forked, one withdrawn in part, one with nothing but a revocation.
fn log() -> (Vec<u8>, Replica) {
    let manifest = manifest();
    let bytes = manifest.encode().unwrap();
    let run = manifest.run_id().unwrap();
    let mut replica = onlooker(run, &manifest).unwrap();
    let mut random = Xoshiro256PlusPlus::seed_from_u64(11);
    grow(&mut replica, &run, 1, 9_000, || (64, 64));
    let withdrawn = grow(&mut replica, &run, 2, 1_500, || (1, random.next_u64() % 20));
    grow(&mut replica, &run, 3, 300, || (1 + random.next_u64() % 90, random.next_u64() % 500));
    let authority = Ed25519Signer::from_seed(&AUTHORITY);
    let unknown = MachineId { key: Ed25519Signer::from_seed(&[5; 32]).key(), incarnation: 1 };
    for (machine, from) in [(withdrawn, 700), (unknown, 0)] {
        replica.restore_statement(Statement::Revocation(Revocation::sign(&run, machine, from, &authority))).unwrap();
    }
    (bytes, replica)
}

fn exported() -> (Vec<u8>, [u8; 32]) {
    let (manifest, replica) = log();
    let mut bytes = Vec::new();
    let totals = write(&mut bytes, &manifest, &replica).unwrap();
    assert_eq!(totals, Totals { machines: 3, chunks: 3 + 2 + 1, gradients: 10_800, bytes: bytes.len() as u64 });
    (bytes, replica.root())
}

fn reread(bytes: &[u8]) -> Result<Content, String> {
    read(bytes, bytes.len() as u64, "log.1byte").map_err(|error| format!("{error:#}"))
}

fn refused(bytes: &[u8]) -> String {
    match reread(bytes) {
        Ok(_) => panic!("{} bytes were taken for an export", bytes.len()),
        Err(error) => error,
    }
}

#[test]
fn what_was_written_is_read_again_byte_for_byte() {
    let (bytes, root) = exported();
    let content = reread(&bytes).unwrap();
    assert_eq!(content.replica.root(), root);
    let mut again = Vec::new();
    write(&mut again, &content.manifest_bytes, &content.replica).unwrap();
    assert!(again == bytes, "the second export differs");
}

#[test]
fn the_documented_bytes_are_the_written_ones() {
    let hex =
        |text: &str| -> Vec<u8> { text.split_whitespace().map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect() };
    let parts = vec![Part { samples: 2, swarm_step: 300 }, Part { samples: 1, swarm_step: 309 }];
    let (machine, bytes) = (MachineId { key: [1; 32], incarnation: 1 }, vec![1, 0xff, 0x80]);
    let chunk =
        Chunk { machine, first: 0, previous: [0; 32], parts: parts.clone(), bytes, signature: Signature([0; 64]) };
    let written = payload(&chunk);
    assert_eq!(written[64..], hex("02 00 01 00 50 ac 02 09 ff 01 ff 80"));
    assert_eq!(decode_payload(&written, 3).unwrap(), (parts, chunk.signature, chunk.bytes));
    let totals = Totals { machines: 1, chunks: 1, gradients: 3, bytes: 72 + 316 + 64 + 92 + 16 + 64 };
    let header = Header { manifest_bytes: 300, contents_bytes: 48, statements_bytes: 0, totals };
    let documentation = include_str!("mod.rs");
    let line =
        |start: &str| documentation.lines().find(|line| line.contains(start)).unwrap().trim_start_matches("//! ");
    let stated =
        [hex(line("31 42 59 54")), hex(line("01 00 00 00 00 00 00 00 03").trim_end_matches(" then its check"))];
    let written: Vec<String> = header.encode(1)[..56].iter().map(|byte| format!("{byte:02x}")).collect();
    let stated: Vec<String> = stated.concat().iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(written.join(" "), stated.join(" "));
}

#[test]
fn every_flipped_bit_is_found_and_its_section_named() {
    let (bytes, _) = exported();
    let names = ["the header", "the manifest", "the contents", "machine ", "the statements", "the end"];
    let mut seed = [0u8; 8];
    getrandom::fill(&mut seed).unwrap();
    let seed = u64::from_le_bytes(seed);
    println!("seed {seed}");
    let mut random = Xoshiro256PlusPlus::seed_from_u64(seed);
    let offsets: Vec<usize> = (0..200)
        .map(|_| (random.next_u64() % bytes.len() as u64) as usize)
        .chain(0..72)
        .chain(bytes.len() - 64..bytes.len())
        .collect();
    for offset in offsets {
        let mut damaged = bytes.clone();
        damaged[offset] ^= 1 << (random.next_u64() % 8);
        let error = refused(&damaged);
        let named = names.iter().position(|name| error.contains(name));
        assert!(named.is_some(), "seed {seed}: byte {offset}: {error}");
        match offset {
            0..72 => assert_eq!(named, Some(0), "seed {seed}: byte {offset}: {error}"),
            _ if offset >= bytes.len() - 64 => assert_eq!(named, Some(5), "seed {seed}: byte {offset}: {error}"),
            _ => assert!(error.contains("damaged in 1 of 11 sections"), "seed {seed}: byte {offset}: {error}"),
        }
    }
}

#[test]
fn damage_in_two_places_is_named_twice_and_the_rest_is_known_to_be_sound() {
    let (bytes, _) = exported();
    let mut damaged = bytes.clone();
    let behind_contents = bytes.len() - 64 - 300;
    damaged[behind_contents] ^= 1;
    damaged[100] ^= 1;
    let error = refused(&damaged);
    assert!(error.contains("damaged in 2 of 11 sections: the manifest, "), "{error}");
    assert!(error.contains("the other 9 are sound"), "{error}");
}

#[test]
fn a_truncated_file_says_where_it_ends_and_what_is_sound() {
    let (bytes, _) = exported();
    let mut random = Xoshiro256PlusPlus::seed_from_u64(3);
    for round in 0..300u64 {
        let length = if round < 80 { round } else { random.next_u64() % bytes.len() as u64 };
        let error = refused(&bytes[..length as usize]);
        let expected = match length {
            0 => "empty",
            1..72 => "ends in the header",
            _ => "of 11 sections",
        };
        assert!(error.contains(expected), "{length} bytes: {error}");
        assert!(length < 72 || error.contains("sections are sound"), "{length} bytes: {error}");
    }
    let error = refused(&[&bytes[..], b"more"].concat());
    assert!(error.contains("4 bytes follow"), "{error}");
}

#[test]
fn what_is_no_export_of_this_version_is_refused_in_one_line() {
    let (bytes, _) = exported();
    let with_versions = |format: u16, protocol: u16| {
        let mut other = bytes.clone();
        other[8..10].copy_from_slice(&format.to_le_bytes());
        other[10..12].copy_from_slice(&protocol.to_le_bytes());
        let check = super::check(0, &other[..12]);
        other[12..16].copy_from_slice(&check[..4]);
        refused(&other)
    };
    for (error, expected) in [
        (refused(b""), "empty; an export is made with node log export"),
        (refused(b"# Notes\nNothing of a log."), "not an export of a log"),
        (
            with_versions(2, PROTOCOL_VERSION),
            "an export of format 2, this program reads format 1; read it with the release that made it",
        ),
        (with_versions(1, 1), "protocol version 1, this program speaks 2; use a matching, older release"),
        (with_versions(1, 3), "protocol version 3, this program speaks 2; use a newer release"),
    ] {
        assert!(error.contains(expected) && error.starts_with("log.1byte: ") && !error.contains('\n'), "{error}");
    }
}

/// Whoever makes a file can make every check in it right.
fn rechecked(bytes: &[u8], header: &Header, sizes: &[usize], change: impl FnOnce(&mut Vec<Vec<u8>>)) -> Vec<u8> {
    let mut payloads = Vec::new();
    let mut start = super::HEADER_BYTES;
    for size in sizes {
        payloads.push(bytes[start..start + size].to_vec());
        start += size + super::CHECK_BYTES;
    }
    change(&mut payloads);
    let mut out = header.encode(PROTOCOL_VERSION);
    for (number, payload) in (1u32..).zip(&payloads) {
        out.extend(payload);
        out.extend(super::check(number, payload));
    }
    out.extend(&bytes[bytes.len() - 64..bytes.len() - 32]);
    let digest = *blake3::hash(&out).as_bytes();
    out.extend(digest);
    out
}

#[test]
fn a_file_made_to_deceive_is_refused_without_harm() {
    let (manifest, replica) = log();
    let mut bytes = Vec::new();
    let totals = write(&mut bytes, &manifest, &replica).unwrap();
    let contents = 3 * 44 + 6 * 4;
    let ledgers = replica.machines().flat_map(|(_, ledger, _)| ledger.chunks());
    let chunks: Vec<usize> = ledgers.map(|chunk| payload(chunk).len()).collect();
    let around = 72 + manifest.len() + contents + chunks.iter().sum::<usize>() + 9 * 16 + 64;
    let statements = bytes.len() - around;
    let header = Header {
        manifest_bytes: manifest.len() as u32,
        contents_bytes: contents as u32,
        statements_bytes: statements as u32,
        totals,
    };
    let sizes: Vec<usize> = [&[manifest.len(), contents][..], &chunks, &[statements]].concat();
    assert!(rechecked(&bytes, &header, &sizes, |_| ()) == bytes, "the test knows the layout");
    let mut seed = [0u8; 8];
    getrandom::fill(&mut seed).unwrap();
    let seed = u64::from_le_bytes(seed);
    println!("seed {seed}");
    let mut random = Xoshiro256PlusPlus::seed_from_u64(seed);
    for round in 0..500 {
        let forged = rechecked(&bytes, &header, &sizes, |payloads| {
            for _ in 0..1 + random.next_u64() % 3 {
                let section = (random.next_u64() % payloads.len() as u64) as usize;
                let place = (random.next_u64() % payloads[section].len() as u64) as usize;
                payloads[section][place] = random.next_u64() as u8;
            }
        });
        if forged != bytes {
            assert!(reread(&forged).is_err(), "seed {seed}: round {round} was believed");
        }
    }
    // Headers that promise the moon.
    for round in 0..500 {
        let mut number = || random.next_u64() >> (random.next_u64() % 64);
        let totals =
            Totals { machines: number() as u32 as u64, chunks: number(), gradients: number(), bytes: number() };
        let header = Header {
            manifest_bytes: number() as u32,
            contents_bytes: number() as u32,
            statements_bytes: number() as u32,
            totals,
        };
        let forged = rechecked(&bytes, &header, &sizes, |_| ());
        assert!(reread(&forged).is_err(), "seed {seed}: header {round} was believed");
    }
    for round in 0..5_000 {
        let noise: Vec<u8> = (0..random.next_u64() % 300).map(|_| random.next_u64() as u8).collect();
        assert!(
            decode_payload(&noise, (random.next_u64() % 5_000) as usize).is_err() || noise.len() > 66,
            "round {round}"
        );
        assert!(reread(&noise).is_err());
    }
}

#[test]
fn the_largest_chunks_fit_their_entry_in_the_contents() {
    let mut random = Xoshiro256PlusPlus::seed_from_u64(5);
    let mut swarm_step = 0;
    let part = |_| {
        swarm_step += random.next_u64() >> 34;
        Part { samples: (CHUNK_SAMPLES_MAX / CHUNK_SEGMENTS_MAX) as u16, swarm_step }
    };
    let parts: Vec<Part> = (0..CHUNK_SEGMENTS_MAX).map(part).collect();
    let (machine, bytes) = (MachineId { key: [1; 32], incarnation: 1 }, vec![3; CHUNK_SAMPLES_MAX]);
    let chunk = Chunk { machine, first: 0, previous: [0; 32], parts, bytes, signature: Signature([0; 64]) };
    let written = payload(&chunk);
    assert!(u16::try_from(written.len()).is_ok(), "{} bytes", written.len());
    assert_eq!(decode_payload(&written, CHUNK_SAMPLES_MAX).unwrap().0, chunk.parts);
}
