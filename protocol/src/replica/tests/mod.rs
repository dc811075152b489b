//! Replicas in one thread, joined by queues: what each knows in the end, and what its weights would hold.

mod agreement;
mod conduct;
mod forks;
mod membership;
mod own;
#[path = "../../../tests/support/small.rs"]
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

fn manifest(authority: Option<[u8; 32]>) -> Manifest {
    Manifest { authority, ..small::manifest() }
}

fn signer(node: u8) -> Ed25519Signer {
    Ed25519Signer::from_seed(&[node; 32])
}

fn machine(node: u8, incarnation: u64) -> MachineId {
    MachineId { key: signer(node).key(), incarnation }
}

struct Node {
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
struct Net {
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

fn sharing(run: RunId, manifest: Arc<Manifest>, machine: MachineId, commons: &Commons) -> Replica {
    let (settings, verifier) = (Settings::default(), Box::new(Ed25519Verifier));
    Replica::new(run, manifest, settings, machine, verifier, 0).sharing(commons.clone())
}

fn restore(node: &mut Node, disk: &[Record]) {
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
