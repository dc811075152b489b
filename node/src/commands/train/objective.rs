//! What a run makes better, as the command line and the run have it.

use anyhow::{Context, Result, bail, ensure};
use engine::{
    data::Dataset,
    estimator::Estimator,
    model::{Checkpoint, Finish, Sampling, Tokenizer},
    objective::{self, Completion, NextToken, Objective, Score},
};
use protocol::manifest::ObjectiveLine;
use std::sync::Arc;

use crate::{
    cli::settings::{ObjectiveChoice, Settings},
    storage::opened::Opened,
    trainer::{sampler::usual_sampling, scorer::Program, texts::Texts},
};

/// Rows of a batch that a program scores, or of which the right ones are counted.
const ROWS_SCORED: usize = 8;
const ROWS_PICKED: usize = 16;
/// Prompts on which a program is tried before anything is stored.
const TRIAL_PROMPTS: usize = 2;

/// What a new run on these texts states. Errors if that cannot be done with them, or with the other settings.
pub fn of_new_run(settings: &Settings, texts: &Texts, program: Option<&Arc<Program>>) -> Result<ObjectiveLine> {
    let has_choices = texts.data.as_ref().is_some_and(Dataset::has_choices);
    let line = match &settings.objective {
        None | Some(ObjectiveChoice::Loss) => objective::line(has_choices, settings.normalize)?,
        Some(ObjectiveChoice::Accuracy) => objective::accuracy_line(has_choices, settings.normalize)?,
        Some(ObjectiveChoice::Command(_)) => objective::score_line(),
    };
    if objective::is_score(&line) {
        let data = texts.data.as_ref();
        let data =
            data.context("--objective: a program scores completions of prompts, and there are none: give --data")?;
        try_program(program, data)?;
    }
    check_estimator(settings, &line)?;
    Ok(line)
}

/// What a run that is settled makes better, on own texts, which must have its form.
pub fn of_run(
    settings: &Settings,
    opened: &Opened,
    texts: &Texts,
    program: Option<&Arc<Program>>,
) -> Result<Box<dyn Objective>> {
    let line = &opened.manifest.objective;
    let (data, held_out) = (texts.data.as_ref(), texts.held_out.as_ref());
    let Some(own) = data.or(held_out) else {
        // Who has no text measures nothing.
        return Ok(Box::new(NextToken));
    };
    if data.is_some() {
        check_estimator(settings, line)?;
    }
    if let (true, Some(program)) = (objective::is_score(line), program) {
        try_program(Some(program), own)?;
        let checkpoint = opened.state.base(&opened.manifest)?.checkpoint()?;
        return Ok(Box::new(score(settings, &checkpoint, program)?));
    }
    if objective::is_score(line) {
        // The words of what is missing.
        return objective::of(line, own);
    }
    let of = |data: Option<&Dataset>| data.map(|data| objective::of(line, data)).transpose();
    let held_out = of(held_out).context("--eval")?;
    of(data).context("--data")?.or(held_out).context("there is no text")
}

fn score(settings: &Settings, checkpoint: &Checkpoint, program: &Arc<Program>) -> Result<Score> {
    let sampling = Sampling { tokens_max: settings.score_tokens, ..usual_sampling(checkpoint)? };
    Ok(Score::new(Tokenizer::of(checkpoint)?, sampling, program.judge()))
}

/// Rows of this machine's batches: what goes up in steps tells more of more rows.
pub fn rows(settings: &Settings, line: &ObjectiveLine, estimator: Estimator) -> usize {
    match (objective::is_differentiable(line), objective::is_score(line)) {
        (true, _) => super::estimator::rows(settings, estimator),
        (false, true) => settings.batch_size.unwrap_or(ROWS_SCORED),
        (false, false) => settings.batch_size.unwrap_or(ROWS_PICKED),
    }
}

/// Going backward needs a slope.
fn check_estimator(settings: &Settings, line: &ObjectiveLine) -> Result<()> {
    if let (Some(Estimator::Projection { .. }), false) = (settings.estimator, objective::is_differentiable(line)) {
        bail!(
            "--estimator projection goes backward through the loss, and {} has no derivative: leave it away (fzoo, the \
             default), or take spsa",
            if objective::is_score(line) { "a program's score" } else { "accuracy" }
        );
    }
    Ok(())
}

/// Asks the program about the first prompts, as if the model had nothing to say.
fn try_program(program: Option<&Arc<Program>>, data: &Dataset) -> Result<()> {
    let program = program.context("this run climbs a score: name your program with --objective 'command …'")?;
    ensure!(data.is_prompts(), "the text has no prompts");
    let count = TRIAL_PROMPTS.min(data.windows());
    let rows = data.batch_of(&(0..count).collect::<Vec<_>>())?.rows;
    let asked = rows.into_iter().filter_map(|row| row.asked);
    let silent = asked.map(|asked| Completion { asked: asked.row, text: String::new(), finish: Finish::Stop });
    program
        .scores(&silent.collect::<Vec<_>>())
        .context("trying the program on empty completions of the first prompts")?;
    Ok(())
}
