//! Where a log may come from.

use anyhow::{Context, Result, ensure};
use protocol::{
    machine::MachineId,
    manifest::{Manifest, RunId},
    replica::Replica,
    signature::{Ed25519Signer, Signer as _},
};
use std::{fs::File, io::BufReader, path::Path};

use super::{Content, Journal, Log, export, onlooker, peer};
use crate::{
    join::ticket::Ticket,
    network,
    storage::{StateCopy, no_run, opened},
    system::display::progress_bar,
};

impl Log {
    /// Whatever `place` names: a state directory, an exported file, or the address of a node.
    pub fn at(place: &str) -> Result<Self> {
        let path = Path::new(place);
        if path.is_dir() {
            return Self::of_state(path);
        }
        if path.exists() {
            return Self::of_file(path);
        }
        ensure!(
            Ticket::is_meant(place) || place.starts_with('/') && network::parse_bootstrap(place).is_ok(),
            "{place}: neither a state directory, nor an exported file, nor a ticket, nor the address of a node \
             (…/p2p/12D3KooW…)"
        );
        Self::of_peer(place)
    }

    /// That of a state directory, which a node may be using.
    pub fn of_state(path: &Path) -> Result<Self> {
        let state = StateCopy::of(path)?;
        let manifest_bytes = state.manifest()?.with_context(|| no_run(path))?;
        let (manifest, run) =
            Manifest::decode(&manifest_bytes).with_context(|| opened::not_usable(path, &manifest_bytes))?;
        let replica = replica_of(&state, run, &manifest)?;
        let key = Ed25519Signer::from_seed(&state.secret_key()).key();
        Ok(Self {
            origin: path.display().to_string(),
            own: Some(MachineId { key, incarnation: state.incarnation() }),
            journal: Journal::read(path, &replica)?,
            state: Some(state),
            ..Self::of_content(String::new(), Content { run, manifest: manifest.into(), manifest_bytes, replica })
        })
    }

    /// That of a file that `node log export` made.
    pub fn of_file(path: &Path) -> Result<Self> {
        let name = path.display().to_string();
        let file = File::open(path).with_context(|| format!("{name}: cannot be opened"))?;
        let metadata = file.metadata().with_context(|| format!("{name}: cannot be read"))?;
        ensure!(metadata.is_file(), "{name}: not a file; of a state directory, use --state");
        let bar =
            progress_bar(Some(metadata.len()), "checking the export", "{msg} {wide_bar} {bytes} of {total_bytes}");
        let content = export::read(bar.wrap_read(BufReader::with_capacity(1 << 16, file)), metadata.len(), &name);
        bar.finish_and_clear();
        Ok(Self::of_content(name, content?))
    }

    /// That of a running node.
    pub fn of_peer(place: &str) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (origin, content) = runtime.block_on(peer::fetch(place))?;
        runtime.shutdown_background();
        Ok(Self::of_content(origin, content))
    }

    fn of_content(origin: String, content: Content) -> Self {
        let Content { run, manifest, manifest_bytes, replica } = content;
        Self { origin, run, manifest, manifest_bytes, replica, own: None, journal: None, state: None }
    }
}

/// A replica with everything that `state` has, each signature checked.
pub fn replica_of(state: &StateCopy, run: RunId, manifest: &Manifest) -> Result<Replica> {
    let mut replica = onlooker(run, manifest)?;
    let chunks = |visit: &mut dyn FnMut(&[u8]) -> Result<()>| state.for_each_chunk(visit);
    opened::restore(&mut replica, state.path(), state.statements()?, chunks)?;
    Ok(replica)
}
