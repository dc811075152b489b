//! Bytes on the sockets per gradient, by cause, of swarms of real nodes on loopback that are fed with ready bytes.
//!
//! All bytes that the nodes' TCP sockets received within the measured time, over the gradients that went into the
//! weights of others within it. Connections are made before (`start`, kB per node). Payload is 1 by definition.

#[path = "../node/tests/it/support/fed.rs"]
mod fed;
mod support;

use fed::{Outcome, Plan, run};
use protocol::replica::Settings;
use std::time::Duration;
use support::is_test;

/// Connections and meshes stand after this long: gossipsub's first heartbeat comes after five seconds, and of 32 nodes
/// on one busy core the last connections take longer.
fn warm_up(nodes: usize) -> Duration {
    Duration::from_secs(if nodes > 8 { 14 } else { 7 })
}

/// Received per gradient delivered, bytes.
struct Row {
    heads: f64,
    duplicates: f64,
    anti_entropy: f64,
    /// The mesh's announcements and the connections' upkeep: what is left.
    control: f64,
    all: f64,
    delay_median_ms: u32,
    delay_p99_ms: u32,
    neighbours: f64,
    /// Before the measured time, kB per node.
    start_kb: f64,
    /// Share of the gradients fed that were delivered within the time.
    delivered: f64,
    is_equal: bool,
}

fn row(plan: &Plan, outcomes: Vec<Outcome>) -> Row {
    let sum = |field: fn(&Outcome) -> u64| outcomes.iter().map(field).sum::<u64>() as f64;
    let delivered = sum(|node| node.delivered);
    let all = sum(|node| node.traffic.socket_in - node.before.socket_in);
    let first = sum(|node| node.traffic.gossip_frames_in - node.before.gossip_frames_in);
    let duplicates = sum(|node| node.traffic.duplicates_in - node.before.duplicates_in);
    let anti_entropy = sum(|node| node.traffic.exchange_in - node.before.exchange_in);
    let mut delays: Vec<u32> = outcomes.iter().flat_map(|node| &node.delays_ms).copied().collect();
    delays.sort_unstable();
    let quantile = |share: f64| delays.get((share * delays.len() as f64) as usize).copied().unwrap_or_default();
    let measured = (plan.measured.1 - plan.measured.0).as_secs_f64();
    let fed = measured * plan.per_second * (plan.feeding * (plan.nodes - 1)) as f64;
    Row {
        heads: first / delivered - 1.0,
        duplicates: duplicates / delivered,
        anti_entropy: anti_entropy / delivered,
        control: (all - first - duplicates - anti_entropy) / delivered,
        all: all / delivered,
        delay_median_ms: quantile(0.5),
        delay_p99_ms: quantile(0.99),
        neighbours: sum(|node| node.neighbours as u64) / outcomes.len() as f64,
        start_kb: sum(|node| node.before.socket_in) / outcomes.len() as f64 / 1000.0,
        delivered: delivered / fed,
        is_equal: outcomes.iter().all(|node| node.root == outcomes[0].root),
    }
}

/// A swarm in which all have own bytes.
fn swarm(nodes: usize, per_second: f64, settings: Settings, measured: Duration) -> Row {
    let warm_up = warm_up(nodes);
    let plan = Plan {
        nodes,
        per_second,
        feeding: nodes,
        feed_from: warm_up / 2,
        samples: u64::MAX,
        measured: (warm_up, warm_up + measured),
        // What waits for company is sent, too.
        lasts: warm_up + measured + Duration::from_millis(settings.staleness_ms_max) + Duration::from_secs(3),
        settings,
    };
    row(&plan, run(&plan))
}

/// Bytes per gradient on one link with nothing else on it: two nodes, of which one has own bytes, without anti-entropy.
fn hop(flush_samples: usize) -> f64 {
    let settings = Settings {
        flush_samples,
        staleness_ms: 10_000,
        staleness_ms_max: 10_000,
        anti_entropy_interval_ms: 3_600_000,
        ..Settings::default()
    };
    let warm_up = Duration::from_secs(2);
    let plan = Plan {
        nodes: 2,
        per_second: 2_560.0,
        feeding: 1,
        feed_from: warm_up / 2,
        samples: u64::MAX,
        measured: (warm_up, warm_up * 2),
        lasts: warm_up * 2 + Duration::from_millis(500),
        settings,
    };
    let outcomes = run(&plan);
    let receiver = &outcomes[1];
    (receiver.traffic.socket_in - receiver.before.socket_in) as f64 / receiver.delivered as f64
}

fn print(nodes: usize, per_second: f64, flush: &str, row: &Row) {
    println!(
        "{nodes:>5}{per_second:>8}{flush:>14}{:>8.2}{:>8.2}{:>8.2}{:>8.2}{:>9.2}{:>9}{:>8}{:>7.1}{:>7.0}{:>8.0}%{}",
        row.heads,
        row.duplicates,
        row.anti_entropy,
        row.control,
        row.all,
        row.delay_median_ms,
        row.delay_p99_ms,
        row.neighbours,
        row.start_kb,
        100.0 * row.delivered,
        if row.is_equal { "" } else { "  not equal 3 s after the last flush" },
    );
}

/// Sizes of swarms, gradients per second and node, flush intervals (ms; None: default settings), and measured time.
fn cases(quick: bool) -> (Vec<(usize, f64, Option<u64>)>, Duration) {
    if quick {
        return (vec![(8, 100.0, None)], Duration::from_secs(6));
    }
    let mut cases: Vec<_> = [2, 8, 32].map(|nodes| (nodes, 100.0, None)).into();
    cases.extend([1.0, 10.0].map(|per_second| (32, per_second, None)));
    for per_second in [10.0, 100.0] {
        cases.extend([250, 1_000, 4_000].map(|flush_ms| (32, per_second, Some(flush_ms))));
    }
    // Whole multiples of the longest flush interval.
    (cases, Duration::from_secs(8))
}

fn main() {
    let quick = is_test() || std::env::args().any(|argument| argument == "--quick");
    let (cases, measured) = cases(quick);
    println!("bytes received per gradient delivered, all sockets of the swarm, {} s", measured.as_secs());
    println!(
        "{:>5}{:>8}{:>14}{:>8}{:>8}{:>8}{:>8}{:>9}{:>9}{:>8}{:>7}{:>7}{:>9}",
        "nodes",
        "grad/s",
        "flush",
        "heads",
        "again",
        "a.-e.",
        "control",
        "all",
        "delay",
        "p99 ms",
        "peers",
        "start",
        "came"
    );
    let mut results = Vec::new();
    for (nodes, per_second, flush_ms) in cases {
        let settings = match flush_ms {
            Some(staleness_ms) => {
                Settings { staleness_ms, staleness_ms_max: staleness_ms, flush_samples: 4_096, ..Settings::default() }
            }
            None => Settings::default(),
        };
        let row = swarm(nodes, per_second, settings, measured);
        print(nodes, per_second, &flush_ms.map_or("default".into(), |ms| format!("{ms} ms")), &row);
        if flush_ms.is_none() && per_second == 100.0 {
            results.push((format!("wire_bytes_per_gradient_{nodes}"), row.all));
        }
    }
    for flush_samples in [256, 64] {
        results.push((format!("wire_hop_bytes_{flush_samples}"), hop(flush_samples)));
    }
    for (name, value) in results {
        println!("BENCH {name} {value:.3}");
    }
}
