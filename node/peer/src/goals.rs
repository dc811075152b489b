//! When to train, evaluate, write checkpoints, and be done.

use protocol::{replica::Replica, segment::SWARM_STEP_LAG_MAX};

use crate::{
    Forecast, GoalSettings,
    pace::Pace,
    planted::{Fault, Planted},
};

pub use crate::config::CHECKPOINT_INTERVAL_MS;

/// A joiner that hears from nobody trains alone after this long, ms; what it makes is merged later.
const CATCH_UP_PATIENCE_MS: u64 = 20_000;
/// A joiner whose peers do not tell all they have trains after this long, ms.
const CATCH_UP_MS_MAX: u64 = 180_000;
/// Evaluation and checkpoints take at most one part in this many of the time.
const OVERHEAD_PART: u64 = 20;
/// Evaluations are at least this far apart, ms.
const EVALUATION_INTERVAL_MS: u64 = 10_000;
/// Own bytes get a new swarm step this often, ms: each begins a segment.
const SWARM_STEP_INTERVAL_MS: u64 = 10_000;
/// The swarm is at rest when nothing has come for this long, ms.
const REST_MS: u64 = 2_000;

/// What a peer is to achieve, and how far it is.
pub struct Goals {
    settings: GoalSettings,
    /// Whether to wait for others' ledgers before training.
    joins: bool,
    begun_ms: u64,
    last_step_ms: u64,
    has_joined: bool,
    /// Entries that were on their way into the weights when it had joined, and are not there yet.
    missing: u64,
    /// The last limit that the trainer was given. It rests before the first.
    allowed: u64,
    /// How often the version vector had changed, and since when it has not.
    revision: u64,
    quiet_since_ms: u64,
    digested: Option<u64>,
    /// When the last evaluation ended, and at which revision it began.
    last_evaluation: Option<(u64, Option<u64>)>,
    evaluation_took_ms: u64,
    /// The revision at which the evaluation under way began, None if its weights lack some of that.
    evaluating: Option<Option<u64>>,
    /// Whether an evaluation began when all was made and nothing had come for long enough: the last one.
    has_last_look: bool,
    /// Whether own samples ended because the held-out curve is flat.
    has_stopped_flat: bool,
    planted: Planted,
}

impl Goals {
    /// `joins`: others are expected to hold more of the run than this disk.
    pub fn new(settings: GoalSettings, joins: bool, now_ms: u64, planted: Planted) -> Self {
        Self {
            settings,
            joins,
            begun_ms: now_ms,
            last_step_ms: now_ms,
            has_joined: false,
            missing: 0,
            allowed: 0,
            revision: 0,
            quiet_since_ms: now_ms,
            digested: None,
            last_evaluation: None,
            evaluation_took_ms: 0,
            evaluating: None,
            has_last_look: false,
            has_stopped_flat: false,
            planted,
        }
    }

    /// Whether what others had when this machine came is here, or was waited for long enough.
    pub fn has_joined(&self) -> bool {
        self.has_joined
    }

    /// Whether that is in the weights, too: from then on own gradients are measured.
    pub fn is_current(&self) -> bool {
        self.has_joined && self.missing == 0
    }

    /// At least so long between two checkpoints, given how long the last took, ms.
    pub fn checkpoint_pause_ms(&self, took_ms: u64) -> u64 {
        self.settings.checkpoint_interval_ms.max(took_ms.saturating_mul(OVERHEAD_PART))
    }

    /// Entries of others are in the weights.
    pub fn replayed(&mut self, entries: u64) {
        self.missing = self.missing.saturating_sub(entries);
    }

    /// Looks at the version vector.
    pub fn observe(&mut self, replica: &Replica, now_ms: u64) {
        let revision = replica.vector().revision();
        if revision != self.revision {
            (self.revision, self.quiet_since_ms) = (revision, now_ms);
        }
    }

    /// Whether it has joined just now; returns for how long it waited, ms. `owed` entries are on their way into the
    /// weights: own gradients are measured once those are there.
    pub fn joins_now(&mut self, replica: &Replica, has_neighbours: bool, owed: u64, now_ms: u64) -> Option<u64> {
        if self.has_joined {
            return None;
        }
        let waited_ms = now_ms.saturating_sub(self.begun_ms);
        let is_patient = waited_ms < CATCH_UP_PATIENCE_MS || has_neighbours && waited_ms < CATCH_UP_MS_MAX;
        self.has_joined = !self.joins || replica.is_caught_up() || !is_patient;
        self.missing = owed;
        self.has_joined.then_some(waited_ms)
    }

    /// Whether own bytes are due for a newer swarm step than `step`: after a while, or when half of what others accept
    /// is used up.
    pub fn step_is_due(&mut self, replica: &Replica, step: u64, now_ms: u64) -> bool {
        let is_due = now_ms.saturating_sub(self.last_step_ms) >= SWARM_STEP_INTERVAL_MS
            || replica.own_next_sample() >= step.saturating_add(SWARM_STEP_LAG_MAX / 2);
        if is_due {
            self.last_step_ms = now_ms;
        }
        is_due
    }

    /// The trainer was told to rest, and to work for another machine.
    pub fn adopted(&mut self) {
        self.allowed = 0;
    }

    /// The limit to give the trainer, if it is another than the last. A trainer that measures at swarm step `step` gets
    /// no further than others accept, and makes no more than its share of the budget, and nothing while paused.
    pub fn new_limit(&mut self, replica: &Replica, step: u64, pace: &Pace, is_paused: bool) -> Option<u64> {
        let may_sign = !self.settings.waits_to_sign || replica.signs();
        let may_train = !is_paused && self.is_current() && self.settings.can_train && may_sign && replica.may_probe();
        let accepted = step.saturating_add(SWARM_STEP_LAG_MAX);
        let paced = if self.planted.has(Fault::IgnoresBudget) { u64::MAX } else { pace.limit(self.allowed) };
        let limit = if may_train { self.own_samples_limit(replica).min(accepted).min(paced) } else { 0 };
        (std::mem::replace(&mut self.allowed, limit) != limit).then_some(limit)
    }

    /// First sample of the current incarnation that is beyond the goal.
    fn own_samples_limit(&self, replica: &Replica) -> u64 {
        if self.has_stopped_flat {
            return 0;
        }
        let room = replica.manifest().ledger_samples_max.min(replica.own_allowed());
        let elsewhere = match self.planted.has(Fault::CountsOneIncarnation) {
            true => 0,
            false => replica.own_samples_elsewhere(),
        };
        self.settings.samples.map_or(room, |samples| samples.saturating_sub(elsewhere).min(room))
    }

    /// Whether own samples are all made.
    fn has_made_all(&self, replica: &Replica) -> bool {
        !self.settings.can_train || replica.own_next_sample() >= self.own_samples_limit(replica)
    }

    /// Whether own samples are all made and durable.
    pub fn own_is_done(&self, replica: &Replica) -> bool {
        self.has_made_all(replica) && replica.own_waiting() == 0
    }

    /// Whether own samples end now because the held-out curve is flat; once. They do not begin again in this session:
    /// after a restart the curve is asked anew.
    pub fn stops_now(&mut self, forecast: Forecast) -> bool {
        let stops = self.settings.stops_when_flat && self.settings.can_train && forecast.is_flat;
        stops && !std::mem::replace(&mut self.has_stopped_flat, stops)
    }

    /// Whether own samples ended because the held-out curve is flat.
    pub fn has_stopped_flat(&self) -> bool {
        self.has_stopped_flat
    }

    /// Whether to leave of one's own accord, given that nothing waits for the trainer. What is left is evaluated first,
    /// once: where nothing is waited for, others may go on for ever.
    pub fn is_done(&self, replica: &Replica, now_ms: u64) -> bool {
        let is_seen = !self.settings.evaluates || self.has_last_look || !self.has_news();
        self.is_idle(replica, now_ms) && self.evaluating.is_none() && is_seen
    }

    /// Whether all is made, and nothing came for as long as a machine stays that leaves when idle.
    fn is_idle(&self, replica: &Replica, now_ms: u64) -> bool {
        self.settings.exit_when_idle_ms.is_some_and(|idle_ms| {
            self.has_joined && self.own_is_done(replica) && now_ms.saturating_sub(self.quiet_since_ms) >= idle_ms
        })
    }

    /// Whether anything came since the last evaluation began.
    fn has_news(&self) -> bool {
        self.last_evaluation.is_none_or(|(_, revision)| revision != Some(self.revision))
    }

    /// Whether to evaluate now; if so, an evaluation is under way. The last one, before leaving, does not wait but for
    /// the weights to be `complete`: to lack nothing. While paused it is the only one.
    pub fn evaluates_now(&mut self, replica: &Replica, complete: bool, is_paused: bool, now_ms: u64) -> bool {
        let pause_ms = EVALUATION_INTERVAL_MS.max(self.evaluation_took_ms.saturating_mul(OVERHEAD_PART));
        let is_over = self.last_evaluation.is_none_or(|(last_ms, _)| now_ms.saturating_sub(last_ms) >= pause_ms);
        let is_idle = self.is_idle(replica, now_ms);
        self.has_last_look &= is_idle;
        let is_last = complete && is_idle && !self.has_last_look;
        let is_due = self.has_news() && (is_over && !is_paused || is_last);
        let evaluates = self.settings.evaluates && self.has_joined && self.evaluating.is_none() && is_due;
        if evaluates {
            self.evaluating = Some(complete.then_some(self.revision));
            self.has_last_look |= is_last;
        }
        evaluates
    }

    /// The evaluation that was under way has ended. What came meanwhile is not in it.
    pub fn evaluated(&mut self, took_ms: u64, now_ms: u64) {
        let Some(revision) = self.evaluating.take() else { return };
        self.evaluation_took_ms = took_ms;
        self.last_evaluation = Some((now_ms, revision));
    }

    /// Whether the swarm is at rest and people should hear the weights' digest; once for each state.
    pub fn digests_now(&mut self, replica: &Replica, now_ms: u64) -> bool {
        let is_quiet = now_ms.saturating_sub(self.quiet_since_ms) >= REST_MS;
        let digests = self.has_joined && is_quiet && self.digested != Some(self.revision) && self.own_is_done(replica);
        if digests {
            self.digested = Some(self.revision);
        }
        digests
    }
}
