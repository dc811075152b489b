//! The one checkpoint that may be under way, and what it may claim.
//!
//! A file holds what the trainer was told before it was asked for, and own samples that may not be in the ledger yet.
//! It counts only once they are (ledger before checkpoint), and claims what had been handed out when it was asked for,
//! no more.

use protocol::{
    machine::MachineId,
    replica::{Contained, Replica},
};

use crate::{
    backlog::Backlog,
    planted::{Fault, Planted},
};

/// A checkpoint is written on leaving if it is no larger, and the last one took no longer, than this.
const LEAVING_BYTES_MAX: u64 = 128 << 20;
const LEAVING_MS_MAX: u64 = 400;

enum State {
    Idle,
    /// The trainer was asked for a file; what it contains of others.
    Asked(Vec<Contained>),
    /// The file is there; its own samples may still be on their way into the ledger.
    Written {
        others: Vec<Contained>,
        machine: MachineId,
        next_sample: u64,
    },
    /// The disk was told.
    Committing,
}

/// What becomes of a file that was written.
#[derive(PartialEq, Debug)]
pub enum Next {
    /// There is none, or it counts already.
    Nothing,
    /// Its own samples are not in the ledger yet: sign them.
    Flush,
    /// It holds samples that come into no ledger: the own one began anew meanwhile, or does not take them.
    Discard,
    /// It may count, with this in it.
    Commit(Vec<Contained>),
}

/// See the module's documentation.
pub struct Checkpoints {
    state: State,
    took_ms: u64,
    /// When the last one ended, and the revision of the version vector at which it began.
    last_ms: u64,
    last_revision: Option<u64>,
    planted: Planted,
}

impl Checkpoints {
    /// The first is due an interval after `now_ms`.
    pub fn new(now_ms: u64, planted: Planted) -> Self {
        Self { state: State::Idle, took_ms: 0, last_ms: now_ms, last_revision: None, planted }
    }

    /// Whether one is under way.
    pub fn is_under_way(&self) -> bool {
        !matches!(self.state, State::Idle)
    }

    /// How long the last file took to write, ms.
    pub fn took_ms(&self) -> u64 {
        self.took_ms
    }

    /// Whether one is due, if the last ended `pause_ms` ago and something came since.
    pub fn is_due(&self, replica: &Replica, pause_ms: u64, now_ms: u64) -> bool {
        let is_news = self.last_revision != Some(replica.vector().revision());
        replica.signs() && is_news && now_ms.saturating_sub(self.last_ms) >= pause_ms
    }

    /// Whether one on leaving is worth its time.
    pub fn is_quick(&self, replica: &Replica) -> bool {
        let bytes = replica.manifest().parameters().saturating_mul(4);
        replica.signs() && self.took_ms <= LEAVING_MS_MAX && bytes <= LEAVING_BYTES_MAX
    }

    /// Begins one, if a file written now would hold nothing that is in no ledger: no other one is under way, and of an
    /// incarnation given up no sample is still on its way (`adopts`: the trainer has still to turn to the present one).
    /// All outputs of the replica must have been taken; what of them waits in `backlog` is not in the file, but of the
    /// own ledger nothing may. True if the trainer is to write.
    pub fn begin(&mut self, replica: &Replica, backlog: &Backlog, adopts: bool) -> bool {
        let own_waits = backlog.held(&replica.own_machine()).is_some();
        if self.is_under_way() || adopts || own_waits || !replica.own_is_settled() {
            return false;
        }
        // What waits is news to the next one.
        self.last_revision = backlog.is_empty().then(|| replica.vector().revision());
        self.state = State::Asked(replica.contents_of_others(|machine| backlog.held(machine)));
        true
    }

    /// The file that was asked for is there, with own samples below `next_sample` of `machine` in it.
    pub fn written(&mut self, machine: MachineId, next_sample: u64, took_ms: u64) {
        if let State::Asked(others) = &mut self.state {
            self.took_ms = took_ms;
            self.state = State::Written { others: std::mem::take(others), machine, next_sample };
        }
    }

    /// The file that was asked for will not come.
    pub fn write_failed(&mut self, now_ms: u64) {
        if matches!(self.state, State::Asked(_)) {
            self.end(now_ms);
        }
    }

    /// The checkpoint counts, or was given up.
    pub fn committed(&mut self, now_ms: u64) {
        if matches!(self.state, State::Committing) {
            self.end(now_ms);
        }
    }

    fn end(&mut self, now_ms: u64) {
        self.state = State::Idle;
        self.last_ms = now_ms;
    }

    /// What is to be done with a file that was written.
    pub fn next(&mut self, replica: &Replica, now_ms: u64) -> Next {
        let State::Written { machine, next_sample, .. } = &self.state else { return Next::Nothing };
        // What was measured was told before the file was written.
        if replica.refused(machine, *next_sample) {
            self.end(now_ms);
            return Next::Discard;
        }
        let own = match *next_sample {
            0 => None,
            height => match replica.contents_of_own(machine, height) {
                Some(own) => Some(own),
                None => return Next::Flush,
            },
        };
        let State::Written { mut others, .. } = std::mem::replace(&mut self.state, State::Committing) else {
            return Next::Nothing;
        };
        if self.planted.has(Fault::ClaimsLate) {
            others = replica.contents_of_others(|_| None);
        }
        others.extend(own);
        Next::Commit(others)
    }
}
