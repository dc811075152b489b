//! Whatever was lost, joined late, withdrawn or resumed: all end with the same.

use super::*;

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
