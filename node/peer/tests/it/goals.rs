//! Training, evaluating, and being done.

use crate::support::{Channel, Lab, goal, machine, signer};
use peer::{CurvePoint, GoalSettings, Input, Notice, Output, Phase, Work};
use protocol::{
    manifest::Manifest,
    message::{Cursor, Gossip, Question, Response},
    revocation::Revocation,
    signature::Signer as _,
    statement::Statement,
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
fn what_came_while_the_weights_were_evaluated_is_evaluated_too() {
    let mut lab = Lab::new(1);
    for number in 0..2 {
        lab.add_with_base(8 * number);
        lab.nodes[number as usize].goals.evaluates = true;
        lab.nodes[number as usize].disk.knows_others = number > 0;
    }
    lab.tempo.training = (200, 200);
    lab.boot(0);
    let looks = |lab: &Lab| lab.nodes[0].did(|output| matches!(output, Output::Work(Work::Evaluate)));
    // The first evaluation begins, and all there will ever be comes before it ends.
    lab.pass_until(10_000, "an evaluation", |lab| looks(lab) == 1);
    lab.hold(0, Channel::Trainer);
    lab.boot(1);
    lab.connect(0, 1);
    lab.pass(10_000);
    assert_eq!(lab.nodes[0].height(&lab.nodes[1].own()), 8);
    lab.release(0, Channel::Trainer);
    lab.pass(60_000);
    assert_eq!(looks(&lab), 2, "and once only: nothing came since");
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
fn the_first_look_of_every_session_is_a_point() {
    let mut lab = Lab::new(1);
    lab.add_with_base(30);
    lab.nodes[0].goals.evaluates = true;
    for gradients in [0, 30] {
        lab.boot(0);
        lab.pass(5_000);
        let is_it = |notice: &Notice| matches!(notice, Notice::Point(point) if point.gradients == gradients);
        assert_eq!(lab.nodes[0].said(is_it), 1, "at {gradients} gradients");
        lab.crash(0);
    }
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

/// One node that measures twenty gradients a second. Its held-out loss is `loss` of the gradients in its weights.
fn learner(stops_when_flat: bool, loss: fn(u64) -> f64) -> Lab {
    let mut lab = Lab::new(1);
    lab.tempo.training = (200, 200);
    lab.add_with_base(20_000);
    let node = &mut lab.nodes[0];
    node.goals = GoalSettings { evaluates: true, stops_when_flat, ..goal(20_000) };
    node.loss = loss;
    lab.boot(0);
    lab
}

/// Falls until 2,000 gradients.
fn levelled(gradients: u64) -> f64 {
    4.0 - (gradients.clamp(1, 2_000) as f64).log2() / 5.0
}

fn is_look(output: &Output) -> bool {
    matches!(output, Output::Work(Work::Evaluate))
}

fn says_flat(notice: &Notice) -> bool {
    matches!(notice, Notice::Flat(forecast) if forecast.is_flat)
}

#[test]
fn own_samples_end_when_the_held_out_curve_is_flat() {
    let mut lab = learner(true, levelled);
    lab.pass_until(600_000, "it stops", |lab| lab.nodes[0].said(says_flat) > 0);
    lab.pass_until(60_000, "it is at rest", Lab::is_at_rest);
    let (facts, height) = (lab.nodes[0].peer().facts(), lab.nodes[0].height(&lab.nodes[0].own()));
    assert!((2_200..8_000).contains(&height), "it made {height}");
    assert_eq!((facts.phase, facts.stopped_flat, facts.own_is_done), (Phase::Serving, true, true));
    lab.pass(300_000);
    assert_eq!(lab.nodes[0].said(says_flat), 1, "it is said once");
    // A machine that leaves when idle takes it for the end of its goal.
    lab.crash(0);
    lab.nodes[0].goals.exit_when_idle_ms = Some(1_000);
    lab.boot(0);
    lab.pass_until(60_000, "it has left", |lab| lab.nodes[0].left.is_some());
    let own = lab.nodes[0].disk.chunks.keys().map(|(machine, _)| *machine).next().unwrap();
    assert_eq!(
        lab.nodes[0].disk.height(&own),
        height,
        "the curve survives a restart, and so does what follows from it"
    );
}

#[test]
fn own_samples_go_on_while_the_curve_falls_or_nobody_asked() {
    for (stops, loss) in [(true, (|g| 4.0 - (g.max(1) as f64).log2() / 5.0) as fn(u64) -> f64), (false, levelled)] {
        let mut lab = learner(stops, loss);
        lab.pass(500_000);
        let facts = lab.nodes[0].peer().facts();
        assert_eq!((facts.phase, facts.stopped_flat, lab.nodes[0].said(says_flat)), (Phase::Training, false, 0));
        assert_eq!(facts.forecast.unwrap().is_flat, !stops, "the forecast is there either way");
    }
}

#[test]
fn a_restart_goes_on_where_the_curve_was() {
    let mut lab = learner(true, levelled);
    lab.pass_until(600_000, "it is about to be flat", |lab| lab.nodes[0].peer().facts().forecast.is_some());
    let known = lab.nodes[0].disk.curve.clone();
    for _ in 0..12 {
        lab.pass(15_000);
        lab.crash(0);
        lab.boot(0);
    }
    lab.pass_until(600_000, "it stops", |lab| lab.nodes[0].peer().facts().stopped_flat);
    assert!(lab.nodes[0].disk.curve.starts_with(&known));
    // The same points in one go.
    let mut curve = peer::curve::Curve::default();
    lab.nodes[0].disk.curve.iter().for_each(|point| curve.push(*point));
    assert!(curve.is_flat());
    // Without the points of before it would not know.
    lab.crash(0);
    lab.nodes[0].disk.curve.clear();
    lab.boot(0);
    lab.pass(5_000);
    assert_eq!(lab.nodes[0].peer().facts().phase, Phase::Training);
}

#[test]
fn a_look_counts_once_its_own_bytes_are_stored() {
    let mut lab = learner(false, levelled);
    lab.pass(5_000);
    lab.hold(0, Channel::Key);
    let points = |lab: &Lab| lab.nodes[0].disk.curve.len();
    let (before, looks) = (points(&lab), |lab: &Lab| lab.nodes[0].did(is_look));
    let looked = looks(&lab);
    lab.pass(25_000);
    let asked = looks(&lab);
    assert!(asked > looked, "it looks");
    assert_eq!(points(&lab), before, "what nobody signed is in no point");
    lab.release(0, Channel::Key);
    lab.pass(2_000);
    let curve: Vec<CurvePoint> = lab.nodes[0].disk.curve.clone();
    assert!(curve.len() >= asked, "every look is a point now: {} of {asked}", curve.len());
    assert!(curve.windows(2).all(|pair| pair[0].gradients < pair[1].gradients));
}

#[test]
fn a_look_at_bytes_that_no_ledger_ever_holds_is_no_point() {
    let authority = signer(9);
    let mut lab = Lab::new(1);
    lab.run = crate::support::run_of(&Manifest { authority: Some(authority.key()), ..crate::support::manifest() });
    lab.tempo.training = (200, 200);
    lab.add_with_base(20_000);
    lab.nodes[0].goals.evaluates = true;
    let puppet = lab.add_puppet();
    lab.boot(0);
    lab.pass(5_000);
    lab.hold(0, Channel::Key);
    lab.pass(12_000);
    let (own, looks, points) = (lab.nodes[0].own(), lab.nodes[0].did(is_look), lab.nodes[0].disk.curve.len());
    assert!(looks > points, "one look waits for signatures: {looks}, {points}");
    // The machine is withdrawn, and begins anew: what it had measured and not signed leaves its weights.
    lab.connect(0, puppet);
    lab.pass(100);
    let revocation = Revocation::sign(&lab.run.id, own, 0, &authority);
    lab.puppet_gossip(puppet, 0, Gossip::Statement(Statement::Revocation(revocation)).encode().unwrap());
    lab.pass_until(5_000, "it is another machine", |lab| lab.nodes[0].own() != own);
    lab.release(0, Channel::Key);
    lab.pass(30_000);
    let machines: Vec<Vec<_>> = lab.nodes[0]
        .notices
        .iter()
        .filter_map(|notice| match notice {
            Notice::Point(point) => Some(point.contents.iter().map(|part| part.machine).collect()),
            _ => None,
        })
        .collect();
    assert!(machines[..points].iter().all(|machines| machines.iter().all(|machine| *machine == own)));
    assert!(machines.len() > points, "it goes on");
    assert!(machines[points..].iter().all(|machines| *machines == [lab.nodes[0].own()]), "{machines:?}");
}

#[test]
fn what_is_left_is_looked_at_before_leaving() {
    let mut lab = learner(false, levelled);
    lab.crash(0);
    lab.nodes[0].goals = GoalSettings { samples: Some(64), exit_when_idle_ms: Some(100), ..lab.nodes[0].goals.clone() };
    lab.boot(0);
    lab.pass_until(60_000, "it has left", |lab| lab.nodes[0].left.is_some());
    assert_eq!(lab.nodes[0].disk.curve.last().map(|point| point.gradients), Some(64));
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
