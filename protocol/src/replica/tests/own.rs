//! The own ledger: its head at the start, its signatures, its incarnations.

use super::*;

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
