//! `digest`, `eval`, `export`, `generate`: one state directory, no network.

use anyhow::{Result, bail, ensure};
use engine::{
    base::{Merged, export_adapters},
    data::{Columns, Dataset},
    embedded,
    model::{self, Checkpoint, Model, Sampling, Tokenizer},
    objective::{self, Evaluation, evaluate_watched},
};
use protocol::manifest::Manifest;
use serde_json::{Value, json};
use std::{path::Path, sync::Arc};

use crate::{
    cli::{ColumnArgs, EvalArgs, ExportArgs, GenerateArgs, StateArgs},
    log::{Base, Journal, Log, best::Best},
    outln,
    say::{self, evaluation_words},
    serve::{Source, Speaker},
    storage::opened::Opened,
    system::{
        display::{Display, progress_bar},
        hex::hex,
        output,
    },
    trainer::{sampler::usual_sampling, texts::TextReader},
    watch::journal::FullNames,
};

/// One line: the version vector's hash and the weights' digest.
pub fn digest(args: &StateArgs) -> Result<()> {
    let opened = Opened::existing(&args.state)?;
    let (replica, weights) = opened.current_weights()?;
    outln!("vector {} weights {}", hex(&replica.root()), hex(&weights.digest()))?;
    Ok(())
}

/// A model to look at.
struct Inspected {
    model: Box<dyn Model>,
    tokenizer: Tokenizer,
    manifest: Arc<Manifest>,
    /// Of the base: its files.
    checkpoint: Checkpoint,
}

impl Inspected {
    /// Of the state directory `state`: with all that its ledgers hold, or at its best held-out point.
    fn of(state: &Path, best: bool) -> Result<Self> {
        if best {
            let (_, log, base) = at_best(state)?;
            let (model, tokenizer) = base.model()?;
            return Ok(Self { model, tokenizer, manifest: log.manifest, checkpoint: base.checkpoint });
        }
        let opened = Opened::existing(state)?;
        let (_, weights) = opened.current_weights()?;
        let (model, tokenizer) = opened.model(&weights)?;
        let checkpoint = opened.state.base(&opened.manifest)?.checkpoint()?;
        Ok(Self { model, tokenizer, manifest: opened.manifest, checkpoint })
    }
}

/// What speaks with the model of the state directory `state`: with all that its ledgers hold, or at its best held-out
/// point.
pub fn speaker(state: &Path, best: bool) -> Result<Speaker> {
    if best {
        let (_, _, base) = at_best(state)?;
        return Speaker::new(base.checkpoint, Source::Still(base.weights));
    }
    let opened = Opened::existing(state)?;
    let (_, weights) = opened.current_weights()?;
    Speaker::new(opened.state.base(&opened.manifest)?.checkpoint()?, Source::Still(weights))
}

/// The base of the run in `state`, brought to the best held-out point, and that point. A node may be running there.
fn at_best(state: &Path) -> Result<(Best, Log, Base)> {
    let log = Log::of_state(state)?;
    let best = Best::find(&log)?;
    chosen(&best);
    let mut base = Base::needed(&log, None)?;
    best.replay(&log, &mut base)?;
    Ok((best, log, base))
}

/// Which point a command takes as the best, and why no better one.
fn chosen(best: &Best) {
    for passed in &best.passed_over {
        tracing::warn!(
            "passed over: {}. Of {}, {} samples were in its weights, and {} count now: it holds what was withdrawn since",
            say::figures(&passed.point),
            passed.machine,
            passed.held,
            passed.counted
        );
    }
    let others = match best.incomparable {
        0 => String::new(),
        others => format!(" ({others} more were measured on another text, or another part of it)"),
    };
    tracing::info!("best of {} held-out points{others}: {}. {}", best.compared, say::figures(&best.point), say::CHOSEN);
}

/// Loss and bits per byte, or accuracy.
pub fn eval(args: &EvalArgs) -> Result<()> {
    ensure!(args.batch_size > 0, "--batch-size 0: must be at least 1");
    let Inspected { model, manifest, checkpoint, .. } = Inspected::of(&args.weights.state, args.weights.best)?;
    let data = evaluation_text(&manifest, &checkpoint, args.data.as_deref(), &args.columns, args.sequence_length)?;
    if args.data.is_none() {
        say_other_text(&args.weights.state, &data)?;
    }
    let objective = objective::to_evaluate(&manifest.objective, &data);
    let template = "{msg} {wide_bar} {human_pos} of {human_len} windows or rows, {eta} left";
    let bar = progress_bar(Some(data.windows() as u64), "evaluating", template);
    let mut watch = |done, _| bar.set_position(done as u64);
    let evaluation = evaluate_watched(&*objective, &*model, &data, args.batch_size, None, &mut watch)?;
    bar.finish_and_clear();
    match args.json {
        true => outln!("{}", evaluation_json(&evaluation))?,
        false => outln!("{}", evaluation_line(&evaluation, args.data.is_none()))?,
    }
    Ok(())
}

/// Warns if the embedded `text` is not what the node of this state directory looked at while it ran.
fn say_other_text(state: &Path, text: &Dataset) -> Result<()> {
    let journal = Journal::with_names(state, &FullNames::default())?;
    let Some(last) = journal.as_ref().and_then(|journal| journal.points().last()) else { return Ok(()) };
    if last.measure.text != hex(&text.digest()?) {
        tracing::warn!(
            "without --data this is the embedded held-out text, and what the node here held out was another, or cut in \
             other windows: its figures cannot be compared with this one. --data <path> names a text"
        );
    }
    Ok(())
}

/// An evaluation for people: with what it is over, by name if that is the embedded text.
pub fn evaluation_line(evaluation: &Evaluation, is_embedded: bool) -> String {
    let (words, count) = (evaluation_words(evaluation), evaluation.count);
    match evaluation.right {
        Some(right) => format!("{words} ({right} of {count} rows right)"),
        None if evaluation.score.is_some() => words,
        None => {
            let of = if is_embedded { " of the embedded held-out text" } else { "" };
            format!("{words} ({count} tokens predicted, {} bytes{of})", evaluation.bytes)
        }
    }
}

/// The same for programs.
pub fn evaluation_json(evaluation: &Evaluation) -> Value {
    let Evaluation { loss, count, bytes, bits_per_byte, .. } = *evaluation;
    match evaluation.accuracy() {
        Some(accuracy) => json!({ "loss": loss, "accuracy": accuracy, "rows": count }),
        None => json!({ "loss": loss, "bits_per_byte": bits_per_byte, "tokens": count, "bytes": bytes }),
    }
}

/// The text at `data`, or the embedded held-out text if the run trains the embedded model. `length`: tokens per window.
pub fn evaluation_text(
    manifest: &Manifest,
    checkpoint: &Checkpoint,
    data: Option<&Path>,
    columns: &ColumnArgs,
    length: Option<usize>,
) -> Result<Dataset> {
    let columns = Columns::new(columns.text_field.clone(), columns.template.as_deref())?;
    let reader = TextReader::new(checkpoint, columns, length, &std::env::temp_dir())?;
    reader.check_length()?;
    match data {
        Some(path) => reader.load("--data", path),
        None if embedded::is_of(&manifest.base) => embedded::held_out(&reader.tokenizer, reader.length),
        None => bail!("this run does not train the embedded model: name a text with --data"),
    }
}

/// A Hugging Face directory.
pub fn export(args: &ExportArgs) -> Result<()> {
    if args.weights.best {
        let (best, _, base) = at_best(&args.weights.state)?;
        if args.adapter {
            base.export_adapters(&args.out)?
        } else {
            base.export(&args.out)?
        }
        outln!(
            "{}: the model at its best held-out point, after {} gradients",
            args.out.display(),
            best.point.gradients()
        )?;
        return Ok(());
    }
    let opened = Opened::existing(&args.weights.state)?;
    let (replica, weights) = opened.current_weights()?;
    let base = opened.state.base(&opened.manifest)?.checkpoint()?;
    match args.adapter {
        true => export_adapters(&args.out, &base, &weights)?,
        false => model::export(&args.out, &base, &Merged::of(&base, &weights)?)?,
    }
    outln!("{}: the model after {} gradients", args.out.display(), replica.swarm_step())?;
    Ok(())
}

/// A continuation, as it comes.
pub fn generate(args: &GenerateArgs, display: &Display) -> Result<()> {
    let Inspected { model, tokenizer, checkpoint, .. } = Inspected::of(&args.weights.state, args.weights.best)?;
    let sampling = chosen_sampling(args, usual_sampling(&checkpoint)?);
    sampling.check()?;
    let prompt = tokenizer.text_prompt(&args.prompt)?;
    say::prompt_outgrows(prompt.len(), model.interface().window_max);
    display.settle();
    output::piece(&args.prompt)?;
    model::generate(&*model, &tokenizer, &prompt, &sampling, |text| Ok(output::piece(text)?))?;
    Ok(outln!("")?)
}

/// What the command line says over `usual`, the model's own settings or the program's.
fn chosen_sampling(args: &GenerateArgs, usual: Sampling) -> Sampling {
    Sampling {
        temperature: args.temperature.unwrap_or(usual.temperature),
        top_k: args.top_k.unwrap_or(usual.top_k),
        top_p: args.top_p.unwrap_or(usual.top_p),
        repetition_penalty: args.repetition_penalty.unwrap_or(usual.repetition_penalty),
        seed: args.seed,
        tokens_max: args.tokens,
        until: None,
        stop: args.stop.clone(),
    }
}
