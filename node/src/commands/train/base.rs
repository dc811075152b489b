//! Where the base model comes from.

use anyhow::{Context, Result, ensure};
use engine::{
    base::Base,
    embedded,
    model::{self, Checkpoint},
};
use protocol::manifest::Manifest;
use std::path::Path;

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
        ModelChoice::Directory(path) => named(path).unwrap_or_else(|| Checkpoint::load(path)),
    }
}

/// The model of the hub that `path` names, if it names one and nothing here has that name: from the cache if all of it
/// is there, else downloaded.
fn named(path: &Path) -> Option<Result<Checkpoint>> {
    let name = path.to_str().filter(|_| !path.exists()).and_then(model::hub::parse)?;
    if let Some(Ok(checkpoint)) = model::hub::cached(&name).map(|snapshot| Checkpoint::load(&snapshot)) {
        tracing::info!("{name} is in the hub's cache: {}", checkpoint.source);
        return Some(Ok(checkpoint));
    }
    Some(hub::fetch(&name).and_then(|()| Checkpoint::load(path)))
}

/// The run's base in the hub's cache, if it is there: the run names its revision, and everything is compared.
fn base_in_cache(manifest: &Manifest) -> Option<Base> {
    let name = model::hub::parse(&manifest.base.source)?;
    let checkpoint = Checkpoint::load(&model::hub::cached(&name)?).ok()?;
    match Base::of_run(manifest, checkpoint) {
        Ok(base) => Some(base),
        Err(error) => {
            tracing::info!("{name} in the hub's cache is not the run's base ({error:#}): fetching it from peers");
            None
        }
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
        let base = base_of_run(manifest, load_model(&settings.model)?)?;
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
    if let Some(base) = base_in_cache(manifest) {
        opened.state.adopt_base(manifest, &base)?;
        tracing::info!("the run's base, {}, was in the hub's cache: nothing to fetch", manifest.base.source);
        return Ok(true);
    }
    ensure!(
        manifest.base.bytes() <= BASE_BYTES_MAX,
        "the run's base model has {} GB: give it with --model",
        manifest.base.bytes() >> 30
    );
    let config = asking(settings, &opened.state, Some(opened.run))?;
    shell.fetch_base(opened, config, &known_peers(&opened.state)?).await
}
