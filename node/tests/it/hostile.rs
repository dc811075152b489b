//! Attackers against real nodes: whatever they send, honest nodes end at one digest.

use crate::support::{Attacker, Node, PATIENCE, Workshop, assert_agreement, machines};
use engine::model::Checkpoint;
use protocol::{
    machine::MachineId,
    manifest::{Manifest, RunId},
    message::{Gossip, Push, Question, Request, Response},
    perturbation::{BlockSigns, sign},
    replay,
    seed::EntrySeeds,
    segment::{Chunk, Segment},
    signature::Signature,
};
use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

/// Waits until all nodes are at rest at one version vector and one digest, and stay there.
///
/// A node tells its digest only after two seconds without news, so equal digests may both be old ones, from before one
/// of the nodes took what the other still lacks. They count once they have stood for longer than news stays untold.
fn until_at_one(nodes: &[&Node]) {
    const UNTOLD_MAX: Duration = Duration::from_secs(5);
    let begun = Instant::now();
    let mut equal_since = None;
    loop {
        let told: Vec<Option<String>> = nodes.iter().map(|node| node.at_rest()).collect();
        let equal = told[0].is_some() && told.iter().all(|digest| *digest == told[0]);
        // Another digest, even one that all share again, starts the time anew.
        match &equal_since {
            Some((digest, since)) if equal && *digest == told[0] => {
                if Instant::now().duration_since(*since) >= UNTOLD_MAX {
                    return;
                }
            }
            _ => equal_since = equal.then(|| (told[0].clone(), Instant::now())),
        }
        assert!(begun.elapsed() < PATIENCE, "the honest nodes do not agree: {told:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn all_leave(nodes: Vec<Node>) -> Vec<PathBuf> {
    let states: Vec<PathBuf> = nodes.into_iter().map(Node::leave).collect();
    assert_agreement(&states);
    states
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn first_line(chunk: Chunk) -> Vec<u8> {
    Gossip::Segment(Push::of(&chunk)).encode().unwrap()
}

/// What attacker `it` sends as message number `n`, and whether it is gossip.
type Nuisance = fn(it: &Attacker, victim: MachineId, n: u8) -> Vec<u8>;

const NUISANCES: [(&str, bool, Nuisance); 8] = [
    ("gossip that is no message", true, |_, _, n| vec![0xf0 ^ n; 300]),
    ("gossip cut short", true, |it, _, n| {
        let mut bytes = first_line(it.sign(1, 0, &[n; 20], [0; 32]).0);
        bytes.truncate(80);
        bytes
    }),
    ("gossip beyond the limit", true, |_, _, n| vec![n; 56_500]),
    ("segments of another run", true, |it, _, n| {
        let segment = Segment { first: 0, swarm_step: 0, bytes: &[n; 20] };
        first_line(Chunk::sign(&RunId([9; 32]), it.machine(1), segment, [0; 32], &it.signer).0)
    }),
    ("segments with a wrong signature", true, |it, _, n| {
        let (mut chunk, _) = it.sign(1, 0, &[n; 20], [0; 32]);
        chunk.signature = Signature([n; 64]);
        first_line(chunk)
    }),
    ("another machine's history", true, |it, victim, n| {
        let (mut chunk, _) = it.sign(1, 0, &[n; 20], [0; 32]);
        chunk.machine = victim;
        first_line(chunk)
    }),
    ("requests that are none", false, |_, _, n| vec![0xff ^ n; 40]),
    ("requests cut short", false, |it, _, _| {
        let request = Request { run: it.run, question: Question::Summary { root: [1; 32] } };
        request.encode().unwrap()[..50].to_vec()
    }),
];

#[tokio::test]
async fn garbage_and_forgeries_ban_their_senders_and_change_nothing() {
    let workshop = Workshop::new();
    let a = workshop.first("a", &["--samples", "200"]);
    let (address, run) = a.join_line();
    let b = workshop.node("b", &["--bootstrap", &address, "--samples", "200"]);
    b.join_line();
    for (index, (what, gossips, message)) in NUISANCES.into_iter().enumerate() {
        let mut attacker = Attacker::start(100 + index as u8, &run, &[&address], true).await;
        let own = attacker.network.peer_id();
        attacker.until_trained(1).await;
        let victim = attacker.heights().await[0].0;
        let bad_peer = attacker.connected[0];
        for n in 0..6 {
            let bytes = message(&attacker, victim, n);
            if !gossips {
                attacker.network.request(bad_peer, bytes);
            } else if attacker.connected.contains(&bad_peer) {
                attacker.publish(&bytes).await;
            }
        }
        println!("{what}");
        attacker.until(what, |it| !it.connected.contains(&bad_peer)).await;
        a.hear(&format!("{own} is banned"));
    }

    let mut attacker = Attacker::start(120, &run, &[&address], true).await;
    let wrong = attacker.ask(RunId([9; 32]), Question::Summary { root: [0; 32] }).await;
    assert_eq!(wrong, Response::WrongRun(attacker.run));
    // A ledger of ten samples, then one that jumps ahead: nobody can use it, whoever is asked for it.
    let (begin, head) = attacker.sign(1, 0, &[5; 10], [0; 32]);
    let machine = begin.machine;
    attacker.push(&begin).await;
    attacker.until_taken(machine, 10).await;
    let (ahead, _) = attacker.sign(1, 100, &[6; 10], [3; 32]);
    attacker.served = vec![ahead.clone(), begin];
    attacker.push(&ahead).await;
    attacker.until("the question for what lies between", |it| it.fetches > 0).await;
    let (next, _) = attacker.sign(1, 10, &[7; 5], head);
    attacker.push(&next).await;
    attacker.until_taken(machine, 15).await;
    drop(attacker);

    until_at_one(&[&a, &b]);
    let states = all_leave(vec![a, b]);
    for state in &states {
        let machines = machines(state);
        assert_eq!(machines.len(), 3, "a, b and the attacker whose ledger was sound");
        assert_eq!(machines[&hex(&machine.key)]["height"], 15);
        assert!(machines[&hex(&machine.key)]["revoked"].is_null());
    }
}

#[tokio::test]
async fn forks_leave_the_weights_everywhere_however_they_are_shown() {
    let workshop = Workshop::new();
    let a = workshop.first("a", &["--samples", "150"]);
    let (a_address, run) = a.join_line();
    let b = workshop.node("b", &["--bootstrap", &a_address, "--samples", "150"]);
    b.join_line();
    let mut attacker = Attacker::start(130, &run, &[&a_address], true).await;

    // Overlapping bodies: 0..10, then another 0..5.
    let (left, _) = attacker.sign(1, 0, &[11; 10], [0; 32]);
    attacker.push(&left).await;
    attacker.until_taken(left.machine, 10).await;
    let (right, _) = attacker.sign(1, 0, &[12; 5], [0; 32]);
    attacker.push(&right).await;
    a.hear("10 gradients left the weights");

    // A successor whose predecessor is withheld: it names another 0..10 than the one that was shown.
    let (shown, _) = attacker.sign(2, 0, &[13; 10], [0; 32]);
    attacker.push(&shown).await;
    attacker.until_taken(shown.machine, 10).await;
    let (_, withheld) = attacker.sign(2, 0, &[14; 10], [0; 32]);
    let (successor, head) = attacker.sign(2, 10, &[15; 10], withheld);
    attacker.serve(successor.clone(), head);
    attacker.push(&successor).await;
    attacker.until("a fetch of the successor", |it| it.fetches > 0).await;
    attacker.during(Duration::from_millis(300)).await;
    let hears_of = |node: &Node, machine: MachineId| {
        node.hear(&format!("{machine} signed two histories"));
    };
    for node in [&a, &b] {
        hears_of(node, left.machine);
        hears_of(node, shown.machine);
    }
    drop(attacker);

    // c hears of the run from an attacker alone, who shows it another branch of equal height than a and b.
    let model = workshop.model();
    let mut to_a = Attacker::start(131, &run, &[&a_address], false).await;
    let Response::Manifest(manifest) = to_a.ask(RunId([0; 32]), Question::Manifest).await else {
        panic!("no manifest")
    };
    let mut to_c = Attacker::start(132, &run, &[], false).await;
    to_c.manifest = manifest;
    let (left, left_head) = to_a.sign(3, 0, &[21; 30], [0; 32]);
    let (right, right_head) = to_a.sign(3, 0, &[22; 30], [0; 32]);
    let two_faced = left.machine;
    to_a.serve(left, left_head);
    to_c.serve(right, right_head);
    let c_arguments = ["--bootstrap", &to_c.address(), "--model", model.to_str().unwrap(), "--samples", "150"];
    let c = workshop.node("c", &c_arguments);
    to_c.until("c to fetch the other branch", |it| it.fetches > 0).await;
    to_a.until("a to fetch one branch", |it| it.fetches > 0).await;
    to_a.until_taken(two_faced, 30).await;
    to_c.until_taken(two_faced, 30).await;
    assert!(!a.said(&format!("{two_faced} signed")) && !c.said(&format!("{two_faced} signed")));
    let (c_address, _) = c.join_line();
    drop((to_a, to_c));
    let d = workshop.node("d", &["--bootstrap", &a_address, "--bootstrap", &c_address, "--samples", "50"]);
    for node in [&a, &b, &c, &d] {
        hears_of(node, two_faced);
    }

    until_at_one(&[&a, &b, &c, &d]);
    let states = all_leave(vec![a, b, c, d]);
    for state in &states {
        let shown = crate::support::inspect(state, &["log", "show", "--json"]);
        assert_eq!(shown.matches("forked: none of it counts").count(), 3, "{shown}");
        assert!(shown.contains("\"gradients\": 500,"), "150 + 150 + 150 + 50 honest ones count: {shown}");
    }
}

/// Bytes that move element 0 of the first tensor by `distance` quanta or a little more.
fn bytes_that_push(manifest: &Manifest, run: &RunId, machine: &MachineId, distance: i64) -> Vec<u8> {
    let spec = &manifest.tensors[0];
    let (mut bytes, mut moved) = (Vec::new(), 0i64);
    let mut seeds = EntrySeeds::new(run, machine, &manifest.groups);
    while moved < distance {
        let seed = seeds.of(bytes.len() as u64);
        let key = seed.tensor_key(0);
        let up = sign(&BlockSigns::new(&key, 0).next_step(), 0);
        let byte = if up > 0 { -127i8 } else { 127 };
        let quanta = replay::contribution(seed, byte, 0, &manifest.schedule).quanta(spec, &key);
        if seed.group == spec.group {
            moved += (i64::from(quanta) << spec.shift) * i64::from(up);
        }
        bytes.push(byte as u8);
        assert!(bytes.len() <= 4096, "one segment does not push that far");
    }
    bytes
}

#[tokio::test]
async fn a_weight_that_is_pushed_out_of_its_range_is_reported_and_a_fork_proof_heals_it() {
    // A model that steps slowly enough for the push to arrive long before the samples are made.
    let workshop = Workshop::with_model(64, 0.2);
    // Ranges with little room: one message can carry what leaves them.
    let a = workshop.first("a", &["--samples", "4000", "--planned-gradients", "500"]);
    let (address, run) = a.join_line();
    let b = workshop.node("b", &["--bootstrap", &address, "--samples", "4000"]);
    b.join_line();
    let mut attacker = Attacker::start(140, &run, &[&address], true).await;
    let Response::Manifest(manifest) = attacker.ask(RunId([0; 32]), Question::Manifest).await else {
        panic!("no manifest")
    };
    let (manifest, run) = Manifest::decode(&manifest).unwrap();
    let spec = &manifest.tensors[0];
    let base = Checkpoint::load(&workshop.model()).unwrap().tensor(&spec.name).unwrap();
    let weight = base.flatten_all().unwrap().to_vec1::<f32>().unwrap()[0] / spec.quantum();
    // Beyond the end by one part in a hundred: it comes in again at the other.
    let distance = (1.01 * f64::from(1 << 24)) as i64 - weight as i64;
    let bytes = bytes_that_push(&manifest, &run, &attacker.machine(1), distance);
    let (push, _) = attacker.sign(1, 0, &bytes, [0; 32]);
    attacker.until_trained(100).await;
    attacker.push(&push).await;
    attacker.until_taken(push.machine, bytes.len() as u64).await;
    for node in [&a, &b] {
        node.hear("a weight is near the end of its range");
    }

    // What was measured before is still signed and sent; then nothing comes.
    attacker.during(Duration::from_millis(2_500)).await;
    let before = attacker.heights().await;
    attacker.during(Duration::from_secs(1)).await;
    assert_eq!(attacker.heights().await, before, "probes go on at the edge");
    let honest = before.iter().filter(|(machine, _)| *machine != push.machine);
    assert!(honest.clone().count() == 2 && honest.clone().any(|(_, height)| *height < 4000), "{before:?}");

    let (other, _) = attacker.sign(1, 0, &[1; 3], [0; 32]);
    attacker.push(&other).await;
    for node in [&a, &b] {
        node.hear(&format!("{} gradients left the weights, exactly", bytes.len()));
        node.hear("all weights are well within their ranges again");
    }
    drop(attacker);
    until_at_one(&[&a, &b]);
    for state in all_leave(vec![a, b]) {
        let shown = crate::support::inspect(&state, &["log", "show", "--json"]);
        assert!(shown.contains("\"gradients\": 8000,"), "all honest gradients, and no others: {shown}");
    }
}

#[tokio::test]
async fn a_joiner_that_is_sent_a_wrong_base_finishes_from_an_honest_peer() {
    let workshop = Workshop::new();
    let a = workshop.first("a", &["--samples", "50"]);
    let (address, run) = a.join_line();
    let mut attacker = Attacker::start(150, &run, &[&address], false).await;
    let run_id = attacker.run;
    let Response::Manifest(manifest) = attacker.ask(run_id, Question::Manifest).await else { panic!("no manifest") };
    let question = Question::BaseDigests { from: 0 };
    let Response::BaseDigests(digests) = attacker.ask(run_id, question).await else { panic!("no digests") };
    let Response::BaseChunk(mut chunk) = attacker.ask(run_id, Question::BaseChunk { index: 0 }).await else {
        panic!("no chunk")
    };
    let middle = chunk.len() / 2;
    chunk[middle] ^= 1;
    (attacker.manifest, attacker.base_digests, attacker.base_chunk) = (manifest, digests, chunk);

    // The honest node sleeps until the wrong chunk is on its way.
    a.signal("STOP");
    let joiner = workshop.node(
        "joiner",
        &["--bootstrap", &attacker.address(), "--bootstrap", &address, "--run", &run, "--samples", "50"],
    );
    attacker.until("the joiner to ask for the base", |it| it.base_chunks_asked > 0).await;
    a.signal("CONT");
    let liar = attacker.network.peer_id();
    let begun = Instant::now();
    while !joiner.said(&format!("asking {liar} no more")) {
        assert!(begun.elapsed() < PATIENCE, "the joiner took the wrong chunk: {:#?}", joiner.lines());
        attacker.during(Duration::from_millis(50)).await;
    }
    drop(attacker);
    joiner.hear("the base model is complete");
    until_at_one(&[&a, &joiner]);
    all_leave(vec![a, joiner]);
}

/// A node that was given the run's tensors in other files trains like any other, and has no byte of the run's base.
#[tokio::test]
async fn who_has_the_same_tensors_in_other_files_trains_and_serves_no_base() {
    let workshop = Workshop::new();
    let a = workshop.first("a", &["--samples", "50"]);
    let (address, run) = a.join_line();
    let copy = crate::support::in_shards(&workshop);
    let b = workshop.node("b", &["--bootstrap", &address, "--model", copy.to_str().unwrap(), "--samples", "50"]);
    b.hear("the run's tensors in other files");
    let (b_address, _) = b.join_line();
    let mut asker = Attacker::start(160, &run, &[&b_address], false).await;
    let run_id = asker.run;
    for question in [Question::BaseDigests { from: 0 }, Question::BaseChunk { index: 0 }] {
        assert_eq!(asker.ask(run_id, question).await, Response::Unavailable);
    }
    assert!(matches!(asker.ask(run_id, Question::Manifest).await, Response::Manifest(_)));
    drop(asker);
    // It asks b, too, and rests; a gives it everything.
    let joiner = workshop.node("joiner", &["--bootstrap", &b_address, "--bootstrap", &address, "--samples", "0"]);
    joiner.hear("the base model is complete");
    until_at_one(&[&a, &b, &joiner]);
    let states = all_leave(vec![a, b, joiner]);
    let b = workshop.node("b", &["--samples", "60", "--exit-when-idle", "0"]);
    b.finish();
    crate::support::inspect(&states[1], &["log", "verify"]);
}
