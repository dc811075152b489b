//! The virtual trainer: weights, data, and work that waits.

use anyhow::Result;
use engine::estimator::Normalizer;
use peer::{Input, Look, Work};
use protocol::{machine::MachineId, replica::OwnByte, segment::Digest};
use std::collections::VecDeque;

use crate::objective::Learner;

/// Weights that were kept aside for a checkpoint.
pub(super) struct Snapshot {
    pub weights: Vec<u8>,
    pub normalizer: Normalizer,
}

/// See the module's documentation.
pub struct Trainer {
    /// Weights and data.
    pub learner: Box<dyn Learner>,
    /// What was handed out and not taken up: all that is behind an adoption while a gradient is under way.
    pub(super) works: VecDeque<Work>,
    pub(super) until_sample: u64,
    /// Gradients whose `Measured` event is on its way.
    pub(super) measuring: Option<Vec<OwnByte>>,
    /// Gradients of others that wait to be paid for with time.
    pub(super) unpaid_replays: u64,
    pub(super) is_near_edge: bool,
    pub(super) snapshot: Option<Snapshot>,
    /// What the goal leaves for this incarnation, once the machine has made as many gradients as its goal asks.
    pub(super) allowed: Option<u64>,
}

impl Trainer {
    /// Rests.
    pub(super) fn new(learner: Box<dyn Learner>) -> Self {
        Self {
            learner,
            works: VecDeque::new(),
            until_sample: 0,
            measuring: None,
            unpaid_replays: 0,
            is_near_edge: false,
            snapshot: None,
            allowed: None,
        }
    }

    /// Whether a gradient is under way.
    pub fn is_measuring(&self) -> bool {
        self.measuring.is_some()
    }

    /// Works that were not taken up.
    pub fn waiting(&self) -> usize {
        self.works.len()
    }

    pub(super) fn take_snapshot(&mut self) -> Option<Snapshot> {
        self.snapshot.take()
    }

    pub(super) fn checkpoint(&mut self) -> Result<Input> {
        let (machine, next_sample) = self.learner.position();
        self.snapshot = Some(Snapshot { weights: self.learner.snapshot()?, normalizer: self.learner.normalizer() });
        Ok(Input::Written { machine, next_sample, took_ms: 0 })
    }

    pub(super) fn adopt(&mut self, machine: MachineId, next_sample: u64) -> Input {
        self.learner.adopt(machine, next_sample);
        (self.until_sample, self.allowed) = (0, None);
        Input::Adopted
    }

    pub(super) fn weigh(&mut self, root: Digest) -> Result<Input> {
        Ok(Input::Weighed { root, digest: self.learner.digest()? })
    }

    pub(super) fn evaluate(&mut self) -> Result<Input> {
        let (loss, digest) = (self.learner.loss()?, self.learner.digest()?);
        let (machine, next_sample) = self.learner.position();
        Ok(Input::Evaluated(Look { loss, digest, machine, next_sample, took_ms: 0 }))
    }
}
