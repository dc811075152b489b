//! What a run agrees on about its base model, computed from a checkpoint.
//!
//! The base of a run is a string of bytes, the checkpoint's original files and the appendix of their tensors (see
//! [`protocol::manifest::BaseModel`]), and a manifest that describes it. Where the string is kept is not known here.

mod adapters;
mod arithmetic;
mod choice;
mod chunks;
mod comparison;
mod groups;
mod string;

use anyhow::{Context, Result, bail, ensure};
use candle_core::Tensor;
use protocol::manifest::{
    Appendix, BaseModel, BaseTensor, Groups, Hyperparameters, Manifest, Membership, ObjectiveLine, PROTOCOL_VERSION,
    Schedule, TensorSpec, Treatment,
};
use std::collections::{BTreeMap, BTreeSet};

pub use adapters::{AdapterHalf, AdapterSettings, Merged, export_adapters};
use chunks::ChunkHasher;
pub use chunks::chunks_root;
pub use string::{Written, files_within};

use crate::{model::Checkpoint, packed::Frozen, weights::Weights};

/// What the starter of a run decides beside the base.
pub struct BaseSettings {
    /// What is made smaller.
    pub objective: ObjectiveLine,
    /// Learning rate, epsilon, range.
    pub hyperparameters: Hyperparameters,
    /// Learning-rate schedule.
    pub schedule: Schedule,
    /// Largest ledger of one machine, samples.
    pub ledger_samples_max: u64,
    /// Gradients a second for the whole swarm.
    pub replay_budget: u32,
    /// Whose withdrawals count.
    pub authority: Option<[u8; 32]>,
    /// The tensors of the base that the run trains.
    pub trained: Trained,
    /// What it trains beside them.
    pub adapters: Option<AdapterSettings>,
}

/// Which tensors of the base a run trains. The others are frozen: nothing changes them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Trained {
    /// All of them.
    All,
    /// Those of these names.
    Only(BTreeSet<String>),
}

impl Trained {
    /// Whether it is one of them.
    pub fn has(&self, name: &str) -> bool {
        match self {
            Self::All => true,
            Self::Only(names) => names.contains(name),
        }
    }

    /// One of them that is quantised, if any is: it adds no whole quanta, and cannot be trained.
    pub fn quantised<'a>(&self, checkpoint: &'a Checkpoint) -> Result<Option<&'a str>> {
        for (name, _) in checkpoint.shapes().filter(|(name, _)| self.has(name)) {
            if checkpoint.is_quantised(name)? {
                return Ok(Some(name));
            }
        }
        Ok(None)
    }

    /// Errors if one of them is quantised, with what to do.
    pub fn check(&self, checkpoint: &Checkpoint) -> Result<()> {
        let Some(name) = self.quantised(checkpoint)? else { return Ok(()) };
        bail!(
            "tensor {name} is stored as {:?}, which adds no whole quanta and cannot be trained. Train adapters over it \
             (--lora 8), or only what is not quantised (--train norms), or take the model in f32 or 16 bits: node export \
             of a run with adapters writes it so",
            checkpoint.element_type(name)?
        );
    }
}

/// A checkpoint whose trained tensors lie on a run's grids.
pub struct Base {
    /// The original files.
    pub checkpoint: Checkpoint,
    /// Encoded.
    appendix: Vec<u8>,
    /// The tensors, until someone sweeps them.
    pub weights: Weights,
    /// How they are cut into groups.
    pub groups: Groups,
    /// Of the run: adapters begin as it has it.
    nonce: [u8; 16],
}

impl Base {
    /// The base of a new run: cuts the trained tensors into groups, chooses their table from their values, and snaps
    /// them.
    ///
    /// Errors name a tensor with a value that is not finite, or whose range the table cannot express. `nonce`: the
    /// run's.
    pub fn of_new_run(checkpoint: Checkpoint, settings: &BaseSettings, nonce: [u8; 16]) -> Result<Self> {
        if let Trained::Only(names) = &settings.trained
            && let Some(name) = names.iter().find(|name| checkpoint.element_type(name).is_err())
        {
            bail!("{} has no tensor {name} to train", checkpoint.source);
        }
        settings.trained.check(&checkpoint)?;
        let (mut trained, mut frozen) = (BTreeMap::new(), BTreeMap::new());
        for (name, _) in checkpoint.shapes() {
            match settings.trained.has(name) {
                true => drop(trained.insert(name.to_owned(), checkpoint.tensor(name)?)),
                false => drop(frozen.insert(name.to_owned(), checkpoint.frozen(name)?)),
            }
        }
        let architecture = checkpoint.architecture()?;
        let count = |(name, tensor): (&String, &Tensor)| (name.clone(), tensor.elem_count() as u64);
        let mut elements: BTreeMap<String, u64> = trained.iter().map(count).collect();
        if let Some(adapters) = &settings.adapters {
            let halves = adapters.halves(&*architecture)?.into_iter();
            elements.extend(halves.map(|half| (half.name, half.shape.iter().product::<usize>() as u64)));
        }
        let cut = groups::cut(&*architecture, &elements);
        let emphasis = |name: &str| architecture.emphasis(name);
        let mut specs = arithmetic::table(&trained, &cut, &emphasis, &settings.hyperparameters)?;
        if let Some(adapters) = &settings.adapters {
            specs.extend(adapters.table(&checkpoint, &*architecture, &cut, &settings.hyperparameters)?);
            specs.sort_by(|a, b| a.name.cmp(&b.name));
        }
        let appendix = appendix(&checkpoint, &specs)?.encode()?;
        let weights = Weights::begin(&specs, trained, &nonce)?.with_frozen(frozen)?;
        Ok(Self { checkpoint, appendix, weights, groups: cut.groups, nonce })
    }

    /// The manifest of a new run on this base. `base`: as [`Base::write_to`] describes it.
    ///
    /// Errors if it breaks a rule of manifests.
    pub fn manifest(&self, settings: BaseSettings, base: BaseModel) -> Result<Manifest> {
        let manifest = Manifest {
            protocol_version: PROTOCOL_VERSION,
            nonce: self.nonce,
            base,
            tensors: self.weights.specs().to_vec(),
            groups: self.groups.clone(),
            objective: settings.objective,
            hyperparameters: settings.hyperparameters,
            schedule: settings.schedule,
            levels: protocol::codec::LEVELS,
            ledger_samples_max: settings.ledger_samples_max,
            replay_budget: settings.replay_budget,
            membership: Membership::Open,
            authority: settings.authority,
            held_out: None,
            private: None,
        };
        manifest.validate()?;
        Ok(manifest)
    }
}

/// All tensors of a checkpoint, those of `specs` trained, the others frozen.
fn appendix(checkpoint: &Checkpoint, specs: &[TensorSpec]) -> Result<Appendix> {
    let mut tensors = Vec::new();
    for (name, shape) in checkpoint.shapes() {
        let spec = specs.binary_search_by(|spec| spec.name.as_str().cmp(name)).ok().map(|index| &specs[index]);
        let (treatment, digest) = match spec.and_then(TensorSpec::base_digest) {
            Some(digest) => (Treatment::Trained, digest),
            None => (Treatment::Frozen(checkpoint.element_type(name)?), raw_digest(checkpoint, name)?),
        };
        let shape = shape.iter().map(|dimension| *dimension as u64).collect();
        tensors.push(BaseTensor { name: name.to_owned(), shape, treatment, digest });
    }
    Ok(Appendix { tensors })
}

/// BLAKE3 of a tensor's bytes as they are stored.
fn raw_digest(checkpoint: &Checkpoint, name: &str) -> Result<[u8; 32]> {
    let mut hasher = blake3::Hasher::new();
    checkpoint.for_each_bytes(name, |bytes| {
        hasher.update(bytes);
        Ok(())
    })?;
    Ok(*hasher.finalize().as_bytes())
}

/// The tensors that a run does not train, each compared with the run's `appendix`.
pub fn frozen(appendix: &Appendix, checkpoint: &Checkpoint) -> Result<BTreeMap<String, Frozen>> {
    let is_frozen = |tensor: &&BaseTensor| matches!(tensor.treatment, Treatment::Frozen(_));
    let load = |tensor: &BaseTensor| -> Result<(String, Frozen)> {
        let name = &tensor.name;
        let is_same = raw_digest(checkpoint, name)? == tensor.digest
            && Treatment::Frozen(checkpoint.element_type(name)?) == tensor.treatment;
        ensure!(is_same, "tensor {name} has other values than the run's base");
        Ok((name.clone(), checkpoint.frozen(name)?))
    };
    appendix.tensors.iter().filter(is_frozen).map(load).collect()
}

/// A new run on `checkpoint` without a disk.
pub struct Started {
    /// What the run agrees on.
    pub manifest: Manifest,
    /// Its base.
    pub base: Base,
    /// The string that joiners fetch.
    pub string: Vec<u8>,
}

/// Starts a run without a disk.
pub fn start(checkpoint: Checkpoint, settings: BaseSettings, nonce: [u8; 16]) -> Result<Started> {
    let base = Base::of_new_run(checkpoint, &settings, nonce)?;
    let Written { base: described, out, .. } = base.write_to(Vec::new()).context("in memory")?;
    let manifest = base.manifest(settings, described)?;
    Ok(Started { manifest, base, string: out })
}
