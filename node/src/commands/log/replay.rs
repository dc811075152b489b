//! `log replay`: the weights as they were.

use anyhow::{Result, bail, ensure};
use engine::objective::{self, Evaluation, evaluate};
use serde_json::json;

use crate::{
    cli::ReplayArgs,
    commands::inspect::{evaluation_json, evaluation_line, evaluation_text},
    log::{Base, Log, past::Cut},
    outln,
    system::hex::hex,
    watch::journal::by_full_name,
};

/// Windows of an evaluation's batch.
const BATCH: usize = 8;

pub fn run(args: &ReplayArgs) -> Result<()> {
    let log = Log::open(&args.log.source)?;
    let cut = Cut::find(&log, &args.until)?;
    let mut base = Base::needed(&log, args.model.as_deref())?;
    // Before a replay that may take long.
    let text = match &args.data {
        None if !args.eval => None,
        data => {
            let (columns, length) = (&args.columns, args.sequence_length);
            Some(evaluation_text(&log.manifest, &base.checkpoint, data.as_deref(), columns, length)?)
        }
    };
    cut.replay(&log, &mut base.weights)?;
    let digest = hex(&base.weights.digest());
    let recorded = recorded(&log, &cut);
    let evaluation = match &text {
        None => None,
        Some(text) => {
            let (model, _) = base.model()?;
            let objective = objective::to_evaluate(&log.manifest.objective, text);
            Some(evaluate(&*objective, &*model, text, BATCH, None)?)
        }
    };
    if let Some(out) = &args.out {
        base.export(out)?;
    }
    if args.log.json {
        print_json(&cut, &digest, recorded.as_deref(), evaluation.as_ref())?;
    } else {
        let evaluation = evaluation.map(|evaluation| evaluation_line(&evaluation, args.data.is_none()));
        print(&cut, &digest, recorded.as_deref(), evaluation.as_deref())?;
        if let Some(out) = &args.out {
            outln!("written to  {}", out.display())?;
        }
    }
    if let Some(recorded) = recorded {
        ensure!(
            recorded == digest,
            "the node had other weights there: {recorded}. Its ledgers or its base were changed since"
        );
    }
    if cut.gradients() == 0 && !log.replica.machines().any(|(_, ledger, _)| ledger.height() > 0) {
        bail!("{}: no gradients here yet; these are the base's weights", log.origin);
    }
    Ok(())
}

/// The digest that the node wrote down when its weights held just this.
fn recorded(log: &Log, cut: &Cut) -> Option<String> {
    let held = by_full_name(cut.counted.iter().copied().filter(|(_, height)| *height > 0));
    let weights = log.journal.as_ref()?.weights();
    weights.iter().rev().find(|(.., heights)| *heights == held).map(|(_, digest, _)| digest.clone())
}

fn print_json(cut: &Cut, digest: &str, recorded: Option<&str>, evaluation: Option<&Evaluation>) -> Result<()> {
    let (heights, counted) = (by_full_name(cut.heights.iter().copied()), by_full_name(cut.counted.iter().copied()));
    let evaluation = evaluation.map(evaluation_json);
    outln!(
        "{:#}",
        json!({
            "heights": heights, "counted": counted, "gradients": cut.gradients(),
            "reached_at_ms": cut.at_ms, "weights": digest, "recorded": recorded, "evaluation": evaluation,
        })
    )?;
    Ok(())
}

fn print(cut: &Cut, digest: &str, recorded: Option<&str>, evaluation: Option<&str>) -> Result<()> {
    for ((machine, height), (_, counted)) in cut.heights.iter().zip(&cut.counted) {
        let less = if counted < height { format!(", of which {counted} count") } else { String::new() };
        outln!("{machine}  {height} gradients{less}")?;
    }
    outln!("replayed    {} gradients from the base", cut.gradients())?;
    if cut.at_ms.is_none() {
        outln!("            no journal says when this was: every revocation that is known now counts")?;
    }
    outln!("weights     {digest}")?;
    match recorded {
        Some(recorded) if recorded == digest => outln!("recorded    the same, by the node that had them")?,
        Some(recorded) => outln!("recorded    {recorded}")?,
        None => outln!("recorded    nothing: the node took no digest just there")?,
    }
    if let Some(evaluation) = evaluation {
        outln!("held out    {evaluation}")?;
    }
    Ok(())
}
