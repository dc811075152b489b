//! Nodes that are kind to the machine they run on.

use crate::support::{Node, Workshop, command, inspect};
use std::{fs, time::Instant};

#[test]
fn a_paused_node_hears_and_answers_and_makes_nothing_until_it_is_resumed() {
    let workshop = Workshop::new();
    let state = workshop.state("first");
    let first = workshop.first("first", &["--listen", "/ip4/127.0.0.1/tcp/0"]);
    let (address, run) = first.join_line();
    let own = |node: &Node| node.status()["own"]["total"].as_u64().unwrap_or(0);
    first.until("training", |status| status["own"]["total"].as_u64() > Some(0));
    assert!(inspect(&state, &["pause"]).contains("node resume --state"));
    assert!(inspect(&state, &["pause"]).contains("was paused before"));
    first.hear("paused: no own gradients");
    // Work that was handed out may come to its end after that.
    first.until("paused", |status| status["phase"] == "paused");
    first.hear("paused (somebody asked for it)");
    assert_eq!(first.status()["paused_because"], "somebody asked for it");
    assert!(inspect(&state, &["top", "--once"]).starts_with("paused (somebody asked for it)"));

    // Another one joins through it, takes its base from it, and is heard.
    let second = workshop.node("second", &["--bootstrap", &address, "--run", &run]);
    second.until("training", |status| status["own"]["total"].as_u64() > Some(100));
    let made = own(&first);
    first.until("told", |status| status["swarm"]["total"].as_u64() > Some(made + 100));
    assert_eq!((own(&first), &first.status()["phase"]), (made, &"paused".into()));

    // It stays so over a restart.
    first.leave();
    let before = second.status()["swarm"]["total"].as_u64();
    let first = workshop.node("first", &["--bootstrap", &second.join_line().0]);
    first.hear("paused: no own gradients");
    first.until("told anew", |status| status["phase"] == "paused" && status["swarm"]["total"].as_u64() > before);
    assert_eq!(own(&first), made);
    assert!(inspect(&state, &["resume"]).contains("goes on"));
    assert!(inspect(&state, &["resume"]).contains("nobody had paused"));
    first.hear("no longer paused");
    first.until("training again", |status| status["own"]["total"].as_u64() > Some(made));
    first.leave();
    second.leave();
    let nowhere = workshop.state("nowhere");
    let refused =
        std::process::Command::new(env!("CARGO_BIN_EXE_node")).args(["pause", "--state"]).arg(nowhere).output();
    let said = String::from_utf8(refused.unwrap().stderr).unwrap();
    assert!(said.contains("not a state directory"), "{said}");
}

/// What Linux says of a process: its niceness, and how many threads it has.
fn niceness_and_threads(process: u32) -> (i64, u64) {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    (fields[16].parse().unwrap(), fields[17].parse().unwrap())
}

#[test]
fn a_node_stands_back_and_takes_as_many_threads_as_it_may() {
    let workshop = Workshop::new();
    let of = |name: &str, arguments: &[&str]| {
        let node = workshop.first(name, arguments);
        node.until("training", |status| status["own"]["total"].as_u64() > Some(0));
        let found = niceness_and_threads(node.id());
        node.leave();
        found
    };
    let own: i64 = fs::read_to_string("/proc/self/stat")
        .unwrap()
        .rsplit_once(')')
        .unwrap()
        .1
        .split_whitespace()
        .nth(16)
        .unwrap()
        .parse()
        .unwrap();
    let (nice, few) = of("few", &["--threads", "1", "--priority", "background"]);
    assert_eq!(nice, own.max(10));
    let (nice, many) = of("many", &["--threads", "9"]);
    assert_eq!(nice, own);
    assert_eq!(many, few + 8);
}

#[test]
fn limits_that_would_cut_a_node_off_are_refused_and_others_let_it_join() {
    let workshop = Workshop::new();
    let refused = command(&workshop.state("refused"), &["--upload-limit", "31"]).output().unwrap();
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(
        !refused.status.success() && said.contains("--upload-limit 31") && said.contains("must be 32 to"),
        "{said}"
    );
    let workshop = Workshop::with_model(64, 0.2);
    let base = fs::metadata(workshop.model().join("model.safetensors")).unwrap().len();
    let first = workshop.first("first", &["--upload-limit", "32"]);
    let (address, run) = first.join_line();
    first.until("training", |status| status["own"]["total"].as_u64() > Some(0));
    let begun = Instant::now();
    let second = workshop.node("second", &["--bootstrap", &address, "--run", &run]);
    second.hear("the base model is complete");
    // All of it went at the rate, but for what may be ahead: a second of it, and what was under way.
    let least = (base as f64 - 2.0 * 32_000.0) / 32_000.0;
    let took = begun.elapsed().as_secs_f64();
    assert!(least > 2.0 && took >= least, "{base} bytes in {took} s");
    second.until("training", |status| status["own"]["total"].as_u64() > Some(0));
    first.leave();
    second.leave();
}
