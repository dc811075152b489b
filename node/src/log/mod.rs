//! The gossip log of a run, wherever it is: in a state directory, in an exported file, on a running node.

use anyhow::Result;
use protocol::{
    machine::MachineId,
    manifest::{Manifest, RunId},
    replica::{Replica, Settings},
    revocation::Revocation,
};
use std::sync::Arc;

use crate::{cli::SourceArgs, opened::Opened};

/// A log that was read, every signature and digest checked.
pub struct Log {
    /// For people: where it came from.
    pub origin: String,
    /// The run's id: the hash of its manifest.
    pub run: RunId,
    /// What the run agreed on.
    pub manifest: Arc<Manifest>,
    /// Its encoding.
    pub manifest_bytes: Vec<u8>,
    /// Holds the ledgers and revocations. Signs nothing.
    pub replica: Replica,
    /// The machine whose state directory this is.
    pub own: Option<MachineId>,
}

impl Log {
    /// Reads what `source` names.
    pub fn open(source: &SourceArgs) -> Result<Self> {
        let opened = Opened::existing(&source.state)?;
        Ok(Self {
            origin: source.state.display().to_string(),
            run: opened.run,
            replica: opened.replica(Settings::default())?,
            own: Some(opened.own_machine()?),
            manifest: opened.manifest,
            manifest_bytes: opened.manifest_bytes,
        })
    }
}

/// Why not all of a ledger counts.
pub fn in_words(revocation: &Revocation) -> String {
    match revocation {
        Revocation::Fork(_) => "forked: none of it counts".into(),
        Revocation::Authority { from, .. } => format!("withdrawn from sample {from} on"),
    }
}
