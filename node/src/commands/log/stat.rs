//! `log stat`: what the bytes look like.

use anyhow::Result;
use protocol::machine::short_name;
use serde_json::json;

use crate::{
    cli::LogArgs,
    log::{
        Log,
        statistics::{COLUMNS, Distribution, MachineStatistics, statistics},
    },
    outln,
};

/// Heights of a bar that is one character wide.
const BARS: [char; 9] = [' ', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

pub fn run(args: &LogArgs) -> Result<()> {
    let log = Log::open(&args.source)?;
    let levels = log.manifest.levels;
    let machines = statistics(log.replica.machines().map(|(machine, ledger, _)| (machine, ledger)), levels);
    let ledgers = log.replica.machines().map(|(_, ledger, _)| ledger);
    let bytes = ledgers.flat_map(|ledger| ledger.entries(0, ledger.height()).map(|(_, byte, _)| byte));
    let swarm = Distribution::of(bytes, levels);
    if args.json {
        outln!("{:#}", json!({ "run": log.run.to_string(), "levels": levels, "swarm": swarm, "machines": machines }))?;
        return Ok(());
    }
    outln!(
        "rms and mean in standard deviations (byte / {levels}); the bars show how often bytes from -127 to 127 occur\n"
    )?;
    outln!(
        "{:<18} {:>10} {:>6} {:>6} {:>6} {:>6}  {:<COLUMNS$}  rms over time",
        "machine",
        "gradients",
        "rms",
        "mean",
        "±127",
        "void",
        "bytes"
    )?;
    for machine in &machines {
        print_row(short_name(&machine.machine), &machine.all, &machine.parts)?;
    }
    print_row("all", &swarm, &[])?;
    let remarkable: Vec<&MachineStatistics> = machines.iter().filter(|machine| !machine.remarks.is_empty()).collect();
    if remarkable.is_empty() {
        outln!("\nno machine stands out from the swarm")?;
    }
    for machine in remarkable {
        outln!("\n{} stands out: {}", short_name(&machine.machine), machine.remarks.join("; "))?;
    }
    Ok(())
}

fn print_row(name: &str, all: &Distribution, parts: &[Distribution]) -> Result<()> {
    let share = |part: u64| 100.0 * part as f64 / all.gradients.max(1) as f64;
    let over_time: Vec<f64> = parts.iter().map(|part| part.rms).collect();
    outln!(
        "{name:<18} {:>10} {:>6.2} {:>+6.2} {:>5.1}% {:>5.1}%  {}  {}",
        all.gradients,
        all.rms,
        all.mean,
        share(all.saturated),
        share(all.voids),
        bars(&all.histogram.map(|count| count as f64)),
        bars(&over_time),
    )?;
    Ok(())
}

/// One character for each value, relative to the largest; what is there at all is seen.
fn bars(values: &[f64]) -> String {
    let largest = values.iter().copied().fold(f64::MIN_POSITIVE, f64::max);
    let bar = |value: &f64| match *value > 0.0 {
        true => BARS[((value / largest * 8.0).round() as usize).clamp(1, 8)],
        false => BARS[0],
    };
    values.iter().map(bar).collect()
}
