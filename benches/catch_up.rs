//! Catching up: a state directory with a long ledger and no checkpoint, opened as `node` opens it: every signature
//! checked, then all entries replayed from the base. The limit is the kernel's rate for many entries (`cargo bench
//! --bench replay`) on all threads.

#[path = "support/state.rs"]
mod state;
mod support;

use node::storage::{
    opened::{Opened, replay},
    records,
};
use protocol::{
    machine::MachineId,
    replica::{Output, OwnByte, OwnHead, Replica, Settings},
    signature::{Ed25519Signer, Ed25519Verifier, Signer as _},
};
use support::{DEEP, Shape, is_test, is_wanted, seconds, shapes, tell};

/// Own bytes that the author measures at a time: each makes a segment.
const SEGMENT: u64 = 64;

fn main() {
    let deep = (!is_test() && is_wanted(&DEEP)).then_some(&DEEP);
    for shape in shapes().filter(|shape| is_test() || is_wanted(shape)).chain(deep) {
        let entries = match (is_test(), shape.name) {
            (true, _) => 1_000,
            (false, "260K" | "135M") => 100_000,
            (false, _) => 1_000,
        };
        measure(shape, entries);
    }
}

fn measure(shape: &Shape, entries: u64) {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let opened = state::start(shape, directory.path());
    write_ledger(&opened, entries);
    let (mut replica, mut weights) = (None, opened.base_weights().expect("the base"));
    let checked = seconds(|| replica = Some(opened.replica(Settings::default()).expect("a sound ledger")));
    let mut replica = replica.expect("was just made");
    let replayed = seconds(|| assert_eq!(replay(&mut replica, &mut weights).expect("a replay"), entries));
    let rate = entries as f64 * opened.manifest.parameters() as f64 / replayed / 1e9;
    println!(
        "{:>4}, {entries} entries, {} thread(s): {checked:.2} s to check, {replayed:.2} s to replay, {rate:.1} G element*gradients/s",
        shape.name,
        rayon::current_num_threads(),
    );
    tell(&shape.figure(&format!("catch_up_{entries}_entries_seconds")), checked + replayed);
}

/// The ledger of a machine that made `entries` gradients, as its own node writes it.
fn write_ledger(opened: &Opened, entries: u64) {
    let signer = Ed25519Signer::from_seed(&[7; 32]);
    let machine = MachineId { key: signer.key(), incarnation: 1 };
    let (manifest, verifier) = (opened.manifest.clone(), Box::new(Ed25519Verifier));
    let mut author = Replica::new(opened.run, manifest, Settings::default(), machine, verifier, 1);
    author.start(OwnHead::Sure, 0);
    let mut records = Vec::new();
    for first in (0..entries).step_by(SEGMENT as usize) {
        let byte = |sample: u64| (sample.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 57) as i8 - 64;
        let own = |sample| OwnByte { machine, sample, byte: byte(sample), swarm_step: first };
        let bytes: Vec<OwnByte> = (first..entries.min(first + SEGMENT)).map(own).collect();
        author.own_bytes(&bytes, first);
        author.flush();
        while let Some(output) = author.poll_output() {
            match output {
                Output::Sign { token, message } => author.signed(token, signer.sign(&message), first),
                Output::Persist(written, token) => {
                    records.extend(written.iter().map(|record| records::to_row(record).expect("a record")));
                    token.into_iter().for_each(|token| author.persisted(token, first));
                }
                _ => {}
            }
        }
    }
    opened.state.commit(&records).expect("room on the disk");
}
