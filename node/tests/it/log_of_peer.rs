//! The log of a node that is asked over the network; and what people hear when it stops, lies, or is none.

use crate::support::{
    PATIENCE, Workshop, assert_agreement,
    logs::{fails, heights, json, run, text, trained, works},
};
use node::{
    log::Log,
    network::{Event, Network, NetworkConfig},
};
use protocol::{
    machine::MachineId,
    message::{Question, Request, Response},
    replica::{NodeId, Replica, Verdict},
    revocation::{ForkProof, Revocation},
    segment::{Chunk, Segment},
    signature::{Ed25519Signer, Signer},
    statement::Statement,
    version_vector::{Entry, Standing},
};
use serde_json::Value;
use std::{
    io::{Read, Seek},
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

#[test]
fn a_running_node_shows_its_log_and_counts_no_machine_more() {
    let workshop = Workshop::new();
    let mut node = workshop.first("node", &["--samples", "500"]);
    let (address, run) = node.join_line();
    let state = workshop.state("node");
    // What is on the disk it may not know to be there yet.
    node.until_gradients(500);
    let shown = json(&["log", "show", "--peer", &address]);
    assert_eq!((&shown["run"], heights(&shown)), (&run.into(), 500), "{shown:#}");
    assert_eq!(shown["machines"].as_array().unwrap().len(), 1);
    assert_eq!(shown["machines"][0]["own"], false);
    assert!(works(&["log", "verify", "--peer", &address]).contains("were not replayed"));
    let (model, in_state) = (workshop.model(), json(&["log", "verify", "--state", text(&state)]));
    let replayed = json(&["log", "verify", "--peer", &address, "--model", text(&model)]);
    assert_eq!((&replayed["weights"], &replayed["entries"]), (&in_state["weights"], &500.into()), "{replayed:#}");
    let file = workshop.state("log.1byte");
    works(&["log", "export", "--peer", &address, "--out", text(&file)]);
    for (a, b) in [(text(&state), address.as_str()), (address.as_str(), text(&file)), (text(&file), text(&state))] {
        let diff = json(&["log", "diff", a, b]);
        assert_eq!(diff["same"], true, "{diff:#}");
    }
    assert!(node.is_running() && !node.said("WARN"), "{}", node.lines().join("\n"));
    node.leave();
    assert_eq!(heights(&json(&["log", "show", "--state", text(&state)])), 500);
    assert_agreement(&[state]);
}

#[test]
fn diff_tells_which_samples_are_missing_where() {
    let workshop = Workshop::new();
    let state = trained(&workshop, "node", 60);
    let old = workshop.state("old.1byte");
    works(&["log", "export", "--state", text(&state), "--out", text(&old)]);
    let node = workshop.node("node", &["--samples", "150"]);
    node.until_gradients(150);
    let (address, _) = node.join_line();
    let diff = json(&["log", "diff", text(&old), &address]);
    // Alone at a start, it went on as a new incarnation.
    let [machine] = &diff["machines"].as_array().unwrap()[..] else { panic!("{diff:#}") };
    assert_eq!((&machine["only_first"], &machine["only_second"]), (&Value::Null, &serde_json::json!([0, 90])));
    let table = works(&["log", "diff", &address, text(&old)]);
    assert!(table.contains("0..90"), "{table}");
    node.leave();
    let error = fails(&["log", "diff", text(&old), "nowhere"]);
    assert!(error.contains("nowhere: neither a state directory, nor an exported file"), "{error}");
}

#[test]
fn an_address_of_no_use_is_told_within_seconds() {
    let workshop = Workshop::new();
    let node = workshop.first("node", &["--samples", "0"]);
    let (address, _) = node.join_line();
    let (host, peer) = address.split_once("/p2p/").unwrap();
    let other = "12D3KooWQYV9dGMFoRzNStwpXztXaBUjtPqi6aU76ZgUriHhKust";
    assert_ne!(peer, other);
    for (address, expected) in [
        (format!("{host}/p2p/{other}"), "another node answers there"),
        (host.to_owned(), "does not end with /p2p/"),
        (format!("/ip4/127.0.0.1/tcp/1/p2p/{other}"), "cannot be reached"),
        ("127.0.0.1:9713".into(), "not a multiaddr"),
    ] {
        let error = fails(&["log", "show", "--peer", &address]);
        assert!(error.contains(expected) && error.contains(&address), "{error}");
    }
    // Takes the connection and says nothing.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("/ip4/127.0.0.1/tcp/{}/p2p/{other}", silent.local_addr().unwrap().port());
    let error = fails(&["log", "show", "--peer", &address]);
    assert!(error.contains(&address), "{error}");
    for both in [["--peer", "--file"], ["--file", "--state"], ["--peer", "--state"]] {
        let (_, error, success) = run(&["log", "show", both[0], "x", both[1], "y"]);
        assert!(!success && error.contains("cannot be used with"), "{error}");
    }
    node.leave();
}

/// A node of the test's own, which answers as it is told and then no more.
struct Fake {
    network: Network,
    manifest: Vec<u8>,
    claims: Vec<Entry>,
    /// The answer to each fetch; beyond them none.
    found: Vec<Vec<Chunk>>,
    /// Answers in its place, honestly.
    holds: Option<Replica>,
}

impl Fake {
    fn response(&mut self, question: &Question) -> Option<Response> {
        if let Some(answer) = self.holds.as_mut().and_then(|replica| replica.answer(NodeId(1), question, 0)) {
            return Some(answer);
        }
        match question {
            Question::Manifest => Some(Response::Manifest(self.manifest.clone())),
            Question::Fetch { .. } if self.found.is_empty() => None,
            Question::Fetch { .. } => Some(Response::Found { chunks: self.found.remove(0), statements: Vec::new() }),
            _ => Some(Response::Entries { entries: self.claims.clone(), more: None }),
        }
    }

    /// What `node log show` comes to when it asks this, and after how long.
    async fn shown(mut self) -> Output {
        let address = format!("{}/p2p/{}", self.network.listen_addresses()[0], self.network.peer_id());
        let begun = Instant::now();
        // A file, because nobody reads a pipe while the inspector runs.
        let mut stdout = tempfile::tempfile().unwrap();
        let mut child = inspector(&address, stdout.try_clone().unwrap().into());
        let mut unanswered = Vec::new();
        while child.try_wait().unwrap().is_none() {
            assert!(begun.elapsed() < PATIENCE, "the inspector waits for ever");
            match tokio::time::timeout(Duration::from_millis(50), self.network.next()).await {
                Ok(Event::Request { bytes, responder, .. }) => {
                    match self.response(&Request::decode(&bytes).unwrap().question) {
                        Some(response) => self.network.respond(responder, response.encode().unwrap()),
                        None => unanswered.push(responder),
                    }
                }
                Ok(Event::Gossip { source, message, .. }) => self.network.report(&message, &source, Verdict::Ignore),
                _ => {}
            }
        }
        let mut output = child.wait_with_output().unwrap();
        stdout.rewind().unwrap();
        stdout.read_to_end(&mut output.stdout).unwrap();
        output
    }

    /// What it says in the end.
    async fn refused(self) -> String {
        let output = self.shown().await;
        assert!(!output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
        String::from_utf8(output.stderr).unwrap()
    }
}

fn inspector(address: &str, stdout: Stdio) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_node"));
    command.args(["log", "show", "--json", "--peer", address]).stdin(Stdio::null());
    command.stdout(stdout).stderr(Stdio::piped()).spawn().unwrap()
}

#[tokio::test]
async fn a_peer_that_stops_or_lies_is_given_up_on_with_what_is_known() {
    let workshop = Workshop::new();
    let state = trained(&workshop, "node", 20);
    let log = Log::of_state(&state).unwrap();
    let signer = Ed25519Signer::from_seed(&[3; 32]);
    let machine = MachineId { key: signer.key(), incarnation: 1 };
    let segment = |first, bytes| Segment { first, swarm_step: 0, bytes };
    let (first, head) = Chunk::sign(&log.run, machine, segment(0, &[1; 64]), [0; 32], &signer);
    let (second, _) = Chunk::sign(&log.run, machine, segment(64, &[2; 64]), head, &signer);
    let claims = vec![Entry::Ledger(machine, Standing::Live { height: 128, head: [9; 32] })];
    let fake = async |found: Vec<Vec<Chunk>>| {
        let listen = vec!["/ip4/127.0.0.1/tcp/0".parse().unwrap()];
        let network = Network::start(NetworkConfig::new([8; 32], None, listen)).await.unwrap();
        Fake { network, manifest: log.manifest_bytes.clone(), claims: claims.clone(), found, holds: None }
    };
    let error = fake(vec![vec![first.clone()]]).await.refused().await;
    assert!(error.contains("got 0 of 1 machines whole, 64 gradients in all, all signatures sound; then"), "{error}");
    assert!(error.contains("sent nothing new for 15 s"), "{error}");
    let mut wrong = second.clone();
    wrong.bytes[5] ^= 1;
    let error = fake(vec![vec![first.clone()], vec![wrong]]).await.refused().await;
    assert!(error.contains("64 gradients in all") && error.contains("the signature is not"), "{error}");
    // It claims more than it ever sends.
    let error = fake(vec![vec![first]; 1_000]).await.refused().await;
    assert!(error.contains("got 0 of 1 machines whole, 64 gradients in all"), "{error}");
}

#[tokio::test]
async fn a_peer_with_hundreds_of_machines_and_a_fork_is_read_whole() {
    let workshop = Workshop::new();
    let state = trained(&workshop, "node", 20);
    let mut log = Log::of_state(&state).unwrap();
    let sign = |incarnation, bytes: &[u8]| {
        let signer = Ed25519Signer::from_seed(&[3; 32]);
        let machine = MachineId { key: signer.key(), incarnation };
        Chunk::sign(&log.run, machine, Segment { first: 0, swarm_step: 0, bytes }, [0; 32], &signer).0
    };
    let chunks: Vec<Chunk> = (1..=400).map(|incarnation| sign(incarnation, &[incarnation as u8; 30])).collect();
    let proof = ForkProof { left: sign(7, &[1; 5]), right: sign(7, &[2; 5]) };
    for chunk in chunks {
        log.replica.restore_chunk(chunk).unwrap();
    }
    log.replica.restore_statement(Statement::Revocation(Revocation::Fork(Box::new(proof)))).unwrap();
    let root: String = log.replica.root().iter().map(|byte| format!("{byte:02x}")).collect();
    let listen = vec!["/ip4/127.0.0.1/tcp/0".parse().unwrap()];
    let network = Network::start(NetworkConfig::new([8; 32], None, listen)).await.unwrap();
    let (manifest, claims, found) = (log.manifest_bytes, Vec::new(), Vec::new());
    let output = Fake { network, manifest, claims, found, holds: Some(log.replica) }.shown().await;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let shown: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&shown["vector"], &shown["gradients"]), (&root.into(), &(20 + 399 * 30).into()));
}
