//! What the machines learn: a quadratic for thousands of them, or a real language model for tens.

use anyhow::Result;
use engine::estimator::Normalizer;
use protocol::{
    machine::MachineId,
    manifest::{DirectionScale, Hyperparameters, Manifest, RunId},
    replay::Contribution,
    replica::{LedgerRange, OwnByte, Replica},
};
use std::sync::Arc;

use crate::scenario::Sender;

mod base;
mod language;
mod low_rank;
mod prefixes;
mod quadratic;

pub use base::Base;
pub use language::Language;
pub use quadratic::Quadratic;

/// What a run of the simulator chooses like every other.
fn hyperparameters(learning_rate: f64, epsilon: f64, planned_gradients: u64) -> Hyperparameters {
    Hyperparameters { learning_rate, epsilon, planned_gradients, direction_scale: DirectionScale::Rms }
}

/// Tells runs of one objective apart: by the seed.
fn nonce(seed: u64) -> [u8; 16] {
    u128::from(seed).to_le_bytes()
}

/// Of no consequence: no machine of a simulation makes so many.
const LEDGER_SAMPLES_MAX: u64 = 1 << 32;

/// One machine's weights and data.
pub trait Learner {
    /// Whose samples come next, and from which number on.
    fn adopt(&mut self, machine: MachineId, next_sample: u64);
    /// The machine and the sample that comes next.
    fn position(&self) -> (MachineId, u64);
    /// The swarm step whose learning rate own bytes use.
    fn set_swarm_step(&mut self, swarm_step: u64);
    /// Brings entries into the weights, or out.
    fn replay(&mut self, entries: Vec<Contribution>) -> Result<()>;
    /// The same with samples of a ledger.
    fn replay_ledger(&mut self, replica: &Replica, range: LedgerRange) -> Result<()>;
    /// Measures the next own gradients, at least one; the weights contain them afterwards. Samples from
    /// `until_sample` on are not wanted.
    fn step(&mut self, until_sample: u64) -> Result<Vec<OwnByte>>;
    /// Held-out loss at the exact weights.
    fn loss(&mut self) -> Result<f64>;
    /// Digest of the exact weights, as `node digest` prints it.
    fn digest(&mut self) -> Result<[u8; 32]>;
    /// The exact weights, for a checkpoint.
    fn snapshot(&mut self) -> Result<Vec<u8>>;
    /// The scale of own gradients.
    fn normalizer(&self) -> Normalizer;
    /// Whether some weight is so near to its range's end that probes should pause.
    fn near_edge(&self) -> bool;
}

/// Weights and normaliser from a checkpoint.
pub struct Resumed<'a> {
    /// As [`Learner::snapshot`] made it.
    pub weights: &'a [u8],
    /// As [`Learner::normalizer`] gave it.
    pub normalizer: Normalizer,
}

/// A problem that machines work on together.
pub trait Objective {
    /// What the run agrees on.
    fn manifest(&self) -> &Arc<Manifest>;
    fn run(&self) -> RunId;
    /// What joiners fetch; None: every node brings it along.
    fn base(&self) -> Option<&Base>;
    /// Samples that a machine measures together.
    fn batch_samples(&self, sender: &Sender) -> Result<u64>;
    /// A machine's learner, at the base or at a checkpoint. `number` decides about its data.
    fn learner(&self, number: u32, sender: &Sender, resumed: Option<Resumed<'_>>) -> Result<Box<dyn Learner>>;
    /// The digest of base + everything that counts in `replica`, computed anew and alone, entry by entry.
    fn digest_from_base(&self, replica: &Replica) -> Result<[u8; 32]>;
    /// What the loss is.
    fn loss_unit(&self) -> &'static str;
}
