//! `sim plan`: what a run will cost, by running its beginning.

use anyhow::{Result, ensure};

use crate::{
    cli::PlanArgs,
    process::{Interrupt, say},
    report,
    scenario::{MACHINES_MAX, Scenario},
    summary::{Quantiles, Summary},
    world::{Label, World},
};

/// Virtual seconds that are simulated; the rest is extrapolated.
const SECONDS: f64 = 60.0;
/// Replay on one ordinary core, element·gradients per second (`cargo bench --bench replay`).
const REPLAY_PER_SECOND: f64 = 30e9;

/// Simulates the beginning and prints the prediction. False if even that broke an invariant.
pub fn plan(args: &PlanArgs, interrupt: &Interrupt) -> Result<bool> {
    ensure!((1..=MACHINES_MAX).contains(&args.nodes), "--nodes {}: a run has 1 to {MACHINES_MAX} machines", args.nodes);
    let bytes = args.bytes_per_parameter;
    ensure!(bytes.is_finite() && bytes > 0.0, "--bytes-per-parameter {bytes}: must be positive, for example 2");
    let scenario = scenario(args)?;
    let label = Label { scenario: "plan".into(), reproduce: String::new() };
    let world = World::new(scenario.clone(), 1, None)?;
    let Some(summary) = world.run(&label, |_| !interrupt.is_pressed())? else { return Ok(false) };
    say(format!(
        "{}, {} gradients per second each, links of {} ms:",
        report::machines(args.nodes),
        scenario.speed.gradients_per_second,
        scenario.link.latency_ms
    ))?;
    for (name, value) in rows(args, &scenario, &summary) {
        say(format!("  {name:<38} {value}"))?;
    }
    say(format!(
        "simulated: {} gradients in {:.0} virtual seconds; the rest is extrapolated",
        summary.gradients, summary.virtual_seconds
    ))?;
    Ok(summary.passed())
}

/// The part of the run that is simulated.
fn scenario(args: &PlanArgs) -> Result<Scenario> {
    let (_, mut scenario) = Scenario::load("calm")?;
    scenario.link = Default::default();
    scenario.machines = args.nodes;
    scenario.speed.spread = 1.0;
    scenario.speed.replay_us = 1e6 * args.parameters as f64 / args.groups as f64 / REPLAY_PER_SECOND;
    args.changes.apply(&mut scenario)?;
    if args.changes.gradients.is_none() {
        let share = (args.total as f64 / args.nodes as f64).ceil();
        scenario.gradients = (SECONDS * scenario.speed.gradients_per_second).min(share).max(1.0) as u64;
    }
    Ok(scenario)
}

/// What the whole run comes to: names and values.
fn rows(args: &PlanArgs, scenario: &Scenario, summary: &Summary) -> Vec<(String, String)> {
    let (rate, replay_us, link) = (scenario.speed.gradients_per_second, scenario.speed.replay_us, &scenario.link);
    let (per_second, machines) = (pace(summary), args.nodes as f64);
    // Joins happen once, and the base is not that of the run that is planned.
    let mut bytes = summary.bytes;
    bytes.joins = 0;
    let per_gradient = |bytes: u64| bytes as f64 / summary.deliveries.max(1) as f64;
    let each = per_gradient(bytes.total());
    let received = per_second * each * (machines - 1.0) / machines;
    let mut rows = vec![
        (
            "gradients per second, all together".to_owned(),
            format!("{per_second:.1} ({:.0}% of what they would make alone)", 100.0 * per_second / (rate * machines)),
        ),
        ("received by each machine".into(), format!("{:.1} kB/s ({:.1} bytes per gradient)", received / 1e3, each)),
    ];
    for (cause, bytes) in bytes.named().into_iter().filter(|(_, bytes)| *bytes > 0) {
        rows.push((format!("  {cause}"), format!("{:.2} bytes per gradient", per_gradient(bytes))));
    }
    let base_mb = 1e-6 * args.bytes_per_parameter * args.parameters as f64;
    let fetching = span(8.0 * base_mb / link.up_mbps.min(link.down_mbps));
    let Quantiles { median, p99, .. } = summary.delay_ms;
    let others = 100.0 * per_second * replay_us / 1e6;
    rows.extend([
        ("from one machine's gradient to others".into(), format!("{median:.0} ms (median; {p99:.0} ms for 99 of 100)")),
        ("gradients that a probe does not know".into(), format!("{:.0} (median)", summary.staleness_gradients.median)),
        (
            "replaying one gradient".into(),
            format!("{replay_us:.1} us; all that others make: {others:.1}% of a machine's time"),
        ),
        ("base model for a joiner".into(), format!("{base_mb:.1} MB ({fetching} from one peer)")),
        (format!("time to {} gradients", args.total), span(args.total as f64 / per_second)),
    ]);
    rows
}

/// Gradients per second while all machines are at work: between a tenth and six tenths of the run.
fn pace(summary: &Summary) -> f64 {
    let at = |share: f64| summary.spread.iter().find(|point| point.made as f64 >= share * summary.gradients as f64);
    match (at(0.1), at(0.6)) {
        (Some(from), Some(to)) if to.seconds > from.seconds => {
            (to.made - from.made) as f64 / (to.seconds - from.seconds)
        }
        _ => summary.gradients_per_second(),
    }
}

fn span(seconds: f64) -> String {
    match seconds {
        s if s < 120.0 => format!("{s:.0} s"),
        s if s < 7200.0 => format!("{:.0} min", s / 60.0),
        s if s < 172_800.0 => format!("{:.1} hours", s / 3600.0),
        s => format!("{:.1} days", s / 86_400.0),
    }
}
