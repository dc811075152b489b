//! The virtual trainer: weights, data, and work that waits.

use anyhow::Result;
use engine::estimator::Normalizer;
use peer::{Input, Look, Work, time_share::TimeShare};
use protocol::{machine::MachineId, replica::OwnByte, segment::Digest};
use std::collections::VecDeque;

use crate::{objective::Learner, queue::Micros};

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
    /// The time that they take.
    pub(super) measuring_us: Micros,
    /// Entries whose `Swept` event is on its way, and the time that they take.
    pub(super) sweeping: Option<(u64, Micros)>,
    /// How replay and own gradients share its time.
    pub(super) share: TimeShare,
    /// Since when own gradients are wanted without one.
    pub(super) wished_since: Option<Micros>,
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
            measuring_us: 0,
            sweeping: None,
            share: TimeShare::default(),
            wished_since: None,
            is_near_edge: false,
            snapshot: None,
            allowed: None,
        }
    }

    /// Whether a gradient is under way.
    pub fn is_measuring(&self) -> bool {
        self.measuring.is_some()
    }

    /// Since when own gradients have been wanted and none was made, and what the last ones took.
    pub fn starving_since(&self) -> Option<(Micros, Micros)> {
        self.wished_since.filter(|_| self.measuring.is_none()).map(|since| (since, self.measuring_us))
    }

    /// Whether own gradients are wanted.
    pub(super) fn wants_own(&self) -> bool {
        self.learner.position().1 < self.until_sample && !self.is_near_edge
    }

    /// Whether own gradients are wanted, and come before what waits to be replayed.
    pub(super) fn is_own_turn(&self) -> bool {
        self.share.is_own_turn() && self.wants_own()
    }

    /// A gradient was made, or another number of them is wanted.
    pub(super) fn note_wish(&mut self, now: Micros) {
        self.wished_since = self.wants_own().then_some(now);
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

    pub(super) fn digest(&mut self, root: Digest) -> Result<Input> {
        Ok(Input::Digested { root, digest: self.learner.digest()? })
    }

    pub(super) fn evaluate(&mut self) -> Result<Input> {
        let (loss, digest) = (self.learner.loss()?, self.learner.digest()?);
        let (machine, next_sample) = self.learner.position();
        Ok(Input::Evaluated(Look { loss, digest, machine, next_sample, took_ms: 0 }))
    }
}
