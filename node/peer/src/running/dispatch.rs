//! One input in, and what follows from every input.

use protocol::replica::{OwnByte, Verdict};

use super::state::{Context, Running, Stage};
use crate::{Input, Output, leave::Departure};

/// With this many entries waiting for the trainer before it has joined, the network is not read. From then on only
/// keys of which too much waits are held back, and all else is read.
const BACKLOG_ENTRIES_MAX: u64 = 1 << 18;
/// With this many writes waiting for the disk, the network is not read.
const UNSTORED_WRITES_MAX: u64 = 512;
/// Gossip that no neighbour heard, and waits for one. More is left to anti-entropy.
const UNHEARD_MAX: usize = 64;

impl Running {
    /// Takes in one event that is not about connections alone.
    pub fn handle(&mut self, input: Input, cx: &mut Context<'_>) {
        match (&self.stage, input) {
            (Stage::Ended, _) => return,
            (_, Input::Pause(is_paused)) => return self.is_paused = is_paused,
            (Stage::Restoring, Input::Restored(record)) => return self.restore(record, cx),
            (Stage::Restoring, Input::Checkpoint(contents)) => {
                let fits = self.replica.resume(&contents);
                return cx.outputs.push_back(Output::Resume(fits));
            }
            (Stage::Restoring, Input::Curve(points)) => return self.points.restore(points),
            (Stage::Restoring, Input::Start(settings)) => self.start(settings, cx),
            (Stage::Renewing(_), Input::Incarnation(incarnation)) => self.start_as(incarnation, cx),
            (Stage::Restoring | Stage::Renewing(_), input) => return self.not_yet(input, cx),
            (Stage::Going, input) => self.take_in(input, cx),
        }
        self.carry_out(cx);
        self.move_on(cx);
    }

    /// Before the start nothing is judged and nothing is answered.
    fn not_yet(&mut self, input: Input, cx: &mut Context<'_>) {
        match input {
            Input::Gossip { from, message, .. } => {
                cx.outputs.push_back(Output::Validate { message, from, verdict: Verdict::Ignore });
            }
            Input::Request { request, .. } => cx.outputs.push_back(Output::Drop { request }),
            Input::Leave => self.end(Departure::Clean, cx),
            _ => {}
        }
    }

    fn take_in(&mut self, input: Input, cx: &mut Context<'_>) {
        let now_ms = cx.now_ms;
        match input {
            Input::Tick => self.tick(cx),
            Input::Leave => self.wish_to_leave(cx),
            Input::Connected(node) => self.replica.peer_connected(node, now_ms),
            Input::Disconnected(node) => self.replica.peer_gone(node),
            // What others made comes again from them: it must not keep a node from leaving.
            Input::Gossip { from, message, .. } if self.is_flushing() => {
                cx.outputs.push_back(Output::Validate { message, from, verdict: Verdict::Ignore });
            }
            Input::Gossip { from, message, bytes } => self.gossip(from, message, &bytes, cx),
            Input::Request { from, request, bytes } => self.request(from, request, &bytes, cx),
            Input::Unheard(bytes) if self.unheard.len() < UNHEARD_MAX => self.unheard.push_back(bytes),
            Input::Signed { token, signature } => self.replica.signed(token, signature, now_ms),
            Input::Stored { write } => self.stored(write, now_ms),
            Input::StoreFailed => {
                if let Some(leaving) = &mut self.leaving {
                    leaving.refused();
                }
            }
            Input::Incarnation(incarnation) => self.incarnate(incarnation, cx),
            // An unsound one is nobody's offence: who gave it sees that it is not known afterwards.
            Input::Stated(statement) => drop(self.replica.absorb_statement(statement)),
            input => self.take_in_from_trainer(input, cx),
        }
    }

    fn take_in_from_trainer(&mut self, input: Input, cx: &mut Context<'_>) {
        let now_ms = cx.now_ms;
        match input {
            Input::Took => self.backlog.took(),
            Input::Stepped(own) => {
                self.load.made(own.len() as u64);
                self.replica.own_bytes(&own, now_ms);
                // Refused: the trainer must not take them for its own any more.
                let is_ahead = |last: &OwnByte| {
                    last.machine == self.replica.own_machine() && last.sample >= self.replica.own_kept()
                };
                if self.adopting == 0 && self.renewal.is_none() && own.last().is_some_and(is_ahead) {
                    self.adopt_own();
                }
            }
            Input::Replayed { entries, took_us } => {
                self.goals.replayed(entries);
                self.load.replayed(entries, took_us);
                self.owed = self.owed.saturating_sub(entries);
                if self.owed == 0 {
                    self.owed_most = 0;
                }
            }
            Input::Adopted => self.adopting = self.adopting.saturating_sub(1),
            Input::NearEdge(is_near) => self.is_near_edge = is_near,
            Input::Evaluated(look) => {
                self.goals.evaluated(look.took_ms, now_ms);
                self.points.looked(look);
            }
            Input::Written { machine, next_sample, took_ms } => {
                self.checkpoints.written(machine, next_sample, took_ms);
                self.finish_checkpoint(cx);
            }
            Input::WriteFailed => self.checkpoints.write_failed(now_ms),
            Input::Committed => self.checkpoints.committed(now_ms),
            Input::Digested { root, digest } => self.digested(root, digest, cx),
            _ => {}
        }
    }

    /// A write is durable, and with it all before.
    fn stored(&mut self, write: u64, now_ms: u64) {
        let stored = write.min(self.writes);
        if stored <= self.stored {
            return;
        }
        self.stored = stored;
        while self.tokens.front().is_some_and(|(write, _)| *write <= stored) {
            if let Some((_, token)) = self.tokens.pop_front() {
                self.replica.persisted(token, now_ms);
            }
        }
        if let Some(leaving) = &mut self.leaving {
            leaving.stored();
        }
    }

    /// After every event: leaves if it is time, hands out work, says whether to read.
    pub(super) fn move_on(&mut self, cx: &mut Context<'_>) {
        if self.is_going() {
            self.goals.observe(&self.replica, cx.now_ms);
            self.finish_points(cx);
            self.leave_if_due(cx);
        }
        if !self.is_going() {
            return;
        }
        while let Some(work) = self.backlog.hand_out() {
            cx.outputs.push_back(Output::Work(work));
        }
        let has_joined = self.goals.has_joined();
        if has_joined && let Some(full) = self.backlog.newly_full() {
            let others = full.iter().filter(|key| **key != cx.config.key);
            self.replica.hold_back(others.copied().collect());
        }
        let is_congested = !has_joined && self.backlog.entries() > BACKLOG_ENTRIES_MAX
            || self.writes - self.stored > UNSTORED_WRITES_MAX;
        let reads = !is_congested;
        if std::mem::replace(&mut self.is_reading, reads) != reads {
            cx.outputs.push_back(Output::Reading(reads));
        }
    }

    /// Whether it leaves, and only what is its own is still stored and told.
    pub(super) fn is_flushing(&self) -> bool {
        self.leaving.as_ref().is_some_and(|leaving| !leaving.is_agreeing())
    }
}
