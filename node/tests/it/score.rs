//! Runs that climb what has no slope: accuracy, and the score of a person's own program.

use crate::support::{Node, Workshop, assert_agreement, command, inspect};
use serde_json::{Value, json};
use std::{fs, path::Path};

/// One point for a completion that has an `e`; it tells its process in `pid`.
fn scorer(pid: &Path) -> String {
    format!(
        r#"command echo $$ >{}; while read -r line; do case $line in *'"completion":"'*e*'","finish"'*) echo 1;; *) echo 0;; esac; done"#,
        pid.display()
    )
}

fn prompts(workshop: &Workshop) -> String {
    let path = workshop.state("prompts.jsonl");
    let rows = (0..40).map(|i| json!({ "prompt": format!("the cat sat {}", "on a mat ".repeat(i % 4)), "id": i }));
    fs::write(&path, rows.map(|row| format!("{row}\n")).collect::<String>()).unwrap();
    path.to_str().unwrap().to_owned()
}

/// Gradients of the first machine, whose program is killed.
const FIRST: u64 = 6_000;

#[test]
fn a_swarm_climbs_the_scores_of_programs_one_of_which_is_killed() {
    let workshop = Workshop::new();
    let (model, data) = (workshop.model(), prompts(&workshop));
    let pid = workshop.state("pid");
    let own = |name: &str| scorer(&workshop.state(&format!("{name}-pid")));
    let start = |name: &str, objective: &str, more: &[&str]| {
        let usual = ["--score-tokens", "6", "--batch-size", "2", "--objective", objective];
        Node::start(&workshop.state(name), &[&usual, more, &["--data", &data]].concat())
    };
    let (mine, model) = (scorer(&pid), model.to_str().unwrap().to_owned());
    let samples = FIRST.to_string();
    let first = start("first", &mine, &["--model", &model, "--samples", &samples]);
    let (join, _) = first.join_line();
    first.until("96 gradients", |status| status["own"]["total"].as_u64() >= Some(96));
    let others = ["second", "third"].map(|name| start(name, &own(name), &["--bootstrap", &join, "--samples", "160"]));
    let victim = fs::read_to_string(&pid).unwrap();
    let killed = std::process::Command::new("kill").args(["-9", victim.trim()]).status().unwrap();
    assert!(killed.success());
    first.hear("starting it again");
    first.hear("held-out mean score");
    let [second, third] = others;
    let nodes = [first, second, third];
    // None of them lost a gradient to the program's death.
    nodes.iter().for_each(|node| node.until_gradients(FIRST + 320));
    assert_ne!(fs::read_to_string(&pid).unwrap(), victim, "another one scored the rest");
    let states = nodes.map(Node::leave);
    assert_agreement(&states);
    let journal = fs::read_to_string(states[0].join("journal.jsonl")).unwrap();
    assert!(journal.contains("\"unit\":\"minus the score\"") && journal.contains("\"score\":"), "{journal}");
}

#[test]
fn a_program_that_will_not_do_is_found_before_a_run_is_stored() {
    let workshop = Workshop::new();
    let (state, data, model) = (workshop.state("state"), prompts(&workshop), workshop.model());
    let refused = |arguments: &[&str]| {
        let usual = ["--model", model.to_str().unwrap(), "--data", &data];
        let output = command(&state, &[&usual, arguments].concat()).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && !said.contains("new run"), "{said}");
        said
    };
    let good = scorer(&workshop.state("pid"));
    for (arguments, words) in [
        (&["--objective", "command exit 3"][..], &["exit 3", "exit status: 3", "after 0 of 2 scores"][..]),
        (
            &["--objective", "command while read l; do echo good; done"],
            &["\"good\" as score 1 of 2", "no number between -1e30 and 1e30"],
        ),
        (&["--objective", "command while read l; do echo 1e308; done"], &["\"1e308\" as score 1 of 2", "1e30"]),
        (&["--objective", "command sleep 1000", "--score-seconds", "0.5"], &["0 of 2 scores within 0.5 s", "flush"]),
        (&["--objective", &good, "--estimator", "projection"], &["a program's score has no derivative", "spsa"]),
        (&["--objective", "reward"], &["--objective reward", "command PROGRAM"]),
        (&["--objective", "command"], &["which?"]),
        (&["--objective", &good, "--score-tokens", "0"], &["--score-tokens 0"]),
    ] {
        let said = refused(arguments);
        words.iter().for_each(|word| assert!(said.contains(word), "{arguments:?}: no {word:?} in {said}"));
    }
    let text = workshop.state("text.txt");
    let refused = |arguments: &[&str]| {
        let usual = ["--model", model.to_str().unwrap(), "--sequence-length", "32", "--data", text.to_str().unwrap()];
        let output = command(&state, &[&usual, arguments].concat()).output().unwrap();
        assert!(!output.status.success());
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let said = refused(&["--objective", "accuracy"]);
    assert!(said.contains("no choices"), "{said}");
    let said = refused(&["--objective", &good]);
    assert!(said.contains("completions of prompts"), "{said}");
}

#[test]
fn a_joiner_without_a_program_is_told_and_a_manifest_names_none() {
    let workshop = Workshop::new();
    let (data, model) = (prompts(&workshop), workshop.model());
    let objective = scorer(&workshop.state("pid"));
    let usual = ["--data", &data, "--score-tokens", "4", "--batch-size", "2", "--samples", "16"];
    let first = Node::start(
        &workshop.state("first"),
        &[&usual[..], &["--model", model.to_str().unwrap(), "--objective", &objective]].concat(),
    );
    let (join, _) = first.join_line();
    let mut joiner = command(&workshop.state("second"), &["--bootstrap", &join, "--data", &data]);
    let output = joiner.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.contains("--objective 'command …'"), "{said}");
    let state = first.leave();
    // What goes to others is a word.
    let database = fs::read(state.join("node.redb")).unwrap();
    assert!(database.windows(5).any(|part| part == b"score"));
    assert!(!database.windows(12).any(|part| part == b"while read -"), "the command is in the database");
}

#[test]
fn accuracy_itself_is_climbed_and_shown() {
    let workshop = Workshop::new();
    let path = workshop.state("choices.jsonl");
    let rows = (0..40).map(|i| json!({ "prompt": format!("a {i} "), "choices": ["cat", "rat"], "answer": i % 2 }));
    fs::write(&path, rows.map(|row| format!("{row}\n")).collect::<String>()).unwrap();
    let (data, model) = (path.to_str().unwrap(), workshop.model());
    let usual = ["--model", model.to_str().unwrap(), "--data", data, "--objective", "accuracy", "--samples", "32"];
    let node = Node::start(&workshop.state("state"), &[&usual[..], &["--exit-when-idle", "0.2"]].concat());
    let said = node.hear("held-out accuracy");
    assert!(!said.contains("nats"), "{said}");
    let state = node.finish();
    let journal = fs::read_to_string(state.join("journal.jsonl")).unwrap();
    assert!(journal.contains("share of rows picked wrong"), "{journal}");
    let evaluated: Value = serde_json::from_str(&inspect(&state, &["eval", "--json", "--data", data])).unwrap();
    assert_eq!(evaluated["rows"], 40);
    // It goes on without saying so again, and not backward.
    let backward = ["--data", data, "--estimator", "projection"];
    let output = command(&state, &backward).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.contains("accuracy has no derivative"), "{said}");
}
