//! When a checkpoint is written, and what it claims. That it claims exactly what its weights hold, the laboratory
//! checks.

use crate::support::{Channel, Lab, goal};
use peer::{GoalSettings, Input, Output, Work};

fn commits(lab: &Lab, number: usize) -> usize {
    lab.nodes[number].did(|output| matches!(output, Output::Commit { .. }))
}

fn asked(lab: &Lab, number: usize) -> usize {
    lab.nodes[number].did(|output| matches!(output, Output::Work(Work::Checkpoint)))
}

fn discarded(lab: &Lab, number: usize) -> usize {
    lab.nodes[number].did(|output| matches!(output, Output::Discard))
}

/// Nodes that write a checkpoint every second.
fn lab(seed: u64, count: usize, samples: u64) -> Lab {
    let mut lab = Lab::new(seed);
    for number in 0..count {
        lab.add_with_base(samples);
        lab.nodes[number].goals = GoalSettings { checkpoint_interval_ms: 1_000, ..goal(samples) };
        lab.nodes[number].disk.knows_others = number > 0;
        lab.boot(number);
    }
    for a in 0..count {
        for b in 0..a {
            lab.connect(a, b);
        }
    }
    lab
}

#[test]
fn checkpoints_are_written_while_there_is_news_and_a_restart_goes_on_from_one() {
    let mut lab = lab(1, 3, 200);
    lab.pass_until(120_000, "all agree", Lab::is_at_rest);
    lab.pass(5_000);
    let written = commits(&lab, 1);
    assert!(written >= 1);
    lab.pass(60_000);
    assert_eq!(commits(&lab, 1), written, "nothing has come since");
    lab.crash(1);
    lab.nodes[1].outputs.clear();
    lab.boot(1);
    assert_eq!(lab.nodes[1].did(|output| matches!(output, Output::Resume(true))), 1);
    lab.pass(3_000);
    let replays = lab.nodes[1].did(|output| matches!(output, Output::Work(Work::ReplayLedgers(_) | Work::Replay(_))));
    assert_eq!(replays, 0, "all of it was in the checkpoint");
    lab.assert_agreed();
}

#[test]
fn the_pause_is_kept_and_a_slow_disk_makes_it_longer() {
    let mut lab = Lab::swarm(1, 1, 100_000);
    lab.pass(29_900);
    assert_eq!(asked(&lab, 0), 0);
    lab.pass(400);
    assert_eq!(asked(&lab, 0), 1);
    lab.pass(30_000);
    assert_eq!(asked(&lab, 0), 2);
}

#[test]
fn a_checkpoint_waits_for_the_own_samples_that_it_holds() {
    let mut lab = lab(1, 1, 40);
    lab.pass(900);
    lab.hold(0, Channel::Key);
    lab.nodes[0].goals = goal(0);
    lab.pass(5_000);
    assert_eq!((asked(&lab, 0), commits(&lab, 0)), (1, 0), "a segment in it is not signed");
    lab.hold(0, Channel::Disk);
    lab.release(0, Channel::Key);
    lab.pass(5_000);
    assert_eq!(commits(&lab, 0), 0, "or not durable");
    lab.release(0, Channel::Disk);
    lab.pass(5_000);
    assert!(commits(&lab, 0) >= 1);
}

#[test]
fn what_comes_while_the_file_is_written_is_not_claimed() {
    let mut lab = lab(1, 2, 400);
    lab.pass(900);
    // The file is written, and the trainer's word of it is late; meanwhile the other's samples come.
    lab.pass_until(5_000, "a file is asked for", |lab| asked(lab, 1) > 0);
    lab.pass_until(5_000, "and written", |lab| lab.nodes[1].trainer.written.is_some());
    lab.hold(1, Channel::Trainer);
    let before = lab.nodes[1].peer().replica().unwrap().swarm_step();
    lab.pass(3_000);
    assert!(lab.nodes[1].peer().replica().unwrap().swarm_step() > before);
    lab.release(1, Channel::Trainer);
    lab.pass_until(5_000, "it counts", |lab| commits(lab, 1) > 0);
}

#[test]
fn a_file_of_an_incarnation_that_was_given_up_is_discarded() {
    let mut lab = lab(1, 2, 30);
    lab.pass_until(60_000, "both agree", Lab::is_at_rest);
    lab.crash(1);
    lab.nodes[1].disk.chunks.retain(|(_, first), _| *first < 8);
    lab.nodes[1].disk.checkpoint = None;
    (lab.nodes[1].has_lost, lab.nodes[1].goals.samples) = (true, Some(60));
    lab.nodes[1].outputs.clear();
    lab.nodes[1].notices.clear();
    lab.boot(1);
    lab.pass(200);
    // It learns that it is behind; while its new name is drawn, no file is asked for.
    lab.hold(1, Channel::Incarnation);
    lab.connect(0, 1);
    lab.pass(20_000);
    assert_eq!(asked(&lab, 1), 0);
    lab.hold(1, Channel::Trainer);
    lab.release(1, Channel::Incarnation);
    lab.pass(20_000);
    assert_eq!(asked(&lab, 1), 0, "nor while the trainer may still measure under the old one");
    lab.release(1, Channel::Trainer);
    lab.pass_until(60_000, "both agree", Lab::is_at_rest);
    lab.pass(5_000);
    assert!(commits(&lab, 1) >= 1);
    assert_eq!(discarded(&lab, 1), 0);
}

#[test]
fn a_file_that_was_written_before_the_machine_was_given_up_never_counts() {
    let mut lab = lab(1, 2, 400);
    lab.pass(200);
    lab.hold(1, Channel::Key);
    lab.hold(1, Channel::Incarnation);
    lab.pass_until(5_000, "a file is asked for", |lab| asked(lab, 1) > 0);
    lab.pass_until(5_000, "and written", |lab| lab.nodes[1].trainer.written.is_some());
    lab.pass(500);
    // The own key is used elsewhere: a proof of it comes.
    let own = lab.nodes[1].own();
    lab.nodes[1].has_lost = true;
    let puppet = lab.add_puppet();
    lab.connect(1, puppet);
    let fork = crate::support::ledger_of(1, own, &[4], 99).remove(0);
    lab.pass_answering(puppet, 12_000, |question| match question {
        protocol::message::Question::Summary { .. } => Some(protocol::message::Response::Entries {
            entries: vec![protocol::version_vector::Entry::Ledger(
                own,
                protocol::version_vector::Standing::Live { height: 100_000, head: [9; 32] },
            )],
            more: None,
        }),
        protocol::message::Question::Fetch { .. } => {
            Some(protocol::message::Response::Found { chunks: vec![fork.clone()], statements: Vec::new() })
        }
        _ => Some(protocol::message::Response::Unavailable),
    });
    assert_eq!(commits(&lab, 1), 0);
    lab.release(1, Channel::Key);
    lab.release(1, Channel::Incarnation);
    lab.pass(3_000);
    assert_eq!(discarded(&lab, 1), 1);
    lab.cut(1, puppet);
    lab.pass_until(60_000, "both agree", Lab::is_at_rest);
    lab.assert_agreed();
}

#[test]
fn a_file_that_could_not_be_written_is_tried_again_later() {
    let mut lab = lab(1, 1, 400);
    lab.pass(500);
    lab.hold(0, Channel::Trainer);
    lab.pass_until(5_000, "a file is asked for", |lab| asked(lab, 0) == 1);
    lab.tell(0, Input::WriteFailed);
    // A word that it was written comes too late.
    lab.release(0, Channel::Trainer);
    lab.pass(500);
    assert_eq!(commits(&lab, 0), 0);
    lab.pass_until(5_000, "another is", |lab| asked(lab, 0) == 2);
}

#[test]
fn words_that_nobody_waits_for_change_nothing() {
    let mut lab = lab(1, 1, 40);
    lab.hold(0, Channel::Disk);
    lab.pass_until(9_000, "own samples wait", |lab| lab.nodes[0].trainer.written.is_some());
    // Not the answer to anything: the file of before is still the one that waits.
    let own = lab.nodes[0].own();
    lab.pass(300);
    lab.tell(0, Input::Committed);
    lab.tell(0, Input::WriteFailed);
    lab.tell(0, Input::Written { machine: own, next_sample: 0, took_ms: 3 });
    assert_eq!(asked(&lab, 0), 1);
    lab.release(0, Channel::Disk);
    lab.pass(500);
    assert_eq!(commits(&lab, 0), 1);
}

#[test]
fn a_checkpoint_that_does_not_fit_costs_a_replay_and_nothing_else() {
    let mut lab = lab(1, 2, 60);
    lab.pass_until(60_000, "both agree", Lab::is_at_rest);
    lab.pass(3_000);
    lab.crash(1);
    lab.nodes[1].disk.checkpoint.as_mut().unwrap().1[0].digest[0] ^= 1;
    lab.nodes[1].outputs.clear();
    lab.boot(1);
    assert_eq!(lab.nodes[1].did(|output| matches!(output, Output::Resume(false))), 1);
    lab.connect(0, 1);
    lab.pass_until(60_000, "both agree", Lab::is_at_rest);
    lab.assert_agreed();
}
