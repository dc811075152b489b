//! What a starter finds out for its run.

use crate::support::Workshop;
use serde_json::Value;
use std::path::Path;

#[test]
fn a_starter_finds_a_rate_and_a_restart_keeps_it() {
    let workshop = Workshop::new();
    let arguments = ["--learning-rate", "auto", "--gradients", "4000", "--samples", "16", "--exit-when-idle", "0"];
    let node = workshop.first("a", &arguments);
    let found = node.hear("falling to 0.4 of it over 4000 gradients");
    let rate: f64 = found.split_once("learning rate ").unwrap().1.split_once(',').unwrap().0.parse().unwrap();
    assert!((1e-4..1e-1).contains(&rate), "{found}");
    let state = node.finish();
    let entry = |state: &Path| -> Value {
        let machine = crate::support::machines(state).into_values().next().unwrap()["machine"].clone();
        let entry = ["log", "entry", machine.as_str().unwrap(), "0", "--json"];
        serde_json::from_str(&crate::support::inspect(state, &entry)).unwrap()
    };
    let before = entry(&state);
    let of_entry = before["learning_rate"].as_f64().unwrap();
    assert!((of_entry / rate - 1.0).abs() < 0.01, "{of_entry:e} at sample 0, {found}");
    let again = workshop.node("a", &arguments);
    again.hear("going on with run");
    assert!(!again.said("finding the learning rate"));
    assert_eq!(entry(&again.finish())["learning_rate"], before["learning_rate"]);
}

#[test]
fn a_machine_with_memory_projects_unasked_and_one_without_does_not() {
    let workshop = Workshop::new();
    let ample = ["--learning-rate", "2e-3", "--replay-budget", "100000", "--samples", "1024", "--exit-when-idle", "0"];
    let node = workshop.first("ample", &[&ample[..], &["--estimator", "auto", "--memory", "2GiB"]].concat());
    node.hear("measuring by projection");
    node.finish();
    let node = workshop
        .first("tight", &["--estimator", "auto", "--memory", "100MiB", "--samples", "16", "--exit-when-idle", "0"]);
    node.hear("measuring by forwards alone");
    node.finish();
    let refused = workshop.state("refused");
    let output =
        crate::support::command(&refused, &["--estimator", "projection", "--memory", "100MiB"]).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && error.contains("--memory leaves"), "{error}");
    assert!(error.contains("--estimator fzoo"), "{error}");
    let nothing = crate::support::command(&refused, &["--samples", "0", "--exit-when-idle", "0"]);
    let node = crate::support::Node::spawn(nothing, &refused);
    node.hear("new run");
    node.finish();
}
