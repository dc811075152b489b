//! `log export`, `log import`, `log diff`: logs that leave their machine, and come to another.

use anyhow::{Context, Result, bail, ensure};
use protocol::replica::{Replica, Report};
use serde_json::{Value, json};
use std::{
    fs::{self, File},
    io::{BufWriter, Write},
    ops::Range,
    path::Path,
};

use crate::{
    cli::{LogDiffArgs, LogExportArgs, LogImportArgs},
    log::{
        Log,
        diff::{MachineDifference, differences},
        export,
        import::merge,
        onlooker,
    },
    outln,
    storage::{
        Row, StateDir,
        opened::{Opened, restore},
        records,
    },
    system::{hex::hex, name::program},
    watch::machines_in_words,
};

/// Records in one transaction.
const GROUP_ROWS: usize = 4_096;

/// `log export`.
pub fn export(args: &LogExportArgs) -> Result<()> {
    let out = &args.out;
    ensure!(!out.exists(), "{}: is there already; remove it, or name another with --out", out.display());
    let log = Log::open(&args.source)?;
    // Under its own name only once it is whole.
    let mut part = out.clone().into_os_string();
    part.push(".part");
    let part = Path::new(&part);
    let write = || -> Result<export::Totals> {
        let mut file = BufWriter::with_capacity(1 << 16, File::create(part)?);
        let totals = export::write(&mut file, &log.manifest_bytes, &log.replica)?;
        file.flush()?;
        file.get_ref().sync_all()?;
        fs::rename(part, out)?;
        Ok(totals)
    };
    let totals = write().inspect_err(|_| drop(fs::remove_file(part))).with_context(|| {
        format!("{}: cannot be written; is the disk full? --out names another place", out.display())
    })?;
    outln!("run     {}", log.run)?;
    outln!("vector  {}", hex(&log.replica.root()))?;
    outln!(
        "{} gradients of {} under {} signatures: {} bytes in {}",
        totals.gradients,
        machines_in_words(&log.replica),
        totals.chunks,
        totals.bytes,
        out.display()
    )?;
    Ok(())
}

/// `log import`.
pub fn import(args: &LogImportArgs) -> Result<()> {
    let mut log = Log::of_file(&args.file)?;
    let opened = directory_for(&log, &args.state)?;
    let place = args.state.display();
    // Not as the directory's own machine: that one would take none of its own samples from others.
    let mut target = onlooker(opened.run, &opened.manifest)?;
    let chunks = |visit: &mut dyn FnMut(&[u8]) -> Result<()>| opened.state.for_each_chunk(visit);
    restore(&mut target, opened.state.path(), opened.state.statements()?, chunks)?;
    let before = gradients(&target);
    let mut waiting: Vec<Row> = Vec::new();
    let reports = merge(&mut log.replica, &mut target, |records| {
        for record in &records {
            waiting.push(records::to_row(record)?);
        }
        if waiting.len() >= GROUP_ROWS {
            opened.state.commit(&std::mem::take(&mut waiting))?;
        }
        Ok(())
    });
    opened.state.commit(&waiting)?;
    for report in reports.with_context(|| format!("{}: importing into {place}", log.origin))? {
        tell(&report)?;
    }
    if let Some(limit) = target.incomplete().next() {
        bail!("{place}: not all of it fits: {limit}; what did is stored");
    }
    outln!("run     {}", opened.run)?;
    outln!("vector  {}", hex(&target.root()))?;
    outln!("{} gradients are new, {} are there now", gradients(&target) - before, gradients(&target))?;
    if !opened.state.has_base() {
        outln!(
            "the base model is not there yet: {} --state {place} fetches it with --bootstrap <address>, or takes it with --model \
             <directory>",
            program()
        )?;
    }
    Ok(())
}

/// The state directory at `path`, of the log's run: made if there is none.
fn directory_for(log: &Log, path: &Path) -> Result<Opened> {
    let state = StateDir::create_or_open(path)?;
    match state.manifest()? {
        None => state.set_manifest(&log.manifest_bytes)?,
        Some(ours) if ours == log.manifest_bytes => {}
        Some(_) => {
            let ours = Opened::of(state)?;
            bail!(
                "{}: the log of run {}, {} holds run {} ({}); name another directory with --state",
                log.origin,
                log.run,
                path.display(),
                ours.run,
                ours.manifest.differences(&log.manifest).join("; ")
            )
        }
    }
    Opened::of(state)
}

fn gradients(replica: &Replica) -> u64 {
    replica.machines().map(|(_, ledger, _)| ledger.height()).sum()
}

fn tell(report: &Report) -> Result<()> {
    match report {
        Report::Forked { machine, was } => {
            outln!(
                "machine {machine} signed two histories: all of it is out, {was} gradients that were here among it"
            )?;
        }
        Report::Revoked { machine, from } => outln!("machine {machine}: withdrawn from sample {from} on")?,
        Report::Withdrawn { key, .. } => outln!("key {}: withdrawn", hex(key))?,
        Report::HeadConfirmed | Report::Admitted | Report::Incomplete(_) => {}
    }
    Ok(())
}

/// `log diff`.
pub fn diff(args: &LogDiffArgs) -> Result<()> {
    let (first, second) = (Log::at(&args.first)?, Log::at(&args.second)?);
    ensure!(
        first.run == second.run,
        "two runs: {} is of {}, {} of {} ({})",
        first.origin,
        first.run,
        second.origin,
        second.run,
        first.manifest.differences(&second.manifest).join("; ")
    );
    let roots = [hex(&first.replica.root()), hex(&second.replica.root())];
    let found = differences(&first.replica, &second.replica);
    if args.json {
        let log = |log: &Log, root: &String| json!({ "origin": log.origin, "vector": root });
        let machines: Vec<Value> = found.iter().map(in_json).collect();
        let report = json!({
            "run": first.run.to_string(), "first": log(&first, &roots[0]), "second": log(&second, &roots[1]),
            "same": roots[0] == roots[1], "machines": machines,
        });
        outln!("{report:#}")?;
        return Ok(());
    }
    outln!("run  {}", first.run)?;
    outln!("A    {}  vector {}", first.origin, roots[0])?;
    outln!("B    {}  vector {}", second.origin, roots[1])?;
    if found.is_empty() {
        outln!("the same gradients, machine by machine")?;
        return Ok(());
    }
    outln!("\n{:<18} {:>21} {:>21}", "machine", "only in A", "only in B")?;
    for difference in &found {
        outln!(
            "{:<18} {:>21} {:>21}  {}",
            difference.machine.to_string(),
            range(&difference.only_first),
            range(&difference.only_second),
            remarks(difference)
        )?;
    }
    Ok(())
}

fn range(samples: &Range<u64>) -> String {
    if samples.is_empty() { "-".into() } else { format!("{}..{}", samples.start, samples.end) }
}

fn remarks(difference: &MachineDifference) -> String {
    let mut remarks = Vec::new();
    if let Some(sample) = difference.fork {
        remarks.push(format!("two histories from sample {sample} on"));
    }
    if let Some((first, second)) = &difference.withheld {
        for (log, withheld) in [("A", first), ("B", second)] {
            remarks.extend(withheld.as_ref().map(|withheld| format!("{log}: {withheld}")));
        }
    }
    remarks.join("; ")
}

fn in_json(difference: &MachineDifference) -> Value {
    let range = |samples: &Range<u64>| (!samples.is_empty()).then_some([samples.start, samples.end]);
    let withheld = difference.withheld.as_ref();
    json!({
        "machine": format!("{:#}", difference.machine), "key": hex(&difference.machine.key),
        "incarnation": difference.machine.incarnation,
        "only_first": range(&difference.only_first), "only_second": range(&difference.only_second),
        "fork": difference.fork,
        "revoked_first": withheld.and_then(|(first, _)| first.as_ref()),
        "revoked_second": withheld.and_then(|(_, second)| second.as_ref()),
    })
}
