//! The simulator: that a seed says it all, that the invariants hold over seeds, and that every checker can fail.

use sim::{
    scenario::{Adversaries, Fault, Scenario, Strategy, What},
    summary::{CheckResult, Summary},
    swarm::Sabotage,
    world::{Label, World},
};

fn label(name: &str) -> Label {
    Label { scenario: name.into(), reproduce: String::new() }
}

fn run(name: &str, seed: u64) -> Summary {
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

fn sabotaged(scenario: Scenario, sabotage: Sabotage) -> Summary {
    let mut world = World::new(scenario, 1, None).unwrap();
    world.sabotage(sabotage);
    world.run(&label("sabotaged"), |_| true).unwrap().unwrap()
}

#[track_caller]
fn caught(summary: &Summary, check: &str) {
    let result = &summary.checks[check];
    assert!(result.is_failure(), "{check}: {result}");
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
    let names =
        ["demo", "calm", "home_internet", "home_routers", "churn", "partition", "flaky_disks", "hostile", "members"];
    for name in names {
        for seed in 1..=3 {
            let summary = run(name, seed);
            assert!(summary.passed(), "sim run {name} --seed {seed}: {:?}", summary.checks);
        }
    }
}

#[test]
fn machines_stop_when_their_held_out_curve_is_flat_and_agree() {
    let mut scenario = small(8_000);
    scenario.speed.gradients_per_second = 20.0;
    scenario.faults =
        vec![Fault { at_seconds: 90.0, what: What::Crash { machines: 2, back_after_seconds: Some(2.0) } }];
    scenario.stop_when_flat = true;
    let run = |scenario: &Scenario| {
        World::new(scenario.clone(), 1, None).unwrap().run(&label("flat"), |_| true).unwrap().unwrap()
    };
    let (summary, again) = (run(&scenario), run(&scenario));
    assert!(summary.passed(), "{:?}", summary.checks);
    assert!((1_000..20_000).contains(&summary.gradients), "{} of 40,000 gradients", summary.gradients);
    assert_eq!(summary.event_log_hash, again.event_log_hash);
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
    let summary = World::new(scenario, 3, None).unwrap().run(&label("crowd"), |_| true).unwrap().unwrap();
    assert!(summary.passed(), "{:?}", summary.checks);
    assert_eq!(summary.machines, 68);
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
    for summary in [quick, crashed, slow] {
        assert!(summary.passed(), "{:?}", summary.checks);
    }
}

#[test]
fn a_real_language_model_learns_in_the_simulator() {
    let (_, mut scenario) = Scenario::load("real_model").unwrap();
    scenario.machines = 3;
    scenario.gradients = 40;
    let summary = World::new(scenario, 1, None).unwrap().run(&label("real"), |_| true).unwrap().unwrap();
    assert!(summary.passed(), "{:?}", summary.checks);
    let (first, last) = (summary.curve.first().unwrap().loss, summary.curve.last().unwrap().loss);
    assert!(last < first, "{first} -> {last} nats per token");
}

#[test]
fn weights_that_lack_an_entry_are_caught() {
    let summary = sabotaged(small(60), Sabotage::SkipReplay);
    caught(&summary, "equal sets of entries give equal digests");
    caught(&summary, "digests follow from the base by the reference arithmetic");
}

#[test]
fn a_trace_of_a_revoked_machine_is_caught() {
    let mut scenario = small(60);
    scenario.adversaries = vec![Adversaries { strategy: Strategy::ForkOverlap, machines: 1, at_seconds: 1.0 }];
    let honest = World::new(scenario.clone(), 1, None).unwrap().run(&label("honest"), |_| true).unwrap().unwrap();
    assert_eq!(honest.checks["revoked machines leave no trace"], CheckResult::Passed);
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
    let summary = sabotaged(small(60), Sabotage::Deafen);
    assert!(!summary.converged);
    caught(&summary, "all machines become equal");
}

#[test]
fn a_queue_without_end_is_caught() {
    let mut scenario = small(4_000);
    scenario.replica.flush_samples = 1;
    scenario.speed.gradients_per_second = 50.0;
    let summary = sabotaged(scenario, Sabotage::Hoard);
    caught(&summary, "queues stay within bounds");
}

#[test]
fn an_honest_machine_that_is_held_a_fault_against_is_caught() {
    caught(&sabotaged(small(60), Sabotage::Spoil), "honest machines hold nothing against each other");
}

#[test]
fn a_machine_that_goes_on_beyond_its_goal_is_caught() {
    caught(&sabotaged(small(60), Sabotage::Overdo), "no machine makes more gradients than it should");
}

#[test]
fn a_machine_that_leaves_gradients_behind_is_caught() {
    let mut scenario = small(100);
    scenario.faults = vec![Fault { at_seconds: 5.0, what: What::Leave { machines: 2 } }];
    let check = "who leaves leaves nothing behind";
    let world = World::new(scenario.clone(), 1, None).unwrap();
    assert_eq!(world.run(&label("honest"), |_| true).unwrap().unwrap().checks[check], CheckResult::Passed);
    caught(&sabotaged(scenario, Sabotage::LeaveAtOnce), check);
}

#[test]
fn a_machine_that_measures_nothing_while_others_flood_it_is_caught() {
    let check = "no machine starves";
    let (_, scenario) = Scenario::load("overspend").unwrap();
    let world = World::new(scenario.clone(), 1, None).unwrap();
    let honest = world.run(&label("honest"), |_| true).unwrap().unwrap();
    assert!(honest.passed(), "{:?}", honest.checks);
    assert_eq!(honest.checks[check], CheckResult::Passed);
    assert!(honest.senders.iter().all(|sender| sender.gradients == 60 && sender.said_behind > 0));
    caught(&sabotaged(scenario, Sabotage::Starve), check);
}

#[test]
fn a_joiner_with_another_base_is_caught() {
    caught(&sabotaged(small(40), Sabotage::SpoilBase), "joiners store the run's base model");
}

#[test]
fn a_sample_that_is_signed_against_the_neighbours_knowledge_is_caught() {
    let check = "no machine signs what its neighbours know better";
    caught(&sabotaged(small(60), Sabotage::SignAgain), check);
}

#[test]
fn a_rolled_back_disk_costs_an_incarnation_and_no_second_signature() {
    let mut scenario = small(150);
    let rolled_back = What::DiskRolledBack { machines: 2, by_seconds: 4.0, back_after_seconds: 1.0 };
    scenario.faults = vec![Fault { at_seconds: 8.0, what: rolled_back }];
    for seed in 1..=3 {
        let world = World::new(scenario.clone(), seed, None).unwrap();
        let summary = world.run(&label("rolled back"), |_| true).unwrap().unwrap();
        assert!(summary.passed(), "seed {seed}: {:?}", summary.checks);
        assert_eq!(summary.checks["no machine signs what its neighbours know better"], CheckResult::Passed);
    }
}

#[test]
fn joiners_get_past_machines_that_send_them_another_base() {
    let mut scenario = small(60);
    scenario.adversaries = vec![Adversaries { strategy: Strategy::WrongBase, machines: 3, at_seconds: 0.0 }];
    scenario.faults = vec![Fault { at_seconds: 3.0, what: What::Join { machines: 6, over_seconds: 1.0 } }];
    for seed in 1..=3 {
        let world = World::new(scenario.clone(), seed, None).unwrap();
        let summary = world.run(&label("wrong base"), |_| true).unwrap().unwrap();
        assert!(summary.passed(), "seed {seed}: {:?}", summary.checks);
    }
}

#[test]
fn who_leaves_is_waited_for_even_when_the_disk_is_full() {
    let mut scenario = small(80);
    scenario.faults = vec![
        Fault { at_seconds: 4.0, what: What::DiskFull { machines: 4, lasts_seconds: 1.0 } },
        Fault { at_seconds: 4.5, what: What::Leave { machines: 2 } },
    ];
    for seed in 1..=3 {
        let world = World::new(scenario.clone(), seed, None).unwrap();
        let summary = world.run(&label("full"), |_| true).unwrap().unwrap();
        assert!(summary.passed(), "seed {seed}: {:?}", summary.checks);
    }
}
