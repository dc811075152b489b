//! Real nodes on loopback, on the embedded default: what README promises, in small.

use crate::support::{Node, inspect};
use std::{path::Path, process::Command};

fn start(directory: &Path, number: usize, arguments: &[&str], samples: u64) -> Node {
    let samples = samples.to_string();
    let own = ["--batch-size", "1", "--sequence-length", "32", "--samples", &samples];
    Node::start(&directory.join(format!("state-{number}")), &[&own, arguments].concat())
}

#[test]
fn machines_that_never_met_end_with_the_same_bits() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    let first = start(path, 1, &[], 150);
    let (address, run) = first.join_line();
    let join = ["--bootstrap", &address, "--run", &run];
    let second = start(path, 2, &join, 150);
    second.until("gradients of its own", |status| status["own"]["total"].as_u64().is_some_and(|own| own > 0));
    // Killed with -9.
    drop(second);
    let second = start(path, 2, &join, 150);
    // The late one knows nothing but an address, and its own data come from another seed.
    let third = start(path, 3, &join[..2], 100);
    let nodes = [first, second, third];
    nodes.iter().for_each(|node| node.until_gradients(150 + 150 + 100));
    nodes.into_iter().for_each(|node| drop(node.leave()));
    let digests: Vec<String> = (1..=3)
        .map(|number| {
            let state = path.join(format!("state-{number}"));
            inspect(&state, &["log", "verify"]);
            inspect(&state, &["digest"])
        })
        .collect();
    assert!(digests.iter().all(|digest| *digest == digests[0]), "{digests:#?}");
    let show = inspect(&path.join("state-3"), &["log", "show", "--json"]);
    let show: serde_json::Value = serde_json::from_str(&show).unwrap();
    assert_eq!(show["gradients"], 150 + 150 + 100, "every sample was contributed once, whatever was killed: {show:#}");
}

#[test]
fn inspecting_commands_answer_for_a_state_and_refuse_what_is_none() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    start(path, 1, &["--exit-when-idle", "0"], 20).finish();
    let state = path.join("state-1");
    let eval: serde_json::Value = serde_json::from_str(&inspect(&state, &["eval", "--json"])).unwrap();
    let bits = eval["bits_per_byte"].as_f64().unwrap();
    assert!((1.0..10.0).contains(&bits), "{eval}");
    assert!(inspect(&state, &["generate", "--prompt", "The ", "--tokens", "8"]).starts_with("The "));
    let out = path.join("exported");
    inspect(&state, &["export", "--out", out.to_str().unwrap()]);
    assert!(engine::model::Checkpoint::load(&out).is_ok(), "what is exported can be a base again");
    let tail = inspect(&state, &["log", "tail", "--json", "-n", "3"]);
    let tail: serde_json::Value = serde_json::from_str(&tail).unwrap();
    assert_eq!(tail["entries"].as_array().unwrap().len(), 3);
    let nothing = path.join("nothing");
    let refused = Command::new(env!("CARGO_BIN_EXE_node")).args(["digest", "--state"]).arg(&nothing).output().unwrap();
    let message = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && message.contains("not a state directory"), "{message}");
    assert!(!nothing.exists(), "a command that only looks makes nothing");
}
