//! Faults planted in the rules that all peers share: the scenarios of `sim explore` must find each of them.
//!
//! A checker that never fails proves nothing. Each fault here is one that a change of crate `peer` could make, and no
//! test of a single machine would see.

use peer::planted::Fault;
use sim::{
    scenario::Scenario,
    summary::{CheckResult, Summary},
    world::{Label, World},
};

/// Seeds that a fault may take to be seen.
const SEEDS: u64 = 200;

fn run(name: &str, seed: u64, fault: Option<Fault>) -> Summary {
    let (name, scenario) = Scenario::load(name).unwrap();
    let mut world = World::new(scenario, seed, None).unwrap();
    fault.into_iter().for_each(|fault| world.plant(fault));
    let label = Label { scenario: name, reproduce: String::new() };
    world.run(&label, |_| true).unwrap().unwrap()
}

/// Plants `fault` in every machine and runs scenario `name` until `check` fails; without the fault, that seed must
/// pass.
#[track_caller]
fn is_found(fault: Fault, name: &str, check: &str) {
    let found = (1..=SEEDS).find_map(|seed| match &run(name, seed, Some(fault)).checks[check] {
        CheckResult::Failed(how) => Some((seed, how.clone())),
        CheckResult::Passed | CheckResult::NotTried => None,
    });
    let Some((seed, how)) = found else { panic!("{fault:?}: no seed up to {SEEDS} of {name} shows it") };
    println!("{fault:?}: {name}, seed {seed}: {how}");
    let sound = run(name, seed, None);
    assert!(sound.passed(), "without the fault, sim run {name} --seed {seed}: {:?}", sound.checks);
}

#[test]
fn a_joiner_that_accepts_any_chunk_is_found() {
    is_found(Fault::AcceptsAnyChunk, "hostile", "joiners store the run's base model");
}

#[test]
fn goals_that_count_one_incarnation_are_found() {
    is_found(Fault::CountsOneIncarnation, "flaky_disks", "no machine makes more gradients than it should");
}

#[test]
fn a_checkpoint_that_claims_late_is_found() {
    is_found(Fault::ClaimsLate, "flaky_disks", "digests follow from the base by the reference arithmetic");
}

#[test]
fn a_start_that_trusts_its_disk_is_found() {
    is_found(Fault::TrustsItsDisk, "flaky_disks", "no machine signs what its neighbours know better");
}

#[test]
fn senders_without_regard_to_the_budget_are_found() {
    is_found(Fault::IgnoresBudget, "slow_laptop", "no machine makes more than its share of the replay budget");
}

#[test]
fn replay_in_the_order_of_arrival_is_found() {
    is_found(Fault::TakesNoTurns, "overspend", "who overspends delays only itself");
}

#[test]
fn leaving_at_once_is_found() {
    is_found(Fault::LeavesAtOnce, "churn", "who leaves leaves nothing behind");
}

#[test]
fn a_machine_that_hides_its_backlog_is_found() {
    is_found(Fault::HidesItsBacklog, "overspend", "who falls behind says so");
}

#[test]
fn who_calls_itself_and_never_comes_back_is_found() {
    is_found(Fault::StrandsItself, "home_routers", "no machine stays cut off");
}

#[test]
fn connections_that_are_dead_for_a_quarter_of_an_hour_are_found() {
    is_found(Fault::BearsSilence, "home_routers", "no machine stays cut off");
}

#[test]
fn restored_ledgers_whose_authors_are_unknown_are_found() {
    is_found(Fault::ForgetsWhomItRestored, "home_routers", "gradients cost after a restart what they did before");
}
