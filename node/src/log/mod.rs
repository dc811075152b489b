//! The gossip log of a run, wherever it is: in a state directory, in an exported file, on a running node.

use anyhow::{Result, bail};
use protocol::{
    machine::MachineId,
    manifest::{Manifest, RunId},
    replica::{Replica, Settings},
    revocation::Revocation,
};
use std::sync::Arc;

use crate::{cli::SourceArgs, opened::Opened};

mod journal;
pub mod past;
pub mod statistics;

pub use journal::Journal;

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
    /// What that node wrote down about when.
    pub journal: Option<Journal>,
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
            journal: Journal::read(&source.state)?,
            manifest: opened.manifest,
            manifest_bytes: opened.manifest_bytes,
        })
    }

    /// The machine that people mean by the name in the first column of `log show`, or by as much of it as no other has.
    pub fn find(&self, name: &str) -> Result<MachineId> {
        let machines = || self.replica.machines().map(|(machine, ..)| *machine);
        let exact: Vec<MachineId> = machines().filter(|machine| machine.to_string() == name).collect();
        let matches = match exact.is_empty() && !name.is_empty() {
            true => machines().filter(|machine| machine.to_string().starts_with(name)).collect(),
            false => exact,
        };
        match matches[..] {
            [machine] => Ok(machine),
            [] => bail!("{name}: no such machine in {}; `node log show` lists them", self.origin),
            _ => bail!("{name}: {} machines of {} go by this name", matches.len(), self.origin),
        }
    }

    /// Why not all of a machine's ledger counts, if so.
    pub fn revocation(&self, machine: &MachineId) -> Option<&Revocation> {
        self.replica.machines().find(|(other, ..)| *other == machine).and_then(|(_, _, revocation)| revocation)
    }
}

/// Why not all of a ledger counts.
pub fn in_words(revocation: &Revocation) -> String {
    match revocation {
        Revocation::Fork(_) => "forked: none of it counts".into(),
        Revocation::Authority { from, .. } => format!("withdrawn from sample {from} on"),
    }
}
