//! `log tail`: the latest bytes, and those that come.

use anyhow::Result;
use protocol::{codec, machine::MachineId};
use serde_json::json;
use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use crate::{cli::TailArgs, log::Log, outln, system::output};

/// With `--follow`, the log is read again after this, or after ten times as long as reading takes.
const PAUSE_MIN: Duration = Duration::from_secs(1);

pub fn run(args: &TailArgs) -> Result<()> {
    let mut shown: HashMap<MachineId, u64> = HashMap::new();
    loop {
        let begun = Instant::now();
        let log = Log::open(&args.log.source)?;
        let took = begun.elapsed();
        for (machine, ledger, _) in log.replica.machines() {
            let height = ledger.height();
            let from = shown.insert(*machine, height).unwrap_or_else(|| height.saturating_sub(args.entries));
            if from < height {
                print(&log, machine, from, args.log.json)?;
            }
        }
        if !args.follow {
            return Ok(());
        }
        output::flush()?;
        std::thread::sleep(PAUSE_MIN.max(10 * took));
    }
}

/// What `machine` has from sample `from` on.
fn print(log: &Log, machine: &MachineId, from: u64, as_json: bool) -> Result<()> {
    let Some(ledger) = log.replica.ledger(machine) else { return Ok(()) };
    let height = ledger.height();
    let entries = ledger.entries(from, height);
    if as_json {
        let entries: Vec<_> =
            entries.map(|(sample, byte, step)| json!({ "sample": sample, "byte": byte, "swarm_step": step })).collect();
        outln!("{}", json!({ "machine": format!("{machine:#}"), "height": height, "entries": entries }))?;
        return Ok(());
    }
    outln!("{machine}, {height} gradients")?;
    for (sample, byte, step) in entries {
        let meaning = in_words(byte, log.manifest.levels);
        outln!("  sample {sample:>8}  byte {byte:>4}  {meaning}  (swarm step {step})")?;
    }
    Ok(())
}

/// What a byte says, in a run of `levels` levels.
pub fn in_words(byte: i8, levels: u8) -> String {
    match byte {
        codec::VOID => "void: the loss was not finite".into(),
        byte => format!("{:+.2} standard deviations", f64::from(byte) / f64::from(levels)),
    }
}
