//! The log as people look at it: weights as they were, and every view of a run that really took place.

use crate::support::{Workshop, inspect};
use protocol::machine::short_name;
use serde_json::Value;
use std::{collections::BTreeMap, fs, path::Path, process::Command};

/// What a node wrote down: (weights' digest, heights).
fn recorded(state: &Path) -> Vec<(String, BTreeMap<String, u64>)> {
    let journal = fs::read_to_string(state.join("journal.jsonl")).unwrap();
    let lines = journal.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    lines
        .filter(|line| line["kind"] == "weights")
        .map(|line| {
            let heights = serde_json::from_value(line["heights"].clone()).unwrap();
            (line["weights"].as_str().unwrap().to_owned(), heights)
        })
        .collect()
}

fn json(state: &Path, arguments: &[&str]) -> Value {
    serde_json::from_str(&inspect(state, &[arguments, &["--json"]].concat())).unwrap()
}

#[test]
fn the_weights_at_ten_points_of_a_run_are_those_that_the_node_had() {
    let workshop = Workshop::new();
    let a = workshop.first("a", &["--samples", "300"]);
    let (address, _) = a.join_line();
    // Each time that it leaves, it has a digest taken of what it holds then, and a checkpoint.
    for session in 1..=10 {
        let samples = (20 * session).to_string();
        let b = workshop.node("b", &["--bootstrap", &address, "--samples", &samples, "--exit-when-idle", "0.1"]);
        b.finish();
    }
    let (a, b) = (a.leave(), workshop.state("b"));
    let mut points = recorded(&b);
    points.dedup();
    assert!(points.len() >= 10, "{} digests were recorded", points.len());
    for (digest, heights) in &points {
        let until: Vec<String> = heights.iter().map(|(machine, height)| format!("{machine}:{height}")).collect();
        for state in [&a, &b] {
            let replayed = json(state, &["log", "replay", "--until", &until.join(",")]);
            assert_eq!(replayed["weights"], **digest, "{} at {until:?}", state.display());
        }
        assert_eq!(json(&b, &["log", "replay", "--until", &until.join(",")])["recorded"], **digest);
    }
    let all = json(&b, &["log", "replay", "--until", "1"]);
    assert!(inspect(&b, &["digest"]).contains(all["weights"].as_str().unwrap()));
    // By gradients of the swarm and by time: what the node held at a look of its own.
    let total = all["gradients"].as_u64().unwrap();
    let some = json(&b, &["log", "replay", "--until", &(total - 1).to_string()]);
    assert!((1..total).contains(&some["gradients"].as_u64().unwrap()), "{some:#}");
    assert_eq!(json(&b, &["log", "replay", "--until", &(10 * total).to_string()])["weights"], all["weights"]);
    assert_eq!(json(&b, &["log", "replay", "--until", "2999-12-31 23:59"])["weights"], all["weights"]);
    for (until, why) in [("1990-01-01T00:00", "looked at nothing before"), ("1.5", "whole"), ("soon", "a time")] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_node"));
        let refused = command.args(["log", "replay", "--until", until, "--state"]).arg(&b).output().unwrap();
        let said = String::from_utf8(refused.stderr).unwrap();
        assert!(!refused.status.success() && said.contains(until) && said.contains(why), "{said}");
    }
    let base = json(&b, &["log", "replay", "--until", "0"]);
    assert_eq!((&base["gradients"], base["weights"] == all["weights"]), (&Value::from(0), false));
}

#[test]
fn every_view_of_a_run_agrees_with_its_ledgers() {
    let workshop = Workshop::new();
    let state = workshop.first("a", &["--samples", "200", "--exit-when-idle", "0.1"]).finish();
    let shown = json(&state, &["log", "show"]);
    let machine = shown["machines"][0]["machine"].as_str().unwrap();
    assert_eq!((&shown["machines"][0]["height"], &shown["machines"][0]["counted"]), (&200.into(), &200.into()));
    assert!(shown["machines"][0]["last_seen_ms"].as_u64().is_some());
    let short = short_name(machine);
    assert_eq!((short.len(), machine.len()), (17, 29), "{machine}: programs get the whole name");
    assert!(inspect(&state, &["log", "show"]).lines().any(|line| line.split(' ').next() == Some(short)));

    let tail = json(&state, &["log", "tail", "-n", "200"]);
    let bytes: Vec<i64> =
        tail["entries"].as_array().unwrap().iter().map(|entry| entry["byte"].as_i64().unwrap()).collect();
    assert_eq!(bytes.len(), 200);
    let statistics = json(&state, &["log", "stat"]);
    let all = &statistics["machines"][0]["all"];
    assert_eq!(all, &statistics["swarm"], "one machine is the swarm");
    let entry_by_short_name = json(&state, &["log", "entry", short, "0"]);
    for named in [&tail, &statistics["machines"][0], &entry_by_short_name] {
        assert_eq!(named["machine"], machine);
    }
    let saturated = bytes.iter().filter(|byte| byte.abs() == 127).count();
    assert_eq!((&all["gradients"], &all["saturated"]), (&200.into(), &saturated.into()));
    let levels = statistics["levels"].as_f64().unwrap();
    let squares: i64 = bytes.iter().filter(|byte| **byte != -128).map(|byte| byte * byte).sum();
    let counted = bytes.iter().filter(|byte| **byte != -128).count() as f64;
    let rms = (squares as f64 / counted).sqrt() / levels;
    assert!((all["rms"].as_f64().unwrap() - rms).abs() < 1e-9);
    let histogram = all["histogram"].as_array().unwrap().iter().map(|count| count.as_u64().unwrap());
    assert_eq!(histogram.sum::<u64>() as f64, counted);

    for sample in [0usize, 17, 199] {
        let entry = json(&state, &["log", "entry", machine, &sample.to_string()]);
        assert_eq!(entry["byte"].as_i64(), Some(bytes[sample]));
        let (first, end) = (entry["segment"]["first"].as_u64().unwrap(), entry["segment"]["end"].as_u64().unwrap());
        assert!((first..end).contains(&(sample as u64)) && entry["signature"]["by_sample"].as_u64().unwrap() >= end);
        assert!(entry["came_by_ms"].as_u64() <= shown["machines"][0]["last_seen_ms"].as_u64());
    }
    for (until, is_beyond) in [("200", false), ("201", true)] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_node"));
        let replayed = command.args(["log", "replay", "--until", until, "--state"]).arg(&state).output().unwrap();
        let said = String::from_utf8(replayed.stderr).unwrap();
        assert!(replayed.status.success() && said.contains("has only 200 gradients") == is_beyond, "{until}: {said}");
    }
    let out = state.join("run.svg");
    inspect(&state, &["log", "plot", "--out", out.to_str().unwrap()]);
    let drawn = fs::read_to_string(out).unwrap();
    let run = shown["run"].as_str().unwrap();
    for part in ["bits per byte", &run[..16], "200 gradients of one machine", "prefers-color-scheme:dark"] {
        assert!(drawn.contains(part), "no {part}");
    }
}
