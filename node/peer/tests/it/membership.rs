//! Who may contribute, as peers see it.

use crate::support::{Lab, manifest, run_of, signer};
use peer::{Input, Notice, Phase};
use protocol::{
    machine::MachineId,
    manifest::{Manifest, Membership},
    member::{Admission, Withdrawal},
    message::Gossip,
    replica::Report,
    signature::Signer as _,
    statement::Statement,
};
use rand_xoshiro::{Xoshiro256PlusPlus, rand_core::SeedableRng};

/// Two nodes of a run whose authority is the first.
fn by_authority(samples: u64) -> Lab {
    let authority = Some(signer(0).key());
    with_members(samples, &Manifest { membership: Membership::ByAuthority, authority, ..manifest() })
}

fn with_members(samples: u64, manifest: &Manifest) -> Lab {
    let mut lab = Lab::new(1);
    lab.run = run_of(manifest);
    for number in 0..2 {
        lab.add_with_base(samples);
        lab.nodes[number].disk.knows_others = number > 0;
        lab.boot(number);
    }
    lab.connect(0, 1);
    lab
}

fn tell(lab: &mut Lab, node: usize, statement: Statement) {
    let puppet = lab.add_puppet();
    lab.connect(node, puppet);
    lab.pass(200);
    lab.puppet_gossip(puppet, node, Gossip::Statement(statement).encode().unwrap());
    lab.pass(200);
    lab.cut(node, puppet);
}

/// Admits the second node, and withdraws it while it works: its first thirty samples stay. Which machine it is.
fn withdrawn_at_work(lab: &mut Lab) -> MachineId {
    let admission = Admission::sign(&lab.run.id, signer(1).key(), &signer(0));
    tell(lab, 0, Statement::Admission(admission));
    lab.pass_until(60_000, "the second works", |lab| lab.nodes[0].height(&lab.nodes[1].own()) > 40);
    let own = lab.nodes[1].own();
    let withdrawal = Withdrawal::sign(&lab.run.id, own.key, &[(own.incarnation, 30)], &signer(0));
    tell(lab, 0, Statement::Withdrawal(withdrawal));
    own
}

fn is_no_member(notice: &Notice) -> bool {
    *notice == Notice::NoMember { key: signer(1).key() }
}

#[test]
fn who_is_not_admitted_says_so_and_replays_and_trains_once_it_is() {
    let mut lab = by_authority(20);
    lab.pass_until(30_000, "the first has made its own", |lab| lab.nodes[1].height(&lab.nodes[0].own()) == 20);
    assert_eq!((lab.nodes[0].said(is_no_member), lab.nodes[1].said(is_no_member)), (0, 1));
    assert_eq!(lab.nodes[1].trainer.next_sample, 0);
    assert_eq!(lab.nodes[1].peer().facts().phase, Phase::Serving);
    let admission = Admission::sign(&lab.run.id, signer(1).key(), &signer(0));
    tell(&mut lab, 0, Statement::Admission(admission));
    lab.pass_until(30_000, "the second has made its own", |lab| lab.nodes[0].height(&lab.nodes[1].own()) == 20);
    lab.assert_agreed();
    assert_eq!(lab.nodes[1].said(|notice| *notice == Notice::Report(Report::Admitted)), 1);
    // After a restart, its disk knows.
    lab.crash(1);
    lab.boot(1);
    lab.connect(0, 1);
    lab.pass_until(30_000, "both agree", Lab::is_at_rest);
    lab.assert_agreed();
    assert_eq!(lab.nodes[1].said(is_no_member), 1);
}

#[test]
fn who_is_withdrawn_stops_and_says_so_at_every_start() {
    let mut lab = by_authority(1_000);
    let own = withdrawn_at_work(&mut lab);
    lab.pass_until(60_000, "both agree", Lab::is_at_rest);
    lab.assert_agreed();
    assert_eq!(lab.nodes[1].height(&own), 30);
    assert!(lab.nodes[1].trainer.next_sample < 1_000, "it has stopped");
    let before = lab.nodes[1].said(is_no_member);
    for round in 1..=2 {
        lab.crash(1);
        lab.boot(1);
        lab.connect(0, 1);
        lab.pass_until(60_000, "it has joined", |lab| lab.nodes[1].peer().facts().has_joined);
        lab.pass_until(60_000, "both agree", Lab::is_at_rest);
        lab.assert_agreed();
        assert_eq!((lab.nodes[1].height(&own), lab.nodes[1].said(is_no_member)), (30, before + round));
    }
}

#[test]
fn who_is_withdrawn_while_it_trains_leaves_and_comes_back_with_the_same_weights() {
    for (is_slow, seed) in [(false, 1), (true, 2)] {
        let mut lab = by_authority(1_000);
        lab.random = Xoshiro256PlusPlus::seed_from_u64(seed);
        // A slow trainer has much under way that is not known here yet.
        lab.tempo.answers = if is_slow { (0, 300) } else { (0, 0) };
        lab.nodes[1].goals.checkpoint_interval_ms = 500;
        let own = withdrawn_at_work(&mut lab);
        for _ in 0..3 {
            // Long enough for checkpoints, and for one that is written on leaving.
            lab.pass(5_000);
            lab.tell(1, Input::Leave);
            lab.pass_until(20_000, "it has left", |lab| lab.nodes[1].left.is_some());
            lab.pass(1_000);
            lab.crash(1);
            lab.boot(1);
            lab.connect(0, 1);
            lab.pass_until(60_000, "both agree", Lab::is_at_rest);
            lab.assert_agreed();
            assert_eq!(lab.nodes[1].height(&own), 30);
            assert!(lab.nodes[1].disk.checkpoint.is_some());
        }
    }
}

#[test]
fn who_is_not_listed_says_so_and_offends_nobody() {
    let mut lab = with_members(20, &Manifest { membership: Membership::Keys(vec![signer(0).key()]), ..manifest() });
    lab.pass_until(30_000, "the first has made its own", |lab| lab.nodes[1].height(&lab.nodes[0].own()) == 20);
    lab.pass(20_000);
    assert_eq!((lab.nodes[1].said(is_no_member), lab.nodes[1].trainer.next_sample), (1, 0));
    assert_eq!(lab.nodes[0].said(|notice| matches!(notice, Notice::Fault { .. })), 0);
}
