//! Looks at the held-out text: when, what makes one a point, and own samples that end once the curve is flat.

use crate::support::{Channel, Lab, goal, signer};
use peer::{CurvePoint, GoalSettings, Notice, Output, Phase, Work};
use protocol::{
    manifest::Manifest, message::Gossip, revocation::Revocation, signature::Signer as _, statement::Statement,
};

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
