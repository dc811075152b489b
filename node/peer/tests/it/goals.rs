//! Training, resting, and being done.

use crate::support::{Lab, goal, machine};
use peer::{GoalSettings, Input, Notice, Output, Phase, Work};
use protocol::{
    message::{Cursor, Question, Response},
    version_vector::{Entry, Standing},
};

fn limits(lab: &Lab, number: usize) -> Vec<u64> {
    let limit = |output: &Output| match output {
        Output::Work(Work::Train { until_sample }) => Some(*until_sample),
        _ => None,
    };
    lab.nodes[number].outputs.iter().filter_map(limit).collect()
}

#[test]
fn a_swarm_trains_to_its_goals_and_agrees() {
    let mut lab = Lab::swarm(1, 4, 40);
    lab.pass_until(60_000, "all have made their gradients and agree", Lab::is_at_rest);
    lab.assert_agreed();
    assert!(lab.nodes.iter().all(|node| node.height(&node.own()) == 40));
    assert!(lab.nodes.iter().all(|node| node.peer().facts().phase == Phase::Serving));
}

#[test]
fn who_starts_a_run_alone_trains_at_once() {
    let mut lab = Lab::swarm(1, 1, 10);
    lab.pass(200);
    assert!(lab.nodes[0].peer().facts().has_joined);
    assert_eq!(limits(&lab, 0), [0, 10]);
}

#[test]
fn who_knows_others_and_hears_from_nobody_trains_after_twenty_seconds() {
    let mut lab = Lab::new(1);
    lab.add_with_base(10);
    lab.nodes[0].disk.knows_others = true;
    lab.boot(0);
    lab.pass(19_900);
    assert_eq!((lab.nodes[0].peer().facts().phase, limits(&lab, 0)), (Phase::CatchingUp, vec![0]));
    lab.pass(300);
    assert_eq!(limits(&lab, 0), [0, 10]);
}

#[test]
fn a_neighbour_who_lists_ledgers_without_end_is_waited_for_three_minutes() {
    let (mut lab, puppet) = beside_a_puppet();
    let (mut listed, joined) = (0, |lab: &Lab| lab.nodes[0].peer().facts().has_joined);
    let mut lists = |question: &Question| {
        listed += 1;
        let entry = Entry::Ledger(machine(5, listed), Standing::Live { height: 9, head: [1; 32] });
        Some(match question {
            Question::Fetch { .. } => Response::Found { chunks: Vec::new(), statements: Vec::new() },
            _ => Response::Entries { entries: vec![entry], more: Some(Cursor::default()) },
        })
    };
    lab.pass_answering(puppet, 179_000, &mut lists);
    assert!(!joined(&lab) && lab.nodes[0].peer().facts().neighbours == 1);
    lab.pass_answering(puppet, 2_000, &mut lists);
    assert!(joined(&lab));
}

#[test]
fn a_relay_and_whoever_else_answers_nothing_is_no_neighbour_to_wait_for() {
    let (mut lab, puppet) = beside_a_puppet();
    lab.pass_answering(puppet, 19_000, |_| Some(Response::Unavailable));
    assert!(!lab.nodes[0].peer().facts().has_joined);
    assert_eq!(lab.nodes[0].peer().facts().neighbours, 0, "as people see it");
    lab.nodes[0].goals.exit_when_idle_ms = Some(1_000);
    lab.pass_answering(puppet, 2_000, |_| Some(Response::Unavailable));
    assert!(lab.nodes[0].peer().facts().has_joined);
    // And none of whom it is asked whether it agrees.
    lab.crash(0);
    lab.nodes[0].disk.knows_others = false;
    lab.boot(0);
    lab.connect(0, puppet);
    lab.pass_answering(puppet, 8_000, |_| Some(Response::Unavailable));
    assert!(lab.nodes[0].left.is_some(), "within eight seconds, not twenty");
}

/// A node that knows others, connected to nobody but a puppet.
fn beside_a_puppet() -> (Lab, usize) {
    let mut lab = Lab::new(1);
    lab.add_with_base(10);
    lab.nodes[0].disk.knows_others = true;
    let puppet = lab.add_puppet();
    lab.boot(0);
    lab.connect(0, puppet);
    (lab, puppet)
}

#[test]
fn nobody_trains_before_what_others_had_is_here() {
    let mut lab = Lab::swarm(3, 2, 200);
    lab.pass_until(60_000, "two agree", Lab::is_at_rest);
    let late = lab.add_with_base(5);
    lab.nodes[late].disk.knows_others = true;
    lab.boot(late);
    lab.connect(late, 0);
    let own = lab.nodes[late].own();
    lab.pass_until(5_000, "it has caught up", |lab| lab.nodes[late].peer().facts().has_joined);
    assert_eq!(lab.nodes[late].peer().replica().unwrap().swarm_step(), 400, "all of it");
    assert_eq!(lab.nodes[late].trainer.next_sample, 0);
    lab.pass_until(5_000, "it trains", |lab| lab.nodes[late].height(&own) == 5);
    assert!(lab.nodes[late].peer().facts().is_current, "the weights had it all before");
    assert_eq!(lab.nodes[late].trainer.swarm_step, 400, "it trains at the swarm's step, not at its own");
}

/// A machine that is alone makes many more samples between two swarm steps than others accept.
#[test]
fn however_fast_a_machine_is_and_however_slow_its_disk_others_accept_its_swarm_steps() {
    for disk in [(4, 4), (3_000, 6_000)] {
        let mut lab = Lab::swarm(1, 1, 80_000);
        lab.tempo.disk = disk;
        lab.nodes[0].trainer.batch = 700;
        lab.nodes[0].replica_settings.flush_samples = 4_096;
        let late = lab.add_with_base(0);
        lab.nodes[late].disk.knows_others = true;
        lab.boot(late);
        lab.connect(late, 0);
        lab.pass_until(3_600_000, "both hold all", |lab| lab.nodes[late].height(&lab.nodes[0].own()) == 80_000);
        assert!(lab.nodes[0].did(|output| matches!(output, Output::Work(Work::SwarmStep(_)))) > 2);
        assert_eq!(lab.nodes[late].said(|notice| matches!(notice, Notice::Fault { .. })), 0);
    }
}

/// Once restored, a ledger is as old as the step that it goes on at; a new incarnation begins with sample 0.
#[test]
fn restarts_and_new_incarnations_go_on_at_steps_that_others_accept() {
    let mut lab = Lab::swarm(1, 2, 50_000);
    for node in &mut lab.nodes {
        node.trainer.batch = 700;
    }
    for round in 0..3 {
        lab.pass(2_000);
        lab.crash(1);
        if round == 1 {
            lab.nodes[1].disk.chunks.retain(|(_, first), _| *first < 8_000);
            lab.nodes[1].has_lost = true;
        }
        lab.boot(1);
        lab.nodes[1].trainer.batch = 700;
        lab.connect(0, 1);
    }
    lab.pass_until(600_000, "both agree", Lab::is_at_rest);
    assert_eq!(lab.nodes[0].peer().replica().unwrap().swarm_step(), 100_000);
    assert!(lab.nodes.iter().all(|node| node.said(|notice| matches!(notice, Notice::Fault { .. })) == 0));
}

#[test]
fn samples_of_earlier_incarnations_count() {
    let mut lab = Lab::swarm(1, 2, 30);
    lab.pass_until(60_000, "both agree", Lab::is_at_rest);
    // Its disk is rolled back: what the other one holds is of an incarnation that it may not go on with.
    lab.crash(1);
    lab.nodes[1].disk.chunks.retain(|(_, first), _| *first < 8);
    lab.nodes[1].has_lost = true;
    lab.boot(1);
    lab.connect(0, 1);
    lab.pass_until(60_000, "both agree again", Lab::is_at_rest);
    let own = lab.nodes[1].own();
    assert_eq!(lab.nodes[0].peer().replica().unwrap().swarm_step(), 60, "not one gradient more than was asked for");
    assert_eq!(lab.nodes[1].height(&own), 0);
}

#[test]
fn an_adoption_takes_the_limit_of_the_machine_before_away_first() {
    let mut lab = Lab::swarm(1, 2, 30);
    lab.pass_until(60_000, "both agree", Lab::is_at_rest);
    lab.crash(1);
    lab.nodes[1].disk.chunks.retain(|(_, first), _| *first < 8);
    lab.nodes[1].has_lost = true;
    lab.nodes[1].outputs.clear();
    lab.boot(1);
    lab.connect(0, 1);
    lab.pass_until(60_000, "both agree again", Lab::is_at_rest);
    let works: Vec<&Work> = lab.nodes[1]
        .outputs
        .iter()
        .filter_map(|output| match output {
            Output::Work(work @ (Work::Train { .. } | Work::Adopt(..))) => Some(work),
            _ => None,
        })
        .collect();
    for pair in works.windows(2).filter(|pair| matches!(pair[1], Work::Adopt(..))) {
        assert_eq!(*pair[0], Work::Train { until_sample: 0 });
    }
    assert_eq!(works.iter().filter(|work| matches!(work, Work::Adopt(..))).count(), 2);
}

#[test]
fn probing_rests_while_a_weight_is_near_its_edge() {
    let mut lab = Lab::swarm(1, 1, 1_000);
    lab.pass(500);
    lab.tell(0, Input::NearEdge(true));
    assert_eq!(lab.nodes[0].peer().facts().phase, Phase::Paused);
    lab.tell(0, Input::NearEdge(false));
    assert_eq!(lab.nodes[0].peer().facts().phase, Phase::Training);
}

#[test]
fn the_weights_are_weighed_once_for_each_state_at_rest() {
    let mut lab = Lab::swarm(1, 2, 12);
    lab.pass_until(60_000, "both agree", Lab::is_at_rest);
    lab.pass(30_000);
    for node in &lab.nodes {
        let at_rest = |notice: &Notice| matches!(notice, Notice::AtRest { root, .. } if *root == node.root());
        assert_eq!(node.said(at_rest), 1);
        assert_eq!(node.said(|notice| matches!(notice, Notice::Weights { contents, .. } if contents.len() == 2)), 1);
    }
}

#[test]
fn a_ledger_that_is_full_ends_the_training() {
    let mut lab = Lab::new(1);
    lab.run =
        crate::support::run_of(&protocol::manifest::Manifest { ledger_samples_max: 20, ..crate::support::manifest() });
    lab.add_with_base(1_000);
    lab.boot(0);
    lab.pass_until(60_000, "it has made all that there is room for", Lab::is_at_rest);
    assert_eq!(lab.nodes[0].height(&lab.nodes[0].own()), 20);
    // Even a trainer that does not keep to its limit leaves nothing that could never be signed.
    lab.nodes[0].trainer.until_sample = 24;
    lab.pass(2_000);
    assert_eq!(lab.nodes[0].peer().replica().unwrap().own_waiting(), 0);
    lab.assert_agreed();
}

#[test]
fn who_is_to_leave_when_idle_leaves_once_all_is_made_and_told() {
    let mut lab = Lab::new(1);
    for number in 0..2 {
        lab.add_with_base(20);
        lab.nodes[number].goals = GoalSettings { exit_when_idle_ms: Some(2_000), ..goal(20) };
        lab.nodes[number].disk.knows_others = number > 0;
        lab.boot(number);
    }
    lab.connect(0, 1);
    lab.pass_until(60_000, "both have left", |lab| lab.nodes.iter().all(|node| node.left.is_some()));
    let (a, b) = (lab.nodes[0].own(), lab.nodes[1].own());
    for node in &lab.nodes {
        assert_eq!((node.disk.height(&a), node.disk.height(&b)), (20, 20), "each has the other's");
    }
}

#[test]
fn who_waits_for_nothing_leaves_though_others_train_on() {
    let mut lab = Lab::swarm(1, 3, 1_000_000);
    lab.pass(1_000);
    lab.crash(0);
    lab.nodes[0].disk.knows_others = true;
    lab.nodes[0].goals = GoalSettings { exit_when_idle_ms: Some(0), evaluates: true, ..goal(400) };
    lab.boot(0);
    lab.connect(0, 1);
    lab.connect(0, 2);
    lab.pass_until(60_000, "it has left", |lab| lab.nodes[0].left.is_some());
    let own = lab.nodes[0].own();
    assert_eq!((lab.nodes[1].height(&own), lab.nodes[2].height(&own)), (400, 400), "and they have what it made");
    assert!(!lab.nodes[1].peer().facts().own_is_done);
}

#[test]
fn what_came_just_now_is_no_idleness() {
    let mut lab = Lab::swarm(1, 2, 12);
    lab.nodes[1].goals = GoalSettings { exit_when_idle_ms: Some(5_000), ..goal(12) };
    lab.crash(1);
    lab.boot(1);
    lab.connect(0, 1);
    lab.pass_until(30_000, "both agree", Lab::is_at_rest);
    // Every four seconds something new comes.
    for round in 1..6 {
        let goals = GoalSettings { samples: Some(12 + round), ..goal(0) };
        lab.crash(0);
        lab.nodes[0].goals = goals;
        lab.boot(0);
        lab.connect(0, 1);
        lab.pass(4_000);
        assert!(lab.nodes[1].left.is_none(), "round {round}");
    }
    lab.pass_until(30_000, "it has left", |lab| lab.nodes[1].left.is_some());
}

#[test]
fn a_paused_machine_measures_nothing_and_takes_in_what_others_make() {
    let mut lab = Lab::new(1);
    for number in 0..2 {
        lab.add_with_base(100_000);
        lab.nodes[number].goals.evaluates = true;
        lab.nodes[number].disk.knows_others = number > 0;
        lab.boot(number);
    }
    lab.connect(0, 1);
    let own = |lab: &Lab, number: usize| lab.nodes[number].peer().replica().unwrap().own_next_sample();
    lab.pass_until(60_000, "both train", |lab| own(lab, 0) > 0 && own(lab, 1) > 0);
    lab.tell(0, Input::Pause(true));
    // What is under way comes to its end.
    lab.pass(2_000);
    lab.nodes[0].outputs.clear();
    let (made, others) = (own(&lab, 0), own(&lab, 1));
    assert_eq!(lab.nodes[0].peer().facts().phase, Phase::Paused);
    lab.pass(60_000);
    assert_eq!(own(&lab, 0), made, "own gradients");
    let machine = lab.nodes[1].own();
    assert!(lab.nodes[0].height(&machine) > others, "others' gradients");
    let measures = |output: &&Output| matches!(output, Output::Work(Work::Train { .. } | Work::Evaluate));
    assert!(!lab.nodes[0].outputs.iter().any(|output| measures(&output)));
    lab.tell(0, Input::Pause(false));
    lab.pass_until(60_000, "it goes on", |lab| own(lab, 0) > made);
    assert_eq!(lab.nodes[0].peer().facts().phase, Phase::Training);
}

#[test]
fn a_machine_that_was_paused_before_it_started_does_not_begin() {
    let mut lab = Lab::swarm(1, 1, 1_000);
    lab.crash(0);
    lab.nodes[0].outputs.clear();
    lab.boot(0);
    lab.tell(0, Input::Pause(true));
    lab.pass(10_000);
    assert_eq!((lab.nodes[0].peer().facts().phase, limits(&lab, 0)), (Phase::Paused, vec![0]));
    lab.tell(0, Input::Pause(false));
    lab.pass(1_000);
    assert_eq!(lab.nodes[0].peer().facts().phase, Phase::Training);
}
