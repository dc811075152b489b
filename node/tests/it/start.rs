//! What a start leaves behind that fails, or whose run nobody has contributed to.

use crate::support::{Node, Workshop, command};

#[test]
fn a_start_that_fails_leaves_no_run_and_one_without_gradients_gives_way() {
    let workshop = Workshop::new();
    let (state, text) = (workshop.state("state"), workshop.state("text.txt"));
    let bad = workshop.state("bad.jsonl");
    std::fs::write(&bad, "{\"text\": \"ok\"}\n{\"messages\": 5}\n").unwrap();
    let run = |arguments: &[&str]| {
        let output = command(&state, arguments).output().unwrap();
        (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (bad, text, model) = (bad.to_str().unwrap(), text.to_str().unwrap(), workshop.model());
    let model = model.to_str().unwrap();
    let (worked, said) = run(&["--data", bad]);
    assert!(!worked && said.contains("bad.jsonl, line 2"), "{said}");
    assert!(!state.exists(), "nothing is left of a start that failed");
    std::fs::create_dir(&state).unwrap();
    std::fs::write(state.join("notes.txt"), "mine").unwrap();
    assert!(!run(&["--data", bad]).0);
    let left: Vec<_> = std::fs::read_dir(&state).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["notes.txt"], "what was there is");
    let once = ["--samples", "0", "--exit-when-idle", "0.1", "--sequence-length", "32"];
    // The model was forgotten: a run on the embedded one, without a gradient.
    let (worked, said) = run(&[&once[..], &["--data", text]].concat());
    assert!(worked && said.contains("new run"), "{said}");
    let (worked, said) = run(&[&once[..], &["--data", text, "--model", model]].concat());
    assert!(worked && said.contains("is on another model") && said.contains("gives way"), "{said}");
    let (worked, said) = run(&[&once[..], &["--data", text, "--model", model, "--epsilon", "0.004"]].concat());
    assert!(worked && said.contains("epsilon is 0.017, not 0.004"), "{said}");
    // The same once more goes on; and a run that has gradients stays.
    let some = ["--samples", "16", "--exit-when-idle", "0.1", "--sequence-length", "32"];
    let (worked, said) = run(&[&some[..], &["--data", text, "--model", model, "--epsilon", "0.004"]].concat());
    assert!(worked && said.contains("going on with run"), "{said}");
    let (worked, said) = run(&[&once[..], &["--data", text, "--model", "embedded"]].concat());
    assert!(!worked && said.contains("not the base of this run") && said.contains("--state <new directory>"), "{said}");
    let others = ["--data", text, "--epsilon", "0.001", "--planned-gradients", "5000"];
    let (worked, said) = run(&[&once[..], &others].concat());
    assert!(worked && said.contains("--epsilon is of new runs only"), "{said}");
    assert!(said.contains("--planned-gradients is of new runs only: this run's is 100000"), "{said}");
    // A run whose database is gone is not begun over.
    for empties in [true, false] {
        match empties {
            true => std::fs::write(state.join("node.redb"), b"").unwrap(),
            false => std::fs::remove_file(state.join("node.redb")).unwrap(),
        }
        let (worked, said) = run(&[&once[..], &["--data", text]].concat());
        assert!(!worked && said.contains("node.redb: is empty or was missing") && !said.contains("new run"), "{said}");
    }
}

/// Ctrl-C while a start read its text left a directory that held no run.
#[test]
fn a_first_start_that_is_interrupted_leaves_the_directory_as_it_was() {
    let workshop = Workshop::new();
    let (state, pipe) = (workshop.state("state"), workshop.state("pipe"));
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let peer = "12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN";
    let silent_peer = format!("/ip4/127.0.0.1/tcp/{}/p2p/{peer}", silent.local_addr().unwrap().port());
    let run = "00".repeat(32);
    // One waits for a text that nobody writes, the other for a machine that says nothing.
    let starts = [
        (vec!["--data", pipe.to_str().unwrap()], "the embedded model is a demonstration"),
        (vec!["--bootstrap", &silent_peer, "--run", &run], "asking for the run's manifest"),
    ];
    for (arguments, waits) in starts {
        let interrupt = || {
            let node = Node::start(&state, &arguments);
            node.hear(waits);
            node.leave()
        };
        assert!(!interrupt().exists(), "{arguments:?}: something is left");
        std::fs::create_dir(&state).unwrap();
        std::fs::write(state.join("notes.txt"), "mine").unwrap();
        let left: Vec<_> = std::fs::read_dir(interrupt()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, ["notes.txt"], "{arguments:?}");
        std::fs::remove_dir_all(&state).unwrap();
    }
}

/// A relay that found its port taken left a directory behind.
#[test]
fn a_relay_whose_start_fails_leaves_no_directory_and_one_that_has_relayed_keeps_its_own() {
    let workshop = Workshop::new();
    let state = workshop.state("relay");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let relay = |port: u16| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_node"));
        command.arg("relay").arg("--state").arg(&state).arg("--listen").arg(format!("/ip4/127.0.0.1/tcp/{port}"));
        command
    };
    let fails = || assert!(!relay(port).output().unwrap().status.success());
    fails();
    assert!(!state.exists(), "something is left");
    let node = Node::spawn(relay(0), &state);
    node.hear("relaying for whoever comes");
    node.leave();
    fails();
    assert!(state.join("node.redb").exists());
}

/// Who hears signals held it for the life of the process, and the next start repaired it.
#[test]
fn a_node_that_leaves_closes_its_database() {
    let workshop = Workshop::new();
    let state = workshop.first("state", &["--samples", "16", "--exit-when-idle", "0.1"]).finish();
    let database = redb::ReadOnlyDatabase::open(state.join("node.redb"));
    assert!(database.is_ok(), "it needs repair: {:?}", database.err());
}

#[test]
fn adapters_of_another_scale_are_told_from_those_of_the_run() {
    let workshop = Workshop::new();
    let (state, text, model) = (workshop.state("state"), workshop.state("text.txt"), workshop.model());
    let run = |arguments: &[&str]| {
        let usual = ["--model", model.to_str().unwrap(), "--data", text.to_str().unwrap(), "--sequence-length", "32"];
        let ends = ["--samples", "0", "--exit-when-idle", "0.1", "--lora", "3"];
        let output = command(&state, &[&usual[..], &ends, arguments].concat()).output().unwrap();
        (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (worked, said) = run(&["--lora-alpha", "5"]);
    assert!(worked && said.contains("new run"), "{said}");
    let (worked, said) = run(&["--lora-alpha", "5"]);
    assert!(worked && said.contains("going on with run") && !said.contains("gives way"), "{said}");
    let (worked, said) = run(&["--lora-alpha", "9"]);
    assert!(worked && said.contains("lora-alpha is 5") && said.contains("gives way"), "{said}");
}

#[test]
fn ports_and_files_that_will_not_do_are_found_before_a_run_is_stored() {
    let workshop = Workshop::new();
    let (state, text, model) = (workshop.state("state"), workshop.state("text.txt"), workshop.model());
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let (record, address) = (workshop.state("run.rec"), format!("127.0.0.1:{port}"));
    let record = record.to_str().unwrap();
    let run = |arguments: &[&str]| {
        let usual = ["--model", model.to_str().unwrap(), "--data", text.to_str().unwrap(), "--sequence-length", "32"];
        let output = command(&state, &[&usual, arguments].concat()).output().unwrap();
        (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let multiaddr = format!("/ip4/127.0.0.1/tcp/{port}");
    for (arguments, words) in [
        (&["--listen", &multiaddr][..], "the port is taken"),
        (&["--listen", "/ip4/203.0.113.77/tcp/0"], "203.0.113.77/tcp/0: cannot listen there"),
        (&["--listen", "/ip4/203.0.113.77/tcp/0"], "give --listen an address of this machine"),
        (&["--serve", &address], "the port is taken"),
        (&["--http", &address], "the port is taken"),
        (&["--serve", "127.0.0.1:0", "--serve-token", "short"], "--serve-token"),
        (&["--record", "/proc/nowhere/run.rec"], "--record"),
        (&["--record", record, "--stop-when-flat", "--epsilon", "-1"], "--epsilon"),
        (&["--record", record, "--normalize"], "--normalize"),
    ] {
        let (worked, said) = run(arguments);
        assert!(!worked && said.contains(words) && !said.contains("new run"), "{arguments:?}: {said}");
    }
    // Nothing of the failures is in the way of the start that is right.
    let (worked, said) = run(&["--record", record, "--samples", "0", "--exit-when-idle", "0.1"]);
    assert!(worked && said.contains("new run") && !said.contains("gives way"), "{said}");
}

#[test]
fn texts_that_will_not_do_are_named_with_their_flags_and_others_said_to_be_what_they_are() {
    let workshop = Workshop::new();
    let (notes, model) = (workshop.state("notes"), workshop.model());
    let place = |name: &str| workshop.state(name).to_str().unwrap().to_owned();
    let (text, empty, short) = (place("text.txt"), place("empty.txt"), place("short.txt"));
    std::fs::create_dir(&notes).unwrap();
    std::fs::copy(&text, notes.join("notes.txt")).unwrap();
    std::fs::write(&empty, "").unwrap();
    std::fs::write(&short, "a few words").unwrap();
    let state = notes.join("onebyte-state");
    let run = |arguments: &[&str]| {
        let usual = ["--model", model.to_str().unwrap(), "--samples", "0", "--exit-when-idle", "0.1"];
        let output = command(&state, &[&usual, arguments].concat()).output().unwrap();
        (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    for (arguments, parts) in [
        (
            &["--data", &text, "--eval", &empty, "--sequence-length", "32"][..],
            ["error: --eval: ", "empty.txt has no text; give a file"],
        ),
        (&["--data", &empty, "--sequence-length", "32"], ["error: --data: ", "empty.txt has no text; give a file"]),
        (
            &["--data", &short, "--sequence-length", "5000"],
            ["--sequence-length 5000: ", "the model's rows have at most"],
        ),
        (&["--data", "nowhere.txt"], ["cannot read nowhere.txt; ", "or - for standard input"]),
        (
            &["--data", "hf://datasets/owner/name"],
            ["cannot read hf://datasets/owner/name; ", "download it, and name the file"],
        ),
        (&["--text-field", "body"], ["--text-field: says nothing without --data", "--eval PATH"]),
    ] {
        let (worked, said) = run(arguments);
        assert!(!worked && parts.iter().all(|part| said.contains(part)), "{arguments:?}: {said}");
    }
    // The mark by which the engine knows a state directory is what a node leaves there.
    let notes = place("notes");
    let (worked, said) = run(&["--sequence-length", "32", "--data", &notes]);
    assert!(worked && said.contains("1 file (onebyte-state: a node's state directory)"), "{said}");
    assert!(!said.contains("trained on, too"), "{said}");
    let (worked, said) = run(&["--sequence-length", "32", "--data", &text, "--eval", &text]);
    assert!(worked && said.contains("the held-out text is trained on, too"), "{said}");
}
