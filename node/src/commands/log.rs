//! `log show`, `log tail`: the gossip log.

use anyhow::Result;
use protocol::codec;
use serde_json::json;

use super::{exchange, verify};
use crate::{
    cli::{LogArgs, LogCommand, TailArgs},
    driver::hex,
    log::{Log, in_words},
};

/// Dispatches.
pub fn run(command: &LogCommand) -> Result<()> {
    match command {
        LogCommand::Show(args) => show(args),
        LogCommand::Tail(args) => tail(args),
        LogCommand::Verify(args) => verify::run(args),
        LogCommand::Export(args) => exchange::export(args),
        LogCommand::Import(args) => exchange::import(args),
        LogCommand::Diff(args) => exchange::diff(args),
    }
}

fn show(args: &LogArgs) -> Result<()> {
    let Log { run, manifest, mut replica, own, .. } = Log::open(&args.source)?;
    let (root, step) = (hex(&replica.root()), replica.swarm_step());
    if args.json {
        let machines: Vec<_> = replica
            .machines()
            .map(|(machine, ledger, revocation)| {
                json!({
                    "machine": machine.to_string(), "key": hex(&machine.key), "incarnation": machine.incarnation,
                    "own": own == Some(*machine), "height": ledger.height(), "head": hex(&ledger.head()),
                    "chunks": ledger.chunks().len(), "revoked": revocation.map(in_words),
                })
            })
            .collect();
        println!("{:#}", json!({ "run": run.to_string(), "vector": root, "gradients": step, "machines": machines }));
        return Ok(());
    }
    println!("run     {run}");
    println!("base    {} ({} parameters)", manifest.base.source, manifest.parameters());
    println!("vector  {root}");
    println!("{step} gradients count\n");
    println!("{:<18} {:>10} {:>9}  {:<16} ", "machine", "gradients", "segments", "head");
    for (machine, ledger, revocation) in replica.machines() {
        let segments: usize = ledger.chunks().iter().map(|chunk| chunk.parts.len()).sum();
        println!(
            "{:<18} {:>10} {:>9}  {:<16} {}{}",
            machine.to_string(),
            ledger.height(),
            segments,
            &hex(&ledger.head())[..16],
            if own == Some(*machine) { "this node " } else { "" },
            revocation.map(in_words).unwrap_or_default(),
        );
    }
    Ok(())
}

fn tail(args: &TailArgs) -> Result<()> {
    let Log { manifest, replica, .. } = Log::open(&args.log.source)?;
    for (machine, ledger, _) in replica.machines() {
        let height = ledger.height();
        let entries = ledger.entries(height.saturating_sub(args.entries), height);
        if args.log.json {
            let entries: Vec<_> = entries
                .map(|(sample, byte, step)| json!({ "sample": sample, "byte": byte, "swarm_step": step }))
                .collect();
            println!("{}", json!({ "machine": machine.to_string(), "height": height, "entries": entries }));
            continue;
        }
        println!("{machine}, {height} gradients");
        for (sample, byte, step) in entries {
            let meaning = match byte {
                codec::VOID => "void: the loss was not finite".into(),
                byte => format!("{:+.2} standard deviations", f64::from(byte) / f64::from(manifest.levels)),
            };
            println!("  sample {sample:>8}  byte {byte:>4}  {meaning}  (swarm step {step})");
        }
    }
    Ok(())
}
