//! The gossip log of a run, wherever it is: in a state directory, in an exported file, on a running node.
//!
//! Whoever reads a log only looks: nothing is written, and no machine of the run hears of it.

use anyhow::{Result, bail};
use protocol::{
    machine::MachineId,
    manifest::{Manifest, RunId},
    replica::{Replica, Settings},
    signature::Ed25519Verifier,
};
use std::sync::Arc;

use crate::{
    cli::SourceArgs,
    storage::StateCopy,
    system::{name::program, random::random},
};

mod base;
pub mod best;
pub mod diff;
pub mod export;
pub mod import;
mod journal;
pub mod past;
mod peer;
mod source;
pub mod statistics;

pub use base::{Base, base_of_run};
pub use journal::Journal;
pub use source::replica_of;

/// A log that was read, every signature and digest checked.
pub struct Log {
    /// For people: where it came from.
    pub origin: String,
    /// The run's id: the hash of its manifest.
    pub run: RunId,
    /// What the run agreed on.
    pub manifest: Arc<Manifest>,
    pub manifest_bytes: Vec<u8>,
    /// Holds the ledgers and revocations. Signs nothing.
    pub replica: Replica,
    /// The machine whose state directory this is.
    pub own: Option<MachineId>,
    /// What that node wrote down about when.
    pub journal: Option<Journal>,
    /// The state directory, if it came from one: for its base and checkpoint.
    pub state: Option<StateCopy>,
}

/// What a log holds, wherever it came from.
pub struct Content {
    pub run: RunId,
    pub manifest: Arc<Manifest>,
    pub manifest_bytes: Vec<u8>,
    pub replica: Replica,
}

impl Log {
    /// Reads what `source` names.
    pub fn open(source: &SourceArgs) -> Result<Self> {
        match (&source.file, &source.peer) {
            (Some(file), _) => Self::of_file(file),
            (None, Some(address)) => Self::of_peer(address),
            (None, None) => Self::of_state(&source.state),
        }
    }

    /// The machine that people mean by the name in the first column of `log show`, or by as much of it as no other has,
    /// or that the journal names.
    pub fn find(&self, name: &str) -> Result<MachineId> {
        let machines = || self.replica.machines().map(|(machine, ..)| *machine);
        let exact: Vec<MachineId> = machines().filter(|machine| machine.to_string() == name).collect();
        let matches = match exact.is_empty() && !name.is_empty() {
            true => machines().filter(|machine| format!("{machine:#}").starts_with(name)).collect(),
            false => exact,
        };
        match matches[..] {
            [machine] => Ok(machine),
            [] => bail!("{name}: no such machine in {}; `{} log show` lists them", self.origin, program()),
            [one, other, ..] => bail!(
                "{name}: {} machines of {} go by this name, such as {one:#} and {other:#}; give as much of it",
                matches.len(),
                self.origin
            ),
        }
    }

    /// First sample of a machine that does not count, if there is one.
    pub fn floor(&self, machine: &MachineId) -> Option<u64> {
        Some(self.replica.floor(machine)).filter(|floor| *floor < u64::MAX)
    }
}

/// An empty replica that belongs to no machine of the run: its key is drawn at random, and it signs nothing.
pub fn onlooker(run: RunId, manifest: &Manifest) -> Result<Replica> {
    let drawn: [u8; 40] = random()?;
    let (key, seed) = drawn.split_at(32);
    let machine = MachineId { key: key.try_into()?, incarnation: 1 };
    let seed = u64::from_le_bytes(seed.try_into()?);
    let verifier = Box::new(Ed25519Verifier);
    Ok(Replica::new(run, Arc::new(manifest.clone()), Settings::default(), machine, verifier, seed))
}
