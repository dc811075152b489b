//! Two branches of one ledger: found however they are shown, and held against their author alone.

use super::*;

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
