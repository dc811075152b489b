//! `log entry`: one gradient, and everything that is known of it.

use anyhow::{Context, Result};
use indicatif::HumanDuration;
use protocol::{machine::MachineId, seed::EntrySeed, segment::Segment};
use serde_json::json;
use std::time::Duration;

use super::tail::in_words;
use crate::{
    cli::EntryArgs,
    log::Log,
    outln,
    system::hex::hex,
    watch::{journal::now_ms, withheld},
};

pub fn run(args: &EntryArgs) -> Result<()> {
    let log = Log::open(&args.log.source)?;
    let (machine, sample) = (log.find(&args.machine)?, args.sample);
    let ledger = log.replica.ledger(&machine).context("the machine has a ledger")?;
    let height = ledger.height();
    let chunk = ledger.chunks().iter().find(|chunk| (chunk.first..chunk.end()).contains(&sample));
    let chunk =
        chunk.with_context(|| format!("{machine} has no sample {sample} here, but 0 to {height} (exclusive)"))?;
    let mut segments = chunk.segments().zip(chunk.digests(&log.run));
    let (segment, digest) =
        segments.find(|(segment, _)| sample < segment.end()).context("a chunk's segments cover its samples")?;
    let byte = segment.bytes[(sample - segment.first) as usize] as i8;
    let floor = log.floor(&machine).unwrap_or(height);
    let came = log.journal.as_ref().and_then(|journal| journal.came(&machine, sample));
    let levels = log.manifest.levels;
    let seed = EntrySeed::derive(&log.run, &machine, sample, &log.manifest.groups);
    let multiplier = log.manifest.schedule.multiplier(segment.swarm_step);
    let rate =
        log.manifest.hyperparameters.learning_rate * f64::from(multiplier) / f64::from(protocol::codec::MULTIPLIER_ONE);
    if args.log.json {
        let json = json!({
            "machine": format!("{machine:#}"), "key": hex(&machine.key), "incarnation": machine.incarnation, "sample": sample,
            "seed": hex(&seed.bytes), "group": seed.group, "byte": byte,
            "standard_deviations": (byte != protocol::codec::VOID).then(|| f64::from(byte) / f64::from(levels)),
            "learning_rate": rate, "counts": sample < floor,
            "segment": { "first": segment.first, "end": segment.end(), "swarm_step": segment.swarm_step, "digest": hex(&digest) },
            "signature": { "by_sample": chunk.end(), "head": hex(&log_head(&log, &machine, chunk.end())), "signature": hex(&chunk.signature.0) },
            "not_yet_at_ms": came.and_then(|(before, _)| before), "came_by_ms": came.map(|(_, at)| at),
        });
        outln!("{json:#}")?;
        return Ok(());
    }
    outln!("machine    {machine}  (key {}, incarnation {})", hex(&machine.key), machine.incarnation)?;
    outln!("sample     {sample} of {height}{}", if sample < floor { "" } else { ", does not count" })?;
    if let Some(withheld) = withheld(&log.replica, &machine) {
        outln!("           {withheld}")?;
    }
    outln!("seed       {}", hex(&seed.bytes))?;
    outln!("byte       {byte}: {}", in_words(byte, levels))?;
    let step = rate / log.manifest.groups.share(seed.group).sqrt();
    outln!(
        "           moves every weight of group {} of {} by {:.3e} of its tensor's size",
        seed.group,
        log.manifest.groups.members.len(),
        movement(byte, levels, step)
    )?;
    print_segment(&segment, &digest)?;
    outln!("signature  {}", hex(&chunk.signature.0))?;
    outln!(
        "           of the segment that ends at sample {}, whose digest chains back to this one; sound",
        chunk.end()
    )?;
    outln!("came       {}", when(came))?;
    Ok(())
}

fn log_head(log: &Log, machine: &MachineId, end: u64) -> [u8; 32] {
    let digest = log.replica.ledger(machine).and_then(|ledger| ledger.digest_at(&log.run, end));
    digest.unwrap_or_default()
}

/// |change| of a weight, relative to its tensor's size; stochastic rounding comes on top.
fn movement(byte: i8, levels: u8, learning_rate: f64) -> f64 {
    match byte {
        protocol::codec::VOID => 0.0,
        byte => f64::from(byte).abs() / f64::from(levels) * learning_rate,
    }
}

fn print_segment(segment: &Segment<'_>, digest: &[u8; 32]) -> Result<()> {
    outln!("segment    samples {} to {} (exclusive), swarm step {}", segment.first, segment.end(), segment.swarm_step)?;
    outln!("           digest {}", hex(digest))?;
    Ok(())
}

fn when(came: Option<(Option<u64>, u64)>) -> String {
    let ago = |at: u64| HumanDuration(Duration::from_millis(now_ms().saturating_sub(at)));
    match came {
        Some((Some(before), by)) => format!("{} ago, between Unix {before} and {by} ms", ago(by)),
        Some((None, by)) => format!("{} ago or earlier: by Unix {by} ms, the first look", ago(by)),
        None => "not known: no journal of a node says so".into(),
    }
}
