//! A state directory, opened: from records to a replica, weights and a model.

use anyhow::{Context, Result, ensure};
use engine::{
    model::{self, Model, Tokenizer},
    weights::{ENTRIES_PER_SWEEP, Weights},
};
use protocol::{
    machine::MachineId,
    manifest::{Manifest, PROTOCOL_VERSION, RunId},
    replay::Sweep,
    replica::{Contained, LedgerRange, Output, Replica, Settings},
    signature::{Ed25519Signer, Ed25519Verifier, Signer as _},
};
use std::{path::Path, sync::Arc};

use super::{StateDir, no_run, records};
use crate::system::{display::progress_bar, name::program, random::random};

/// A run as one state directory has it.
pub struct Opened {
    /// Locked.
    pub state: Arc<StateDir>,
    /// What the run agreed on.
    pub manifest: Arc<Manifest>,
    pub manifest_bytes: Vec<u8>,
    pub run: RunId,
}

/// Why a directory's manifest is of no use, and what can be done.
pub fn not_usable(path: &Path, manifest: &[u8]) -> String {
    let path = path.display();
    match Manifest::version_of(manifest) {
        Some(version) if version < PROTOCOL_VERSION => format!(
            "{path}: a run of an earlier release, which speaks protocol version {version}. Keep the directory: the release that made it \
             lists and exports it (`{program} log show`, `{program} log export`, `{program} export`); start a new run with this one in \
             another --state",
            program = program()
        ),
        _ => format!("{path}: the run's manifest is not usable"),
    }
}

impl Opened {
    /// The run in `state`, which must have one.
    pub fn of(state: impl Into<Arc<StateDir>>) -> Result<Self> {
        let state = state.into();
        let bytes = state.manifest()?.with_context(|| no_run(state.path()))?;
        let (manifest, run) = Manifest::decode(&bytes).with_context(|| not_usable(state.path(), &bytes))?;
        Ok(Self { state, manifest: Arc::new(manifest), manifest_bytes: bytes, run })
    }

    /// The run in the directory at `path`, for a command that inspects.
    pub fn existing(path: &Path) -> Result<Self> {
        Self::of(StateDir::open_existing(path)?)
    }

    /// This node's own machine.
    pub fn own_machine(&self) -> Result<MachineId> {
        let key = Ed25519Signer::from_seed(&self.state.secret_key()).key();
        Ok(MachineId { key, incarnation: self.state.incarnation() })
    }

    /// A replica with everything that is on the disk, each signature checked.
    pub fn replica(&self, settings: Settings) -> Result<Replica> {
        let mut replica = Replica::new(
            self.run,
            self.manifest.clone(),
            settings,
            self.own_machine()?,
            Box::new(Ed25519Verifier),
            u64::from_le_bytes(random()?),
        );
        let chunks = |visit: &mut dyn FnMut(&[u8]) -> Result<()>| self.state.for_each_chunk(visit);
        restore(&mut replica, self.state.path(), self.state.statements()?, chunks)?;
        Ok(replica)
    }

    /// The weights of the checkpoint, if there is a sound one, else of the base. `resume` hears what the checkpoint
    /// contains, and says whether the ledgers hold all of it.
    pub fn weights(&self, resume: impl FnOnce(Vec<Contained>) -> Result<bool>) -> Result<Weights> {
        match self.checkpoint_weights(resume) {
            Ok(Some(weights)) => return Ok(weights),
            Ok(None) => {}
            Err(error) => {
                tracing::warn!("the checkpoint is not usable ({error:#}): replaying the ledgers from the base");
            }
        }
        self.base_weights()
    }

    fn checkpoint_weights(&self, resume: impl FnOnce(Vec<Contained>) -> Result<bool>) -> Result<Option<Weights>> {
        let Some(checkpoint) = self.state.load_checkpoint(&self.manifest)? else { return Ok(None) };
        let weights = self.state.base(&self.manifest)?.complete(checkpoint.weights)?;
        // Last: whoever hears of it takes the weights to be there.
        ensure!(resume(records::contents(&checkpoint.contents)?)?, "it holds samples that the ledgers do not");
        Ok(Some(weights))
    }

    /// The untouched base.
    pub fn base_weights(&self) -> Result<Weights> {
        Ok(self.state.base(&self.manifest)?.load()?.weights)
    }

    /// The weights with everything that the ledgers hold.
    pub fn current_weights(&self) -> Result<(Replica, Weights)> {
        let mut replica = self.replica(Settings::default())?;
        let mut weights = self.weights(|contents| Ok(replica.resume(&contents)))?;
        replay(&mut replica, &mut weights)?;
        Ok((replica, weights))
    }

    /// The model over `weights`, and its tokenizer.
    pub fn model(&self, weights: &Weights) -> Result<(Box<dyn Model>, Tokenizer)> {
        let base = self.state.base(&self.manifest)?.checkpoint()?;
        model::load_adapted(&base, weights.tensors(), weights.packed(), &weights.adapters())
    }
}

/// Fills an empty replica with the records of the state directory at `path`, each signature checked. `chunks` calls its
/// argument with every chunk, by machine and sample.
pub fn restore(
    replica: &mut Replica,
    path: &Path,
    statements: Vec<Vec<u8>>,
    chunks: impl FnOnce(&mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()>,
) -> Result<()> {
    for bytes in statements {
        replica.restore_statement(records::statement(&bytes)?)?;
    }
    chunks(&mut |bytes| {
        let chunk = records::chunk(bytes)?;
        let (machine, first) = (chunk.machine, chunk.first);
        replica
            .restore_chunk(chunk)
            .with_context(|| format!("{}: the ledger of {machine} is damaged at sample {first}", path.display()))
    })
}

/// Carries out the replays that `replica` asks for, here and now, with a progress bar if there is a terminal to show it
/// on. Returns the entries.
pub fn replay(replica: &mut Replica, weights: &mut Weights) -> Result<u64> {
    replica.settle_all();
    let mut ranges = Vec::new();
    while let Some(output) = replica.poll_output() {
        if let Output::ReplayLedger(range) = output {
            ranges.push(range);
        }
    }
    let entries = ranges.iter().map(LedgerRange::samples).sum();
    sweep(replica, ranges, weights)?;
    Ok(entries)
}

/// Moves `weights` by ranges of the ledgers of `replica`, with a progress bar if there is a terminal to show it on.
pub fn sweep(replica: &Replica, ranges: Vec<LedgerRange>, weights: &mut Weights) -> Result<()> {
    let entries = ranges.iter().map(LedgerRange::samples).sum();
    let template = "{msg} {wide_bar} {human_pos} of {human_len} gradients, {eta} left";
    let bar = progress_bar(Some(entries), "replaying the ledgers", template);
    for contributions in replica.batches(ranges, ENTRIES_PER_SWEEP) {
        let swept = contributions.len() as u64;
        weights.sweep(&Sweep { probes: Vec::new(), contributions })?;
        bar.inc(swept);
    }
    bar.finish_and_clear();
    Ok(())
}
