//! Commands that look at a log, and the state directory of a node that made one.

use node::log::Log;
use serde_json::Value;
use std::{
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use super::{PATIENCE, Workshop};

/// (standard output, standard error, whether it succeeded).
pub fn run(arguments: &[&str]) -> (String, String, bool) {
    let output = Command::new(env!("CARGO_BIN_EXE_node")).args(arguments).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (text(output.stdout), text(output.stderr), output.status.success())
}

pub fn works(arguments: &[&str]) -> String {
    let (output, error, success) = run(arguments);
    assert!(success, "node {arguments:?} failed: {error}");
    output
}

pub fn fails(arguments: &[&str]) -> String {
    let (output, error, success) = run(arguments);
    assert!(!success, "node {arguments:?} succeeded: {output}");
    assert_eq!(error.trim().lines().count(), 1, "one line: {error}");
    error
}

pub fn json(arguments: &[&str]) -> Value {
    serde_json::from_str(&works(&[arguments, &["--json"]].concat())).unwrap()
}

pub fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

pub fn heights(shown: &Value) -> u64 {
    shown["machines"].as_array().unwrap().iter().map(|machine| machine["height"].as_u64().unwrap()).sum()
}

/// A state directory whose node made `samples` and left.
pub fn trained(workshop: &Workshop, name: &str, samples: u64) -> PathBuf {
    let node = workshop.first(name, &["--samples", &samples.to_string()]);
    until_contributed(&workshop.state(name), samples);
    node.leave()
}

pub fn until_contributed(state: &Path, samples: u64) {
    let begun = Instant::now();
    while !state.join("node.redb").exists() || heights_if_any(state) < samples {
        assert!(begun.elapsed() < PATIENCE, "{} never has {samples} gradients", state.display());
        std::thread::park_timeout(Duration::from_millis(50));
    }
}

fn heights_if_any(state: &Path) -> u64 {
    Log::of_state(state).map_or(0, |log| log.replica.machines().map(|(_, ledger, _)| ledger.height()).sum())
}
