//! Joining by one word, and private runs: real processes on loopback.

use crate::support::{Node, Workshop, assert_agreement, inspect, machines};
use node::ticket::Ticket;
use protocol::secret::Secret;
use serde_json::Value;
use std::{path::Path, process::Command};

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
    for (arguments, remedy) in [
        (&["--bootstrap", &ws][..], "leave out what follows the port"),
        (&["--bootstrap", &nowhere], "the port that the other node prints"),
        (&["--relay", "/ip4/192.168.1.7/tcp/9713"], "--relay /ip4/192.168.1.7/tcp/9713"),
        (&["--announce", "/ip4/0.0.0.0/tcp/9713"], "for listening"),
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

/// The authority is at rest while it signs; then its word spreads.
#[test]
fn a_member_that_the_authority_withdraws_is_refused_and_adds_nothing_more() {
    let workshop = Workshop::new();
    let key = inspect(&workshop.state("member"), &["key"]).trim().to_owned();
    let other_key = inspect(&workshop.state("other"), &["key"]).trim().to_owned();
    let authority = workshop.first("authority", &["--samples", "40", "--private", "--members", "by-authority"]);
    let word = authority.ticket();
    let state = authority.leave();
    for key in [&key, &other_key] {
        assert!(inspect(&state, &["admit", key]).contains("is admitted"));
    }
    let join = |name: &str, samples: &str| workshop.node(name, &["--samples", samples, "--join", &word]);
    let listen = Ticket::parse(&word).unwrap().machines.remove(0).1.remove(0).to_string();
    let again = || workshop.node("authority", &["--samples", "40", "--listen", &listen]);
    let nodes = [again(), join("member", "40"), join("other", "40")];
    for node in &nodes {
        node.until("has all", |status| swarm(status) == 120);
    }
    let [authority, member, _] = nodes.map(Node::leave);
    // A copy that has not heard of it, and goes on as a new incarnation.
    let copy = workshop.state("copy");
    assert!(Command::new("cp").args(["-r", path(&member), path(&copy)]).status().unwrap().success());
    assert!(inspect(&authority, &["withdraw", &key]).contains("is withdrawn"));
    let authority = again();
    let (member, other) = (join("member", "40"), join("other", "40"));
    member.hear("the run's authority withdrew this machine's key");
    other.hear(&format!("withdrew the key {key}"));
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
