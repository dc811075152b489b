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
    assert!((1e-5..1e-2).contains(&rate), "{found}");
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
