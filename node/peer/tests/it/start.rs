//! What a start decides: incarnation and own head.

use crate::support::{Channel, Lab, ledger_of, machine};
use peer::{GoalSettings, Input, Notice, Output};
use protocol::replica::{IncarnationCause, Record, Report};
use protocol::segment::Chunk;

fn renewals(lab: &Lab, number: usize) -> Vec<IncarnationCause> {
    let cause = |notice: &Notice| match notice {
        Notice::NewIncarnation { cause, .. } => Some(*cause),
        _ => None,
    };
    lab.nodes[number].notices.iter().filter_map(cause).collect()
}

/// Two nodes that agree, of which the second is down.
fn restarted(seed: u64) -> Lab {
    let mut lab = Lab::swarm(seed, 2, 30);
    lab.pass_until(60_000, "both agree", Lab::is_at_rest);
    lab.crash(1);
    lab.nodes[1].notices.clear();
    lab.nodes[1].outputs.clear();
    lab
}

#[test]
fn a_restart_goes_on_with_the_own_ledger_once_others_have_shown_its_head() {
    let mut lab = restarted(1);
    let before = lab.nodes[0].peer().replica().unwrap().swarm_step();
    lab.nodes[1].goals = crate::support::goal(50);
    lab.boot(1);
    lab.connect(0, 1);
    lab.pass_until(60_000, "both agree", Lab::is_at_rest);
    assert_eq!(renewals(&lab, 1), []);
    assert_eq!(lab.nodes[1].said(|notice| *notice == Notice::Report(Report::HeadConfirmed)), 1);
    assert_eq!(lab.nodes[0].peer().replica().unwrap().swarm_step(), before + 20);
}

#[test]
fn a_restart_signs_nothing_before_that() {
    let mut lab = restarted(1);
    lab.nodes[1].goals = crate::support::goal(50);
    lab.boot(1);
    lab.pass(9_000);
    assert_eq!(lab.nodes[1].did(|output| matches!(output, Output::Sign { .. } | Output::Publish(_))), 0);
    lab.connect(0, 1);
    lab.pass(1_900);
    assert_eq!(
        lab.nodes[1].did(|output| matches!(output, Output::Sign { .. })),
        0,
        "two seconds more, for better news"
    );
    lab.pass_until(20_000, "both agree", Lab::is_at_rest);
}

#[test]
fn a_disk_that_was_rolled_back_begins_anew_and_forks_nothing() {
    let mut lab = restarted(2);
    lab.nodes[1].disk.chunks.clear();
    let chunks = ledger_of_disk(&lab, 12);
    chunks.into_iter().for_each(|chunk| lab.nodes[1].disk.store(Record::Chunk(chunk.into())));
    lab.nodes[1].has_lost = true;
    lab.nodes[1].goals = crate::support::goal(50);
    lab.boot(1);
    lab.connect(0, 1);
    lab.pass_until(60_000, "both agree", Lab::is_at_rest);
    assert_eq!(renewals(&lab, 1), [IncarnationCause::Behind]);
    for node in &lab.nodes {
        assert_eq!(node.said(|notice| matches!(notice, Notice::Report(Report::Forked { .. }))), 0);
        assert_eq!(node.said(|notice| matches!(notice, Notice::Fault { .. })), 0);
    }
    assert_eq!(lab.nodes[0].peer().replica().unwrap().swarm_step(), 80);
}

/// Regression: such a disk knows of nobody who could tell, and was gone on with: a fork, whose samples were all lost.
#[test]
fn a_disk_that_was_rolled_back_to_before_anybody_came_forks_nothing() {
    let mut lab = Lab::swarm(5, 1, 30);
    lab.pass_until(60_000, "it made its samples", Lab::is_at_rest);
    let old = lab.nodes[0].disk.clone();
    let late = lab.add_with_base(0);
    lab.nodes[late].disk.knows_others = true;
    lab.nodes[0].goals = crate::support::goal(50);
    for number in [0, late] {
        lab.crash(number);
        lab.boot(number);
    }
    lab.connect(0, late);
    lab.pass_until(60_000, "both agree", Lab::is_at_rest);
    let before = lab.nodes[late].peer().replica().unwrap().swarm_step();
    assert_eq!(before, 50);
    lab.crash(0);
    lab.nodes[0].disk = old;
    lab.nodes[0].has_lost = true;
    lab.nodes[0].goals = crate::support::goal(70);
    lab.boot(0);
    lab.pass(10_000);
    lab.connect(0, late);
    lab.pass_until(60_000, "both agree", Lab::is_at_rest);
    for node in &lab.nodes {
        assert_eq!(node.said(|notice| matches!(notice, Notice::Report(Report::Forked { .. }))), 0);
    }
    assert!(lab.nodes[late].peer().replica().unwrap().swarm_step() > before, "what it made since is heard");
}

/// The first chunk of node 1's ledger as node 0 serves it, if it ends no later than that.
fn ledger_of_disk(lab: &Lab, end: u64) -> Vec<protocol::segment::Chunk> {
    let own = lab.nodes[1].signed.keys().map(|(machine, _)| *machine).next().unwrap();
    let chunk = lab.nodes[0].disk.chunks.values().find(|chunk| chunk.machine == own && chunk.first == 0).unwrap();
    assert!(chunk.end() <= 30 && end < 30);
    vec![Chunk::clone(chunk)]
}

#[test]
fn who_hears_from_nobody_begins_anew_after_half_a_minute() {
    let mut lab = restarted(3);
    lab.nodes[1].goals = crate::support::goal(50);
    lab.boot(1);
    lab.pass(29_000);
    assert_eq!(renewals(&lab, 1), []);
    lab.pass(2_000);
    assert_eq!(renewals(&lab, 1), [IncarnationCause::Unanswered]);
    lab.connect(0, 1);
    lab.pass_until(60_000, "both agree", Lab::is_at_rest);
    assert_eq!(lab.nodes[0].peer().replica().unwrap().swarm_step(), 80);
}

#[test]
fn an_empty_ledger_of_an_earlier_process_gets_a_new_incarnation_unasked() {
    let mut lab = Lab::new(1);
    lab.add_with_base(10);
    lab.nodes[0].disk.knows_others = true;
    lab.nodes[0].disk.incarnation = 77;
    lab.hold(0, Channel::Incarnation);
    lab.boot(0);
    lab.pass(5_000);
    assert_eq!(lab.nodes[0].did(|output| matches!(output, Output::NewIncarnation)), 1, "it is asked for once");
    assert_eq!(lab.nodes[0].did(|output| matches!(output, Output::Work(_))), 0, "and nothing begins before it is here");
    lab.release(0, Channel::Incarnation);
    lab.pass(100);
    assert_ne!(lab.nodes[0].own().incarnation, 77);
    assert_eq!(renewals(&lab, 0), []);
}

#[test]
fn an_incarnation_that_nobody_asked_for_changes_nothing() {
    let mut lab = Lab::swarm(1, 1, 10);
    let own = lab.nodes[0].own();
    lab.pass(1_000);
    lab.tell(0, Input::Incarnation(5));
    assert_eq!(lab.nodes[0].own(), own);
    assert_eq!(lab.nodes[0].did(|output| matches!(output, Output::NewIncarnation)), 0);
}

#[test]
fn an_incarnation_that_has_a_ledger_is_not_new() {
    let mut lab = restarted(4);
    lab.hold(1, Channel::Incarnation);
    lab.boot(1);
    let own = lab.nodes[1].own();
    lab.pass(31_000);
    assert_eq!(lab.nodes[1].did(|output| matches!(output, Output::NewIncarnation)), 1);
    lab.tell(1, Input::Incarnation(own.incarnation));
    assert_eq!(lab.nodes[1].own(), own);
    assert_eq!(lab.nodes[1].did(|output| matches!(output, Output::NewIncarnation)), 2, "another is asked for");
    lab.release(1, Channel::Incarnation);
    lab.connect(0, 1);
    lab.pass_until(60_000, "both agree", Lab::is_at_rest);
}

/// Whoever makes many bytes at once makes none that could be in vain.
#[test]
fn who_waits_to_sign_makes_nothing_before_the_own_head_is_sure() {
    for waits_to_sign in [true, false] {
        let mut lab = restarted(2);
        lab.nodes[1].goals = GoalSettings { waits_to_sign, ..crate::support::goal(50) };
        lab.boot(1);
        lab.connect(0, 1);
        let made = |lab: &Lab| lab.nodes[1].trainer.next_sample.saturating_sub(30);
        let signs = |lab: &Lab| lab.nodes[1].peer().replica().unwrap().signs();
        lab.pass_until(60_000, "it may sign", |lab| signs(lab) || made(lab) > 0);
        assert_eq!(signs(&lab), waits_to_sign);
        lab.pass_until(60_000, "both agree", Lab::is_at_rest);
        assert_eq!(made(&lab), 20);
    }
}

#[test]
fn a_record_that_breaks_a_rule_ends_everything() {
    let mut lab = restarted(5);
    let mut chunk = Chunk::clone(lab.nodes[1].disk.chunks.values().next().unwrap());
    chunk.bytes[0] ^= 1;
    lab.nodes[1].disk.store(Record::Chunk(chunk.into()));
    lab.boot(1);
    assert!(lab.nodes[1].damaged.as_ref().unwrap().contains("signature"));
    let peer = lab.nodes[1].peer.as_mut().unwrap();
    for input in [Input::Tick, Input::Start(crate::support::goal(5)), Input::Leave, Input::NetworkOpened] {
        assert!(peer.step(input, 60_000).is_empty(), "nothing comes after that");
    }
}

#[test]
fn the_own_key_in_two_places_costs_a_fork_and_goes_on_under_a_new_name() {
    let mut lab = Lab::swarm(6, 2, 20);
    lab.pass_until(60_000, "both agree", Lab::is_at_rest);
    // Another process has signed other bytes under the same name.
    let own = lab.nodes[1].own();
    let puppet = lab.add_puppet();
    lab.connect(0, puppet);
    lab.pass(100);
    let chunk = ledger_of(1, own, &[4], 99).remove(0);
    lab.nodes[1].has_lost = true;
    lab.pass_answering(puppet, 8_000, |question| match question {
        protocol::message::Question::Summary { .. } => Some(protocol::message::Response::Entries {
            entries: vec![protocol::version_vector::Entry::Ledger(
                own,
                protocol::version_vector::Standing::Live { height: 20, head: [9; 32] },
            )],
            more: None,
        }),
        protocol::message::Question::Fetch { .. } => {
            Some(protocol::message::Response::Found { chunks: vec![chunk.clone()], statements: Vec::new() })
        }
        _ => Some(protocol::message::Response::Unavailable),
    });
    lab.cut(0, puppet);
    lab.pass_until(60_000, "both agree", Lab::is_at_rest);
    lab.assert_agreed();
    assert_eq!(renewals(&lab, 1), [IncarnationCause::Forked]);
    assert_eq!(lab.nodes[0].height(&own), 0, "nothing of the old name counts");
    assert_eq!(lab.nodes[0].height(&lab.nodes[1].own()), 20);
    assert_eq!(machine(1, 0).key, own.key);
}
