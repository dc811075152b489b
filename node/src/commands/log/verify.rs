//! `log verify`: nothing in a log is believed.

use anyhow::{Context, Result, ensure};
use serde_json::json;

use crate::{
    cli::VerifyArgs,
    log::{Base, Log, replica_of},
    outln,
    storage::{opened::replay, records},
    system::hex::hex,
};

/// Signatures and digests are checked as the log is read; then everything is replayed from the base, if it is at hand,
/// and compared with the state directory's checkpoint and its tail.
pub fn run(args: &VerifyArgs) -> Result<()> {
    let mut log = Log::open(&args.log.source)?;
    let chunks = || log.replica.machines().flat_map(|(_, ledger, _)| ledger.chunks());
    let segments: usize = chunks().map(|chunk| chunk.parts.len()).sum();
    let signatures = chunks().count();
    let replayed = match Base::of(&log, args.model.as_deref())? {
        Some(Base { mut weights, .. }) => {
            let entries = replay(&mut log.replica, &mut weights)?;
            Some((entries, weights.digest()))
        }
        None => None,
    };
    // Without a checkpoint a node starts from the base, which is what was replayed.
    let agrees = match (&replayed, &log.state) {
        (Some((_, digest)), Some(_)) => Some(current_digest(&log)?.is_none_or(|current| current == *digest)),
        _ => None,
    };
    let vector = hex(&log.replica.root());
    let digest = replayed.map(|(_, digest)| hex(&digest));
    if args.log.json {
        let report = json!({
            "run": log.run.to_string(), "vector": vector, "weights": digest, "entries": replayed.map(|(entries, _)| entries),
            "segments": segments, "signatures": signatures, "checkpoint_agrees": agrees,
        });
        outln!("{report:#}")?;
    } else {
        outln!("{segments} segments under {signatures} signatures: all sound")?;
        match (replayed, digest) {
            (Some((entries, _)), Some(digest)) => {
                outln!("{entries} gradients replayed from the base")?;
                outln!("vector {vector} weights {digest}")?;
            }
            _ => {
                outln!("the weights were not replayed: the base model is not here; --model <directory> gives it")?;
                outln!("vector {vector}")?;
            }
        }
    }
    let checkpoint = || log.state.as_ref().and_then(|state| state.checkpoint_path()).unwrap_or_default();
    ensure!(
        agrees != Some(false),
        "the checkpoint holds other weights than its ledgers give: delete {}, the node rebuilds it from the ledgers",
        checkpoint().display()
    );
    Ok(())
}

/// The digest of the checkpoint's weights with what the ledgers hold beyond it. None if there is no usable checkpoint.
fn current_digest(log: &Log) -> Result<Option<[u8; 32]>> {
    let Some(state) = &log.state else { return Ok(None) };
    let checkpoint = match state.load_checkpoint(&log.manifest) {
        Ok(checkpoint) => checkpoint,
        Err(error) => {
            tracing::warn!("the checkpoint is not usable ({error:#}): a node would replay the ledgers from the base");
            None
        }
    };
    let Some(checkpoint) = checkpoint else { return Ok(None) };
    let mut replica = replica_of(state, log.run, &log.manifest)?;
    let contents = records::contents(&checkpoint.contents).context("the checkpoint")?;
    if !replica.resume(&contents) {
        tracing::warn!(
            "the checkpoint holds samples that the ledgers do not: a node would replay the ledgers from the base"
        );
        return Ok(None);
    }
    let mut weights = checkpoint.weights;
    replay(&mut replica, &mut weights)?;
    Ok(Some(weights.digest()))
}
