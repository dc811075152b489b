//! A new run, or one that goes on.

use anyhow::{Context, Result, bail, ensure};
use engine::{
    base::{AdapterSettings, Base, BaseSettings, Trained},
    data::Dataset,
    embedded,
    model::{Architecture, Checkpoint, told_paths},
    objective,
    recipe::{rate, survey::Ground},
};
use protocol::{
    manifest::{DirectionScale, Hyperparameters, ObjectiveLine, TensorSpec},
    secret::Secret,
    signature::{Ed25519Signer, Signer as _},
};
use std::sync::Arc;

use super::{
    base::{load_model, named_by_run},
    estimator,
    settled::STARTER,
    table,
};
use crate::{
    cli::{
        LearningRate,
        settings::{ModelChoice, Settings},
    },
    commands::recipe,
    log::base_of_run,
    say,
    storage::{self, Row, StateDir, opened::Opened},
    system::{display::progress_bar, random::random},
    trainer::{scorer::Program, texts::Texts},
};

/// Epsilon of a new run, unless said otherwise.
const EPSILON: f64 = 0.017;
/// Gradients that the ranges of a run without a planned length leave room for, ten times over, and of any run at least.
const PLANNED_GRADIENTS: u64 = 100_000;
const PLANNED_GRADIENTS_MIN: u64 = 1_000;
/// Largest ledger of one machine.
const LEDGER_SAMPLES_MAX: u64 = 1 << 32;

/// A new run, and the texts that were read for it: all that can fail fails before anything of it is stored.
pub fn start(settings: &Settings, state: Arc<StateDir>, program: Option<&Arc<Program>>) -> Result<(Opened, Texts)> {
    if let Some(run) = settings.run {
        bail!("--run {run}: a new run gets its own id; to join that one, name one of its machines with --bootstrap");
    }
    ensure!(
        settings.data.is_some() || matches!(settings.model, ModelChoice::Unsaid | ModelChoice::Embedded),
        "a run on one's own model needs a text to train on: --data <file or directory>"
    );
    let checkpoint = load_model(&settings.model)?;
    let is_embedded = matches!(settings.model, ModelChoice::Unsaid | ModelChoice::Embedded);
    if !is_embedded {
        say::told_paths(&told_paths(&checkpoint)?);
        table::say(&checkpoint, settings)?;
    } else if settings.data.is_some() {
        say::is_demonstration();
    }
    let trained = trained(settings, &checkpoint)?;
    let texts = Texts::read(settings, &checkpoint, None, is_embedded, data_seed(settings, &state)?)?;
    texts.check(settings)?;
    let objective = super::objective::of_new_run(settings, &texts, program)?;
    let mut about = decided(settings, &state, objective, trained);
    about.hyperparameters.learning_rate = learning_rate(settings, &checkpoint, texts.data.as_ref(), &about)?;
    // What is measured is of the same form.
    if !objective::is_score(&about.objective) {
        objective::check(&about.objective, texts.held_out.as_ref()).context("--eval")?;
    }
    let bar = progress_bar(None, "reading and hashing the base model", "{spinner} {msg}, {elapsed}");
    let mut base = Base::of_new_run(checkpoint, &about, random()?)?;
    if texts.data.is_some() {
        estimator::check(settings, base.weights.specs().iter().map(TensorSpec::elements).sum())?;
    }
    if settings.replay_budget.is_none() {
        about.replay_budget = recipe::replay_budget(&mut base)?;
    }
    if state.manifest()?.is_some() {
        // One that gives way. Until here nothing of it has changed.
        state.forget_run()?;
    }
    state.commit(&[Row::Setting { name: STARTER.into(), bytes: Vec::new() }])?;
    let secret = settings.private.then(|| random().map(Secret)).transpose()?;
    let manifest = storage::start_run(&state, &base, about, settings.members.clone(), secret)?;
    bar.finish_and_clear();
    let opened = Opened::of(state)?;
    let kind = if secret.is_some() { "new private run" } else { "new run" };
    let (source, weights) = (&manifest.base.source, weights_in_words(&base.checkpoint, manifest.parameters())?);
    tracing::info!("{kind} {} on {source} ({weights})", opened.run);
    Ok((opened, texts))
}

/// What a new run states beside its base, before anything is measured: with a learning rate and a replay budget that
/// may not stay.
fn decided(
    settings: &Settings,
    state: &StateDir,
    objective: ObjectiveLine,
    (trained, adapters): (Trained, Option<AdapterSettings>),
) -> BaseSettings {
    let planned = settings.gradients.map_or(PLANNED_GRADIENTS, |gradients| gradients.max(PLANNED_GRADIENTS_MIN));
    BaseSettings {
        objective,
        hyperparameters: Hyperparameters {
            learning_rate: recipe::LEARNING_RATE,
            epsilon: settings.epsilon.unwrap_or(EPSILON),
            planned_gradients: settings.planned_gradients.unwrap_or(planned),
            direction_scale: DirectionScale::Rms,
        },
        schedule: rate::schedule(settings.gradients),
        ledger_samples_max: LEDGER_SAMPLES_MAX,
        replay_budget: settings.replay_budget.unwrap_or(1),
        authority: settings.authority.then(|| Ed25519Signer::from_seed(&state.secret_key()).key()),
        trained,
        adapters,
    }
}

/// Of the model, and of these those that are `trained`, or are beside them.
fn weights_in_words(checkpoint: &Checkpoint, trained: u64) -> Result<String> {
    let all: u64 = checkpoint.architecture()?.tensors().iter().map(|(_, shape)| weights_of(shape)).sum();
    Ok(format!("{all} weights, {trained} are trained"))
}

/// The rate of a new run: told, or measured on its text.
fn learning_rate(
    settings: &Settings,
    checkpoint: &Checkpoint,
    data: Option<&Dataset>,
    about: &BaseSettings,
) -> Result<f64> {
    if let Some(LearningRate::Fixed(rate)) = settings.learning_rate {
        return Ok(rate);
    }
    let (Some(data), Some(objective)) = (data, objective::surrogate(&about.objective)) else {
        return Ok(recipe::LEARNING_RATE);
    };
    let ground = Ground {
        checkpoint: checkpoint.clone(),
        data,
        objective,
        hyperparameters: about.hyperparameters,
        trained: about.trained.clone(),
        adapters: about.adapters.clone(),
        batch_size: estimator::rows_by_forwards(settings),
        seed: u64::from_le_bytes(random()?),
        time_max: recipe::SURVEY_TIME_MAX,
    };
    Ok(recipe::learning_rate(settings.gradients, ground))
}

/// What a new run trains of its base and beside it, and a line that says how much of how much.
fn trained(settings: &Settings, checkpoint: &Checkpoint) -> Result<(Trained, Option<AdapterSettings>)> {
    if settings.train.is_none() && settings.lora.is_none() {
        Trained::All.check(checkpoint)?;
        return Ok((Trained::All, None));
    }
    let architecture = checkpoint.architecture()?;
    let text = settings.train.as_deref().unwrap_or("all");
    let flags = match settings.lora {
        Some(rank) => format!("--lora {rank}, --train {text}"),
        None => format!("--train {text}"),
    };
    let chosen = Trained::or_adapters(text, settings.lora, settings.lora_alpha, &*architecture);
    let (trained, adapters) = chosen.with_context(|| flags.clone())?;
    trained.check(checkpoint).context(flags)?;
    match &adapters {
        None => say_trained(text, &trained, &*architecture),
        Some(adapters) => say_adapters(text, adapters, &*architecture)?,
    }
    Ok((trained, adapters))
}

fn weights_of(shape: &[usize]) -> u64 {
    shape.iter().product::<usize>() as u64
}

fn say_trained(text: &str, trained: &Trained, architecture: &dyn Architecture) {
    let tensors = architecture.tensors();
    let all: u64 = tensors.iter().map(|(_, shape)| weights_of(shape)).sum();
    let chosen = tensors.iter().filter(|(name, _)| trained.has(name));
    let (tensors, weights) = chosen.fold((0, 0), |(n, sum), (_, shape)| (n + 1, sum + weights_of(shape)));
    tracing::info!("--train {text}: {tensors} tensors, {weights} of {all} weights; the others stay as they are");
}

fn say_adapters(text: &str, adapters: &AdapterSettings, architecture: &dyn Architecture) -> Result<()> {
    let left_out = Trained::without_adapter(text, adapters, architecture)?;
    if !left_out.is_empty() {
        tracing::warn!(
            "--train {text}: adapters are of linear layers of attention and of MLPs; {} stays as it is, and gets none",
            left_out.join(", ")
        );
    }
    let all: u64 = architecture.tensors().iter().map(|(_, shape)| weights_of(shape)).sum();
    let weights: u64 = adapters.halves(architecture)?.iter().map(|half| weights_of(&half.shape)).sum();
    tracing::info!(
        "--lora {}: adapters of {} linear layers, {weights} weights beside the base's {all}, which stay as they are",
        adapters.rank,
        adapters.layers.len()
    );
    Ok(())
}

/// Goes on with the run in the state directory, whose base may not be complete yet.
pub fn restart(settings: &Settings, state: Arc<StateDir>) -> Result<Opened> {
    let opened = Opened::of(state)?;
    if let Some(run) = settings.run.filter(|run| *run != opened.run) {
        bail!(
            "{}: this state belongs to run {}, not to {} {run}; give another --state",
            opened.state.path().display(),
            opened.run,
            if settings.ticket.is_some() { "that of --join," } else { "--run" }
        );
    }
    if opened.state.has_base() {
        let is_other = named_by_run(&settings.model, &opened.manifest).is_none();
        if is_other && settings.model != ModelChoice::Unsaid {
            base_of_run(&opened.manifest, load_model(&settings.model)?).with_context(|| {
                format!(
                    "{}: run {} on {} is here, and goes on with that. For a new run on another model name another directory, --state \
                     <new directory>",
                    opened.state.path().display(),
                    opened.run,
                    opened.manifest.base.source
                )
            })?;
        }
        tracing::info!("going on with run {} in {}", opened.run, opened.state.path().display());
        return Ok(opened);
    }
    let nobody_to_ask = settings.bootstrap.is_empty() && settings.ticket.is_none() && !settings.mdns;
    if nobody_to_ask && settings.model == ModelChoice::Unsaid && !embedded::is_of(&opened.manifest.base) {
        bail!(
            "{}: the run's base model {} is not here: give it with --model <directory>, or name a machine of \
             the run with --join or --bootstrap",
            opened.state.path().display(),
            opened.manifest.base.source
        );
    }
    Ok(opened)
}

/// The seed of the own data order: told, or kept.
pub fn data_seed(settings: &Settings, state: &StateDir) -> Result<u64> {
    let kept = state.setting("data seed")?.map(|bytes| bytes.try_into().map(u64::from_le_bytes));
    match (settings.seed, kept) {
        (Some(seed), _) | (None, Some(Ok(seed))) => return Ok(seed),
        (None, Some(Err(_))) => tracing::warn!(
            "{}: the kept seed of the data's order is damaged; a new one is drawn",
            state.path().display()
        ),
        (None, None) => {}
    }
    let seed = u64::from_le_bytes(random()?);
    state.commit(&[Row::Setting { name: "data seed".into(), bytes: seed.to_le_bytes().to_vec() }])?;
    Ok(seed)
}
