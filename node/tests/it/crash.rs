//! A node is killed at every point between two durable writes, and goes on.

use crate::support::{Node, command, inspect};
use std::{
    collections::BTreeMap,
    path::Path,
    process::{Command, Output},
};

const SAMPLES: u64 = 12;
/// More durable points than a run of this size has.
const POINTS_MAX: u64 = 80;

/// Runs a node to its end, or to its `crash_at`-th durable point.
fn crash(mut command: Command, crash_at: Option<u64>) -> Output {
    command.envs(crash_at.map(|point| ("ONEBYTE_CRASH_AT", point.to_string()))).output().unwrap()
}

fn run(state: &Path, crash_at: Option<u64>) -> Output {
    let samples = SAMPLES.to_string();
    let own = ["--exit-when-idle", "0", "--batch-size", "1", "--sequence-length", "8", "--samples", &samples];
    crash(command(state, &own), crash_at)
}

/// Every byte on the disk, by machine. Empty if there is no log yet.
fn bytes(state: &Path) -> BTreeMap<String, Vec<i64>> {
    let output = Command::new(env!("CARGO_BIN_EXE_node"))
        .args(["log", "tail", "--json", "-n", "1000000", "--state"])
        .arg(state)
        .output()
        .unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    let nothing_yet = error.contains("no run here yet") || error.contains("not a state directory");
    assert!(output.status.success() || nothing_yet, "the log cannot be read: {error}");
    let text = String::from_utf8(output.stdout).unwrap();
    let machines = text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    machines
        .map(|machine| {
            let entries = machine["entries"].as_array().unwrap();
            (
                machine["machine"].as_str().unwrap().to_owned(),
                entries.iter().map(|entry| entry["byte"].as_i64().unwrap()).collect(),
            )
        })
        .collect()
}

#[test]
fn a_crash_between_any_two_durable_writes_loses_no_byte_and_reuses_no_sample() {
    let directory = tempfile::tempdir().unwrap();
    for point in 1..=POINTS_MAX {
        let state = directory.path().join(point.to_string());
        let first = run(&state, Some(point));
        if first.status.success() {
            assert!(point > 10, "a run passes only {} durable points", point - 1);
            println!("{} durable points", point - 1);
            return;
        }
        let before = bytes(&state);
        let again = run(&state, None);
        let log = String::from_utf8_lossy(&again.stderr).into_owned();
        assert!(again.status.success(), "crash at {point}: {log}");
        assert!(!log.contains("panicked"), "crash at {point}: {log}");
        inspect(&state, &["log", "verify"]);
        let after = bytes(&state);
        for (machine, bytes) in &before {
            assert!(after[machine].starts_with(bytes), "crash at {point}: {machine} lost or changed {bytes:?}");
        }
        let samples: usize = after.values().map(Vec::len).sum();
        assert_eq!(samples as u64, SAMPLES, "crash at {point}: {after:?}");
    }
    panic!("a run passes more than {POINTS_MAX} durable points");
}

#[test]
fn crash_after_crash_is_survived_in_one_directory() {
    let directory = tempfile::tempdir().unwrap();
    let state = directory.path().join("state");
    let mut kept: BTreeMap<String, Vec<i64>> = BTreeMap::new();
    for point in (3..=POINTS_MAX).step_by(2) {
        let finished = run(&state, Some(point)).status.success();
        let now = bytes(&state);
        for (machine, bytes) in &kept {
            let longer = &now[machine];
            assert!(longer.starts_with(bytes), "crash at {point}: {machine} lost or changed {bytes:?}");
        }
        kept = now;
        if finished {
            inspect(&state, &["log", "verify"]);
            assert_eq!(kept.values().map(Vec::len).sum::<usize>() as u64, SAMPLES);
            return;
        }
    }
    panic!("never finished");
}

/// Regression: the base was renamed into place before the list of its chunks was stored, and a joiner killed in between
/// could never start again.
#[test]
fn a_joiner_that_is_killed_while_it_takes_the_base_starts_again() {
    let directory = tempfile::tempdir().unwrap();
    let server = Node::start(&directory.path().join("server"), &["--samples", "0"]);
    let (address, _) = server.join_line();
    let join = |state: &Path, crash_at: Option<u64>| {
        crash(command(state, &["--samples", "0", "--exit-when-idle", "0", "--bootstrap", &address]), crash_at)
    };
    let mut crashes = 0;
    // The first twelve points are a joiner's way to its base.
    for point in 1..=14 {
        let state = directory.path().join(format!("joiner-{point}"));
        crashes += u32::from(!join(&state, Some(point)).status.success());
        let again = join(&state, None);
        assert!(again.status.success(), "crash at {point}: {}", String::from_utf8_lossy(&again.stderr));
        inspect(&state, &["log", "verify"]);
    }
    assert!(crashes >= 10, "only {crashes} of the joiners crashed");
}
