//! `log`: ways to look at the gossip log.

use anyhow::{Result, ensure};
use protocol::replica::{Replica, Settings};
use serde_json::json;

use crate::{
    cli::{LogArgs, LogCommand},
    driver::hex,
    opened::{self, Opened},
};

mod entry;
mod plot;
mod replay;
mod show;
mod stat;
mod tail;

/// Dispatches.
pub fn run(command: &LogCommand) -> Result<()> {
    match command {
        LogCommand::Show(args) => show::run(args),
        LogCommand::Tail(args) => tail::run(args),
        LogCommand::Stat(args) => stat::run(args),
        LogCommand::Entry(args) => entry::run(args),
        LogCommand::Replay(args) => replay::run(args),
        LogCommand::Plot(args) => plot::run(args),
        LogCommand::Verify(args) => verify(args),
    }
}

/// Signatures and digests are checked as the replica is restored; then everything is replayed from the base, and compared
/// with the checkpoint and its tail.
fn verify(args: &LogArgs) -> Result<()> {
    let opened = Opened::existing(&args.source.state)?;
    let mut fresh: Replica = opened.replica(Settings::default())?;
    let mut weights = opened.base_weights()?;
    ensure!(
        weights.digest() == opened.manifest.base_digest(),
        "{}: the base model does not match the run's manifest",
        args.source.state.display()
    );
    let entries = opened::replay(&mut fresh, &mut weights)?;
    let digest = weights.digest();
    let (_, current) = opened.current_weights()?;
    let agrees = current.digest() == digest;
    let segments: usize =
        fresh.machines().flat_map(|(_, ledger, _)| ledger.chunks()).map(|chunk| chunk.parts.len()).sum();
    let signatures: usize = fresh.machines().map(|(_, ledger, _)| ledger.chunks().len()).sum();
    if args.json {
        let report = json!({
            "run": opened.run.to_string(), "vector": hex(&fresh.root()), "weights": hex(&digest), "entries": entries,
            "segments": segments, "signatures": signatures, "checkpoint_agrees": agrees,
        });
        println!("{report:#}");
    } else {
        println!("{segments} segments under {signatures} signatures: all sound");
        println!("{entries} gradients replayed from the base");
        println!("vector {} weights {}", hex(&fresh.root()), hex(&digest));
    }
    ensure!(
        agrees,
        "the checkpoint holds other weights than its ledgers give: delete {}, the node rebuilds it from the ledgers",
        opened.state.checkpoint_path().display()
    );
    Ok(())
}
