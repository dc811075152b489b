//! `digest`, `eval`, `export`, `generate`, `revoke`: one state directory, no network.

use anyhow::{Result, bail, ensure};
use engine::{
    data::Dataset,
    embedded,
    model::{self, Sampling, Tokenizer},
    objective::{Evaluation, NextToken, evaluate},
};
use protocol::{
    machine::MachineId,
    manifest::Manifest,
    replica::{Record, Replica, Settings},
    revocation::Revocation,
    signature::{Ed25519Signer, Signer as _},
};
use std::{io::Write, path::Path};

use crate::{
    cli::{EvalArgs, ExportArgs, GenerateArgs, RevokeArgs, StateArgs},
    hex::hex,
    opened::Opened,
    records,
};

/// One line: the version vector's hash and the weights' digest.
pub fn digest(args: &StateArgs) -> Result<()> {
    let opened = Opened::existing(&args.state)?;
    let (replica, weights) = opened.current_weights()?;
    println!("vector {} weights {}", hex(&replica.root()), hex(&weights.digest()));
    Ok(())
}

/// Loss and bits per byte.
pub fn eval(args: &EvalArgs) -> Result<()> {
    ensure!(args.batch_size > 0, "--batch-size 0: must be at least 1");
    let opened = Opened::existing(&args.state.state)?;
    let (_, weights) = opened.current_weights()?;
    let (model, tokenizer) = opened.model(&weights)?;
    let data = evaluation_text(&opened.manifest, args.data.as_deref(), &tokenizer, args.sequence_length)?;
    let Evaluation { loss, bits_per_byte, tokens, bytes } =
        evaluate(&NextToken, &*model, &data, args.batch_size, None)?;
    if args.json {
        let json =
            serde_json::json!({ "loss": loss, "bits_per_byte": bits_per_byte, "tokens": tokens, "bytes": bytes });
        println!("{json}");
    } else {
        println!(
            "loss {loss:.4} nats per token, {bits_per_byte:.4} bits per byte ({tokens} tokens predicted, {bytes} bytes)"
        );
    }
    Ok(())
}

/// The text at `data`, or the embedded held-out text if the run trains the embedded model. `length`: tokens per window.
pub fn evaluation_text(
    manifest: &Manifest,
    data: Option<&Path>,
    tokenizer: &Tokenizer,
    length: usize,
) -> Result<Dataset> {
    match data {
        Some(path) => Dataset::load(path, tokenizer, length),
        None if manifest.base.source == embedded::SOURCE => embedded::held_out(tokenizer, length),
        None => bail!("this run does not train the embedded model: name a text with --data"),
    }
}

/// A Hugging Face directory.
pub fn export(args: &ExportArgs) -> Result<()> {
    let opened = Opened::existing(&args.state.state)?;
    let (replica, weights) = opened.current_weights()?;
    let base = opened.state.base(&opened.manifest)?;
    model::export(&args.out, &base.config()?, &base.tokenizer()?, weights.tensors())?;
    println!("{}: the model after {} gradients", args.out.display(), replica.swarm_step());
    Ok(())
}

/// A continuation, as it comes.
pub fn generate(args: &GenerateArgs) -> Result<()> {
    let opened = Opened::existing(&args.state.state)?;
    let (_, weights) = opened.current_weights()?;
    let (model, tokenizer) = opened.model(&weights)?;
    let sampling =
        Sampling { temperature: args.temperature, seed: args.seed, tokens_max: args.tokens, ..Sampling::default() };
    let mut out = std::io::stdout().lock();
    write!(out, "{}", args.prompt)?;
    model::generate(&*model, &tokenizer, &args.prompt, &sampling, |text| {
        write!(out, "{text}")?;
        Ok(out.flush()?)
    })?;
    writeln!(out)?;
    Ok(())
}

/// Withdraws a machine's samples. The node spreads it when it runs next.
pub fn revoke(args: &RevokeArgs) -> Result<()> {
    let opened = Opened::existing(&args.state.state)?;
    let authority = Ed25519Signer::from_seed(&opened.state.secret_key());
    ensure!(
        opened.manifest.authority == Some(authority.key()),
        "{}: this node is not the run's authority; only the one that started the run with --authority is",
        args.state.state.display()
    );
    let replica = opened.replica(Settings::default())?;
    let machine = find_machine(&replica, &args.machine)?;
    if let Some((_, _, Some(known))) = replica.machines().find(|(other, ..)| **other == machine) {
        ensure!(!known.is_fork() && known.floor() > args.from, "{machine} is withdrawn already, as far or further");
    }
    let revocation = Revocation::sign(&opened.run, machine, args.from, &authority);
    opened.state.commit(&[records::to_row(&Record::Revocation(revocation))?])?;
    println!("{machine} is withdrawn from sample {} on; the swarm learns it when this node runs next", args.from);
    Ok(())
}

/// The machine that people mean by the name in the first column of `log show`.
fn find_machine(replica: &Replica, name: &str) -> Result<MachineId> {
    let matches: Vec<MachineId> =
        replica.machines().map(|(machine, ..)| *machine).filter(|machine| machine.to_string() == name).collect();
    match matches[..] {
        [machine] => Ok(machine),
        [] => bail!("--machine {name}: no such machine here; `node log show` lists them"),
        _ => bail!("--machine {name}: {} machines go by this name; nothing was withdrawn", matches.len()),
    }
}
