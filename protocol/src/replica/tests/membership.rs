//! Who may contribute: whatever comes in whatever order, all end with the same samples.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use rand_xoshiro::{
    Xoshiro256PlusPlus,
    rand_core::{Rng, SeedableRng},
};

use super::{super::*, Net, Node, machine, manifest, restore, signer};
use crate::{
    anti_entropy::Want,
    machine::MachineId,
    manifest::{Manifest, Membership, RunId},
    member::{Admission, Withdrawal},
    message::{Gossip, Push, Question, Response},
    revocation::{ForkProof, Revocation},
    segment::{Chunk, Segment},
    signature::{Ed25519Verifier, Signature, Signer as _, Verifier},
    statement::Statement,
};

const AUTHORITY: u8 = 200;
const MEMBER: u8 = 99;

fn by_authority() -> (Manifest, RunId) {
    let manifest = Manifest { membership: Membership::ByAuthority, ..manifest(Some(signer(AUTHORITY).key())) };
    let run = manifest.run_id().unwrap();
    (manifest, run)
}

fn started(manifest: &Manifest, count: u8) -> Net {
    let mut net = Net::new((0..count).map(|seed| Node::new(seed, 1, manifest)).collect());
    for node in &mut net.nodes {
        node.replica.start(OwnHead::Sure, 0);
    }
    net.settle();
    net
}

fn admission(run: &RunId, node: u8) -> Statement {
    Statement::Admission(Admission::sign(run, signer(node).key(), &signer(AUTHORITY)))
}

fn withdrawal(run: &RunId, node: u8, floors: &[(u64, u64)]) -> Statement {
    Statement::Withdrawal(Withdrawal::sign(run, signer(node).key(), floors, &signer(AUTHORITY)))
}

fn segments(run: &RunId, incarnation: u64, lengths: &[usize], byte: u8) -> Vec<Chunk> {
    let (mut first, mut previous) = (0, [0; 32]);
    let mut next = |length: &usize| {
        let segment = Segment { first, swarm_step: 0, bytes: &vec![byte; *length] };
        let (chunk, digest) = Chunk::sign(run, machine(MEMBER, incarnation), segment, previous, &signer(MEMBER));
        (first, previous) = (chunk.end(), digest);
        chunk
    };
    lengths.iter().map(&mut next).collect()
}

fn fork(run: &RunId, incarnation: u64) -> Statement {
    let (left, right) = (segments(run, incarnation, &[3], 7).remove(0), segments(run, incarnation, &[4], 8).remove(0));
    Statement::Revocation(Revocation::Fork(Box::new(ForkProof { left, right })))
}

/// Signatures are checked once for all orders.
#[derive(Clone, Default)]
struct Remembering(Arc<Mutex<BTreeMap<Vec<u8>, bool>>>);

impl Verifier for Remembering {
    fn verify(&self, key: &[u8; 32], message: &[u8], signature: &Signature) -> bool {
        let mut known = self.0.lock().unwrap();
        let all = [&key[..], message, &signature.0].concat();
        *known.entry(all).or_insert_with(|| Ed25519Verifier.verify(key, message, signature))
    }
}

/// What may come of one key.
#[derive(Clone)]
enum Item {
    Segment(Chunk),
    Said(Statement),
}

/// Everything about one key: two incarnations' segments, and every kind of statement.
fn everything(run: &RunId) -> Vec<Item> {
    let revocation = Revocation::sign(run, machine(MEMBER, 1), 3, &signer(AUTHORITY));
    let chunks = [segments(run, 1, &[2, 4], 1), segments(run, 2, &[5], 2)].concat();
    let statements = [admission(run, MEMBER), Statement::Revocation(revocation), fork(run, 2)];
    chunks.into_iter().map(Item::Segment).chain(statements.map(Item::Said)).collect()
}

impl Node {
    fn tell(&mut self, item: &Item, now_ms: u64) {
        let gossip = match item {
            Item::Segment(chunk) => Gossip::Segment(Push::of(chunk)),
            Item::Said(statement) => Gossip::Statement(statement.clone()),
        };
        let verdict = self.replica.gossip(NodeId(77), &gossip.encode().unwrap(), now_ms);
        assert_ne!(verdict, Verdict::Reject);
    }

    /// What counts: machine and samples.
    fn counted(&self) -> Vec<(MachineId, u64)> {
        let counts = self.replica.effective_ranges().filter(|range| range.samples() > 0);
        counts.map(|range| (range.machine, range.samples())).collect()
    }
}

/// All orders of `items`, each once (Heap's algorithm).
fn permutations<T: Clone>(items: &[T], mut visit: impl FnMut(&[T])) {
    let mut items = items.to_vec();
    let mut counters = vec![0; items.len()];
    visit(&items);
    let mut at = 0;
    while at < items.len() {
        if counters[at] < at {
            items.swap(if at % 2 == 0 { 0 } else { counters[at] }, at);
            visit(&items);
            counters[at] += 1;
            at = 0;
        } else {
            counters[at] = 0;
            at += 1;
        }
    }
}

/// What of a set was ignored, because it came before what makes it count, comes a second time, as anti-entropy would
/// have it.
#[test]
fn every_order_of_segments_and_statements_gives_one_root_and_one_set_of_samples() {
    let (manifest, run) = by_authority();
    let verifier = Remembering::default();
    let all = everything(&run);
    let with = |said: &[Statement]| [&all[..], &Vec::from_iter(said.iter().cloned().map(Item::Said))].concat();
    let without = |index: usize| [&all[..index], &all[index + 1..]].concat();
    let (one, two) = (machine(MEMBER, 1), machine(MEMBER, 2));
    let table = [
        (all.clone(), vec![(one, 3)]),
        (without(3), vec![]),
        (without(4), vec![(one, 6)]),
        (without(5), vec![(one, 3), (two, 5)]),
        (with(&[withdrawal(&run, MEMBER, &[(1, 2), (2, 9)])]), vec![(one, 2)]),
        ([&without(5)[..], &[Item::Said(withdrawal(&run, MEMBER, &[(2, 4)]))]].concat(), vec![(two, 4)]),
        ([&without(4)[..], &[Item::Said(withdrawal(&run, MEMBER, &[]))]].concat(), vec![]),
    ];
    for (items, expected) in table {
        let mut root = None;
        permutations(&items, |order| {
            let mut net = started(&manifest, 1);
            net.nodes[0].replica.verifier = Box::new(verifier.clone());
            for item in order.iter().chain(order).chain(order) {
                net.nodes[0].tell(item, 0);
                net.settle();
            }
            let node = &net.nodes[0];
            assert_eq!(node.counted(), expected);
            assert_eq!(node.weights.len(), node.replica.swarm_step() as usize, "the weights hold what counts");
            assert_eq!(*root.get_or_insert(node.replica.root()), node.replica.root());
            assert_eq!(node.penalties, []);
        });
    }
}

#[test]
fn replicas_that_heard_different_things_in_different_orders_agree_by_anti_entropy() {
    let (manifest, run) = by_authority();
    for seed in 0..60 {
        let mut random = Xoshiro256PlusPlus::seed_from_u64(seed);
        let mut below = |end: usize| (random.next_u64() % end as u64) as usize;
        let mut items = everything(&run);
        if seed % 3 > 0 {
            let floors = [(1, 1 + below(6) as u64), (2, below(6) as u64)];
            items.push(Item::Said(withdrawal(&run, MEMBER, &floors)));
            items.push(Item::Said(withdrawal(&run, MEMBER, &floors[..below(3)])));
        }
        let mut net = started(&manifest, 3);
        net.gossip_lost = seed % 2 == 0;
        for item in &items {
            // Everything is somewhere.
            let owner = below(3);
            for (number, node) in net.nodes.iter_mut().enumerate() {
                if number == owner || below(3) == 0 {
                    node.tell(item, 0);
                }
            }
            net.settle();
        }
        net.connect(0, 1);
        net.connect(1, 2);
        // Whoever did not take in a segment then could not keep it for the others.
        for _ in 0..2 {
            net.pass(20_000);
            for item in &items {
                let owner = below(3);
                net.nodes[owner].tell(item, net.now_ms);
                net.settle();
            }
        }
        net.assert_agreed();
        assert!(net.nodes.iter().all(|node| node.penalties.is_empty()), "seed {seed}");
        assert!(net.nodes.iter().all(|node| node.weights.len() as u64 == node.replica.swarm_step()), "seed {seed}");
        // A restart comes to the same.
        let root = net.nodes[0].replica.root();
        let mut again = Node::new(0, 1, &manifest);
        let statements = |record: &&Record| matches!(record, Record::Statement(_));
        let disk = &net.nodes[0].disk;
        let order: Vec<Record> =
            disk.iter().filter(statements).chain(disk.iter().filter(|r| !statements(r))).cloned().collect();
        restore(&mut again, &order);
        assert_eq!(again.replica.root(), root, "seed {seed}");
    }
}

#[test]
fn samples_of_a_key_that_is_not_admitted_are_no_fault_and_take_no_room_and_their_sender_is_asked() {
    let (manifest, run) = by_authority();
    let mut net = started(&manifest, 1);
    let node = &mut net.nodes[0];
    let sender = NodeId(5);
    node.replica.peer_connected(sender, 0);
    while node.replica.poll_output().is_some() {}
    node.replica.no_answer(sender);
    let root = node.replica.root();
    let mut asked = 0;
    for incarnation in 0..200 {
        let chunk = segments(&run, incarnation, &[5], 1).remove(0);
        let bytes = Gossip::Segment(Push::of(&chunk)).encode().unwrap();
        assert_eq!(node.replica.gossip(sender, &bytes, incarnation * 20), Verdict::Ignore);
        while let Some(output) = node.replica.poll_output() {
            match output {
                Output::Ask(to, Question::Fetch { wants }) => {
                    assert_eq!((to, &wants[..]), (sender, &[Want::Member { key: signer(MEMBER).key() }][..]));
                    asked += 1;
                    let nothing = Response::Found { chunks: Vec::new(), statements: Vec::new() };
                    node.replica.answered(sender, nothing, incarnation * 20);
                }
                Output::Ask(..) => node.replica.no_answer(sender),
                other => panic!("{other:?}"),
            }
        }
    }
    assert_eq!(asked, 4, "once a second");
    assert_eq!((node.replica.root(), node.replica.machines().count()), (root, 0));
    // One that is not sound is a fault.
    let mut chunk = segments(&run, 1, &[5], 1).remove(0);
    chunk.signature.0[3] ^= 1;
    let bytes = Gossip::Segment(Push::of(&chunk)).encode().unwrap();
    assert_eq!(node.replica.gossip(sender, &bytes, 9_000), Verdict::Reject);
}

#[test]
fn who_is_admitted_late_has_all_samples_counted_everywhere_and_who_is_withdrawn_keeps_those_named() {
    let (manifest, run) = by_authority();
    let mut net = started(&manifest, 3);
    net.connect(0, 1);
    net.connect(1, 2);
    assert!(net.nodes.iter().all(|node| node.replica.own_allowed() == 0));
    // Only the first knows that it is admitted, and works.
    net.gossip_lost = true;
    net.nodes[0].tell(&Item::Said(admission(&run, 0)), 0);
    net.settle();
    assert_eq!(net.nodes[0].reports, [Report::Admitted]);
    for byte in 0..10 {
        net.nodes[0].train(byte, net.now_ms);
        net.pass(500);
    }
    net.assert_agreed();
    assert_eq!(net.nodes[2].replica.swarm_step(), 10);
    // Withdrawn while it has bytes that nobody has.
    (20..25).for_each(|byte| net.nodes[0].train(byte, net.now_ms));
    net.nodes[1].tell(&Item::Said(withdrawal(&run, 0, &[(1, 7)])), net.now_ms);
    net.assert_agreed();
    assert_eq!(net.nodes[0].counted(), [(machine(0, 1), 7)]);
    assert_eq!(net.nodes[0].reports[1], Report::Withdrawn { key: signer(0).key(), is_own: true });
    // What it makes then, here or under a new incarnation, leaves the weights again.
    net.nodes[0].train(9, net.now_ms);
    net.settle();
    assert_eq!(net.nodes[0].weights.len(), 7);
    net.nodes[0].replica.adopt(machine(0, 5), net.now_ms);
    net.settle();
    assert_eq!(net.nodes[0].replica.own_allowed(), 0);
    net.assert_agreed();
    assert!(net.nodes.iter().all(|node| node.penalties.is_empty()));
}

#[test]
fn statements_that_are_not_the_authoritys_or_out_of_bounds_are_refused() {
    let (by_authority, run) = by_authority();
    let open = manifest(Some(signer(AUTHORITY).key()));
    let open_run = open.run_id().unwrap();
    let verdict = |manifest: &Manifest, statement: Statement| {
        let node = &mut started(manifest, 1).nodes[0];
        let bytes = Gossip::Statement(statement).encode().unwrap();
        let (first, again) = (node.replica.gossip(NodeId(5), &bytes, 0), node.replica.gossip(NodeId(5), &bytes, 0));
        assert!(again != Verdict::Accept && node.replica.statements().count() == usize::from(first == Verdict::Accept));
        first
    };
    let forged = Statement::Admission(Admission::sign(&run, signer(3).key(), &signer(3)));
    let moved = match admission(&run, MEMBER) {
        Statement::Admission(admission) => Statement::Admission(Admission { key: signer(3).key(), ..admission }),
        other => other,
    };
    for statement in [forged, moved, admission(&open_run, MEMBER), withdrawal(&open_run, MEMBER, &[])] {
        assert_eq!(verdict(&by_authority, statement), Verdict::Reject);
    }
    assert_eq!(verdict(&by_authority, admission(&run, MEMBER)), Verdict::Accept);
    assert_eq!(verdict(&by_authority, withdrawal(&run, MEMBER, &[(1, 4)])), Verdict::Accept);
    // An open run admits all, and withdraws.
    assert_eq!(verdict(&open, admission(&open_run, MEMBER)), Verdict::Reject);
    assert_eq!(verdict(&open, withdrawal(&open_run, MEMBER, &[(1, 4)])), Verdict::Accept);
    let nobody = manifest(None);
    assert_eq!(verdict(&nobody, withdrawal(&nobody.run_id().unwrap(), MEMBER, &[])), Verdict::Reject);
    // Of those who are listed, a withdrawal takes away and never lets in.
    let listed = Manifest { membership: Membership::Keys(vec![signer(0).key()]), ..open.clone() };
    let run = listed.run_id().unwrap();
    let mut net = started(&listed, 2);
    for member in [0, 1] {
        net.nodes[0].tell(&Item::Said(withdrawal(&run, member, &[(1, 4)])), 0);
    }
    assert_eq!([machine(0, 1), machine(0, 2), machine(1, 1)].map(|m| net.nodes[0].replica.floor(&m)), [4, 0, 0]);
}

#[test]
fn a_key_without_an_authority_to_admit_it_makes_no_run() {
    let manifest = Manifest { membership: Membership::ByAuthority, ..manifest(None) };
    assert!(matches!(Manifest::decode(&manifest.encode().unwrap()), Err(crate::error::WireError::Manifest(_))));
}

#[test]
fn a_joiner_has_not_caught_up_before_the_ledgers_of_those_who_were_admitted_are_here() {
    let (manifest, run) = by_authority();
    let mut net = started(&manifest, 2);
    for item in [Item::Said(admission(&run, MEMBER))].into_iter().chain(everything(&run).into_iter().take(2)) {
        net.nodes[0].tell(&item, 0);
    }
    net.settle();
    net.gossip_lost = true;
    net.connect(0, 1);
    for _ in 0..40 {
        net.pass(250);
        let replica = &net.nodes[1].replica;
        assert!(!replica.is_caught_up() || replica.swarm_step() == 6);
    }
    assert!(net.nodes[1].replica.is_caught_up());
}
