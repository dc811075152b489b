//! What peers may send, and how often.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::{
    segment::{Part, head_message},
    signature::{Signature, Verifier},
};

#[test]
fn garbage_wrong_signatures_and_strangers_claims_change_nothing() {
    let mut net = started(1);
    net.connect(0, 0);
    let before = net.nodes[0].replica.root();
    for length in [0usize, 1, 7, 100, 50_000] {
        let garbage: Vec<u8> = (0..length).map(|i| (i * 31 + length) as u8).collect();
        assert_eq!(net.nodes[0].replica.gossip(NodeId(0), &garbage, 0), Verdict::Reject);
    }
    let (mut chunk, _) = branch(99, 0, [0; 32], &[1, 2, 3]);
    chunk.signature.0[5] ^= 1;
    assert_eq!(push(&mut net, 0, 0, &chunk), Verdict::Reject);
    let (ahead, _) = branch(99, 10, [3; 32], &[1, 2, 3]);
    assert_eq!(push(&mut net, 0, 0, &ahead), Verdict::Ignore);
    let (empty, _) = branch(99, 0, [0; 32], &[]);
    assert_eq!(push(&mut net, 0, 0, &empty), Verdict::Reject);
    assert_eq!(net.nodes[0].replica.root(), before);
    assert!(net.nodes[0].disk.is_empty() && net.nodes[0].weights.is_empty());
    assert!(net.nodes[0].penalties.len() >= 7);
}

/// Counts what it is asked.
#[derive(Clone, Default)]
struct Counting(Arc<AtomicUsize>);

impl Verifier for Counting {
    fn verify(&self, key: &[u8; 32], message: &[u8], signature: &Signature) -> bool {
        self.0.fetch_add(1, Ordering::Relaxed);
        Ed25519Verifier.verify(key, message, signature)
    }
}

#[test]
fn forged_pushes_cost_little_and_those_of_others_are_taken_meanwhile() {
    let (manifest, counting) = (manifest(None), Counting::default());
    let (run, settings) = (manifest.run_id().unwrap(), Settings::default());
    let verifier = Box::new(counting.clone());
    let mut replica = Replica::new(run, Arc::new(manifest), settings, machine(1, 1), verifier, 1);
    let (forger, honest) = (NodeId(1), NodeId(2));
    let gossip = |replica: &mut Replica, from, chunk: &Chunk, now_ms| {
        replica.gossip(from, &Gossip::Segment(Push::of(chunk)).encode().unwrap(), now_ms)
    };
    replica.peer_connected(forger, 0);
    replica.peer_connected(honest, 0);
    let (begun, head) = branch(9, 0, [0; 32], &[1; 8]);
    assert_eq!(gossip(&mut replica, honest, &begun, 0), Verdict::Accept);
    let before = counting.0.load(Ordering::Relaxed);
    let (next, _) = branch(9, 8, head, &[2; 8]);
    for forged in 0..100u8 {
        let mut chunk = next.clone();
        chunk.signature.0[0] ^= forged + 1;
        assert_eq!(gossip(&mut replica, forger, &chunk, 2_000 + u64::from(forged)), Verdict::Ignore);
    }
    assert!(counting.0.load(Ordering::Relaxed) - before <= 4, "of a hundred in a tenth of a second");
    assert_eq!(gossip(&mut replica, honest, &next, 2_100), Verdict::Accept);
    let held_against = |output| matches!(output, Output::Penalize(..));
    assert!(!std::iter::from_fn(|| replica.poll_output()).any(held_against), "it may be of another branch");
    let (last, _) = branch(9, 16, branch(9, 8, head, &[2; 8]).1, &[3; 8]);
    assert_eq!(gossip(&mut replica, forger, &last, 3_500), Verdict::Accept, "it is heard again");
}

#[test]
fn a_peer_that_claims_everything_and_sends_nothing_holds_nobody_up() {
    let mut net = started(2);
    train_all(&mut net, 4);
    let claimed = net.nodes[0].replica.own_machine();
    let standing = Standing::Live { height: 9_000, head: [1; 32] };
    let manifest = manifest(None);
    let mut joiner = Node::new(7, 1, &manifest);
    joiner.replica.start(OwnHead::Sure, 0);
    let (liar, honest) = (NodeId(50), NodeId(0));
    let (mut now_ms, mut caught_up, mut ignored_since) = (0, None, None);
    joiner.replica.peer_connected(liar, now_ms);
    joiner.replica.peer_connected(honest, now_ms);
    while now_ms < 120_000 && caught_up.is_none() {
        now_ms += 250;
        joiner.replica.tick(now_ms);
        // The network gives up on an answer.
        if ignored_since.is_some_and(|since| now_ms >= since + 20_000) {
            ignored_since = None;
            joiner.replica.no_answer(liar);
        }
        for _ in 0..1_000 {
            let Some(output) = joiner.replica.poll_output() else { break };
            match output {
                // The liar answers at once what costs nothing, and never what it claimed.
                Output::Ask(peer, Question::Fetch { .. }) if peer == liar => ignored_since = Some(now_ms),
                Output::Ask(peer, _) if peer == liar => {
                    let entries = vec![Entry::Ledger(claimed, standing)];
                    joiner.replica.answered(liar, Response::Entries { entries, more: None }, now_ms);
                }
                Output::Ask(peer, question) => {
                    let answer = net.nodes[0].replica.answer(NodeId(7), &question, now_ms);
                    joiner.replica.answered(peer, answer.expect("a question for the replica"), now_ms);
                }
                _ => {}
            }
        }
        let complete = joiner.replica.ledger(&claimed).is_some_and(|ledger| ledger.height() == 4);
        caught_up = (complete && joiner.replica.is_caught_up()).then_some(now_ms);
    }
    assert!(caught_up.is_some_and(|at| at <= 40_000), "the liar held the joiner up: {caught_up:?}");
}

#[test]
fn a_slow_model_sends_at_once_and_a_fast_one_gathers_more_in_a_larger_swarm() {
    let table = [
        (1, 2_000, 1),
        (1, 100, 10),
        (1, 10, 100),
        (1, 1, 256),
        (32, 2_000, 1),
        (32, 200, 5),
        (32, 50, 20),
        (32, 25, 64),
        (32, 10, 160),
        (100, 2_000, 1),
        (100, 100, 10),
        (100, 20, 200),
        (100, 1, 256),
    ];
    for (machines, interval_ms, gathered) in table {
        let replica = &mut started(1).nodes[0].replica;
        for other in 1..machines {
            let segment = Segment { first: 0, swarm_step: 0, bytes: &[1] };
            let (chunk, digest) = Chunk::unsigned(&replica.run, machine(9, other), segment, [0; 32]);
            replica.append(VerifiedChunk::trusted(Arc::new(chunk), vec![digest])).unwrap();
        }
        let mut segments = Vec::new();
        for sample in 0..2_000 {
            let own = OwnByte { machine: replica.own_machine(), sample, byte: 1, swarm_step: 0 };
            replica.own_bytes(&[own], sample * interval_ms);
            while let Some(output) = replica.poll_output() {
                match output {
                    Output::Sign { token, message } => {
                        replica.signed(token, signer(0).sign(&message), sample * interval_ms);
                    }
                    Output::Persist(records, Some(token)) => {
                        let Some(Record::Chunk(chunk)) = records.first() else { panic!("an own segment") };
                        segments.push(chunk.bytes.len());
                        replica.persisted(token, sample * interval_ms);
                    }
                    _ => {}
                }
            }
        }
        assert_eq!(segments[0], 1, "nobody knows yet whether it is slow");
        let told = (machines, interval_ms);
        assert!(segments[1..].iter().all(|samples| *samples == gathered), "{told:?}: {segments:?}");
    }
}

#[test]
fn a_listing_without_end_is_an_offence() {
    let mut net = started(1);
    let (liar, mut machines) = (NodeId(50), 0u64);
    let replica = &mut net.nodes[0].replica;
    replica.peer_connected(liar, 0);
    for _ in 0..1_000_000 {
        match replica.poll_output() {
            Some(Output::Ask(_, Question::Fetch { .. })) => {
                replica.answered(liar, Response::Found { chunks: Vec::new(), statements: Vec::new() }, 0);
            }
            Some(Output::Ask(..)) => {
                let entry = |incarnation| {
                    Entry::Ledger(MachineId { key: [9; 32], incarnation }, Standing::Live { height: 1, head: [1; 32] })
                };
                let entries: Vec<_> = (machines..machines + 2_048).map(entry).collect();
                machines += 2_048;
                let more = Some(crate::message::Cursor { bucket: 0, after: entries.last().map(Entry::subject) });
                replica.answered(liar, Response::Entries { entries, more }, 0);
            }
            Some(Output::Penalize(peer, _)) => {
                assert_eq!(peer, liar);
                assert!(machines <= 2 * 65_536 + 2_048, "only after {machines} machines");
                return;
            }
            Some(_) => {}
            None => break,
        }
    }
    panic!("{machines} machines were listed, and nobody minded");
}

/// Sixty ledgers of 1,024 segments of one byte: an answer has room for 39 of them.
fn restore_many(replica: &mut Replica) {
    let run = *replica.run();
    for node in 10..70u8 {
        let parts = vec![Part { samples: 1, swarm_step: 0 }; 1024];
        let (machine, bytes) = (machine(node, 1), vec![1; 1024]);
        let mut chunk = Chunk { machine, first: 0, previous: [0; 32], parts, bytes, signature: Signature([0; 64]) };
        let head = *chunk.digests(&run).last().unwrap();
        chunk.signature = signer(node).sign(&head_message(&head));
        replica.restore_chunk(chunk).unwrap();
    }
}

#[test]
fn nobody_is_caught_up_before_all_that_was_listed_is_here() {
    let mut net = started(2);
    restore_many(&mut net.nodes[0].replica);
    net.connect(0, 1);
    net.settle();
    let joiner = &net.nodes[1].replica;
    assert!(joiner.is_caught_up());
    assert_eq!(joiner.swarm_step(), 60 * 1024);
    assert!(!joiner.peers[&NodeId(0)].is_fruitless, "it has sent all that it has");
}
