//! Where the base model comes from.

use anyhow::{Result, bail, ensure};
use engine::{
    base::Base,
    embedded,
    model::{
        self, Checkpoint,
        hub::{HubName, choice::is_meant},
    },
};
use protocol::manifest::{Manifest, Role};
use std::path::Path;

use super::others::{asking, known_peers};
use crate::{
    cli::settings::{ModelChoice, Settings},
    hub,
    log::base_of_run,
    say,
    shell::Shell,
    storage::opened::Opened,
};

/// Largest base model that is fetched from peers, bytes.
const BASE_BYTES_MAX: u64 = 1 << 40;

/// Reads the model that the user named.
pub fn load_model(choice: &ModelChoice) -> Result<Checkpoint> {
    match choice {
        ModelChoice::Unsaid | ModelChoice::Embedded => embedded::checkpoint(),
        ModelChoice::Directory(path) => match hub_name(path) {
            Some(name) => from_hub(&name),
            None => Checkpoint::load(path),
        },
    }
}

/// Reads the model that the user named for a run that stands: a name on the hub means the revision that the run has.
pub fn load_model_of(choice: &ModelChoice, manifest: &Manifest) -> Result<Checkpoint> {
    match named_by_run(choice, manifest) {
        Some(name) => from_hub(&name),
        None => load_model(choice),
    }
}

/// The base of the run by its name on the hub, if the user named it so, too.
pub fn named_by_run(choice: &ModelChoice, manifest: &Manifest) -> Option<HubName> {
    let ModelChoice::Directory(path) = choice else { return None };
    let name = hub_name(path)?.at_revision_of(&manifest.base.source)?;
    let (asked, own) = (name.file.as_deref(), gguf_of(manifest));
    let is_other = asked.is_some_and(|asked| own.is_none_or(|own| !is_meant(asked, own)));
    (!is_other).then(|| with_file_of(name, manifest))
}

/// The name of the run's GGUF file, if its base is one.
fn gguf_of(manifest: &Manifest) -> Option<&str> {
    manifest.base.file(Role::Gguf).map(|file| &*file.name)
}

/// The same name, which means the run's own GGUF file of several.
fn with_file_of(name: HubName, manifest: &Manifest) -> HubName {
    HubName { file: gguf_of(manifest).map(str::to_owned).or(name.file.clone()), ..name }
}

/// The model of the hub that `path` names, if it names one and no file or directory here has that name.
fn hub_name(path: &Path) -> Option<HubName> {
    path.to_str().filter(|_| !path.exists()).and_then(model::hub::parse)
}

/// A model of the hub. A commit is taken from the cache if all of it is there; of a branch the hub is asked what it is
/// today, and the cache answers if the hub does not.
fn from_hub(name: &HubName) -> Result<Checkpoint> {
    let cached = from_cache(name);
    match cached {
        Ok(Some(cached)) if name.is_commit() || hub::is_offline() => {
            tracing::info!("{name} is in the hub's cache: {}", cached.source);
            return Ok(cached);
        }
        Err(error) if hub::is_offline() => {
            return Err(error.context(format!(
                "what the hub's cache has of {name} cannot be used, and HF_HUB_OFFLINE keeps from downloading it"
            )));
        }
        _ => {}
    }
    let fetched = hub::fetch(name, |_| true);
    let came = fetched.is_ok();
    match (fetched.and_then(|found| Checkpoint::load(&found)), cached) {
        (Ok(checkpoint), _) => {
            tracing::info!("{name} is {} today", checkpoint.source);
            Ok(checkpoint)
        }
        (Err(error), Ok(Some(cached))) => {
            tracing::warn!(
                "{error:#}. Taking what the hub's cache has: {} (HF_HUB_OFFLINE=1 keeps from asking)",
                cached.source
            );
            Ok(cached)
        }
        (Err(error), Err(unusable)) if !came && unusable.to_string() != error.to_string() => {
            bail!("{error:#}. What the hub's cache has of it cannot be used either: {unusable:#}");
        }
        (Err(error), _) => Err(error),
    }
}

/// What the hub's cache has of the model, if anything. Errors say why that is of no use.
fn from_cache(name: &HubName) -> Result<Option<Checkpoint>> {
    model::hub::cached(name)?.map(|found| Checkpoint::load(&found)).transpose()
}

/// The run's base from the hub, out of its cache or downloaded: the run names its revision, and everything is compared.
/// None, with a line that says why, if it is not to be had there.
fn base_by_name(manifest: &Manifest) -> Option<Base> {
    // A directory's name has no revision.
    let name = model::hub::parse(&manifest.base.source).filter(|_| manifest.base.source.contains('@'))?;
    let name = with_file_of(name, manifest);
    let of_run = |checkpoint: Checkpoint, how: &str| -> Result<Base> {
        let base = Base::of_run(manifest, checkpoint)?;
        tracing::info!("the run's base, {name}, {how}");
        Ok(base)
    };
    let found = from_cache(&name).transpose();
    // Another revision would be fetched in vain.
    let is_had = name.is_commit() && !hub::is_offline() && !matches!(found, Some(Ok(_)));
    let cached = found.map(|found| of_run(found?, "was in the hub's cache: nothing to fetch"));
    if let Some(Ok(base)) = cached {
        return Some(base);
    }
    let fits = |files: &[(&str, Option<u64>)]| {
        let has =
            |name: &str, bytes| files.iter().any(|file| file.0 == name && file.1.is_none_or(|size| size == bytes));
        manifest.base.files.iter().all(|file| has(&file.name, file.bytes))
    };
    let fetched = is_had
        .then(|| hub::fetch(&name, fits).and_then(|found| of_run(Checkpoint::load(&found)?, "came from the hub")));
    match fetched.or(cached) {
        Some(Ok(base)) => Some(base),
        Some(Err(error)) => {
            tracing::info!("the run's base, {name}, is not to be had from the hub ({error:#}): fetching it from peers");
            None
        }
        None => None,
    }
}

/// Takes the base from `--model`, from the embedded default if that is it, or from peers. False if the node has left
/// before.
pub async fn take_base(settings: &Settings, opened: &Opened, shell: &mut Shell) -> Result<bool> {
    let manifest = &opened.manifest;
    if settings.model != ModelChoice::Unsaid {
        let base = base_of_run(manifest, load_model_of(&settings.model, manifest)?)?;
        if let Some(other) = opened.state.adopt_base(manifest, &base)? {
            say::base_in_other_files(&base.checkpoint.source, &other);
        }
        return Ok(true);
    }
    if embedded::is_of(&manifest.base) {
        if let Ok(base) = Base::of_run(manifest, embedded::checkpoint()?) {
            opened.state.adopt_base(manifest, &base)?;
            return Ok(true);
        }
        tracing::info!("the run's base is another release's embedded model");
    }
    ensure!(
        manifest.base.bytes() <= BASE_BYTES_MAX,
        "the run's base model has {} GB: give it with --model",
        manifest.base.bytes() >> 30
    );
    if let Some(base) = base_by_name(manifest) {
        if let Some(other) = opened.state.adopt_base(manifest, &base)? {
            say::base_in_other_files(&base.checkpoint.source, &other);
        }
        return Ok(true);
    }
    let config = asking(settings, &opened.state, Some(opened.run))?;
    shell.fetch_base(opened, config, &known_peers(&opened.state)?).await
}
