//! The best held-out point of a run that really took place: found, replayed, exported.

use crate::support::{Workshop, command, inspect};
use serde_json::Value;
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

type Line = BTreeMap<String, Value>;

fn node(state: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_node")).args(arguments).arg("--state").arg(state).output().unwrap()
}

/// What it says on standard error.
fn refusal(state: &Path, arguments: &[&str]) -> String {
    let output = node(state, arguments);
    assert!(!output.status.success(), "node {arguments:?} went well");
    String::from_utf8(output.stderr).unwrap()
}

fn journal(state: &Path) -> Vec<Line> {
    let text = fs::read_to_string(state.join("journal.jsonl")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn points(state: &Path) -> Vec<Line> {
    journal(state).into_iter().filter(|line| line["kind"] == "point").collect()
}

/// Rewrites the journal: `change` gets each point and its number, and may take it out.
fn rewrite(state: &Path, mut change: impl FnMut(usize, &mut Line) -> bool) {
    let (mut number, mut text) = (0, String::new());
    for mut line in journal(state) {
        let stays = line["kind"] != "point" || {
            number += 1;
            change(number - 1, &mut line)
        };
        if stays {
            text.push_str(&(serde_json::to_string(&line).unwrap() + "\n"));
        }
    }
    fs::write(state.join("journal.jsonl"), text).unwrap();
}

/// Point number `best` is better than all others, and number `second` better than the rest.
fn plant(state: &Path, best: usize, second: usize) {
    rewrite(state, |number, line| {
        let loss = match number {
            _ if number == best => 1.0,
            _ if number == second => 2.0,
            _ => 3.0 + number as f64,
        };
        line.insert("loss".into(), loss.into());
        true
    });
}

fn gradients(point: &Line) -> u64 {
    point["heights"].as_object().unwrap().values().map(|height| height.as_u64().unwrap()).sum()
}

/// A run of one, in five sessions of twenty gradients, each looked at when it began and when it ended.
fn run_of_five(workshop: &Workshop, arguments: &[&str]) -> PathBuf {
    let model = workshop.model();
    for session in 1..=5 {
        let samples = (20 * session).to_string();
        let goal = ["--samples", &samples, "--exit-when-idle", "0.1"];
        let first: &[&str] = if session == 1 { &["--model", model.to_str().unwrap()] } else { &[] };
        workshop.node("a", &[&goal, first, arguments].concat()).finish();
    }
    workshop.state("a")
}

/// The weights in an exported directory, to be compared.
fn exported(state: &Path, name: &str, arguments: &[&str]) -> (Vec<u8>, String) {
    let out = state.with_file_name(name);
    let output = node(state, &[&["export", "--out", out.to_str().unwrap()], arguments].concat());
    let said = String::from_utf8(output.stderr).unwrap() + &String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{said}");
    (fs::read(out.join("model.safetensors")).unwrap(), said)
}

#[test]
fn the_best_point_is_replayed_exactly_whatever_came_after() {
    let workshop = Workshop::new();
    let state = run_of_five(&workshop, &[]);
    let measured = points(&state);
    let ends: Vec<u64> = measured.iter().map(gradients).collect();
    assert!([20, 40, 60, 80, 100].iter().all(|end| ends.contains(end)), "{ends:?}");
    let middle = ends.iter().position(|gradients| *gradients == 60).unwrap();
    plant(&state, middle, 0);
    let (best, said) = exported(&state, "best", &["--best"]);
    assert!(said.contains("after 60 gradients") && said.contains("keep another text for the final word"), "{said}");
    // The same weights by the way of the log, whose digest is the one that the node had.
    let until = measured[middle]["heights"].as_object().unwrap().iter();
    let until: Vec<String> = until.map(|(machine, height)| format!("{machine}:{height}")).collect();
    let out = state.with_file_name("replayed");
    let replay = ["log", "replay", "--json", "--until", &until.join(","), "--out", out.to_str().unwrap()];
    let replayed: Value = serde_json::from_str(&inspect(&state, &replay)).unwrap();
    assert_eq!(replayed["weights"], measured[middle]["weights"]);
    assert!(best == fs::read(out.join("model.safetensors")).unwrap());
    assert!(best != exported(&state, "last", &[]).0, "the last weights are others");

    let text = workshop.state("text.txt");
    let text = ["--data", text.to_str().unwrap(), "--sequence-length", "32"];
    let loss = |arguments: &[&str]| inspect(&state, &[&["eval"], &text[..], arguments].concat());
    assert_ne!(loss(&["--best"]), loss(&[]));
    assert!(inspect(&state, &["generate", "--prompt", "the", "--tokens", "4", "--best"]).starts_with("the"));
}

#[test]
fn a_point_that_a_revocation_touches_is_passed_over_and_that_is_said() {
    let workshop = Workshop::new();
    let state = run_of_five(&workshop, &["--authority"]);
    let ends: Vec<u64> = points(&state).iter().map(gradients).collect();
    let at = |wanted| ends.iter().position(|gradients| *gradients == wanted).unwrap();
    plant(&state, at(60), at(40));
    let machines = |number: usize| -> Vec<String> {
        points(&state)[number]["heights"].as_object().unwrap().keys().cloned().collect()
    };
    // The incarnation of the third session.
    let earlier = machines(at(40));
    let machine = machines(at(60)).into_iter().find(|machine| !earlier.contains(machine)).unwrap();
    inspect(&state, &["revoke", "--machine", &machine, "--from", "10"]);
    let (_, said) = exported(&state, "best", &["--best"]);
    assert!(
        said.contains("passed over") && said.contains("20 samples were in its weights, and 10 count now"),
        "{said}"
    );
    assert!(said.contains("best held-out point, after 40 gradients"), "{said}");
    // All of it revoked: what is left is the base, if it was looked at.
    let all = machines(at(100));
    rewrite(&state, |_, line| gradients(line) > 0);
    for machine in all {
        inspect(&state, &["revoke", "--machine", &machine, "--from", "0"]);
    }
    let refusal = refusal(&state, &["eval", "--best"]);
    assert!(refusal.contains("none of") && refusal.contains("of which 0 count"), "{refusal}");
}

#[test]
fn only_what_the_ledgers_hold_and_what_can_be_compared_competes() {
    let workshop = Workshop::new();
    let state = run_of_five(&workshop, &[]);
    let ends: Vec<u64> = points(&state).iter().map(gradients).collect();
    let at = |wanted| ends.iter().position(|gradients| *gradients == wanted).unwrap();
    plant(&state, at(60), at(40));
    let whole = fs::read(state.join("journal.jsonl")).unwrap();
    // The best claims bytes that nobody signed; the second was measured on another text.
    rewrite(&state, |number, line| {
        if number == at(60) {
            let machine = line["heights"].as_object().unwrap().keys().next().unwrap().clone();
            line.insert("heights".into(), serde_json::json!({ machine: 101 }));
        } else if number == at(40) {
            line.insert("measure".into(), serde_json::json!({ "text": "00", "unit": "nats per token", "windows": 8 }));
        }
        true
    });
    let (_, said) = exported(&state, "best", &["--best"]);
    assert!(said.contains("101 samples were in its weights, and 20 count now"), "{said}");
    assert!(said.contains("(1 more were measured on another text"), "{said}");
    assert!(
        !said.contains("best held-out point, after 40") && !said.contains("best held-out point, after 60"),
        "{said}"
    );
    // Weights that are not those that were measured are not passed off as them.
    fs::write(state.join("journal.jsonl"), &whole).unwrap();
    rewrite(&state, |number, line| {
        if number == at(60) {
            line.insert("weights".into(), "00".repeat(32).into());
        }
        true
    });
    assert!(refusal(&state, &["eval", "--best"]).contains("were measured"));
    rewrite(&state, |_, _| false);
    assert!(refusal(&state, &["eval", "--best"]).contains("--eval <path>"));
    fs::remove_file(state.join("journal.jsonl")).unwrap();
    assert!(refusal(&state, &["generate", "--prompt", "the", "--best"]).contains("no journal here"));
}

#[test]
fn what_was_measured_before_a_restart_is_remembered() {
    let workshop = Workshop::new();
    let state = run_of_five(&workshop, &[]);
    let ends: Vec<u64> = points(&state).iter().map(gradients).collect();
    plant(&state, ends.iter().position(|gradients| *gradients == 60).unwrap(), 0);
    let goal = ["--samples", "120", "--exit-when-idle", "0.1"];
    let node = workshop.node("a", &goal);
    let line = node.hear("best held-out point: ");
    assert!(line.contains("after 60 gradients") && line.contains("node export --best --state"), "{line}");
    let state = node.finish();
    let status: Value = serde_json::from_slice(&fs::read(state.join("status.json")).unwrap()).unwrap();
    assert_eq!((status["best"]["gradients"].as_u64(), status["best"]["loss"].as_f64()), (Some(60), Some(1.0)));
    assert!(inspect(&state, &["top", "--once"]).contains(" at 60"));
}

#[test]
fn a_flat_curve_ends_own_gradients_and_needs_a_held_out_text() {
    let workshop = Workshop::new();
    let state = run_of_five(&workshop, &[]);
    // A long flat past: as if it had gone on for 4,000 gradients more.
    let (machine, last) = {
        let points = points(&state);
        let last = points.last().unwrap().clone();
        (last["heights"].as_object().unwrap().keys().next().unwrap().clone(), last)
    };
    let mut text = fs::read_to_string(state.join("journal.jsonl")).unwrap();
    for at in 1..=40 {
        let mut line = last.clone();
        line.insert("heights".into(), serde_json::json!({ &machine: 100 * at }));
        line.insert("loss".into(), 2.0.into());
        text.push_str(&(serde_json::to_string(&line).unwrap() + "\n"));
    }
    fs::write(state.join("journal.jsonl"), text).unwrap();
    let node = workshop.node("a", &["--samples", "5000", "--stop-when-flat", "--exit-when-idle", "0.1"]);
    node.hear("the held-out curve is flat");
    node.finish();
    let shown: Value = serde_json::from_str(&inspect(&state, &["log", "show", "--json"])).unwrap();
    let heights = shown["machines"].as_array().unwrap().iter().map(|machine| machine["height"].as_u64().unwrap());
    assert_eq!(heights.sum::<u64>(), 100, "not one gradient more than there were");

    let refused = |arguments: &[&str]| {
        let output = command(&state, arguments).output().unwrap();
        assert!(!output.status.success());
        String::from_utf8(output.stderr).unwrap()
    };
    let said = refused(&["--stop-when-flat"]);
    assert!(said.contains("without --data this node makes none"), "{said}");
}

/// A run on one's own text had a point of 2.2 bits per byte, and then 5.6 on a text that was not named.
#[test]
fn a_text_that_nobody_named_is_named_and_told_from_what_the_node_held_out() {
    let workshop = Workshop::new();
    workshop.node("own", &["--learning-rate", "1e-3", "--samples", "16", "--exit-when-idle", "0.1"]).finish();
    let (state, text) = (workshop.state("own"), workshop.state("text.txt"));
    let eval = |arguments: &[&str]| {
        let output = node(&state, &[&["eval", "--sequence-length", "32"], arguments].concat());
        let [line, said] = [output.stdout, output.stderr].map(|said| String::from_utf8(said).unwrap());
        assert!(output.status.success(), "{said}");
        (line, said)
    };
    let (line, said) = eval(&[]);
    assert!(
        line.contains("of the embedded held-out text)")
            && said.contains("other windows: its figures cannot be compared"),
        "{said}{line}"
    );
    let (line, said) = eval(&["--data", text.to_str().unwrap()]);
    assert!(!line.contains("embedded") && !said.contains("embedded held-out"), "{said}{line}");
}
