//! What the settings ask for, beside what the run has settled.

use anyhow::{Context, Result, ensure};
use engine::{
    base::{Base, Trained},
    objective,
    recipe::rate,
};
use protocol::manifest::{ADAPTER_ONE, Manifest, Membership, TensorSpec};

use super::{base::load_model_of, others::known_peers};
use crate::{
    cli::{
        LearningRate,
        settings::{ModelChoice, ObjectiveChoice, Settings},
    },
    storage::{StateDir, opened::Opened},
};

/// Name of the setting that says that this machine started the run.
pub const STARTER: &str = "starter";

/// Some flags are for those who start a run.
pub fn say_what_is_settled(settings: &Settings, opened: &Opened) -> Result<()> {
    let manifest = &*opened.manifest;
    if let Some(what) = trains_otherwise(settings, &opened.state, manifest)? {
        tracing::warn!("--lora and --train are of new runs only: this run trains {what}");
    }
    if settings.normalize && !objective::normalizes(&manifest.objective) {
        tracing::warn!("--normalize is of new runs only: this run does not");
    }
    // Whoever believes in members must not contribute to a run that is open.
    ensure!(
        !other_members(settings, manifest),
        "--authority and --members are of new runs only, and this run has others; start another with another --state"
    );
    if let Some(other) = other_objective(settings, manifest) {
        tracing::warn!("--objective is of new runs only: this run {other}");
    }
    for (flag, said, settled) in settled(settings, manifest) {
        if said.is_some_and(|said| said != settled) {
            tracing::warn!("{flag} is of new runs only: this run's is {settled}");
        }
    }
    if settings.gradients.is_some_and(|said| manifest.schedule != rate::schedule(Some(said))) {
        tracing::warn!("--gradients is of new runs only: this run's learning rate falls as its starter said");
    }
    Ok(())
}

/// Whether the run in `state`, which this machine started and nobody has joined, is not the one that the settings ask
/// for: then a new one is to take its place.
pub fn gives_way(settings: &Settings, state: &StateDir) -> Result<bool> {
    let Some(bytes) = state.manifest()? else { return Ok(false) };
    let asks_for_it = settings.joins() || settings.run.is_some();
    let is_shared = !state.is_untouched()? || !known_peers(state)?.is_empty();
    if asks_for_it || is_shared || state.setting(STARTER)?.is_none() {
        return Ok(false);
    }
    let Ok((manifest, run)) = Manifest::decode(&bytes) else { return Ok(false) };
    let other = match difference(settings, &manifest) {
        None => trains_otherwise(settings, state, &manifest)?.map(|what| format!("trains {what}")),
        other => other,
    };
    let Some(difference) = other else { return Ok(false) };
    tracing::warn!(
        "{}: run {run} was started here, has no gradient yet, and {difference}: it gives way to a new run",
        state.path().display()
    );
    Ok(true)
}

/// What the run trains, in words, if `--train` or `--lora` ask for something else.
fn trains_otherwise(settings: &Settings, state: &StateDir, manifest: &Manifest) -> Result<Option<String>> {
    let count = manifest.tensors.len();
    let has_adapters = manifest.tensors.iter().any(|spec| spec.adapter().is_some());
    if settings.lora.is_some() != has_adapters && (settings.lora.is_some() || settings.train.is_some()) {
        let what = if has_adapters { "adapters" } else { "tensors of the base" };
        return Ok(Some(format!("{count} {what}")));
    }
    let rank = manifest.tensors.iter().find_map(|spec| Some(spec.adapter()?.rank));
    if let (Some(rank), Some(wanted)) = (rank, settings.lora)
        && rank != wanted
    {
        return Ok(Some(format!("adapters of rank {rank}")));
    }
    let Some(text) = settings.train.as_ref().filter(|_| !has_adapters) else { return Ok(None) };
    let architecture = state.base(manifest)?.checkpoint()?.architecture()?;
    let wanted = Trained::choose(text, &*architecture).with_context(|| format!("--train {text}"))?;
    let trains = |name: &str| manifest.tensors.iter().any(|spec| spec.name == name);
    let differs = architecture.tensors().iter().any(|(name, _)| wanted.has(name) != trains(name));
    Ok(differs.then(|| format!("{count} tensors")))
}

/// What the settings ask for that is not the run's.
fn difference(settings: &Settings, manifest: &Manifest) -> Option<String> {
    let other =
        settled(settings, manifest).into_iter().find(|(.., said, settled)| said.is_some_and(|said| said != *settled));
    if let Some((flag, said, settled)) = other {
        return Some(format!("its {} is {settled}, not {}", flag.trim_start_matches("--"), said.unwrap_or_default()));
    }
    if let Some(other) = other_objective(settings, manifest) {
        return Some(other.into());
    }
    if settings.gradients.is_some_and(|said| manifest.schedule != rate::schedule(Some(said))) {
        return Some("is planned for another number of gradients".into());
    }
    if other_members(settings, manifest) {
        return Some("has other members".into());
    }
    if settings.model == ModelChoice::Unsaid {
        return None;
    }
    let is_its_base =
        load_model_of(&settings.model, manifest).and_then(|checkpoint| Base::of_run(manifest, checkpoint));
    is_its_base.is_err().then(|| format!("is on another model, {}", manifest.base.source))
}

/// Whether `--authority` or `--members` ask for something else.
fn other_members(settings: &Settings, manifest: &Manifest) -> bool {
    settings.members != Membership::Open && settings.members != manifest.membership
        || settings.authority && manifest.authority.is_none()
}

/// What the run makes better, if `--objective` asks for something else.
fn other_objective(settings: &Settings, manifest: &Manifest) -> Option<&'static str> {
    let line = &manifest.objective;
    let is_score = objective::is_score(line);
    let (is_asked_for, what) = match &settings.objective {
        None => return None,
        Some(ObjectiveChoice::Command(_)) => (is_score, "climbs no program's score"),
        Some(ObjectiveChoice::Accuracy) => {
            (!is_score && !objective::is_differentiable(line), "does not climb accuracy")
        }
        Some(ObjectiveChoice::Loss) => (objective::is_differentiable(line), "climbs something else than the loss"),
    };
    (!is_asked_for).then_some(what)
}

/// Settings of new runs: (flag, what was said, what the run has).
fn settled(settings: &Settings, manifest: &Manifest) -> [(&'static str, Option<f64>, f64); 5] {
    let run = &manifest.hyperparameters;
    let learning_rate = match settings.learning_rate {
        Some(LearningRate::Fixed(rate)) => Some(rate),
        _ => None,
    };
    let (said_alpha, alpha) = alphas(settings, manifest);
    [
        ("--learning-rate", learning_rate, run.learning_rate),
        ("--epsilon", settings.epsilon, run.epsilon),
        ("--replay-budget", settings.replay_budget.map(f64::from), f64::from(manifest.replay_budget)),
        (
            "--planned-gradients",
            settings.planned_gradients.map(|gradients| gradients as f64),
            run.planned_gradients as f64,
        ),
        ("--lora-alpha", said_alpha, alpha),
    ]
}

/// `--lora-alpha` as it was said, and the run's, to four digits: a manifest keeps it over the rank, rounded. Adapters
/// of another rank are others anyhow.
fn alphas(settings: &Settings, manifest: &Manifest) -> (Option<f64>, f64) {
    let adapter = manifest.tensors.iter().find_map(TensorSpec::adapter);
    let Some(adapter) = adapter.filter(|adapter| settings.lora == Some(adapter.rank)) else { return (None, 0.0) };
    let rank = f64::from(adapter.rank);
    let kept = |alpha: f64| (alpha / rank * f64::from(ADAPTER_ONE)).round() as u32;
    let alpha = f64::from(adapter.scaling) / f64::from(ADAPTER_ONE) * rank;
    let alpha = (alpha * 1e4).round() / 1e4;
    // What comes to the same is the same.
    let said = settings.lora_alpha.map(|said| if kept(said) == adapter.scaling { alpha } else { said });
    (said, alpha)
}
