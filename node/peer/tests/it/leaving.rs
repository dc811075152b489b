//! Leaving: nothing acknowledged is lost, and it ends.

use crate::support::{Channel, Lab, goal, ledger_of, machine};
use peer::{GoalSettings, Input, Notice, Output, Work, leave::Departure};
use protocol::message::{Gossip, Push};

fn leave(lab: &mut Lab, number: usize) {
    lab.tell(number, Input::Leave);
}

#[test]
fn own_gradients_are_signed_stored_and_told_before_it_leaves() {
    let mut lab = Lab::swarm(1, 2, 10_000);
    lab.pass(3_000);
    let own = lab.nodes[0].own();
    let made = lab.nodes[0].trainer.next_sample;
    leave(&mut lab, 0);
    assert!(lab.nodes[0].left.is_none());
    lab.pass(500);
    assert_eq!(lab.nodes[0].left, Some(Departure::Clean));
    assert!(lab.nodes[0].disk.height(&own) >= made);
    assert!(lab.nodes[1].height(&own) >= made, "the other one has them");
    assert!(matches!(lab.nodes[0].outputs.last(), Some(Output::Left(_))), "nothing comes after that");
}

#[test]
fn no_more_gradients_are_made_and_whoever_waits_for_the_trainer_is_not_waited_for() {
    let mut lab = Lab::swarm(1, 1, 10_000);
    let puppet = lab.add_puppet();
    lab.connect(0, puppet);
    lab.pass(2_000);
    // The trainer is busy with very many entries of others.
    lab.hold(0, Channel::Trainer);
    for (number, chunk) in (0..12u64).map(|number| (number, ledger_of(5, machine(5, number), &[1_000], 8).remove(0))) {
        let gossip = protocol::message::Gossip::Segment(protocol::message::Push::of(&chunk));
        lab.puppet_gossip(puppet, 0, gossip.encode().unwrap());
        assert!(number < 12);
    }
    lab.pass(1_000);
    assert!(lab.nodes[0].peer().facts().owed >= 12_000);
    leave(&mut lab, 0);
    let checkpoints = lab.nodes[0].did(|output| matches!(output, Output::Work(Work::Checkpoint)));
    assert_eq!(checkpoints, 0, "a checkpoint would wait behind them");
    lab.pass(1_000);
    assert_eq!(lab.nodes[0].left, Some(Departure::Clean));
}

#[test]
fn a_checkpoint_is_written_on_leaving_and_is_enough_for_the_next_start() {
    let mut lab = Lab::swarm(1, 2, 60);
    lab.pass(4_000);
    leave(&mut lab, 0);
    lab.pass(1_000);
    assert_eq!(lab.nodes[0].left, Some(Departure::Clean));
    assert_eq!(lab.nodes[0].did(|output| matches!(output, Output::Commit { .. })), 1);
    lab.crash(0);
    lab.boot(0);
    assert_eq!(lab.nodes[0].did(|output| matches!(output, Output::Resume(true))), 1);
}

#[test]
fn a_slow_disk_is_waited_for_however_long_it_takes() {
    let mut lab = Lab::swarm(1, 1, 10_000);
    lab.pass(2_000);
    lab.hold(0, Channel::Disk);
    leave(&mut lab, 0);
    lab.pass(600_000);
    assert_eq!(lab.nodes[0].left, None);
    let told = lab.nodes[0].said(|notice| matches!(notice, Notice::StillLeaving(_)));
    assert!((58..=62).contains(&told), "people hear of it {told} times in ten minutes");
    lab.release(0, Channel::Disk);
    lab.pass(1_000);
    assert_eq!(lab.nodes[0].left, Some(Departure::Clean));
}

#[test]
fn a_signature_that_is_under_way_is_waited_for() {
    let mut lab = Lab::swarm(1, 1, 10_000);
    lab.pass(2_000);
    lab.hold(0, Channel::Key);
    lab.pass(3_000);
    let own = lab.nodes[0].own();
    leave(&mut lab, 0);
    lab.pass(60_000);
    assert_eq!(lab.nodes[0].left, None);
    lab.release(0, Channel::Key);
    lab.pass(2_000);
    assert_eq!(lab.nodes[0].left, Some(Departure::Clean));
    assert_eq!(lab.nodes[0].disk.height(&own), lab.nodes[0].trainer.next_sample);
}

#[test]
fn a_disk_that_refuses_four_times_is_given_up_and_people_hear_what_is_lost() {
    let mut lab = Lab::swarm(1, 1, 10_000);
    lab.pass(2_000);
    lab.nodes[0].disk.is_full = true;
    lab.pass(20_000);
    assert_eq!(lab.nodes[0].left, None, "while it stays, it waits for room");
    leave(&mut lab, 0);
    lab.pass(5_000);
    match lab.nodes[0].left {
        Some(Departure::GivenUp(waiting)) => assert!(waiting.writes > 0 && waiting.own > 0, "{waiting:?}"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn words_of_the_disk_that_tell_nothing_new_are_no_progress() {
    let mut lab = Lab::swarm(1, 1, 10_000);
    lab.pass(2_000);
    lab.hold(0, Channel::Disk);
    lab.pass(1_000);
    leave(&mut lab, 0);
    for _ in 0..4 {
        lab.tell(0, Input::StoreFailed);
        lab.tell(0, Input::Stored { write: 1 });
    }
    assert!(matches!(lab.nodes[0].left, Some(Departure::GivenUp(_))));
}

#[test]
fn whoever_may_not_sign_leaves_at_once() {
    let mut lab = Lab::swarm(1, 2, 30);
    lab.pass_until(60_000, "both agree", Lab::is_at_rest);
    lab.crash(1);
    lab.nodes[1].goals = goal(60);
    lab.boot(1);
    // Its head is not confirmed, and never will be.
    lab.pass(25_000);
    leave(&mut lab, 1);
    lab.pass(100);
    assert_eq!(lab.nodes[1].left, Some(Departure::Clean));
}

#[test]
fn a_new_incarnation_that_is_under_way_is_not_waited_for() {
    for is_start in [true, false] {
        let mut lab = Lab::new(1);
        lab.add_with_base(30);
        lab.nodes[0].disk.knows_others = true;
        lab.boot(0);
        lab.pass(30_000);
        lab.crash(0);
        if is_start {
            lab.nodes[0].disk.chunks.clear();
        }
        lab.hold(0, Channel::Incarnation);
        lab.boot(0);
        lab.pass(31_000);
        assert!(lab.nodes[0].did(|output| matches!(output, Output::NewIncarnation)) > 0, "at the start: {is_start}");
        leave(&mut lab, 0);
        lab.pass(100);
        assert_eq!(lab.nodes[0].left, Some(Departure::Clean), "at the start: {is_start}");
        lab.release(0, Channel::Incarnation);
        lab.pass(1_000);
    }
}

#[test]
fn leaving_before_the_start_ends_at_once() {
    let mut lab = Lab::new(1);
    lab.add();
    lab.boot(0);
    lab.tell(0, Input::Run(crate::support::run()));
    lab.tell(0, Input::BaseReady);
    leave(&mut lab, 0);
    assert_eq!(lab.nodes[0].left, Some(Departure::Clean));
}

#[test]
fn a_second_wish_changes_nothing() {
    let mut lab = Lab::swarm(1, 1, 10_000);
    lab.pass(2_000);
    lab.hold(0, Channel::Disk);
    leave(&mut lab, 0);
    lab.nodes[0].outputs.clear();
    leave(&mut lab, 0);
    assert_eq!(lab.nodes[0].did(|output| !matches!(output, Output::Notice(_))), 0);
    assert_eq!(lab.nodes[0].said(|notice| *notice == Notice::Leaving), 1);
    lab.release(0, Channel::Disk);
    lab.pass(1_000);
    assert_eq!(lab.nodes[0].left, Some(Departure::Clean));
}

/// A node that is done with 20 samples and leaves when idle, connected to a puppet that answers nothing.
fn beside_a_silent_neighbour() -> Lab {
    let mut lab = Lab::new(1);
    lab.add_with_base(20);
    lab.nodes[0].goals = GoalSettings { exit_when_idle_ms: Some(1_000), ..goal(20) };
    let puppet = lab.add_puppet();
    lab.boot(0);
    lab.connect(0, puppet);
    lab
}

#[test]
fn a_silent_neighbour_keeps_nobody_for_longer_than_twenty_seconds() {
    let mut lab = beside_a_silent_neighbour();
    lab.pass(20_000);
    assert_eq!(lab.nodes[0].left, None, "it is being compared with");
    lab.pass(10_000);
    assert_eq!(lab.nodes[0].left, Some(Departure::Clean));
}

#[test]
fn a_wish_cuts_the_comparing_short() {
    let mut lab = beside_a_silent_neighbour();
    lab.pass(12_000);
    assert_eq!(lab.nodes[0].left, None);
    leave(&mut lab, 0);
    lab.pass(200);
    assert_eq!(lab.nodes[0].left, Some(Departure::Clean));
}

#[test]
fn nothing_of_others_is_taken_while_what_is_left_is_stored() {
    let mut lab = Lab::new(1);
    lab.add_with_base(20);
    let puppet = lab.add_puppet();
    lab.boot(0);
    lab.connect(0, puppet);
    lab.pass(2_000);
    let send = |lab: &mut Lab, author| {
        let chunk = &ledger_of(author, machine(author, 3), &[40], 8)[0];
        lab.puppet_gossip(puppet, 0, Gossip::Segment(Push::of(chunk)).encode().unwrap());
        lab.pass(100);
    };
    send(&mut lab, 5);
    lab.hold(0, Channel::Disk);
    leave(&mut lab, 0);
    send(&mut lab, 6);
    lab.release(0, Channel::Disk);
    lab.pass(2_000);
    assert_eq!(lab.nodes[0].left, Some(Departure::Clean));
    let stored = |author| lab.nodes[0].disk.height(&machine(author, 3));
    assert_eq!((stored(5), stored(6)), (40, 0));
}
