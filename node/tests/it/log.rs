//! The log, wherever it is: in a directory that a node is using, in a file, on a node that is asked over the network;
//! and what people hear when it is damaged, cut short, of another run, or not there.

use crate::support::{PATIENCE, Workshop, assert_agreement, inspect};
use node::{
    log::{Log, export},
    network::{Event, Network, NetworkConfig},
};
use protocol::{
    machine::MachineId,
    message::{Question, Request, Response},
    replica::{NodeId, Replica, Verdict},
    revocation::{ForkProof, Revocation},
    segment::{Chunk, Digest, Segment},
    signature::{Ed25519Signer, Signer},
    statement::Statement,
    version_vector::{Entry, Standing},
};
use rand_xoshiro::{
    Xoshiro256PlusPlus,
    rand_core::{Rng, SeedableRng},
};
use serde_json::Value;
use std::{
    collections::BTreeMap,
    fs,
    io::{Read, Seek},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant, SystemTime},
};

/// (standard output, standard error, whether it succeeded).
fn run(arguments: &[&str]) -> (String, String, bool) {
    let output = Command::new(env!("CARGO_BIN_EXE_node")).args(arguments).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (text(output.stdout), text(output.stderr), output.status.success())
}

fn works(arguments: &[&str]) -> String {
    let (output, error, success) = run(arguments);
    assert!(success, "node {arguments:?} failed: {error}");
    output
}

fn fails(arguments: &[&str]) -> String {
    let (output, error, success) = run(arguments);
    assert!(!success, "node {arguments:?} succeeded: {output}");
    assert_eq!(error.trim().lines().count(), 1, "one line: {error}");
    error
}

fn json(arguments: &[&str]) -> Value {
    serde_json::from_str(&works(&[arguments, &["--json"]].concat())).unwrap()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn heights(shown: &Value) -> u64 {
    shown["machines"].as_array().unwrap().iter().map(|machine| machine["height"].as_u64().unwrap()).sum()
}

/// A state directory whose node made `samples` and left.
fn trained(workshop: &Workshop, name: &str, samples: u64) -> PathBuf {
    let node = workshop.first(name, &["--samples", &samples.to_string()]);
    until_contributed(&workshop.state(name), samples);
    node.leave()
}

fn until_contributed(state: &Path, samples: u64) {
    let begun = Instant::now();
    while !state.join("node.redb").exists() || heights_if_any(state) < samples {
        assert!(begun.elapsed() < PATIENCE, "{} never has {samples} gradients", state.display());
        std::thread::park_timeout(Duration::from_millis(50));
    }
}

fn heights_if_any(state: &Path) -> u64 {
    Log::of_state(state).map_or(0, |log| log.replica.machines().map(|(_, ledger, _)| ledger.height()).sum())
}

/// Names, contents and times of a directory's files.
fn files(directory: &Path) -> BTreeMap<PathBuf, (Vec<u8>, SystemTime)> {
    let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let file = |path: PathBuf| {
        let modified = fs::metadata(&path).unwrap().modified().unwrap();
        (path.clone(), (fs::read(&path).unwrap(), modified))
    };
    entries.map(file).collect()
}

#[test]
fn a_directory_is_read_while_its_node_trains_and_neither_suffers() {
    let workshop = Workshop::new();
    // So slowly that no weight nears the end of its range, however many gradients are made meanwhile.
    let mut node = workshop.first("node", &["--learning-rate", "1e-7"]);
    let state = workshop.state("node");
    until_contributed(&state, 50);
    let mut seen = 0;
    for round in 0..8 {
        let shown = json(&["log", "show", "--state", text(&state)]);
        let height = heights(&shown);
        assert!(height >= seen, "round {round}: {height} gradients after {seen}");
        seen = height;
        assert_eq!(shown["machines"].as_array().unwrap().len(), 1, "an inspector opens no incarnation: {shown:#}");
        assert_eq!(shown["machines"][0]["own"], true);
        let verified = json(&["log", "verify", "--state", text(&state)]);
        assert_eq!(verified["checkpoint_agrees"], true, "round {round}: {verified:#}");
        works(&["log", "export", "--state", text(&state), "--out", text(&workshop.state(&format!("{round}.1byte")))]);
    }
    until_contributed(&state, seen + 50);
    assert!(node.is_running() && !node.said("WARN") && !node.said("ERROR"), "{}", node.lines().join("\n"));
    node.leave();
    assert!(heights(&json(&["log", "show", "--state", text(&state)])) >= seen + 50);
    assert_agreement(&[state]);
}

#[test]
fn looking_at_a_directory_changes_nothing_in_it_not_even_in_a_copy() {
    let workshop = Workshop::new();
    let state = trained(&workshop, "node", 60);
    let copy = workshop.state("copy");
    fs::create_dir(&copy).unwrap();
    for name in files(&state).keys().filter_map(|path| path.file_name()) {
        fs::copy(state.join(name), copy.join(name)).unwrap();
    }
    let shown = inspect(&state, &["log", "show", "--json"]);
    for directory in [&state, &copy] {
        let before = files(directory);
        for command in ["show", "tail", "verify"] {
            inspect(directory, &["log", command]);
        }
        assert_eq!(inspect(directory, &["log", "show", "--json"]), shown);
        assert!(files(directory) == before, "{} was touched", directory.display());
    }
}

#[test]
fn an_exported_log_is_imported_with_the_same_vector_and_a_node_goes_on_with_it() {
    let workshop = Workshop::new();
    let first = workshop.first("first", &["--samples", "200"]);
    let (address, _) = first.join_line();
    first.until_gradients(200);
    let second =
        workshop.node("second", &["--bootstrap", &address, "--samples", "150", "--exit-when-idle", "2"]).finish();
    let state = first.leave();
    let (file, again) = (workshop.state("log.1byte"), workshop.state("again.1byte"));
    let exported = works(&["log", "export", "--state", text(&state), "--out", text(&file)]);
    assert!(exported.contains("350 gradients of 2 machines"), "{exported}");
    assert!(fails(&["log", "export", "--state", text(&state), "--out", text(&file)]).contains("is there already"));
    let show = |source: &[&str]| json(&[&["log", "show"], source].concat());
    let vector = show(&["--state", text(&state)])["vector"].clone();
    assert_eq!(show(&["--file", text(&file)])["vector"], vector);
    assert_eq!(show(&["--state", text(&second)])["vector"], vector);

    let fresh = workshop.state("fresh");
    let imported = works(&["log", "import", "--file", text(&file), "--state", text(&fresh)]);
    assert!(imported.contains("350 gradients are new, 350 are there now"), "{imported}");
    assert!(imported.contains("the base model is not there yet"), "{imported}");
    assert_eq!(show(&["--state", text(&fresh)])["vector"], vector);
    works(&["log", "export", "--state", text(&fresh), "--out", text(&again)]);
    assert!(fs::read(&again).unwrap() == fs::read(&file).unwrap(), "exports of one log differ");
    let imported = works(&["log", "import", "--file", text(&file), "--state", text(&fresh)]);
    assert!(imported.contains("0 gradients are new"), "{imported}");

    let verified = works(&["log", "verify", "--file", text(&file)]);
    assert!(verified.contains("all sound") && verified.contains("were not replayed"), "{verified}");
    let weights =
        json(&["log", "verify", "--file", text(&file), "--model", text(&workshop.model())])["weights"].clone();
    assert_eq!(weights, json(&["log", "verify", "--state", text(&state)])["weights"]);

    let error = fails(&["--state", text(&fresh), "--no-mdns", "--listen", "/ip4/127.0.0.1/tcp/0"]);
    assert!(error.contains("base model") && error.contains("--model") && error.contains("--bootstrap"), "{error}");
    let model = workshop.model();
    let node = workshop.node("fresh", &["--model", text(&model), "--samples", "10"]);
    until_contributed(&fresh, 360);
    let error = fails(&["log", "import", "--file", text(&file), "--state", text(&fresh)]);
    assert!(error.contains("in use by process"), "{error}");
    node.leave();
    let verified = json(&["log", "verify", "--state", text(&fresh)]);
    assert_eq!((&verified["entries"], &verified["checkpoint_agrees"]), (&360.into(), &true.into()), "{verified:#}");
}

#[test]
fn a_log_on_the_embedded_model_needs_no_base_beside_it() {
    let workshop = Workshop::new();
    let node = workshop.node("node", &["--samples", "30"]);
    until_contributed(&workshop.state("node"), 30);
    let state = node.leave();
    let (file, fresh) = (workshop.state("log.1byte"), workshop.state("fresh"));
    works(&["log", "export", "--state", text(&state), "--out", text(&file)]);
    let of_file = json(&["log", "verify", "--file", text(&file)]);
    let of_state = json(&["log", "verify", "--state", text(&state)]);
    assert_eq!((&of_file["weights"], &of_file["entries"]), (&of_state["weights"], &30.into()), "{of_file:#}");
    works(&["log", "import", "--file", text(&file), "--state", text(&fresh)]);
    let node = workshop.node("fresh", &["--samples", "5"]);
    until_contributed(&fresh, 35);
    node.leave();
    assert_agreement(&[fresh]);
}

#[test]
fn import_merges_what_is_new_and_refuses_another_run() {
    let workshop = Workshop::new();
    let state = trained(&workshop, "node", 60);
    let (old, new) = (workshop.state("old.1byte"), workshop.state("new.1byte"));
    works(&["log", "export", "--state", text(&state), "--out", text(&old)]);
    let node = workshop.node("node", &["--samples", "150"]);
    until_contributed(&state, 150);
    node.leave();
    works(&["log", "export", "--state", text(&state), "--out", text(&new)]);
    let target = workshop.state("target");
    for (file, expected) in
        [(&old, "60 gradients are new, 60"), (&new, "90 gradients are new, 150"), (&old, "0 gradients are new")]
    {
        let imported = works(&["log", "import", "--file", text(file), "--state", text(&target)]);
        assert!(imported.contains(expected), "{imported}");
    }
    assert_eq!(json(&["log", "diff", text(&target), text(&state)])["same"], true);
    let other = trained(&workshop, "other", 20);
    let before = json(&["log", "show", "--state", text(&other)]);
    let error = fails(&["log", "import", "--file", text(&new), "--state", text(&other)]);
    assert!(error.contains("two runs of the same settings") && error.contains("--state"), "{error}");
    assert_eq!(json(&["log", "show", "--state", text(&other)]), before);
    let error = fails(&["log", "diff", text(&old), text(&other)]);
    assert!(error.contains("two runs: "), "{error}");
}

/// An export of what `state` has, and behind sample `keep` of its machine another history under the same key.
fn forked_export(state: &Path, keep: u64, file: &Path) {
    let log = Log::of_state(state).unwrap();
    let own = log.own.unwrap();
    let signer = Ed25519Signer::from_seed(&log.state.as_ref().unwrap().secret_key());
    assert_eq!(signer.key(), own.key);
    let mut replica = node::log::onlooker(log.run, &log.manifest).unwrap();
    let (mut first, mut previous): (u64, Digest) = (0, [0; 32]);
    for segment in log.replica.ledger(&own).unwrap().chunks().iter().flat_map(|chunk| chunk.segments()) {
        let bytes = if segment.first < keep { segment.bytes.to_vec() } else { vec![7; segment.bytes.len()] };
        let segment = Segment { first, swarm_step: segment.swarm_step, bytes: &bytes };
        let (chunk, digest) = Chunk::sign(&log.run, own, segment, previous, &signer);
        (first, previous) = (chunk.end(), digest);
        replica.restore_chunk(chunk).unwrap();
    }
    export::write(&mut fs::File::create(file).unwrap(), &log.manifest_bytes, &replica).unwrap();
}

#[test]
fn two_histories_are_told_apart_and_become_a_fork_proof_on_import() {
    let workshop = Workshop::new();
    let state = trained(&workshop, "node", 400);
    let log = Log::of_state(&state).unwrap();
    let ledger = log.replica.ledger(&log.own.unwrap()).unwrap();
    let boundary = ledger.chunks()[0].segments().nth(1).unwrap().first;
    let forked = workshop.state("forked.1byte");
    forked_export(&state, boundary, &forked);
    let diff = json(&["log", "diff", text(&state), text(&forked)]);
    assert_eq!((&diff["same"], &diff["machines"][0]["fork"]), (&false.into(), &boundary.into()), "{diff:#}");
    let table = works(&["log", "diff", text(&state), text(&forked)]);
    assert!(table.contains(&format!("two histories from sample {boundary} on")), "{table}");
    let target = workshop.state("target");
    let honest = workshop.state("honest.1byte");
    works(&["log", "export", "--state", text(&state), "--out", text(&honest)]);
    works(&["log", "import", "--file", text(&honest), "--state", text(&target)]);
    let imported = works(&["log", "import", "--file", text(&forked), "--state", text(&target)]);
    assert!(imported.contains("signed two histories: all of it is out, 400 gradients"), "{imported}");
    let diff = json(&["log", "diff", text(&target), text(&honest)]);
    assert!(diff["machines"][0]["revoked_first"].as_str().unwrap().contains("forked"), "{diff:#}");
    // The other way round it ends the same.
    let other = workshop.state("other-way-round");
    works(&["log", "import", "--file", text(&forked), "--state", text(&other)]);
    works(&["log", "import", "--file", text(&honest), "--state", text(&other)]);
    assert_eq!(json(&["log", "diff", text(&target), text(&other)])["same"], true);
}

#[test]
fn damage_to_a_file_is_found_and_named_by_every_command() {
    let workshop = Workshop::new();
    let state = trained(&workshop, "node", 300);
    let file = workshop.state("log.1byte");
    works(&["log", "export", "--state", text(&state), "--out", text(&file)]);
    let bytes = fs::read(&file).unwrap();
    let seed = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_nanos() as u64;
    println!("seed {seed}");
    let mut random = Xoshiro256PlusPlus::seed_from_u64(seed);
    let names = ["the header", "the manifest", "the contents", "machine ", "the statements", "the end"];
    for _ in 0..200 {
        let mut damaged = bytes.clone();
        let place = (random.next_u64() % bytes.len() as u64) as usize;
        damaged[place] ^= 1 + (random.next_u64() % 255) as u8;
        fs::write(&file, &damaged).unwrap();
        let error = format!("{:#}", Log::of_file(&file).err().unwrap_or_else(|| panic!("seed {seed}: byte {place}")));
        assert!(names.iter().any(|name| error.contains(name)), "seed {seed}: byte {place}: {error}");
    }
    // A byte of the ledger itself: right before its check, the statements', the end.
    let mut damaged = bytes.clone();
    damaged[bytes.len() - 64 - 16 - 16 - 1] ^= 0x10;
    fs::write(&file, &damaged).unwrap();
    let fresh = workshop.state("fresh");
    for command in ["show", "tail", "verify"] {
        let error = fails(&["log", command, "--file", text(&file)]);
        assert!(error.contains("machine ") && error.contains(" samples 0..300;"), "{error}");
    }
    fails(&["log", "import", "--file", text(&file), "--state", text(&fresh)]);
    assert!(!fresh.exists(), "a damaged file makes no directory");
    fs::write(&file, &bytes[..bytes.len() - 200]).unwrap();
    let error = fails(&["log", "show", "--file", text(&file)]);
    assert!(error.contains("ends in machine ") && error.contains("sections are sound"), "{error}");
}

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
