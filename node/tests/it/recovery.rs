//! Real nodes that are killed, rolled back, copied, cut off in mid-download, or misused by their people.

use crate::support::{PATIENCE, Workshop, assert_agreement, inspect};
use protocol::{
    machine::MachineId,
    manifest::Manifest,
    replica::Record,
    segment::{Chunk, Segment},
    signature::{Ed25519Signer, Signer},
};
use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

fn machines_shown(state: &Path) -> Vec<serde_json::Value> {
    let shown: serde_json::Value = serde_json::from_str(&inspect(state, &["log", "show", "--json"])).unwrap();
    shown["machines"].as_array().unwrap().clone()
}

fn gradients(state: &Path) -> u64 {
    machines_shown(state).iter().map(|machine| machine["height"].as_u64().unwrap()).sum()
}

/// Polls without a library's clock: for files that a node is writing.
fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !condition() {
        assert!(begun.elapsed() < PATIENCE, "never: {what}");
        std::thread::park_timeout(Duration::from_millis(1));
    }
}

#[test]
fn a_rolled_back_directory_goes_on_as_a_new_incarnation() {
    let workshop = Workshop::new();
    let first = workshop.first("first", &["--samples", "200"]);
    let (address, _) = first.join_line();
    first.until_gradients(200);
    let run = |samples: &str| {
        workshop.node("second", &["--bootstrap", &address, "--samples", samples, "--exit-when-idle", "2"])
    };
    let state = run("200").finish();
    let old = fs::read(state.join("node.redb")).unwrap();
    run("400").finish();
    // In place, so that only the peers can know.
    fs::write(state.join("node.redb"), old).unwrap();
    let second = run("600");
    second.hear("rolled back");
    assert!(!second.said("another node makes gradients"), "what an earlier session made is no twin");
    second.finish();
    assert!(!first.said("signed two histories"));
    assert_eq!(gradients(&state), 200 + 600);
    assert_agreement(&[state, first.leave()]);
}

/// Regression: the checkpoint has the trained tensors only, and nobody added the frozen ones at a start.
#[test]
fn a_run_that_trains_adapters_or_a_part_goes_on_where_it_stopped() {
    let workshop = Workshop::new();
    for (name, what) in [("adapters", ["--lora", "2"]), ("part", ["--train", "norms"])] {
        let own = [&what[..], &["--samples", "20", "--exit-when-idle", "0"]].concat();
        workshop.first(name, &own).finish();
        let first = workshop.first(name, &["--samples", "40"]);
        first.until_gradients(40);
        let (address, _) = first.join_line();
        let late = format!("late-{name}");
        let join = |samples| {
            let options = ["--bootstrap", &address, "--samples", samples, "--exit-when-idle", "0"];
            workshop.node(&late, &options).finish()
        };
        join("10");
        assert_agreement(&[join("20"), first.leave()]);
    }
}

fn copy_directory(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

/// Regression: peers heard one of two nodes under one key, since both had the same identity in the network, and neither
/// said that there is another.
#[test]
fn copies_of_a_member_are_both_heard_and_both_told_of_each_other() {
    let workshop = Workshop::new();
    let by_authority = ["--samples", "100", "--members", "by-authority"];
    let authority = workshop.first("authority", &by_authority);
    let (address, _) = authority.join_line();
    let join = |name: &str| workshop.node(name, &["--bootstrap", &address]);
    join("original").hear("not a member of the run yet");
    let state = workshop.state("original");
    let state_of_authority = authority.leave();
    let key = inspect(&state, &["key"]).trim().to_owned();
    inspect(&state_of_authority, &["admit", &key]);
    let listen = address.split("/p2p/").next().unwrap().to_owned();
    let authority = workshop.node("authority", &["--samples", "100", "--listen", &listen]);
    let original = join("original");
    original.until("training", |status| status["own"]["total"].as_u64() > Some(100));
    original.leave();
    copy_directory(&state, &workshop.state("copy"));
    let (original, copy) = (join("original"), join("copy"));
    assert!(copy.hear("was copied or restored").contains("a name of its own in the network"));
    for twin in [&original, &copy] {
        assert!(twin.hear("another node makes gradients under this machine's key").contains("fresh --state"));
    }
    // A third node hears what both make, and goes on to do so.
    let heights = || -> BTreeMap<String, u64> {
        let machines = authority.status()["machines"].as_array().cloned().unwrap_or_default();
        let of = |machine: &serde_json::Value| {
            let name = machine["machine"].as_str().filter(|name| name.starts_with(&key[..12]))?.to_owned();
            Some((name, machine["height"].as_u64()?))
        };
        machines.iter().filter_map(of).collect()
    };
    for _ in 0..2 {
        let before = heights();
        let grew = |now: &BTreeMap<String, u64>| {
            now.iter().filter(|(name, now)| before.get(*name).is_none_or(|was| was < *now)).count()
        };
        authority.until("hearing both", |_| grew(&heights()) == 2);
    }
    let states = [original.leave(), copy.leave()];
    join("original")
        .until("all of the other's", |status| status["swarm"]["total"] == authority.status()["swarm"]["total"]);
    assert!(machines_shown(&states[0]).iter().all(|machine| machine["revoked"].is_null()));
}

#[test]
fn a_copied_directory_goes_on_beside_the_original() {
    let workshop = Workshop::new();
    let first = workshop.first("first", &["--samples", "200"]);
    let (address, _) = first.join_line();
    first.until_gradients(200);
    let run = |name: &str, samples: &str| {
        workshop.node(name, &["--bootstrap", &address, "--samples", samples, "--exit-when-idle", "3"])
    };
    let state = run("original", "200").finish();
    copy_directory(&state, &workshop.state("copy"));
    let (original, copy) = (run("original", "400"), run("copy", "400"));
    copy.hear("was copied or restored");
    let states = [original.finish(), copy.finish()];
    // Whoever left first lacks what the other made after.
    run("original", "0").finish();
    run("copy", "0").finish();
    assert_agreement(&[&states[..], &[first.leave()]].concat());
    let shown = machines_shown(&states[0]);
    assert!(shown.iter().all(|machine| machine["revoked"].is_null()));
    // Under one key a peer would have heard only one of the two.
    let keys: std::collections::BTreeSet<String> = shown.iter().map(|machine| machine["key"].to_string()).collect();
    assert_eq!(keys.len(), 3, "{shown:?}");
    assert!(shown.iter().map(|machine| machine["height"].as_u64().unwrap()).sum::<u64>() >= 800);
}

#[test]
fn a_copy_that_was_only_looked_at_never_goes_on_with_the_ledger() {
    use node::storage::StateDir;
    let directory = tempfile::tempdir().unwrap();
    let (original, copy) = (directory.path().join("original"), directory.path().join("copy"));
    let opened = StateDir::create_or_open(&original).unwrap();
    let (incarnation, original_key) = (opened.incarnation(), opened.secret_key());
    drop(opened);
    fs::create_dir(&copy).unwrap();
    fs::copy(original.join("node.redb"), copy.join("node.redb")).unwrap();
    let looked_at_key = StateDir::open_existing(&copy).unwrap().secret_key();
    let opened = StateDir::create_or_open(&copy).unwrap();
    assert_ne!(opened.incarnation(), incarnation);
    assert!(looked_at_key != original_key && opened.secret_key() == looked_at_key, "it has a key of its own");
    assert_eq!(StateDir::create_or_open(&original).unwrap().incarnation(), incarnation, "the original goes on");
}

/// Regression: `key` gave the copy a key of its own and said nothing, so its node said nothing either; and `ticket`
/// printed the way to the machine that the directory was copied from.
#[test]
fn whichever_command_first_opens_a_copy_says_so_and_the_ticket_of_the_original_goes() {
    let directory = tempfile::tempdir().unwrap();
    let (original, copy) = (directory.path().join("original"), directory.path().join("copy"));
    let key = |state: &Path| {
        let output = Command::new(env!("CARGO_BIN_EXE_node")).arg("key").arg("--state").arg(state).output().unwrap();
        assert!(output.status.success());
        let [key, said] = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
        (key, said.contains("was copied or restored"))
    };
    let (original_key, _) = key(&original);
    fs::write(original.join("ticket"), "onebyte1\n").unwrap();
    copy_directory(&original, &copy);
    let (copy_key, is_said) = key(&copy);
    assert!(is_said && copy_key != original_key);
    assert!(!copy.join("ticket").exists() && original.join("ticket").exists());
    assert_eq!(key(&copy), (copy_key, false), "once");
    assert_eq!(key(&original), (original_key, false), "it is where it was");
    let other = directory.path().join("other");
    copy_directory(&original, &other);
    let ticket = Command::new(env!("CARGO_BIN_EXE_node")).arg("ticket").arg("--state").arg(&other).output().unwrap();
    assert!(String::from_utf8_lossy(&ticket.stderr).contains("was copied or restored") && ticket.stdout.is_empty());
}

#[test]
fn a_joiner_whose_source_dies_in_mid_transfer_finishes_from_another() {
    let workshop = Workshop::with_model(1024, 0.02);
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let listen = format!("/ip4/127.0.0.1/tcp/{port}");
    let first = workshop.first("first", &["--samples", "0"]);
    let (address, _) = first.join_line();
    let second = workshop.node("second", &["--samples", "0", "--bootstrap", &address, "--listen", &listen]);
    let (second_address, _) = second.join_line();
    let second_address = format!("{listen}/p2p/{}", second_address.rsplit('/').next().unwrap());
    second.leave();
    let arguments =
        ["--samples", "0", "--bootstrap", &address, "--bootstrap", &second_address, "--exit-when-idle", "1"];
    let joiner = workshop.node("joiner", &arguments);
    let part = workshop.state("joiner").join("base.part");
    until("the download begins", || fs::metadata(&part).is_ok_and(|part| part.len() > 0));
    first.signal("STOP");
    assert!(part.exists(), "the source was stopped too late");
    drop(first);
    // The joiner is killed, too: what it has is kept.
    drop(joiner);
    let second = workshop.node("second", &["--samples", "0", "--listen", &listen]);
    second.join_line();
    let joiner = workshop.node("joiner", &arguments);
    let line = joiner.hear("fetching the base model");
    println!("{line}");
    assert!(!line.contains(" 0.0 MB of it are here"), "nothing was kept: {line}");
    joiner.hear("the base model is complete");
    joiner.finish();
    let states = [workshop.state("joiner"), second.leave()];
    assert_agreement(&states);
}

#[test]
fn a_ledger_of_a_hundred_thousand_entries_restarts_verifies_and_joins() {
    const SAMPLES: u64 = 100_000;
    let workshop = Workshop::new();
    workshop.first("first", &["--samples", "1", "--exit-when-idle", "0"]).finish();
    let state = workshop.state("first");
    write_ledger(&state, SAMPLES);
    let begun = Instant::now();
    assert!(inspect(&state, &["log", "verify"]).contains(&format!("{} gradients replayed", SAMPLES + 1)));
    println!("verified in {:?}", begun.elapsed());
    let server = workshop.node("first", &["--samples", "0"]);
    let (address, _) = server.join_line();
    let begun = Instant::now();
    let joiner = workshop.node("joiner", &["--samples", "0", "--bootstrap", &address, "--exit-when-idle", "1"]);
    println!("{}", joiner.hear("caught up"));
    joiner.finish();
    println!("joined and left in {:?}", begun.elapsed());
    assert_eq!(gradients(&workshop.state("joiner")), SAMPLES + 1);
    assert_agreement(&[workshop.state("joiner"), server.leave()]);
}

/// Segments of 64 samples by a machine that is nowhere else, straight onto the disk.
fn write_ledger(path: &Path, samples: u64) {
    let state = node::storage::StateDir::open_existing(path).unwrap();
    let (_, run) = Manifest::decode(&state.manifest().unwrap().unwrap()).unwrap();
    let signer = Ed25519Signer::from_seed(&[7; 32]);
    let machine = MachineId { key: signer.key(), incarnation: 1 };
    let (mut previous, mut records) = ([0; 32], Vec::new());
    for first in (0..samples).step_by(64) {
        let bytes: Vec<u8> = (first..samples.min(first + 64)).map(|sample| (sample * 37 % 120) as u8).collect();
        let segment = Segment { first, swarm_step: first, bytes: &bytes };
        let (chunk, digest) = Chunk::sign(&run, machine, segment, previous, &signer);
        previous = digest;
        records.push(node::storage::records::to_row(&Record::Chunk(chunk.into())).unwrap());
    }
    state.commit(&records).unwrap();
}

#[test]
fn a_loss_that_is_not_finite_is_void_and_said_loudly() {
    let workshop = Workshop::with_model(16, 5e11);
    // Weights of this size leave no room for more gradients.
    let few = ["--planned-gradients", "10", "--samples", "3", "--exit-when-idle", "0"];
    let node = workshop.first("node", &few);
    node.hear("a loss is not finite");
    node.finish();
    let tail: serde_json::Value =
        serde_json::from_str(&inspect(&workshop.state("node"), &["log", "tail", "--json"])).unwrap();
    let bytes: Vec<i64> =
        tail["entries"].as_array().unwrap().iter().map(|entry| entry["byte"].as_i64().unwrap()).collect();
    assert_eq!(bytes, [-128; 3]);
}

#[test]
fn mistakes_of_people_are_named_with_a_remedy() {
    let workshop = Workshop::new();
    let directory = workshop.state("files");
    fs::create_dir(&directory).unwrap();
    let file = |name: &str, content: &[u8]| {
        fs::write(directory.join(name), content).unwrap();
        directory.join(name).to_str().unwrap().to_owned()
    };
    let (empty, short) = (file("empty.txt", b""), file("short.txt", b"too short"));
    let binary = file("binary.txt", &[0xff; 4000]);
    let broken = file("broken.jsonl", b"{\"text\": \n");
    let other_keys = file("settings.toml", b"learning_rate = 1e-3\n");
    let model = workshop.model().to_str().unwrap().to_owned();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = format!("/ip4/127.0.0.1/tcp/{}", taken.local_addr().unwrap().port());
    let here = directory.to_str().unwrap().to_owned();
    let cases: [(&[&str], &[&str]); 14] = [
        (&["--model", &model, "--data", &empty], &["empty.txt"]),
        (&["--model", &model, "--data", &short], &["short.txt", "window"]),
        (&["--model", &model, "--data", &binary], &["binary.txt", "UTF-8"]),
        (&["--model", &model, "--data", &broken], &["broken.jsonl", "line 1"]),
        (&["--data", "nowhere.txt"], &["nowhere.txt"]),
        (&["--model", &here, "--data", &short], &["config.json"]),
        (&["--model", &model], &["--data"]),
        (&["--bootstrap", "127.0.0.1:9713"], &["--bootstrap 127.0.0.1:9713", "/ip4/"]),
        (&["--bootstrap", "/ip4/127.0.0.1/tcp/9713"], &["/p2p/"]),
        (&["--listen", "localhost"], &["--listen localhost", "/ip4/"]),
        (&["--listen", &taken, "--samples", "0"], &["taken", "--listen"]),
        (&["--run", "abc"], &["--run", "64"]),
        (&["--learning-rate", "-1"], &["--learning-rate -1", "positive"]),
        (&["--config", &other_keys], &["settings.toml", "learning_rate"]),
    ];
    for (index, (arguments, expected)) in cases.iter().enumerate() {
        let state = workshop.state(&format!("mistake-{index}"));
        let mut command = Command::new(env!("CARGO_BIN_EXE_node"));
        let output =
            command.args(["--no-mdns", "--exit-when-idle", "0", "--state"]).arg(&state).args(*arguments).output();
        let output = output.unwrap();
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {error}");
        assert!(!error.contains("panicked"), "{arguments:?}: {error}");
        for part in *expected {
            assert!(error.contains(part), "{arguments:?} should name {part:?}: {error}");
        }
    }
}

#[test]
fn who_is_to_leave_when_idle_and_never_ends_hears_it() {
    let workshop = Workshop::new();
    let node = workshop.first("node", &["--exit-when-idle", "0", "--learning-rate", "1e-7"]);
    node.join_line();
    let warnings = node.lines().iter().filter(|line| line.contains("--exit-when-idle has no effect")).count();
    assert_eq!(warnings, 1);
    node.leave();
    let node = workshop.node("node", &["--exit-when-idle", "0", "--samples", "1"]);
    node.hear("going on with run");
    assert!(!node.said("--exit-when-idle has no effect"));
    node.finish();
}

#[test]
fn a_directory_in_use_of_another_run_or_with_another_model_is_refused_in_words() {
    let workshop = Workshop::new();
    let node = workshop.first("node", &["--samples", "0"]);
    let (address, run) = node.join_line();
    let refused = |name: &str, arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_node"));
        let output = command.args(["--no-mdns", "--state"]).arg(workshop.state(name)).args(arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    assert!(refused("node", &[]).contains("in use by process"));
    let other_run = run.replace(|digit: char| digit != '0', "0");
    let error = refused("joiner", &["--bootstrap", &address, "--run", &other_run]);
    assert!(error.contains(&run) && error.contains(&other_run), "{error}");
    let error = refused("embedded", &["--bootstrap", &address, "--model", "embedded"]);
    assert!(error.contains("not the base of this run") && error.contains("config.json differs"), "{error}");
    let state = node.leave();
    assert!(refused("node", &["--run", &other_run]).contains("this state belongs to run"));
    fs::write(state.join("checkpoint-1"), b"damaged").unwrap();
    let node = workshop.node("node", &["--samples", "0"]);
    node.join_line();
    node.leave();
    assert_agreement(&[state]);
}
