//! The simulator's bytes against those of a real swarm: the same machines, the same gradients, real libp2p over
//! loopback.

use crate::support::fed::{Plan, run};
use protocol::replica::Settings;
use sim::{
    scenario::Scenario,
    world::{Label, World},
};
use std::time::Duration;

const MACHINES: u8 = 6;
const SAMPLES: u64 = 600;
const PER_SECOND: u64 = 40;

/// Bytes received per gradient received, in a real swarm.
fn real() -> f64 {
    let lasts = Duration::from_secs(SAMPLES / PER_SECOND + 6);
    let plan = Plan {
        nodes: usize::from(MACHINES),
        per_second: PER_SECOND as f64,
        feeding: usize::from(MACHINES),
        feed_from: Duration::ZERO,
        samples: SAMPLES,
        measured: (Duration::ZERO, lasts),
        lasts,
        settings: Settings::default(),
    };
    let outcomes = run(&plan);
    assert!(outcomes.iter().all(|node| node.root == outcomes[0].root), "the real swarm did not become equal");
    let bytes: u64 = outcomes.iter().map(|node| node.traffic.socket_in).sum();
    bytes as f64 / outcomes.iter().map(|node| node.delivered).sum::<u64>() as f64
}

#[test]
fn the_simulator_counts_the_bytes_of_a_real_swarm_within_fifteen_percent() {
    let (_, mut scenario) = Scenario::load("calm").unwrap();
    scenario.machines = usize::from(MACHINES);
    scenario.gradients = SAMPLES;
    scenario.joins_over_seconds = 0.1;
    (scenario.speed.gradients_per_second, scenario.speed.spread) = (PER_SECOND as f64, 1.0);
    (scenario.link.latency_ms, scenario.link.jitter_ms) = (0.1, 0.0);
    let label = Label { scenario: "traffic".into(), reproduce: String::new() };
    let record = World::new(scenario, 1, None).unwrap().run(&label, |_| true).unwrap().unwrap();
    let (simulated, real) = (record.bytes_per_gradient(), real());
    println!("bytes per gradient: {simulated:.1} simulated, {real:.1} real; simulated: {:?}", record.bytes);
    assert!((simulated / real - 1.0).abs() < 0.15, "{simulated:.1} simulated, {real:.1} real");
}
