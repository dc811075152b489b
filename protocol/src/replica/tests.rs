//! Replicas in one thread, joined by queues: what each knows in the end, and what its weights would hold.

#[path = "../../tests/support/small.rs"]
mod small;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
};

use super::*;
use crate::{
    machine::MachineId,
    manifest::{Groups, Manifest, RunId, Schedule},
    message::{Gossip, Push, Question, Response},
    replay::{self, Contribution},
    revocation::Revocation,
    seed::EntrySeed,
    segment::{Chunk, Digest, Segment, VerifiedChunk},
    signature::{Ed25519Signer, Ed25519Verifier, Signer as _},
    statement::Statement,
    version_vector::{Entry, Standing},
};

pub(super) fn manifest(authority: Option<[u8; 32]>) -> Manifest {
    Manifest { authority, ..small::manifest() }
}

pub(super) fn signer(node: u8) -> Ed25519Signer {
    Ed25519Signer::from_seed(&[node; 32])
}

pub(super) fn machine(node: u8, incarnation: u64) -> MachineId {
    MachineId { key: signer(node).key(), incarnation }
}

pub(super) struct Node {
    pub replica: Replica,
    /// Net times each entry is in the weights: 0 or 1 at any time, or the replica is wrong.
    pub weights: BTreeMap<(Vec<u8>, i8), i32>,
    pub disk: Vec<Record>,
    pub reports: Vec<Report>,
    pub penalties: Vec<Offence>,
    renewals: Vec<IncarnationCause>,
    seed: u8,
}

impl Node {
    pub fn new(seed: u8, incarnation: u64, manifest: &Manifest) -> Self {
        let replica = Replica::new(
            manifest.run_id().unwrap(),
            Arc::new(manifest.clone()),
            Settings::default(),
            machine(seed, incarnation),
            Box::new(Ed25519Verifier),
            u64::from(seed),
        );
        Self {
            replica,
            weights: BTreeMap::new(),
            disk: Vec::new(),
            reports: Vec::new(),
            penalties: Vec::new(),
            renewals: Vec::new(),
            seed,
        }
    }

    fn apply(&mut self, batch: &[Contribution]) {
        for entry in batch {
            let count = self.weights.entry((entry.seed.bytes.to_vec(), entry.byte)).or_default();
            *count += if entry.removed { -1 } else { 1 };
            assert!((0..=1).contains(count), "an entry is in the weights {count} times");
        }
        self.weights.retain(|_, count| *count != 0);
    }

    /// What the trainer does: moves its weights by the byte, then reports it.
    pub fn train(&mut self, byte: i8, now_ms: u64) {
        let (machine, sample) = (self.replica.own_machine(), self.replica.own_next_sample());
        let seed = EntrySeed::derive(self.replica.run(), &machine, sample, &Groups::equal(1));
        self.apply(&[replay::contribution(seed, byte, 0, &Schedule::default())]);
        self.replica.own_bytes(&[OwnByte { machine, sample, byte, swarm_step: 0 }], now_ms);
    }
}

/// Nodes and who is connected to whom.
pub(super) struct Net {
    pub nodes: Vec<Node>,
    links: BTreeSet<(usize, usize)>,
    pub now_ms: u64,
    pub gossip_lost: bool,
}

impl Net {
    pub fn new(nodes: Vec<Node>) -> Self {
        Self { nodes, links: BTreeSet::new(), now_ms: 0, gossip_lost: false }
    }

    pub fn connect(&mut self, a: usize, b: usize) {
        self.links.extend([(a, b), (b, a)]);
        self.nodes[a].replica.peer_connected(NodeId(b as u64), self.now_ms);
        self.nodes[b].replica.peer_connected(NodeId(a as u64), self.now_ms);
    }

    /// Drains all outputs; delivers at once.
    pub fn settle(&mut self) {
        for _ in 0..100_000 {
            let Some((index, output)) =
                (0..self.nodes.len()).find_map(|i| self.nodes[i].replica.poll_output().map(|output| (i, output)))
            else {
                return;
            };
            self.carry_out(index, output);
        }
        panic!("the replicas never fall silent");
    }

    fn carry_out(&mut self, index: usize, output: Output) {
        let now_ms = self.now_ms;
        match output {
            Output::Ask(peer, question) => {
                let peer_index = peer.0 as usize;
                let answer = self.nodes[peer_index].replica.answer(NodeId(index as u64), &question, now_ms);
                self.nodes[index].replica.answered(peer, answer.expect("a question for the replica"), now_ms);
            }
            Output::Publish(gossip) => {
                let bytes = gossip.encode().expect("gossip fits");
                let mut queue = VecDeque::from([(index, bytes)]);
                let mut seen = BTreeSet::from([index]);
                while let Some((from, bytes)) = queue.pop_front().filter(|_| !self.gossip_lost) {
                    for to in 0..self.nodes.len() {
                        if self.links.contains(&(from, to)) && seen.insert(to) {
                            let verdict = self.nodes[to].replica.gossip(NodeId(from as u64), &bytes, now_ms);
                            if verdict == Verdict::Accept {
                                queue.push_back((to, bytes.clone()));
                            }
                        }
                    }
                }
            }
            Output::Sign { token, message } => {
                let node = &mut self.nodes[index];
                node.replica.signed(token, signer(node.seed).sign(&message), now_ms);
            }
            Output::Persist(records, token) => {
                self.nodes[index].disk.extend(records);
                if let Some(token) = token {
                    self.nodes[index].replica.persisted(token, now_ms);
                }
            }
            Output::Replay(batch) => self.nodes[index].apply(&batch),
            Output::ReplayLedger(mut range) => {
                while range.samples() > 0 {
                    let batch = self.nodes[index].replica.contributions(&range.take_first(1000));
                    self.nodes[index].apply(&batch);
                }
            }
            Output::NewIncarnation(cause) => {
                let node = &mut self.nodes[index];
                node.renewals.push(cause);
                let incarnation = node.replica.own_machine().incarnation + 1000;
                node.replica.adopt(machine(node.seed, incarnation), now_ms);
            }
            Output::Penalize(_, offence) => self.nodes[index].penalties.push(offence),
            Output::Report(report) => self.nodes[index].reports.push(report),
        }
    }

    pub fn pass(&mut self, ms: u64) {
        let end = self.now_ms + ms;
        while self.now_ms < end {
            self.now_ms += 250;
            for node in &mut self.nodes {
                node.replica.tick(self.now_ms);
            }
            self.settle();
        }
    }

    pub fn assert_agreed(&mut self) {
        self.pass(60_000);
        let root = self.nodes[0].replica.root();
        let weights = self.nodes[0].weights.clone();
        for (index, node) in self.nodes.iter_mut().enumerate() {
            assert_eq!(node.replica.root(), root, "version vector of node {index}");
            assert_eq!(node.weights, weights, "weights of node {index}");
        }
    }
}

fn started(count: u8) -> Net {
    let manifest = manifest(None);
    let mut net = Net::new((0..count).map(|seed| Node::new(seed, 1, &manifest)).collect());
    for node in &mut net.nodes {
        node.replica.start(OwnHead::Sure, 0);
    }
    net
}

fn train_all(net: &mut Net, rounds: u8) {
    for round in 0..rounds {
        for node in &mut net.nodes {
            node.train((round as i8).wrapping_mul(3), net.now_ms);
        }
        net.pass(250);
    }
}

#[test]
fn everyone_ends_with_everyones_bytes() {
    let mut net = started(5);
    for i in 1..5 {
        net.connect(i - 1, i);
    }
    train_all(&mut net, 20);
    net.assert_agreed();
    assert_eq!(net.nodes[0].replica.swarm_step(), 100);
    assert!(net.nodes.iter().all(|node| node.penalties.is_empty()));
}

#[test]
fn a_swarm_whose_gossip_is_lost_agrees_by_anti_entropy() {
    let mut net = started(4);
    net.gossip_lost = true;
    for i in 1..4 {
        net.connect(0, i);
    }
    train_all(&mut net, 12);
    net.assert_agreed();
    assert_eq!(net.nodes[3].replica.swarm_step(), 48);
}

#[test]
fn a_late_joiner_fetches_a_long_ledger_across_many_seals() {
    let mut net = started(2);
    for sample in 0..30_000u32 {
        net.nodes[0].train(sample as i8, net.now_ms);
        if sample % 100 == 0 {
            net.settle();
        }
    }
    net.settle();
    net.connect(0, 1);
    net.assert_agreed();
    assert_eq!(net.nodes[1].replica.swarm_step(), 30_000);
    assert!(net.nodes[1].replica.is_caught_up());
    let chunks = net.nodes[1].replica.ledger(&machine(0, 1)).unwrap().chunks().len();
    assert!((8..20).contains(&chunks), "{chunks} chunks");
}

#[test]
fn nothing_is_signed_before_a_peer_confirms_the_own_head() {
    let manifest = manifest(None);
    let mut net = started(2);
    net.connect(0, 1);
    train_all(&mut net, 10);
    net.pass(5_000);
    let disk = net.nodes[0].disk.clone();
    let weights = net.nodes[0].weights.clone();
    net.nodes[0] = Node::new(0, 1, &manifest);
    net.nodes[1].replica.peer_gone(NodeId(0));
    restore(&mut net.nodes[0], &disk);
    net.nodes[0].replica.start(OwnHead::Unconfirmed, net.now_ms);
    net.settle();
    assert_eq!(net.nodes[0].weights, weights, "a restart replays to the same weights");
    net.nodes[0].train(5, net.now_ms);
    net.pass(1_500);
    assert!(net.nodes[0].disk.is_empty(), "signed without an answer");
    net.connect(0, 1);
    net.pass(5_000);
    assert_eq!(net.nodes[0].reports, [Report::HeadConfirmed]);
    net.assert_agreed();
    assert_eq!(net.nodes[0].replica.own_next_sample(), 11);
    assert_eq!(net.nodes[0].replica.own_machine(), machine(0, 1));
}

/// Once a replica did not know the handles of the machines whose ledgers it had restored: it ignored everything that
/// they pushed, and passed nothing of it on, so that after a restart all came by anti-entropy.
#[test]
fn what_a_restored_machine_pushes_is_taken() {
    let mut node = Node::new(1, 1, &manifest(None));
    let run = *node.replica.run();
    let segment = |first| Segment { first, swarm_step: 0, bytes: &[5, 6] };
    let (first, head) = Chunk::sign(&run, machine(9, 1), segment(0), [0; 32], &signer(9));
    let (second, _) = Chunk::sign(&run, machine(9, 1), segment(2), head, &signer(9));
    node.replica.restore_chunk(first).unwrap();
    node.replica.start(OwnHead::Sure, 0);
    let push = Gossip::Segment(Push::of(&second)).encode().unwrap();
    assert_eq!(node.replica.gossip(NodeId(1), &push, 0), Verdict::Accept);
    assert_eq!(node.replica.swarm_step(), 4);
}

fn sharing(run: RunId, manifest: Arc<Manifest>, machine: MachineId, commons: &Commons) -> Replica {
    let (settings, verifier) = (Settings::default(), Box::new(Ed25519Verifier));
    Replica::sharing(run, manifest, settings, machine, verifier, 0, commons.clone())
}

#[test]
fn replicas_that_share_hold_an_equal_ledger_once_and_agree_with_one_that_does_not() {
    let manifest = manifest(None);
    let commons = Commons::shared();
    let mut net = Net::new((0..4).map(|seed| Node::new(seed, 1, &manifest)).collect());
    for (seed, node) in (0..3).zip(&mut net.nodes) {
        let (run, manifest) = (*node.replica.run(), Arc::new(manifest.clone()));
        node.replica = sharing(run, manifest, machine(seed, 1), &commons);
    }
    net.nodes.iter_mut().for_each(|node| node.replica.start(OwnHead::Sure, 0));
    (0..3).for_each(|node| net.connect(node, node + 1));
    train_all(&mut net, 30);
    net.gossip_lost = true;
    train_all(&mut net, 5);
    net.assert_agreed();
    let chunk = |node: usize, author| net.nodes[node].replica.ledger(&machine(author, 1)).unwrap().chunks()[0].clone();
    for author in 0..4 {
        assert!(Arc::ptr_eq(&chunk(0, author), &chunk(2, author)), "{author}: held once");
        assert!(!Arc::ptr_eq(&chunk(0, author), &chunk(3, author)), "{author}: not by strangers");
    }
}

#[test]
fn a_fork_among_replicas_that_share_is_seen_by_each_of_them() {
    let manifest = manifest(None);
    let commons = Commons::shared();
    let (run, author) = (manifest.run_id().unwrap(), machine(9, 1));
    let sign = |bytes: &[u8]| {
        let segment = Segment { first: 0, swarm_step: 0, bytes };
        Chunk::sign(&run, author, segment, [0; 32], &signer(9)).0
    };
    let branches = [sign(&[1, 2]), sign(&[1, 3])];
    let mut replicas: Vec<Replica> = (0..3)
        .map(|seed| {
            let manifest = Arc::new(manifest.clone());
            sharing(run, manifest, machine(seed, 1), &commons)
        })
        .collect();
    for (index, replica) in replicas.iter_mut().enumerate() {
        replica.restore_chunk(branches[index % 2].clone()).unwrap();
        assert_eq!(replica.ledger(&author).unwrap().entries(1, 2).next().unwrap().1, 2 + (index % 2) as i8);
    }
    let mut forged = sign(&[1, 2]);
    forged.bytes[1] = 7;
    for (index, replica) in replicas.iter_mut().enumerate() {
        let push = |chunk: &Chunk| Gossip::Segment(Push::of(chunk)).encode().unwrap();
        assert_eq!(replica.gossip(NodeId(1), &push(&forged), 0), Verdict::Reject, "a signature is of its bytes");
        assert_eq!(replica.gossip(NodeId(1), &push(&branches[1 - index % 2]), 0), Verdict::Accept);
        assert_eq!(replica.vector().get(&author), Some(Standing::Forked));
    }
}

pub(super) fn restore(node: &mut Node, disk: &[Record]) {
    let mut chunks: BTreeMap<(MachineId, u64), Chunk> = BTreeMap::new();
    for record in disk {
        match record {
            Record::Chunk(chunk) => {
                chunks.retain(|(machine, first), _| {
                    *machine != chunk.machine || !(chunk.first..chunk.end()).contains(first)
                });
                chunks.insert((chunk.machine, chunk.first), Chunk::clone(chunk));
            }
            Record::Statement(statement) => node.replica.restore_statement(statement.clone()).unwrap(),
        }
    }
    for chunk in chunks.into_values() {
        node.replica.restore_chunk(chunk).unwrap();
    }
}

#[test]
fn a_rolled_back_disk_opens_a_new_incarnation_and_loses_nothing() {
    let manifest = manifest(None);
    let mut net = started(3);
    net.connect(0, 1);
    net.connect(1, 2);
    train_all(&mut net, 8);
    net.pass(3_000);
    let old_disk = net.nodes[0].disk.clone();
    train_all(&mut net, 8);
    net.pass(3_000);
    net.nodes[0] = Node::new(0, 1, &manifest);
    net.nodes[1].replica.peer_gone(NodeId(0));
    restore(&mut net.nodes[0], &old_disk);
    net.nodes[0].replica.start(OwnHead::Unconfirmed, net.now_ms);
    for byte in 0..3 {
        net.nodes[0].train(byte + 1, net.now_ms);
    }
    net.settle();
    net.connect(0, 1);
    net.pass(10_000);
    assert_eq!(net.nodes[0].renewals, [IncarnationCause::Behind]);
    for byte in 0..3 {
        net.nodes[0].train(byte + 1, net.now_ms);
    }
    net.assert_agreed();
    assert_eq!(net.nodes[0].replica.swarm_step(), 3 * 16 + 3);
}

#[test]
fn no_answer_for_long_opens_a_new_incarnation() {
    let manifest = manifest(None);
    let mut net = started(1);
    train_all(&mut net, 5);
    net.pass(2_000);
    let disk = net.nodes[0].disk.clone();
    net.nodes[0] = Node::new(0, 1, &manifest);
    restore(&mut net.nodes[0], &disk);
    net.nodes[0].replica.start(OwnHead::Unconfirmed, net.now_ms);
    net.settle();
    net.nodes[0].train(9, net.now_ms);
    net.pass(20_000);
    assert!(net.nodes[0].renewals.is_empty());
    net.pass(20_000);
    assert_eq!(net.nodes[0].renewals, [IncarnationCause::Unanswered]);
    assert_eq!(net.nodes[0].weights.len(), 5, "the unsigned byte left the weights");
}

/// Signs `bytes` as `node`'s samples from `first` on.
fn branch(node: u8, first: u64, previous: Digest, bytes: &[u8]) -> (Chunk, Digest) {
    let run = manifest(None).run_id().unwrap();
    Chunk::sign(&run, machine(node, 1), Segment { first, swarm_step: 0, bytes }, previous, &signer(node))
}

fn push(net: &mut Net, to: usize, from: u64, chunk: &Chunk) -> Verdict {
    let bytes = Gossip::Segment(Push::of(chunk)).encode().unwrap();
    let verdict = net.nodes[to].replica.gossip(NodeId(from), &bytes, net.now_ms);
    net.settle();
    verdict
}

fn assert_forked(net: &mut Net, author: u8) {
    net.assert_agreed();
    for node in &net.nodes {
        assert_eq!(node.replica.vector().get(&machine(author, 1)), Some(Standing::Forked));
        assert!(node.reports.iter().any(|report| matches!(report, Report::Forked { .. })));
    }
}

#[test]
fn overlapping_bodies_are_a_fork_and_leave_no_trace() {
    let mut net = started(3);
    net.connect(0, 1);
    net.connect(1, 2);
    train_all(&mut net, 4);
    let (left, _) = branch(99, 0, [0; 32], &[1, 2, 3]);
    let (right, _) = branch(99, 0, [0; 32], &[1, 2, 4]);
    assert_eq!(push(&mut net, 0, 50, &left), Verdict::Accept);
    net.pass(1_000);
    assert_eq!(push(&mut net, 2, 51, &right), Verdict::Accept);
    assert_forked(&mut net, 99);
    assert_eq!(net.nodes[0].replica.swarm_step(), 12);
    assert_eq!(net.nodes[0].weights.len(), 12);
    assert_eq!(push(&mut net, 0, 50, &left), Verdict::Ignore, "a tombstone takes no more");
}

#[test]
fn a_withheld_predecessor_is_a_fork() {
    let mut net = started(2);
    net.connect(0, 1);
    let (start, head) = branch(99, 0, [0; 32], &[1, 2]);
    let (_, hidden) = branch(99, 0, [0; 32], &[7, 7]);
    let (next, _) = branch(99, 2, head, &[3]);
    let (other, _) = branch(99, 2, hidden, &[3]);
    for chunk in [&start, &next] {
        assert_eq!(push(&mut net, 0, 50, chunk), Verdict::Accept);
    }
    // A peer that holds the other branch shows it when asked.
    let absorbed = net.nodes[1].replica.absorb(other).unwrap();
    assert_eq!(absorbed, super::absorb::Absorbed::Forked);
    net.settle();
    assert_forked(&mut net, 99);
}

#[test]
fn equal_heights_shown_to_two_halves_are_found_when_they_meet() {
    let mut net = started(4);
    net.connect(0, 1);
    net.connect(2, 3);
    let (left, _) = branch(99, 0, [0; 32], &[1; 40]);
    let (right, _) = branch(99, 0, [0; 32], &[2; 40]);
    push(&mut net, 0, 50, &left);
    push(&mut net, 2, 50, &right);
    net.pass(2_000);
    assert!(net.nodes.iter().all(|node| node.reports.is_empty()));
    net.connect(1, 2);
    assert_forked(&mut net, 99);
    assert!(net.nodes.iter().all(|node| node.weights.is_empty() && node.penalties.is_empty()));
}

#[test]
fn a_fork_of_different_heights_and_cuts_is_found() {
    let mut net = started(2);
    let (left, _) = branch(99, 0, [0; 32], &[1; 10]);
    let (a, head) = branch(99, 0, [0; 32], &[1; 7]);
    let (b, _) = branch(99, 7, head, &[1; 30]);
    push(&mut net, 0, 50, &left);
    push(&mut net, 1, 50, &a);
    push(&mut net, 1, 50, &b);
    net.connect(0, 1);
    assert_forked(&mut net, 99);
}

#[test]
fn an_own_fork_seen_opens_a_new_incarnation() {
    let mut net = started(2);
    net.connect(0, 1);
    net.nodes[0].train(11, net.now_ms);
    net.pass(3_000);
    let (other, _) = branch(0, 0, [0; 32], &[1]);
    push(&mut net, 1, 50, &other);
    net.pass(1_000);
    assert_eq!(net.nodes[0].renewals, [IncarnationCause::Forked]);
    net.nodes[0].train(12, net.now_ms);
    net.assert_agreed();
    assert_eq!(net.nodes[1].replica.swarm_step(), 1);
}

#[test]
fn the_authority_withdraws_samples_from_a_floor_on_everywhere() {
    let authority = signer(200);
    let manifest = manifest(Some(authority.key()));
    let run = manifest.run_id().unwrap();
    let mut net = Net::new((0..3).map(|seed| Node::new(seed, 1, &manifest)).collect());
    for node in &mut net.nodes {
        node.replica.start(OwnHead::Sure, 0);
    }
    net.connect(0, 1);
    train_all(&mut net, 10);
    net.pass(2_000);
    let revocation = Revocation::sign(&run, machine(1, 1), 4, &authority);
    let bytes = Gossip::Statement(Statement::Revocation(revocation)).encode().unwrap();
    assert_eq!(net.nodes[0].replica.gossip(NodeId(9), &bytes, net.now_ms), Verdict::Accept);
    net.settle();
    let forged = Revocation::sign(&run, machine(0, 1), 0, &signer(7));
    let bytes = Gossip::Statement(Statement::Revocation(forged)).encode().unwrap();
    assert_eq!(net.nodes[0].replica.gossip(NodeId(9), &bytes, net.now_ms), Verdict::Reject);
    net.connect(1, 2);
    net.assert_agreed();
    assert_eq!(net.nodes[2].replica.swarm_step(), 10 + 4 + 10);
}

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

#[test]
fn a_reached_limit_is_said_and_never_a_subset_of_a_ledger() {
    let mut net = started(2);
    net.nodes[0].replica.settings.machines_max = 1;
    net.nodes[0].train(1, net.now_ms);
    net.pass(2_000);
    net.connect(0, 1);
    net.nodes[1].train(2, net.now_ms);
    net.pass(5_000);
    assert_eq!(net.nodes[0].replica.swarm_step(), 1);
    assert_eq!(net.nodes[0].replica.incomplete().count(), 1);
    assert_eq!(net.nodes[1].replica.swarm_step(), 2);
}

#[test]
fn a_checkpoint_that_fits_is_resumed_and_one_that_does_not_is_refused() {
    let manifest = manifest(None);
    let mut net = started(2);
    net.connect(0, 1);
    train_all(&mut net, 10);
    net.pass(3_000);
    let mut contents = net.nodes[0].replica.contents_of_others(|_| None);
    contents.extend(net.nodes[0].replica.contents_of_own(&machine(0, 1), 10));
    assert_eq!(contents.len(), 2);
    let disk = net.nodes[0].disk.clone();
    let mut node = Node::new(0, 1, &manifest);
    restore(&mut node, &disk);
    let mut wrong = contents.clone();
    wrong[0].digest[0] ^= 1;
    assert!(!node.replica.resume(&wrong));
    assert!(node.replica.resume(&contents));
    node.replica.start(OwnHead::Sure, 0);
    while let Some(output) = node.replica.poll_output() {
        assert!(
            !matches!(output, Output::Replay(_) | Output::ReplayLedger(_)),
            "what the checkpoint holds is not replayed"
        );
    }
}

#[test]
fn a_forker_whose_hints_match_does_not_set_honest_neighbours_against_each_other() {
    let mut net = started(2);
    net.connect(0, 1);
    net.pass(1_000);
    let run = *net.nodes[0].replica.run();
    let (forker, key) = (machine(9, 1), signer(9));
    // Two beginnings whose digests share four bytes: a birthday among some 2^17.
    let mut seen: BTreeMap<[u8; 4], u32> = BTreeMap::new();
    let begin = |n: u32| Segment { first: 0, swarm_step: 0, bytes: &n.to_le_bytes() }.digest(&run, &forker, &[0; 32]);
    let (left, right) = (0..1u32 << 20)
        .find_map(|n| {
            let digest = begin(n);
            seen.insert([digest[0], digest[1], digest[2], digest[3]], n).map(|earlier| (earlier, n))
        })
        .expect("a birthday");
    let chunk = |n: u32| {
        let bytes = n.to_le_bytes();
        Chunk::sign(&run, forker, Segment { first: 0, swarm_step: 0, bytes: &bytes }, [0; 32], &key)
    };
    let encode = |chunk: &Chunk| Gossip::Segment(Push::of(chunk)).encode().unwrap();
    let ((left, left_head), (right, right_head)) = (chunk(left), chunk(right));
    assert!(left_head != right_head && left_head[..4] == right_head[..4]);
    let (next, _) = Chunk::sign(&run, forker, Segment { first: 4, swarm_step: 0, bytes: &[7; 3] }, left_head, &key);
    let now_ms = net.now_ms;
    assert_eq!(net.nodes[0].replica.gossip(NodeId(99), &encode(&left), now_ms), Verdict::Accept);
    assert_eq!(net.nodes[1].replica.gossip(NodeId(99), &encode(&right), now_ms), Verdict::Accept);
    assert_eq!(net.nodes[0].replica.gossip(NodeId(99), &encode(&next), now_ms), Verdict::Accept);
    assert_eq!(net.nodes[1].replica.gossip(NodeId(0), &encode(&next), now_ms), Verdict::Ignore);
    net.settle();
    for node in &net.nodes {
        assert_eq!(node.penalties, [], "an honest neighbour was penalized");
        assert!(
            node.reports.iter().any(|report| matches!(report, Report::Forked { machine, .. } if *machine == forker))
        );
    }
    net.assert_agreed();
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

/// A replica that asks for a signature over one own byte, with that request.
fn asking_for_a_signature() -> (Node, u64, Vec<u8>) {
    let mut node = started(1).nodes.remove(0);
    while node.replica.poll_output().is_some() {}
    node.train(7, 10_000);
    node.replica.flush();
    match node.replica.poll_output() {
        Some(Output::Sign { token, message }) => (node, token, message),
        other => panic!("no request for a signature but {other:?}"),
    }
}

#[test]
fn nothing_of_an_own_byte_leaves_before_its_signature_and_then_its_disk() {
    let (mut node, token, message) = asking_for_a_signature();
    assert_eq!(node.replica.poll_output(), None, "it waits for the signature");
    node.replica.signed(token + 1, signer(0).sign(&message), 10_000);
    assert_eq!(node.replica.poll_output(), None, "that answers another request");
    node.replica.signed(token, signer(0).sign(&message), 10_000);
    let Some(Output::Persist(_, Some(token))) = node.replica.poll_output() else { panic!("it goes to the disk") };
    assert_eq!(node.replica.poll_output(), None, "it waits for the disk");
    node.replica.persisted(token, 10_000);
    assert!(matches!(node.replica.poll_output(), Some(Output::Publish(_))));
    assert_eq!(node.replica.own_waiting(), 0);
}

#[test]
fn a_segment_that_waits_for_its_signature_leaves_the_weights_with_its_incarnation() {
    let (mut node, token, message) = asking_for_a_signature();
    assert_eq!(node.weights.len(), 1);
    node.replica.renew(IncarnationCause::Behind);
    let Some(Output::Replay(undo)) = node.replica.poll_output() else { panic!("the byte is taken out") };
    node.apply(&undo);
    assert!(node.weights.is_empty());
    node.replica.signed(token, signer(0).sign(&message), 10_000);
    assert_eq!(node.replica.poll_output(), Some(Output::NewIncarnation(IncarnationCause::Behind)));
    assert_eq!(node.replica.poll_output(), None, "a signature that comes late is of no use");
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
