//! Where the base model comes from.

use anyhow::{Context, Result, ensure};
use engine::{
    base::Base,
    embedded,
    model::{self, Checkpoint, hub::HubName},
};
use protocol::manifest::Manifest;
use std::path::{Path, PathBuf};

use super::others::{asking, known_peers};
use crate::{
    hub,
    opened::Opened,
    settings::{ModelChoice, Settings},
    shell::Shell,
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
    hub_name(path)?.at_revision_of(&manifest.base.source)
}

/// The model of the hub that `path` names, if it names one and nothing here has that name.
fn hub_name(path: &Path) -> Option<HubName> {
    path.to_str().filter(|_| !path.exists()).and_then(model::hub::parse)
}

/// A model of the hub. A commit is taken from the cache if all of it is there; of a branch the hub is asked what it is
/// today, and the cache answers if the hub does not.
fn from_hub(name: &HubName) -> Result<Checkpoint> {
    let cached = model::hub::cached(name).and_then(|snapshot| Checkpoint::load(&snapshot).ok());
    match cached {
        Some(cached) if name.is_commit() || hub::is_offline() => {
            tracing::info!("{name} is in the hub's cache: {}", cached.source);
            Ok(cached)
        }
        cached => match (hub::fetch(name, |_| true).and_then(|snapshot| Checkpoint::load(&snapshot)), cached) {
            (Ok(checkpoint), _) => {
                tracing::info!("{name} is {} today", checkpoint.source);
                Ok(checkpoint)
            }
            (Err(error), Some(cached)) => {
                tracing::warn!(
                    "{error:#}. Taking what the hub's cache has: {} (HF_HUB_OFFLINE=1 keeps from asking)",
                    cached.source
                );
                Ok(cached)
            }
            (Err(error), None) => Err(error),
        },
    }
}

/// The run's base from the hub, out of its cache or downloaded: the run names its revision, and everything is compared.
/// None, with a line that says why, if it is not to be had there.
fn base_by_name(manifest: &Manifest) -> Option<Base> {
    let name = model::hub::parse(&manifest.base.source)?;
    let cached = model::hub::cached(&name).map(|snapshot| (snapshot, "was in the hub's cache: nothing to fetch"));
    let of_run = |(snapshot, how): (PathBuf, &str)| -> Result<Base> {
        let base = Base::of_run(manifest, Checkpoint::load(&snapshot)?)?;
        tracing::info!("the run's base, {name}, {how}");
        Ok(base)
    };
    let cached = cached.map(of_run);
    if let Some(Ok(base)) = cached {
        return Some(base);
    }
    // Another revision would be fetched in vain.
    let is_had = name.is_commit() && !hub::is_offline() && cached.is_none();
    let fits = |files: &[(&str, Option<u64>)]| {
        let has =
            |name: &str, bytes| files.iter().any(|file| file.0 == name && file.1.is_none_or(|size| size == bytes));
        manifest.base.files.iter().all(|file| has(&file.name, file.bytes))
    };
    let fetched = is_had.then(|| hub::fetch(&name, fits).and_then(|snapshot| of_run((snapshot, "came from the hub"))));
    match fetched.or(cached) {
        Some(Ok(base)) => Some(base),
        Some(Err(error)) => {
            tracing::info!("the run's base, {name}, is not to be had from the hub ({error:#}): fetching it from peers");
            None
        }
        None => None,
    }
}

/// Fails with what differs if `checkpoint` has not the tensors, config and tokenizer of the run's base.
pub fn base_of_run(manifest: &Manifest, checkpoint: Checkpoint) -> Result<Base> {
    let source = checkpoint.source.clone();
    Base::of_run(manifest, checkpoint).with_context(|| {
        format!(
            "--model {source}: not the base of this run. Give the run's own base, or leave --model away to fetch it from peers"
        )
    })
}

/// Takes the base from `--model`, from the embedded default if that is it, or from peers. False if the node has left
/// before.
pub async fn take_base(settings: &Settings, opened: &Opened, shell: &mut Shell) -> Result<bool> {
    let manifest = &opened.manifest;
    if settings.model != ModelChoice::Unsaid {
        let base = base_of_run(manifest, load_model_of(&settings.model, manifest)?)?;
        if !opened.state.adopt_base(manifest, &base)? {
            tracing::info!(
                "--model {}: the run's tensors in other files: this node trains, and cannot give the base to joiners",
                base.checkpoint.source
            );
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
        opened.state.adopt_base(manifest, &base)?;
        return Ok(true);
    }
    let config = asking(settings, &opened.state, Some(opened.run))?;
    shell.fetch_base(opened, config, &known_peers(&opened.state)?).await
}
