//! What all machines of a run agree on; its hash is the run id.

use serde::{Deserialize, Serialize};
use std::fmt;

use crate::{
    codec::{self, LEVELS, MULTIPLIER_ONE},
    encoding,
    error::{InvalidManifest, WireError},
    machine::MachineId,
};

/// Version of everything normative. A change of any formula, vector or layout changes this number.
pub const PROTOCOL_VERSION: u16 = 1;
/// A weight n satisfies −2^24 ≤ n < 2^24.
pub const WEIGHT_BITS: i32 = 24;
/// Largest encoded manifest, bytes.
pub const MANIFEST_BYTES_MAX: usize = 1 << 20;
/// Bytes per chunk of the base model, the unit that is fetched and checked.
pub const BASE_CHUNK_BYTES: usize = 256 * 1024;
/// Largest swarm step that a segment may carry: 2^40.
pub const SWARM_STEP_MAX: u64 = 1 << 40;

/// BLAKE3 of the encoded manifest.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RunId(pub [u8; 32]);

impl fmt::Display for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl std::str::FromStr for RunId {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut id = [0u8; 32];
        if text.len() != 64 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(format!("a run id is 64 hexadecimal digits, this has {} characters", text.len()));
        }
        for (byte, pair) in id.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
            let pair = std::str::from_utf8(pair).map_err(|e| e.to_string())?;
            *byte = u8::from_str_radix(pair, 16).map_err(|e| e.to_string())?;
        }
        Ok(Self(id))
    }
}

/// One trained tensor: its place in the model and its integer arithmetic.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct TensorSpec {
    /// Name in the Hugging Face checkpoint.
    pub name: String,
    /// Dimensions, row-major.
    pub shape: Vec<u64>,
    /// log2 of the range R; the quantum is 2^(range_log2 − 24).
    pub range_log2: u8,
    /// Size of the perturbation step ε, quanta.
    pub epsilon: u32,
    /// Quanta · 2^−shift per byte unit at multiplier one, Q32.
    pub unit: u64,
    /// The smallest shift for which |k| ≤ 255.
    pub shift: u8,
    /// BLAKE3 of the snapped base values, f32 LE, row-major.
    pub digest: [u8; 32],
}

impl TensorSpec {
    /// Number of elements (valid manifests do not overflow).
    pub fn elements(&self) -> u64 {
        self.shape.iter().product()
    }

    /// log2 of the quantum.
    pub fn quantum_log2(&self) -> i32 {
        i32::from(self.range_log2) - WEIGHT_BITS
    }

    /// The quantum, an exact power of two.
    pub fn quantum(&self) -> f32 {
        2f32.powi(self.quantum_log2())
    }
}

/// How directions are scaled between tensors.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DirectionScale {
    /// s_t = rms(B_t) / rms(all), at least 0.1: every tensor moves in proportion to its own size.
    Rms,
    /// s_t = 1.
    Uniform,
}

/// Real-valued choices of whoever starts a run. Only their integer consequences enter replay.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
pub struct Hyperparameters {
    /// Move of an element with s_t = 1 per standard deviation of the projected gradient.
    pub learning_rate: f64,
    /// Size of the perturbation of an element with s_t = 1.
    pub epsilon: f64,
    /// Gradients that the ranges leave room for.
    pub planned_gradients: u64,
    /// Scaling of directions between tensors.
    pub direction_scale: DirectionScale,
}

/// Statistics of one base tensor, from which its arithmetic is chosen.
#[derive(Clone, Copy, Debug)]
pub struct TensorStatistics {
    /// max |B|.
    pub max_abs: f64,
    /// Root mean square of B.
    pub rms: f64,
}

/// The integers of one tensor: see [`choose_arithmetic`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TensorArithmetic {
    /// As in [`TensorSpec`].
    pub range_log2: u8,
    /// As in [`TensorSpec`].
    pub epsilon: u32,
    /// As in [`TensorSpec`].
    pub unit: u64,
    /// As in [`TensorSpec`].
    pub shift: u8,
}

/// Chooses range, ε, unit and shift of one tensor. Run once, by the machine that starts the run.
///
/// `s = rms / rms_all`, at least 0.1 (or 1 for `Uniform`). `R` is the smallest power of two that is at least 1,
/// `2·max|B|` and `max|B| + 8·learning_rate·s·√planned`. `q = R·2^-24`, `ε = max(1, round(ε·s/q))`, `unit =
/// learning_rate·s / (levels·q·2^shift)` in Q32.
pub fn choose_arithmetic(
    statistics: &TensorStatistics,
    rms_all: f64,
    settings: &Hyperparameters,
) -> Result<TensorArithmetic, InvalidManifest> {
    let scale = match settings.direction_scale {
        DirectionScale::Uniform => 1.0,
        DirectionScale::Rms if rms_all > 0.0 => (statistics.rms / rms_all).max(0.1),
        DirectionScale::Rms => 1.0,
    };
    let learning_rate = settings.learning_rate * scale;
    let walk = 8.0 * learning_rate * (settings.planned_gradients as f64).sqrt();
    let needed = (2.0 * statistics.max_abs).max(statistics.max_abs + walk).max(1.0);
    if !needed.is_finite() || needed > 2f64.powi(40) {
        return Err(InvalidManifest::Range(needed));
    }
    let range_log2 = (0..=40).find(|log2| 2f64.powi(*log2) >= needed).unwrap_or(40);
    let quantum = 2f64.powi(range_log2 - WEIGHT_BITS);
    let epsilon = (settings.epsilon * scale / quantum).round().max(1.0);
    if !(settings.epsilon.is_finite() && settings.epsilon > 0.0) || epsilon >= 2f64.powi(WEIGHT_BITS - 1) {
        return Err(InvalidManifest::Epsilon(settings.epsilon));
    }
    let quanta = learning_rate / (f64::from(LEVELS) * quantum);
    if !(quanta.is_finite() && quanta > 0.0) {
        return Err(InvalidManifest::LearningRate(settings.learning_rate));
    }
    let q32 = |shift: u8| (quanta / f64::from(1u32 << shift) * 2f64.powi(32)).round() as u64;
    let shift = (0..=SHIFT_MAX)
        .find(|shift| codec::unit_is_valid(q32(*shift)))
        .ok_or(InvalidManifest::LearningRate(settings.learning_rate))?;
    Ok(TensorArithmetic { range_log2: range_log2 as u8, epsilon: epsilon as u32, unit: q32(shift), shift })
}

/// Largest shift: one entry stays within the range.
const SHIFT_MAX: u8 = 16;

/// One knot of the learning-rate schedule.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Knot {
    /// Swarm step of the knot.
    pub step: u64,
    /// Multiplier there, Q24, at most one.
    pub multiplier: u32,
}

/// Piecewise linear learning-rate multiplier over the swarm step. No knots: constant one.
#[derive(Clone, Default, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Schedule {
    /// In strictly increasing order of step.
    pub knots: Vec<Knot>,
}

impl Schedule {
    /// The multiplier (Q24) at `step`. Before the first knot it is the first knot's, after the last the last's; from
    /// knot (s₀, m₀) inclusive to the next (s₁, m₁) exclusive it is `m₀ + ⌊(m₁ − m₀)·(step − s₀) / (s₁ − s₀)⌋`.
    pub fn multiplier(&self, step: u64) -> u32 {
        let Some(first) = self.knots.first() else { return MULTIPLIER_ONE };
        if step <= first.step {
            return first.multiplier;
        }
        for pair in self.knots.windows(2) {
            let (from, to) = (pair[0], pair[1]);
            if step < to.step {
                let rise = i128::from(to.multiplier) - i128::from(from.multiplier);
                let run = i128::from(to.step - from.step);
                let part = (rise * i128::from(step - from.step)).div_euclid(run);
                return (i128::from(from.multiplier) + part) as u32;
            }
        }
        self.knots.last().map_or(MULTIPLIER_ONE, |knot| knot.multiplier)
    }
}

/// Where the base model's bytes come from and how they are checked.
///
/// The base is one string of bytes, `config.json ‖ tokenizer.json ‖ tensors`, the tensors being the snapped values, f32
/// LE, in the order of the manifest's table. It is cut in chunks of [`BASE_CHUNK_BYTES`]; `chunks_root` is the BLAKE3
/// of their concatenated BLAKE3 digests.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct BaseModel {
    /// What the starter called it, for people.
    pub source: String,
    /// Bytes of config.json.
    pub config_bytes: u64,
    /// BLAKE3 of config.json.
    pub config_digest: [u8; 32],
    /// Bytes of tokenizer.json.
    pub tokenizer_bytes: u64,
    /// BLAKE3 of tokenizer.json.
    pub tokenizer_digest: [u8; 32],
    /// BLAKE3 of the concatenated chunk digests.
    pub chunks_root: [u8; 32],
}

/// Who may contribute.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Membership {
    /// Any key.
    Open,
    /// These Ed25519 keys, sorted.
    Keys(Vec<[u8; 32]>),
}

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
    /// What the integers in `tensors` were computed from. For people, and for senders' ε.
    pub hyperparameters: Hyperparameters,
    /// Learning-rate schedule.
    pub schedule: Schedule,
    /// Byte units per standard deviation.
    pub levels: u8,
    /// Largest ledger of one machine, samples. A segment that crosses it is invalid whole.
    pub ledger_samples_max: u64,
    /// Who may contribute.
    pub membership: Membership,
    /// The key whose revocations count, if any.
    pub authority: Option<[u8; 32]>,
}

impl Manifest {
    /// Canonical bytes: bincode, standard configuration (little-endian, varint).
    pub fn encode(&self) -> Result<Vec<u8>, WireError> {
        encoding::encode::<_, MANIFEST_BYTES_MAX>(self)
    }

    /// Decodes and validates; returns the run id that belongs to the bytes.
    pub fn decode(bytes: &[u8]) -> Result<(Self, RunId), WireError> {
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

    /// Length of the base model's byte string.
    pub fn base_bytes(&self) -> u64 {
        self.base.config_bytes + self.base.tokenizer_bytes + 4 * self.parameters()
    }

    /// Number of chunks of the base model.
    pub fn base_chunks(&self) -> u64 {
        self.base_bytes().div_ceil(BASE_CHUNK_BYTES as u64)
    }

    /// BLAKE3 of the tensors' digests in canonical order: the weights digest of the untouched base.
    pub fn base_digest(&self) -> [u8; 32] {
        combine_digests(self.tensors.iter().map(|tensor| tensor.digest))
    }

    /// Whether `machine` may contribute.
    pub fn admits(&self, machine: &MachineId) -> bool {
        match &self.membership {
            Membership::Open => true,
            Membership::Keys(keys) => keys.binary_search(&machine.key).is_ok(),
        }
    }

    /// What another manifest has different, in words, most important first. Empty only for equal manifests.
    pub fn differences(&self, other: &Self) -> Vec<String> {
        let mut differences = Vec::new();
        let mut differ = |name: &str, ours: &dyn fmt::Debug, theirs: &dyn fmt::Debug| {
            let (ours, theirs) = (format!("{ours:?}"), format!("{theirs:?}"));
            if ours != theirs {
                differences.push(format!("{name}: here {ours}, there {theirs}"));
            }
        };
        differ("protocol version", &self.protocol_version, &other.protocol_version);
        differ("base model", &self.base.source, &other.base.source);
        differ("parameters", &self.parameters(), &other.parameters());
        differ("learning rate", &self.hyperparameters.learning_rate, &other.hyperparameters.learning_rate);
        differ("epsilon", &self.hyperparameters.epsilon, &other.hyperparameters.epsilon);
        differ("planned gradients", &self.hyperparameters.planned_gradients, &other.hyperparameters.planned_gradients);
        differ("schedule", &self.schedule, &other.schedule);
        differ("levels", &self.levels, &other.levels);
        differ("ledger limit", &self.ledger_samples_max, &other.ledger_samples_max);
        differ("membership", &self.membership, &other.membership);
        differ("authority", &self.authority, &other.authority);
        if self.base_digest() != other.base_digest() {
            differences.push("base weights".into());
        }
        if differences.is_empty() && self != other {
            differences.push("nothing but when they were started: they are two runs of the same settings".into());
        }
        differences
    }

    /// Checks every bound that later arithmetic relies on.
    pub fn validate(&self) -> Result<(), InvalidManifest> {
        if self.protocol_version != PROTOCOL_VERSION {
            return Err(InvalidManifest::Version { theirs: self.protocol_version, ours: PROTOCOL_VERSION });
        }
        if self.levels == 0 {
            return Err(InvalidManifest::Levels);
        }
        if self.base.config_bytes > 1 << 20 || self.base.tokenizer_bytes > 1 << 28 {
            return Err(InvalidManifest::BaseFiles);
        }
        if self.ledger_samples_max == 0 || self.ledger_samples_max > SWARM_STEP_MAX {
            return Err(InvalidManifest::LedgerLimit(self.ledger_samples_max));
        }
        if let Membership::Keys(keys) = &self.membership
            && !keys.is_sorted_by(|a, b| a < b)
        {
            return Err(InvalidManifest::MembersUnsorted);
        }
        let knots = &self.schedule.knots;
        if !knots.is_sorted_by(|a, b| a.step < b.step) || knots.iter().any(|k| k.multiplier > MULTIPLIER_ONE) {
            return Err(InvalidManifest::Schedule);
        }
        if self.tensors.is_empty() || !self.tensors.is_sorted_by(|a, b| a.name < b.name) {
            return Err(InvalidManifest::TensorOrder);
        }
        let mut parameters = 0u64;
        for tensor in &self.tensors {
            let elements = tensor.shape.iter().try_fold(1u64, |product, d| product.checked_mul(*d));
            parameters = match elements.and_then(|elements| parameters.checked_add(elements)) {
                Some(sum) if elements != Some(0) && sum < 1 << 44 => sum,
                _ => return Err(InvalidManifest::Shape(tensor.name.clone())),
            };
            let sound = tensor.range_log2 <= 40
                && tensor.shift <= SHIFT_MAX
                && codec::unit_is_valid(tensor.unit)
                && (1..1 << (WEIGHT_BITS - 1)).contains(&tensor.epsilon);
            if !sound {
                return Err(InvalidManifest::Arithmetic(tensor.name.clone()));
            }
        }
        Ok(())
    }
}

/// BLAKE3 of concatenated digests.
pub fn combine_digests(digests: impl IntoIterator<Item = [u8; 32]>) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    for digest in digests {
        hasher.update(&digest);
    }
    *hasher.finalize().as_bytes()
}
