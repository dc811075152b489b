//! Joining by one word, and private runs: real processes on loopback.

use crate::support::{Node, Workshop, assert_agreement, inspect, machines};
use node::join::ticket::Ticket;
use protocol::secret::Secret;
use serde_json::Value;
use std::{fs, path::Path, process::Command, time::Duration};

/// Runs the binary; returns whether it succeeded, and all that it said.
fn said(arguments: &[&str]) -> (bool, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_node")).args(arguments).output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8(text).unwrap())
}

fn own(status: &Value) -> u64 {
    status["own"]["total"].as_u64().unwrap_or(0)
}

fn swarm(status: &Value) -> u64 {
    status["swarm"]["total"].as_u64().unwrap_or(0)
}

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// The address in a ticket, with the peer id.
fn address(ticket: &str) -> String {
    let (peer, addresses) = Ticket::parse(ticket).unwrap().machines.remove(0);
    format!("{}/p2p/{peer}", addresses[0])
}

#[test]
fn one_word_is_enough_to_join_and_every_machine_of_the_run_has_one() {
    let workshop = Workshop::new();
    let first = workshop.first("first", &["--samples", "40"]);
    let ticket = first.ticket();
    assert_eq!(inspect(&workshop.state("first"), &["ticket"]).trim(), ticket);
    first.until("shows its ticket", |status| status["ticket"] == ticket.as_str());
    let second = workshop.node("second", &["--samples", "40", "--join", &ticket.to_uppercase()]);
    let third = workshop.node("third", &["--samples", "40", "--join", &second.ticket()]);
    let nodes = [first, second, third];
    for node in &nodes {
        node.until("has all gradients", |status| swarm(status) == 120);
    }
    assert_agreement(&nodes.map(Node::leave));
    let key = inspect(&workshop.state("second"), &["key"]);
    assert!(machines(&workshop.state("first")).contains_key(key.trim()));
}

#[test]
fn what_can_never_work_is_refused_at_once_with_what_would() {
    let workshop = Workshop::new();
    let state = workshop.state("nobody");
    let peer = "12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN";
    let ws = format!("/dns4/localhost/tcp/9713/ws/p2p/{peer}");
    let nowhere = format!("/ip4/192.168.1.7/tcp/0/p2p/{peer}");
    let circuit = format!("/ip4/192.168.1.7/tcp/9713/p2p/{peer}/p2p-circuit");
    for (arguments, remedy) in [
        (&["--bootstrap", &ws][..], "leave out what follows the port"),
        (&["--bootstrap", &nowhere], "the port that the other node prints"),
        (&["--relay", "/ip4/192.168.1.7/tcp/9713"], "--relay /ip4/192.168.1.7/tcp/9713"),
        (&["--announce", "/ip4/0.0.0.0/tcp/9713"], "for listening"),
        (&["--announce", &circuit], "named with --relay"),
        (&["--listen", "/dns4/localhost/tcp/9713"], "/ip4/0.0.0.0/tcp/9713"),
        (&["--join", "LAN "], "neither `lan` nor a ticket"),
        (&["--join", "onebyte1qqqq"], "copy all of it"),
        (&["--join", "lan", "--no-mdns"], "--no-mdns"),
        (&["--run", &"5".repeat(64), "--no-mdns"], "--bootstrap"),
        (&["--private", "--join", "lan"], "--private"),
    ] {
        let (is_fine, text) = said(&[&["--state", path(&state)], arguments].concat());
        assert!(!is_fine && text.contains(remedy), "{arguments:?}: {text}");
    }
}

#[test]
fn a_private_run_says_nothing_to_who_has_not_its_secret() {
    let workshop = Workshop::new();
    let first = workshop.first("first", &["--samples", "40", "--private"]);
    let word = first.ticket();
    let ticket = Ticket::parse(&word).unwrap();
    assert!(ticket.secret.is_some() && !first.said("--bootstrap"));
    first.until("is shown without its ticket", |status| status["private"] == true && status["ticket"].is_null());
    let wrong = Ticket { secret: Some(Secret([0; 16])), ..ticket.clone() }.encode();
    let open = Ticket { secret: None, ..ticket }.encode();
    // A stranger is not let in, whatever it asks for, and hears why; not its manifest, no summary, no chunk.
    for stranger in [&address(&word), &wrong, &open] {
        let (is_fine, text) = said(&["log", "show", "--peer", stranger]);
        assert!(!is_fine && text.contains("does not let this node in"), "{text}");
    }
    let (is_fine, text) = said(&["log", "show", "--peer", &word]);
    assert!(is_fine, "{text}");
    // The word is the run's secret: no error repeats it, whole or with a letter lost.
    for wrong in [&["log", "entry", "deadbeef", "3", "--peer", &word][..], &["--join", &word[1..]]] {
        let (is_fine, text) = said(wrong);
        assert!(!is_fine && !text.contains(&word[20..]), "{text}");
    }
    let stranger = workshop.node("stranger", &["--join", &open]);
    stranger.hear_times("does not let this node in", 2);
    assert!(!workshop.state("stranger").join("base").exists() && !stranger.said("joined run"));
    let second = workshop.node("second", &["--samples", "40", "--join", &word]);
    second.until("has all", |status| swarm(status) == 80);
    second.leave();
    // The secret stays with the run: nobody needs the word again.
    let second = workshop.node("second", &["--samples", "50"]);
    first.until("has the second's new ones", |status| swarm(status) == 90);
    assert_eq!(Ticket::parse(&second.ticket()).unwrap().secret, Ticket::parse(&word).unwrap().secret);
    stranger.leave();
    assert_agreement(&[first, second].map(Node::leave));
    let (is_fine, text) = said(&["--state", path(&workshop.state("first")), "--no-mdns", "--run", &"5".repeat(64)]);
    assert!(!is_fine && text.contains("--run 5555"), "{text}");
}

/// All of it while the authority's node runs.
#[test]
fn a_member_that_the_authority_withdraws_is_refused_and_adds_nothing_more() {
    let workshop = Workshop::new();
    let authority = workshop.first("authority", &["--samples", "40", "--private", "--members", "by-authority"]);
    let (state, word) = (workshop.state("authority"), authority.ticket());
    let join = |name: &str, samples: &str| workshop.node(name, &["--samples", samples, "--join", &word]);
    let key_of = |name: &str| inspect(&workshop.state(name), &["key"]).trim().to_owned();
    let [key, other_key] = ["member", "other"].map(key_of);
    let [member, other] = ["member", "other"].map(|name| join(name, "40"));
    for (node, key) in [(&member, &key), (&other, &other_key)] {
        // Whoever is not admitted hears so from its own node, and what would help.
        assert!(node.hear("is not a member of the run yet").contains(&format!("node admit {key}")));
        let said = inspect(&state, &["admit", key]);
        assert!(said.contains("the node that runs here has it"), "{said}");
        node.hear("the run's authority admitted this machine's key");
    }
    let refused = |arguments: &[&str], state: &Path, why: &str| {
        let (is_fine, text) = said(&[arguments, &["--state", path(state)]].concat());
        assert!(!is_fine && text.contains(why), "{text}");
    };
    refused(&["admit", &key], &state, "admitted already");
    refused(&["admit", &key], &workshop.state("member"), "is not the run's authority");
    refused(&["withdraw", &key], &workshop.state("member"), "is not the run's authority");
    refused(&["withdraw", &key_of("authority")], &state, "cannot withdraw itself");
    for node in [&authority, &member, &other] {
        node.until("has all", |status| swarm(status) == 120);
    }
    let member = member.leave();
    // A copy that has not heard of it, and goes on as a new incarnation at another address.
    let copy = workshop.state("copy");
    assert!(Command::new("cp").args(["-r", path(&member), path(&copy)]).status().unwrap().success());
    while machines(&state)[&key]["height"] != 40 {
        std::thread::sleep(Duration::from_millis(100));
    }
    let said = inspect(&state, &["withdraw", &key]);
    assert!(said.contains("40 of its gradients still count") && said.contains("has it, and tells the swarm"), "{said}");
    other.hear(&format!("withdrew the key {key}"));
    refused(&["admit", &key], &state, "which is for good");
    refused(&["withdraw", &key], &state, "withdrawn already");
    let member = join("member", "40");
    member.hear("the run's authority withdrew this machine's key");
    member.until("left alone", |status| status["peers"].as_array().is_some_and(Vec::is_empty));
    member.leave();
    let copy = join("copy", "80");
    // With nobody to hear from, it makes more, for itself.
    copy.until("has made more, or heard", |status| own(status) == 80 || copy.said("withdrew this machine's key"));
    other.leave();
    let later = join("other", "60");
    for node in [&authority, &later] {
        node.until("has what members made, and nothing else", |status| swarm(status) == 140);
    }
    copy.leave();
    let states = [authority, later].map(Node::leave);
    assert_agreement(&states);
    for state in &states {
        assert_eq!(machines(state)[&key]["height"], 40);
    }
}

/// What the authority says while its node is down, the swarm learns later; what is not its own word changes nothing.
#[test]
fn a_statement_waits_for_a_node_that_is_down_and_one_of_somebody_else_is_refused() {
    let workshop = Workshop::new();
    let key = inspect(&workshop.state("member"), &["key"]).trim().to_owned();
    let first = |name: &str| workshop.first(name, &["--samples", "40", "--members", "by-authority"]);
    let (authority, state) = (first("authority"), workshop.state("authority"));
    let word = authority.ticket();
    authority.leave();
    assert!(inspect(&state, &["admit", &key]).contains("when this node runs next"));
    let listen = Ticket::parse(&word).unwrap().machines.remove(0).1.remove(0).to_string();
    let authority = workshop.node("authority", &["--samples", "40", "--listen", &listen]);
    let member = workshop.node("member", &["--samples", "40", "--join", &word]);
    for node in [&authority, &member] {
        node.until("has all", |status| swarm(status) == 80);
    }
    // Another run's authority signs for its own run; a file of it does nothing here.
    let (elsewhere, stranger) = (first("elsewhere"), workshop.state("elsewhere"));
    elsewhere.until("at work", |status| own(status) == 40);
    elsewhere.signal("STOP");
    let mut admit = Command::new(env!("CARGO_BIN_EXE_node"));
    let unknown = "5".repeat(64);
    let mut admit = admit.args(["admit", &unknown, "--state", path(&stranger)]).spawn().unwrap();
    let left = || fs::read_dir(&stranger).unwrap().map(|entry| entry.unwrap().path());
    let file = loop {
        let file = left().find(|file| file.extension().is_some_and(|ending| ending == "signed"));
        match file {
            Some(file) => break file,
            None => std::thread::sleep(Duration::from_millis(20)),
        }
    };
    fs::copy(&file, state.join(file.file_name().unwrap())).unwrap();
    authority.hear("not signed by this run's authority");
    elsewhere.signal("CONT");
    assert!(admit.wait().unwrap().success());
    elsewhere.leave();
    assert_agreement(&[authority, member].map(Node::leave));
    assert!(!state.join(file.file_name().unwrap()).exists());
}
