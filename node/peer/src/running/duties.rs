//! What a tick brings: goals, checkpoints, digests of weights at rest.

use super::state::{Context, Running};
use crate::{Notice, Output, Work, checkpoint::Next, planted::Fault};

impl Running {
    /// Time has passed.
    pub(super) fn tick(&mut self, cx: &mut Context<'_>) {
        let now_ms = cx.now_ms;
        self.replica.tick(now_ms);
        // A checkpoint's claims must not run ahead of what the trainer is told.
        self.carry_out(cx);
        self.pursue_goals(cx);
        self.finish_checkpoint(cx);
        if !cx.links.neighbours().is_empty()
            && let Some(bytes) = self.unheard.pop_front()
        {
            cx.outputs.push_back(Output::Publish(bytes));
        }
        if let Some(leaving) = &mut self.leaving
            && leaving.compares_now(now_ms)
        {
            self.replica.compare_with_all(now_ms);
        }
    }

    /// Hands out what the goals ask for. Nothing more once it leaves.
    fn pursue_goals(&mut self, cx: &mut Context<'_>) {
        let now_ms = cx.now_ms;
        self.goals.observe(&self.replica, now_ms);
        let falls_behind = self.load.advance(self.owed, self.goals.is_current(), now_ms);
        if falls_behind && !self.planted.has(Fault::HidesItsBacklog) {
            cx.outputs.push_back(Output::Notice(Notice::Behind(self.load.load(self.owed))));
        }
        if self.is_flushing() {
            return;
        }
        if let Some(after_ms) = self.joins_now(cx) {
            cx.outputs.push_back(Output::Notice(Notice::CaughtUp { after_ms }));
            if self.replica.own_allowed() <= self.replica.own_next_sample() {
                cx.outputs.push_back(Output::Notice(Notice::NoMember { key: cx.config.key }));
            }
            self.twins.joined(self.replica.swarm_step());
            // Not at the step of a swarm that nobody had told of yet.
            self.advance_swarm_step();
        }
        let twins = self.twins.next(&self.replica).into_iter();
        cx.outputs.extend(twins.map(|machine| Output::Notice(Notice::Twin { machine })));
        if self.goals.step_is_due(&self.replica, self.swarm_step, now_ms) {
            self.advance_swarm_step();
        }
        self.pace.advance(self.replica.own_next_sample(), now_ms);
        // While the trainer turns to another machine, nobody could say what is measured.
        if self.adopting == 0 {
            self.measure(now_ms);
        }
        let pause_ms = self.goals.checkpoint_pause_ms(self.checkpoints.took_ms());
        if self.checkpoints.is_due(&self.replica, pause_ms, now_ms) {
            self.begin_checkpoint();
        }
        if self.backlog.is_empty() && self.goals.digests_now(&self.replica, now_ms) {
            self.backlog.push(Work::Digest(self.replica.root()));
        }
    }

    /// How far own gradients go, and a look at the held-out text.
    fn measure(&mut self, now_ms: u64) {
        if let Some(until_sample) = self.goals.new_limit(&self.replica, self.swarm_step, &self.pace, self.is_paused) {
            self.backlog.push(Work::Train { until_sample });
        }
        let is_complete = self.backlog.entries() == 0;
        if self.goals.evaluates_now(&self.replica, is_complete, self.is_paused, now_ms) {
            self.points.begin(&self.replica, |machine| self.backlog.held(machine), self.renewal.is_none());
            self.backlog.push(Work::Evaluate);
        }
    }

    fn joins_now(&mut self, cx: &Context<'_>) -> Option<u64> {
        self.goals.joins_now(&self.replica, self.neighbours(cx.links) > 0, self.owed, cx.now_ms)
    }

    /// Asks the trainer for a checkpoint file, if one may be written now. All outputs of the replica must have been
    /// taken.
    pub(super) fn begin_checkpoint(&mut self) {
        if self.checkpoints.begin(&self.replica, &self.backlog, self.adopting > 0) {
            self.backlog.push(Work::Checkpoint);
        }
    }

    /// Looks at what was written: it may be ready to count.
    pub(super) fn finish_checkpoint(&mut self, cx: &mut Context<'_>) {
        match self.checkpoints.next(&self.replica, cx.now_ms) {
            Next::Nothing => {}
            Next::Flush => self.replica.flush(),
            Next::Discard => cx.outputs.push_back(Output::Discard),
            Next::Commit(contents) => cx.outputs.push_back(Output::Commit { contents }),
        }
    }

    /// Tells of looks of which all is in ledgers now, and stops own gradients if they say so.
    pub(super) fn finish_points(&mut self, cx: &mut Context<'_>) {
        while let Some(point) = self.points.next(&self.replica) {
            cx.outputs.push_back(Output::Notice(Notice::Point(point)));
        }
        if let Some(forecast) = self.points.curve().forecast()
            && self.goals.stops_now(forecast)
        {
            cx.outputs.push_back(Output::Notice(Notice::Flat(forecast)));
        }
    }

    /// The weights were hashed, and `root` was what they stood at when that was asked for.
    pub(super) fn digested(&self, root: [u8; 32], digest: [u8; 32], cx: &mut Context<'_>) {
        cx.outputs.push_back(Output::Notice(Notice::AtRest { root, digest }));
        if root != self.replica.root() {
            // Something came meanwhile: what the weights held then is not known here any more.
            return;
        }
        let mut contents = self.replica.contents_of_others(|_| None);
        contents.extend(self.replica.contents_of_own(&self.replica.own_machine(), self.replica.own_kept()));
        cx.outputs.push_back(Output::Notice(Notice::Weights { digest, contents }));
    }
}
