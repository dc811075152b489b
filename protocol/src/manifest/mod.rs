//! What all machines of a run agree on; its hash is the run id.

use serde::{Deserialize, Serialize};
use std::fmt;

use crate::{
    encoding,
    error::{InvalidManifest, WireError},
    machine::MachineId,
};

mod adapter;
mod appendix;
mod arithmetic;
mod base;
mod groups;
mod held_out;
mod membership;
mod objective;
mod run_id;
mod schedule;
mod table;

pub use adapter::{ADAPTER_ONE, ADAPTER_RANK_MAX, Adapter, Half};
pub use appendix::{APPENDIX_BYTES_MAX, Appendix, BASE_TENSORS_MAX, BaseTensor, ElementType, Treatment};
pub use arithmetic::{DirectionScale, Hyperparameters, TensorArithmetic, choose_arithmetic};
pub use base::{BASE_CHUNK_BYTES, BASE_FILES_MAX, BaseFile, BaseModel, Role, combine_digests, is_source};
pub use groups::{EPSILON_ONE, GROUPS_MAX, Group, Groups, ROUND_SAMPLES};
pub use held_out::HeldOut;
pub use membership::Membership;
pub use objective::ObjectiveLine;
pub use run_id::RunId;
pub use schedule::{KNOTS_MAX, Knot, SWARM_STEP_MAX, Schedule};
pub use table::{Origin, TensorSpec, WEIGHT_BITS};

/// Version of everything normative. A change of any formula, vector or layout changes this number.
pub const PROTOCOL_VERSION: u16 = 2;
/// Largest encoded manifest, bytes.
pub const MANIFEST_BYTES_MAX: usize = 1 << 20;

/// Characters of a value that people are shown.
const SAID_MAX: usize = 160;

/// Largest replay budget, gradients a second.
pub const REPLAY_BUDGET_MAX: u32 = 1 << 24;

/// What all machines of a run agree on.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Manifest {
    /// [`PROTOCOL_VERSION`] of the starter.
    pub protocol_version: u16,
    /// Random, so that two runs with equal settings differ.
    pub nonce: [u8; 16],
    /// The base model.
    pub base: BaseModel,
    /// The trained tensors in canonical order, which is the order of their names as bytes.
    pub tensors: Vec<TensorSpec>,
    /// How they are cut into groups, of which each entry moves one.
    pub groups: Groups,
    /// What is made smaller.
    pub objective: ObjectiveLine,
    /// What the integers in `tensors` were computed from. For people, and for senders' ε.
    pub hyperparameters: Hyperparameters,
    /// Learning-rate schedule.
    pub schedule: Schedule,
    /// Byte units per standard deviation.
    pub levels: u8,
    /// Largest ledger of one machine, samples. A segment that crosses it is invalid whole.
    pub ledger_samples_max: u64,
    /// Gradients a second that the whole swarm is to make, so that its slower machines can replay them: honest senders
    /// share it. A statement: replay does not look at it, and no segment is invalid for it.
    pub replay_budget: u32,
    /// Who may contribute.
    pub membership: Membership,
    /// The key whose revocations, admissions and withdrawals count, if any.
    pub authority: Option<[u8; 32]>,
    /// The held-out set that all machines look at, if they share one.
    pub held_out: Option<HeldOut>,
    /// Of a private run: a commitment to the secret that its machines share.
    pub private: Option<[u8; 32]>,
}

impl Manifest {
    /// Canonical bytes: bincode, standard configuration (little-endian, varint).
    pub fn encode(&self) -> Result<Vec<u8>, WireError> {
        encoding::encode::<_, MANIFEST_BYTES_MAX>(self)
    }

    /// The protocol version of an encoded manifest: it stands first in the layout of every version.
    pub fn version_of(bytes: &[u8]) -> Option<u16> {
        match bytes {
            [251, low, high, ..] => Some(u16::from_le_bytes([*low, *high])),
            [version @ 0..251, ..] => Some((*version).into()),
            _ => None,
        }
    }

    /// Decodes and validates; returns the run id that belongs to the bytes.
    pub fn decode(bytes: &[u8]) -> Result<(Self, RunId), WireError> {
        if let Some(theirs) = Self::version_of(bytes).filter(|version| *version != PROTOCOL_VERSION) {
            return Err(InvalidManifest::Version { theirs, ours: PROTOCOL_VERSION }.into());
        }
        let manifest: Self = encoding::decode::<_, MANIFEST_BYTES_MAX>(bytes)?;
        manifest.validate()?;
        if manifest.encode()? != bytes {
            return Err(WireError::NotCanonical);
        }
        Ok((manifest, RunId(*blake3::hash(bytes).as_bytes())))
    }

    /// The run id.
    pub fn run_id(&self) -> Result<RunId, WireError> {
        Ok(RunId(*blake3::hash(&self.encode()?).as_bytes()))
    }

    /// Number of weights.
    pub fn parameters(&self) -> u64 {
        self.tensors.iter().map(TensorSpec::elements).sum()
    }

    /// The weights digest of the untouched base: BLAKE3 of the tensors' digests in canonical order, an adapter's being
    /// that of its first values.
    pub fn base_digest(&self) -> [u8; 32] {
        combine_digests(self.tensors.iter().map(|tensor| match tensor.origin {
            Origin::Base { digest } => digest,
            Origin::Adapter(_) => {
                let mut hasher = blake3::Hasher::new();
                for value in self.initial_values(tensor).unwrap_or_default() {
                    hasher.update(&value.to_le_bytes());
                }
                *hasher.finalize().as_bytes()
            }
        }))
    }

    /// The first values of an adapter of the table, row-major; None for a tensor of the base.
    pub fn initial_values(&self, tensor: &TensorSpec) -> Option<Vec<f32>> {
        let (elements, quantum) = (tensor.elements() as usize, tensor.quantum());
        tensor.adapter().map(|adapter| adapter.initial_values(&tensor.name, elements, quantum, &self.nonce))
    }

    /// Whether `machine` may contribute, if the authority has no say in it.
    pub fn admits(&self, machine: &MachineId) -> bool {
        self.membership.admits(machine)
    }

    /// Whether machines of this key may contribute only once the authority has admitted it.
    pub fn needs_admission(&self, key: &[u8; 32]) -> bool {
        self.membership == Membership::ByAuthority && self.authority.as_ref() != Some(key)
    }

    /// What another manifest, anybody's, has different, in words, most important first. Empty only for equal manifests.
    pub fn differences(&self, other: &Self) -> Vec<String> {
        let mut differences = Vec::new();
        let names = |base: &BaseModel| base.files.iter().map(|file| file.name.as_str()).collect::<Vec<_>>().join(", ");
        let mut differ = |name: &str, ours: &dyn fmt::Display, theirs: &dyn fmt::Display| {
            let (ours, theirs) = (ours.to_string(), theirs.to_string());
            // It may be a stranger's.
            let shown = |text: &str| shortened(&text.escape_debug().to_string());
            if ours != theirs {
                differences.push(format!("{name}: here {}, there {}", shown(&ours), shown(&theirs)));
            }
        };
        differ("protocol version", &self.protocol_version, &other.protocol_version);
        differ("base model", &self.base.source, &other.base.source);
        differ("files", &names(&self.base), &names(&other.base));
        differ("parameters", &self.parameters(), &other.parameters());
        differ("learning rate", &self.hyperparameters.learning_rate, &other.hyperparameters.learning_rate);
        differ("epsilon", &self.hyperparameters.epsilon, &other.hyperparameters.epsilon);
        differ("planned gradients", &self.hyperparameters.planned_gradients, &other.hyperparameters.planned_gradients);
        differ("levels", &self.levels, &other.levels);
        differ("ledger limit", &self.ledger_samples_max, &other.ledger_samples_max);
        differ("replay budget", &self.replay_budget, &other.replay_budget);
        // What would be long, or is of no use to people, by its name.
        let named = [
            ("schedule", self.schedule == other.schedule),
            ("groups", self.groups == other.groups),
            ("objective", self.objective == other.objective),
            ("held-out set", self.held_out == other.held_out),
            ("privacy", self.private == other.private),
            ("membership", self.membership == other.membership),
            ("authority", self.authority == other.authority),
            // By what is said of them: their first values are as many as somebody likes to say.
            ("adapters", self.adapter_shapes() == other.adapter_shapes()),
        ];
        differences.extend(named.into_iter().filter(|(_, is_equal)| !is_equal).map(|(name, _)| name.to_owned()));
        if !self.base_tensors().eq(other.base_tensors()) {
            differences.push("base weights".into());
        } else if self.base.chunks_root != other.base.chunks_root {
            differences.push("bytes of the base's files".into());
        }
        if differences.is_empty() && self != other {
            differences.push("nothing but when they were started: they are two runs of the same settings".into());
        }
        differences
    }

    /// (name, digest) of the base's tensors in the table.
    fn base_tensors(&self) -> impl Iterator<Item = (&str, [u8; 32])> {
        self.tensors.iter().filter_map(|tensor| Some((tensor.name.as_str(), tensor.base_digest()?)))
    }

    fn adapter_shapes(&self) -> Vec<(&str, &[u64], Adapter)> {
        let shapes =
            self.tensors.iter().map(|tensor| (tensor.name.as_str(), tensor.shape.as_slice(), tensor.adapter()));
        shapes.filter_map(|(name, shape, adapter)| Some((name, shape, adapter?))).collect()
    }

    /// Checks every bound that later arithmetic relies on.
    pub fn validate(&self) -> Result<(), InvalidManifest> {
        if self.protocol_version != PROTOCOL_VERSION {
            return Err(InvalidManifest::Version { theirs: self.protocol_version, ours: PROTOCOL_VERSION });
        }
        if self.levels == 0 {
            return Err(InvalidManifest::Levels);
        }
        self.base.validate()?;
        self.membership.validate(self.authority.as_ref())?;
        self.schedule.validate()?;
        if self.ledger_samples_max == 0 || self.ledger_samples_max > SWARM_STEP_MAX {
            return Err(InvalidManifest::LedgerLimit(self.ledger_samples_max));
        }
        if !(1..=REPLAY_BUDGET_MAX).contains(&self.replay_budget) {
            return Err(InvalidManifest::ReplayBudget(self.replay_budget));
        }
        table::validate(&self.tensors)?;
        self.groups.validate(self.tensors.iter().map(|tensor| tensor.group))?;
        self.objective.validate()?;
        self.held_out.map_or(Ok(()), |held_out| held_out.validate())
    }
}

/// As much of a text as people read.
fn shortened(text: &str) -> String {
    match text.char_indices().nth(SAID_MAX) {
        None => text.into(),
        Some((end, _)) => format!("{}…", &text[..end]),
    }
}
