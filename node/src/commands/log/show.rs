//! `log show`: who is in the run, and how far.

use anyhow::Result;
use indicatif::HumanDuration;
use protocol::{ledger::Ledger, machine::MachineId};
use serde_json::{Value, json};
use std::time::Duration;

use crate::{
    cli::LogArgs,
    log::Log,
    outln,
    system::hex::hex,
    watch::{journal::now_ms, machines_in_words, withheld},
};

/// A rate is no longer the present one after this.
const PRESENT_MS: u64 = 120_000;

pub fn run(args: &LogArgs) -> Result<()> {
    let log = Log::open(&args.source)?;
    let (root, step) = (hex(&log.replica.root()), log.replica.swarm_step());
    if args.json {
        let machines: Vec<_> =
            log.replica.machines().map(|(machine, ledger, _)| as_json(&log, (machine, ledger))).collect();
        outln!(
            "{:#}",
            json!({
                "run": log.run.to_string(), "vector": root, "gradients": step, "replay_budget": log.manifest.replay_budget,
                "machines": machines,
            })
        )?;
        return Ok(());
    }
    outln!("run     {}", log.run)?;
    outln!("base    {} ({} weights are trained)", log.manifest.base.source, log.manifest.parameters())?;
    outln!("budget  {} gradients a second, of all machines", log.manifest.replay_budget)?;
    outln!("vector  {root}")?;
    outln!("{step} gradients of {} count\n", machines_in_words(&log.replica))?;
    outln!(
        "{:<18} {:>10} {:>6} {:>8} {:>15} {:>9}  {:<16}",
        "machine",
        "gradients",
        "share",
        "a second",
        "last seen",
        "segments",
        "head"
    )?;
    for (machine, ledger, _) in log.replica.machines() {
        print_row(&log, (machine, ledger), step)?;
    }
    Ok(())
}

type Row<'a> = (&'a MachineId, &'a Ledger);

/// Gradients of a ledger that count.
fn counted(log: &Log, machine: &MachineId, ledger: &Ledger) -> u64 {
    log.replica.floor(machine).min(ledger.height())
}

/// (Unix ms of the last gradient's arrival, present rate), as the journal has it.
fn seen(log: &Log, machine: &MachineId) -> (Option<u64>, Option<f64>) {
    let Some(journal) = &log.journal else { return (None, None) };
    let last = journal.last_seen(machine);
    let is_present = last.is_some_and(|last| now_ms().saturating_sub(last) < PRESENT_MS);
    (last, journal.rate(machine).filter(|_| is_present))
}

fn segments(ledger: &Ledger) -> usize {
    ledger.chunks().iter().map(|chunk| chunk.parts.len()).sum()
}

fn as_json(log: &Log, (machine, ledger): Row<'_>) -> Value {
    let (last_seen_ms, per_second) = seen(log, machine);
    json!({
        "machine": format!("{machine:#}"), "key": hex(&machine.key), "incarnation": machine.incarnation,
        "own": log.own == Some(*machine), "height": ledger.height(), "counted": counted(log, machine, ledger),
        "head": hex(&ledger.head()), "segments": segments(ledger), "chunks": ledger.chunks().len(),
        "per_second": per_second, "last_seen_ms": last_seen_ms, "revoked": withheld(&log.replica, machine),
    })
}

fn print_row(log: &Log, (machine, ledger): Row<'_>, step: u64) -> Result<()> {
    let (last, rate) = seen(log, machine);
    let ago = |at: u64| format!("{} ago", HumanDuration(Duration::from_millis(now_ms().saturating_sub(at))));
    outln!(
        "{:<18} {:>10} {:>5.1}% {:>8} {:>15} {:>9}  {:<16} {}{}",
        machine.to_string(),
        ledger.height(),
        100.0 * counted(log, machine, ledger) as f64 / step.max(1) as f64,
        rate.map_or("-".into(), |rate| format!("{rate:.1}")),
        last.map_or("-".into(), ago),
        segments(ledger),
        &hex(&ledger.head())[..16],
        if log.own == Some(*machine) { "this node " } else { "" },
        withheld(&log.replica, machine).unwrap_or_default(),
    )?;
    Ok(())
}
