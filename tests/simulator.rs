//! The simulator: that a seed says it all, that the invariants hold over seeds, and that every checker can fail.

use sim::{
    record::{Record, Verdict},
    scenario::{Fault, Hostile, Malice, Scenario, What},
    swarm::Sabotage,
    world::{Label, World},
};

fn label(name: &str) -> Label {
    Label { scenario: name.into(), reproduce: String::new() }
}

fn run(name: &str, seed: u64) -> Record {
    let (name, scenario) = Scenario::load(name).unwrap();
    World::new(scenario, seed, None).unwrap().run(&label(&name), |_| true).unwrap().unwrap()
}

fn small(gradients: u64) -> Scenario {
    let (_, mut scenario) = Scenario::load("calm").unwrap();
    scenario.machines = 5;
    scenario.gradients = gradients;
    scenario.converge_seconds_max = 40.0;
    scenario
}

fn crash_for_good(at_seconds: f64, machines: usize) -> Fault {
    Fault { at_seconds, what: What::Crash { machines, back_after_seconds: None } }
}

fn sabotaged(scenario: Scenario, sabotage: Sabotage) -> Record {
    let mut world = World::new(scenario, 1, None).unwrap();
    world.sabotage(sabotage);
    world.run(&label("sabotaged"), |_| true).unwrap().unwrap()
}

#[track_caller]
fn caught(record: &Record, check: &str) {
    let verdict = &record.checks[check];
    assert!(verdict.is_failure(), "{check}: {verdict}");
}

#[test]
fn the_same_seed_gives_the_same_events_and_another_seed_gives_others() {
    for name in ["demo", "flaky_disks", "hostile"] {
        let (first, again, other) = (run(name, 5), run(name, 5), run(name, 6));
        assert_eq!(first.event_log_hash, again.event_log_hash, "{name}");
        assert_eq!(first.curve, again.curve, "{name}");
        assert_ne!(first.event_log_hash, other.event_log_hash, "{name}");
    }
}

#[test]
fn every_invariant_holds_in_every_scenario_for_a_few_seeds() {
    for name in ["demo", "calm", "home_internet", "churn", "partition", "flaky_disks", "hostile"] {
        for seed in 1..=3 {
            let record = run(name, seed);
            assert!(record.passed(), "sim run {name} --seed {seed}: {:?}", record.checks);
        }
    }
}

#[test]
fn a_crowd_that_joins_at_once_becomes_one_with_the_swarm() {
    let (_, mut scenario) = Scenario::load("flash_crowd").unwrap();
    scenario.gradients = 20;
    for fault in &mut scenario.faults {
        if let What::Join { machines, .. } = &mut fault.what {
            *machines = 60;
        }
    }
    let record = World::new(scenario, 3, None).unwrap().run(&label("crowd"), |_| true).unwrap().unwrap();
    assert!(record.passed(), "{:?}", record.checks);
    assert_eq!(record.machines, 68);
}

#[test]
fn a_joiner_fetches_the_base_over_its_link_and_only_once() {
    let mut scenario = small(30);
    scenario.joins_over_seconds = 0.5;
    (scenario.quadratic.dimensions, scenario.quadratic.noise) = (100_000, 0.0);
    let base = 4 * 100_000;
    let run = |scenario: &Scenario| {
        World::new(scenario.clone(), 1, None).unwrap().run(&label("joins"), |_| true).unwrap().unwrap()
    };
    let quick = run(&scenario);
    assert!((4 * base..5 * base).contains(&quick.bytes.joins), "four joiners: {:?}", quick.bytes);
    scenario.faults = vec![Fault { at_seconds: 3.0, what: What::Crash { machines: 4, back_after_seconds: Some(0.5) } }];
    let crashed = run(&scenario);
    assert!((4 * base..5 * base).contains(&crashed.bytes.joins), "it is on their disks: {:?}", crashed.bytes);
    scenario.faults.clear();
    scenario.link.down_mbps = 0.5;
    let slow = run(&scenario);
    let takes = 8.0 * base as f64 / 0.5e6;
    assert!(slow.virtual_seconds > quick.virtual_seconds + 0.9 * takes, "{} s at half a megabit", slow.virtual_seconds);
    for record in [quick, crashed, slow] {
        assert!(record.passed(), "{:?}", record.checks);
    }
}

#[test]
fn a_real_language_model_learns_in_the_simulator() {
    let (_, mut scenario) = Scenario::load("real_model").unwrap();
    scenario.machines = 3;
    scenario.gradients = 40;
    let record = World::new(scenario, 1, None).unwrap().run(&label("real"), |_| true).unwrap().unwrap();
    assert!(record.passed(), "{:?}", record.checks);
    let (first, last) = (record.curve.first().unwrap().loss, record.curve.last().unwrap().loss);
    assert!(last < first, "{first} -> {last} nats per token");
}

#[test]
fn weights_that_lack_an_entry_are_caught() {
    let record = sabotaged(small(60), Sabotage::SkipReplay);
    caught(&record, "equal sets of entries give equal digests");
    caught(&record, "digests follow from the base by the reference arithmetic");
}

#[test]
fn a_trace_of_a_revoked_machine_is_caught() {
    let mut scenario = small(60);
    scenario.hostile = vec![Hostile { malice: Malice::ForkOverlap, machines: 1, at_seconds: 1.0 }];
    let honest = World::new(scenario.clone(), 1, None).unwrap().run(&label("honest"), |_| true).unwrap().unwrap();
    assert_eq!(honest.checks["revoked machines leave no trace"], Verdict::Passed);
    caught(&sabotaged(scenario, Sabotage::KeepRevoked), "revoked machines leave no trace");
}

#[test]
fn an_acknowledged_byte_that_is_lost_is_caught() {
    let mut scenario = small(100);
    scenario.faults = vec![crash_for_good(5.0, 2)];
    caught(&sabotaged(scenario, Sabotage::LoseRecords), "no acknowledged byte is lost");
}

#[test]
fn a_sample_that_is_signed_twice_is_caught() {
    caught(&sabotaged(small(60), Sabotage::SignTwice), "no honest machine signs a sample twice");
}

#[test]
fn a_ledger_that_holds_what_was_not_signed_is_caught() {
    caught(&sabotaged(small(40), Sabotage::Forge), "ledgers hold what was signed");
}

#[test]
fn a_machine_that_hears_nothing_is_caught() {
    let record = sabotaged(small(60), Sabotage::Deafen);
    assert!(!record.converged);
    caught(&record, "all machines become equal");
}

#[test]
fn a_queue_without_end_is_caught() {
    let mut scenario = small(4_000);
    scenario.replica.flush_samples = 1;
    scenario.speed.gradients_per_second = 50.0;
    let record = sabotaged(scenario, Sabotage::Hoard);
    caught(&record, "queues stay within bounds");
}

#[test]
fn an_honest_machine_that_is_held_a_fault_against_is_caught() {
    caught(&sabotaged(small(60), Sabotage::Spoil), "honest machines hold nothing against each other");
}
