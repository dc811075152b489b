//! When to train, evaluate, write checkpoints and leave.

use std::time::{Duration, Instant};

use super::Driver;
use crate::{trainer::Command, watch::Phase};

/// A joiner that hears from nobody trains alone after this long; what it makes is merged later.
pub const CATCH_UP_PATIENCE: Duration = Duration::from_secs(20);
/// A joiner whose peers do not tell all they have trains after this long.
pub const CATCH_UP_MAX: Duration = Duration::from_secs(180);
/// Evaluation and checkpoints take at most one part in this many of the time.
const OVERHEAD_PART: u32 = 20;
/// Evaluations are at least this far apart.
const EVALUATION_INTERVAL_MIN: Duration = Duration::from_secs(10);
/// Checkpoints are at least this far apart.
pub const CHECKPOINT_INTERVAL_MIN: Duration = Duration::from_secs(30);
/// Windows of a passing look at the held-out text.
pub(super) const EVALUATION_WINDOWS: usize = 128;
/// Own bytes get a new swarm step this often: each begins a segment.
pub const SWARM_STEP_INTERVAL: Duration = Duration::from_secs(10);
/// The swarm is at rest when nothing has come for this long.
const REST: Duration = Duration::from_secs(2);

/// What this node is to achieve, and how far it is.
pub struct Goals {
    /// Own samples in all, over all incarnations.
    samples: Option<u64>,
    exit_when_idle: Option<Duration>,
    /// Whether to wait for others' ledgers before training.
    joins: bool,
    can_train: bool,
    begun: Instant,
    /// When own bytes last got a new swarm step.
    last_step: Instant,
    joined: bool,
    /// The last limit that the trainer was given.
    allowed: Option<u64>,
    /// Root of the version vector, and since when it has not changed.
    root: [u8; 32],
    root_since: Instant,
    digest_told: Option<[u8; 32]>,
    last_evaluation: Option<(Instant, [u8; 32])>,
    evaluation_took: Duration,
    evaluating: bool,
    last_checkpoint: (Instant, [u8; 32]),
    checkpoint_took: Duration,
    checkpointing: bool,
}

impl Goals {
    /// `joins`: others are expected to hold more of the run than this disk.
    pub fn new(samples: Option<u64>, exit_when_idle: Option<Duration>, joins: bool, can_train: bool) -> Self {
        let now = Instant::now();
        Self {
            samples,
            exit_when_idle,
            joins,
            can_train,
            begun: now,
            last_step: now,
            joined: false,
            allowed: None,
            root: [0; 32],
            root_since: now,
            digest_told: None,
            last_evaluation: None,
            evaluation_took: Duration::ZERO,
            evaluating: false,
            last_checkpoint: (now, [0; 32]),
            checkpoint_took: Duration::ZERO,
            checkpointing: false,
        }
    }

    /// The trainer was told to work for another machine.
    pub(super) fn adopted(&mut self) {
        self.allowed = None;
    }

    pub(super) fn evaluated(&mut self, took: Duration) {
        self.evaluating = false;
        self.evaluation_took = took;
        self.last_evaluation = Some((Instant::now(), self.root));
    }

    pub(super) fn checkpoint_written(&mut self, took: Duration) {
        self.checkpoint_took = took;
    }

    /// A checkpoint was committed, or given up.
    pub(super) fn checkpointed(&mut self) {
        self.checkpointing = false;
        self.last_checkpoint.0 = Instant::now();
    }

    /// How long the last checkpoint file took to write.
    pub(super) fn checkpoint_took(&self) -> Duration {
        self.checkpoint_took
    }
}

impl Driver {
    /// Once a tick.
    pub(super) fn pursue_goals(&mut self) {
        let root = self.replica.root();
        if root != self.goals.root {
            (self.goals.root, self.goals.root_since) = (root, Instant::now());
        }
        if !self.goals.joined {
            let waited = self.goals.begun.elapsed();
            let patient = waited < CATCH_UP_PATIENCE || !self.peers.is_empty() && waited < CATCH_UP_MAX;
            self.goals.joined = !self.goals.joins || self.replica.is_caught_up() || !patient;
            if self.goals.joined {
                self.status.joined(&self.replica);
            }
        }
        if self.goals.last_step.elapsed() >= SWARM_STEP_INTERVAL {
            self.goals.last_step = Instant::now();
            self.advance_swarm_step();
        }
        self.allow_training();
        self.evaluate_now_and_then();
        self.checkpoint_now_and_then();
        self.tell_digest_at_rest();
    }

    /// What people are told that this node does.
    pub(super) fn phase(&self) -> Phase {
        /// A swarm's ordinary delay is far below this.
        const BEHIND: usize = 10_000;
        if self.status.is_paused() {
            Phase::Paused
        } else if !self.goals.joined || self.status.owed() > BEHIND {
            Phase::CatchingUp
        } else if self.own_samples_done() {
            Phase::Serving
        } else {
            Phase::Training
        }
    }

    fn allow_training(&mut self) {
        let limit = match self.goals.joined && self.goals.can_train && self.replica.may_probe() {
            true => self.own_samples_limit(),
            false => 0,
        };
        if self.goals.allowed != Some(limit) {
            self.goals.allowed = Some(limit);
            self.command(Command::Train { until_sample: limit });
        }
    }

    /// First sample of the current incarnation that is beyond the goal.
    fn own_samples_limit(&self) -> u64 {
        let room = self.replica.manifest().ledger_samples_max;
        let Some(samples) = self.goals.samples else { return room };
        samples.saturating_sub(self.replica.own_samples_elsewhere()).min(room)
    }

    /// Whether own samples are all made and durable.
    fn own_samples_done(&self) -> bool {
        let done = !self.goals.can_train || self.replica.own_next_sample() >= self.own_samples_limit();
        done && self.replica.own_waiting() == 0
    }

    /// Whether to leave of one's own accord.
    pub(super) fn is_done(&self) -> bool {
        self.goals.exit_when_idle.is_some_and(|idle| {
            self.goals.joined
                && self.own_samples_done()
                && self.goals.root_since.elapsed() >= idle
                && self.backlog.is_empty()
                && !self.goals.evaluating
        })
    }

    fn evaluate_now_and_then(&mut self) {
        let due = self.goals.joined
            && !self.goals.evaluating
            && self.goals.last_evaluation.is_none_or(|(last, root)| {
                let pause = EVALUATION_INTERVAL_MIN.max(self.goals.evaluation_took * OVERHEAD_PART);
                last.elapsed() >= pause && root != self.goals.root
            });
        if due && self.status.wants_evaluation() {
            self.goals.evaluating = true;
            self.command(Command::Evaluate(EVALUATION_WINDOWS));
        }
    }

    fn checkpoint_now_and_then(&mut self) {
        let pause = CHECKPOINT_INTERVAL_MIN.max(self.goals.checkpoint_took * OVERHEAD_PART);
        let (last, root) = self.goals.last_checkpoint;
        if !self.goals.checkpointing && self.replica.signs() && last.elapsed() >= pause && root != self.goals.root {
            self.checkpoint_now();
        }
    }

    pub(super) fn checkpoint_now(&mut self) {
        if !self.may_checkpoint() {
            return;
        }
        self.goals.checkpointing = true;
        self.goals.last_checkpoint.1 = self.goals.root;
        self.begin_checkpoint();
    }

    pub(super) fn is_checkpointing(&self) -> bool {
        self.goals.checkpointing
    }

    fn tell_digest_at_rest(&mut self) {
        let at_rest = self.goals.joined && self.own_samples_done() && self.goals.root_since.elapsed() >= REST;
        if at_rest && self.goals.digest_told != Some(self.goals.root) && self.backlog.is_empty() {
            self.goals.digest_told = Some(self.goals.root);
            self.command(Command::Digest(self.goals.root));
        }
    }
}
