//! The way out.

use super::state::{BEHIND_ENTRIES, Context, Running, Stage};
use crate::{
    Notice, Output,
    leave::{Departure, Leaving, Waiting},
    planted::Fault,
};

impl Running {
    /// A person wishes it. A second wish cuts the comparing with neighbours short, and nothing else.
    pub(super) fn wish_to_leave(&mut self, cx: &mut Context<'_>) {
        match &mut self.leaving {
            None => {
                cx.outputs.push_back(Output::Notice(Notice::Leaving));
                self.leaving = Some(Leaving::at_once(cx.now_ms));
                self.wind_up(cx.now_ms);
            }
            Some(leaving) if leaving.is_agreeing() => {
                leaving.hurry(cx.now_ms);
                self.wind_up(cx.now_ms);
            }
            Some(_) => {}
        }
    }

    /// No more gradients, and a last checkpoint if it is quick: one that would wait behind many entries is not, and not
    /// even begun.
    fn wind_up(&mut self, now_ms: u64) {
        self.backlog.rest();
        if self.owed <= BEHIND_ENTRIES {
            if self.checkpoints.is_quick(&self.replica) {
                self.begin_checkpoint();
            }
        } else if self.backlog.take_back_checkpoint() {
            self.checkpoints.write_failed(now_ms);
        }
    }

    /// Leaves as soon as nothing is left to wait for.
    pub(super) fn leave_if_due(&mut self, cx: &mut Context<'_>) {
        let now_ms = cx.now_ms;
        if self.leaving.is_none() && self.backlog.is_empty() && self.goals.is_done(&self.replica, now_ms) {
            self.leaving = Some(Leaving::once_all_agree(&self.replica, now_ms));
        }
        let Some(leaving) = &mut self.leaving else { return };
        if leaving.agrees_now(&self.replica, now_ms) {
            self.wind_up(now_ms);
        }
        let Some(leaving) = self.leaving.as_mut().filter(|leaving| !leaving.is_agreeing()) else { return };
        let tells = leaving.tells_now(now_ms);
        self.replica.flush();
        self.finish_checkpoint(cx);
        self.carry_out(cx);
        let waiting = self.waiting();
        if let Some(departure) = self.leaving.as_ref().and_then(|leaving| leaving.departure(waiting)) {
            return self.end(departure, cx);
        }
        if tells {
            cx.outputs.push_back(Output::Notice(Notice::StillLeaving(waiting)));
        }
    }

    fn waiting(&self) -> Waiting {
        if self.planted.has(Fault::LeavesAtOnce) {
            return Waiting::default();
        }
        Waiting {
            // What may not be signed was never acknowledged.
            own: if self.replica.signs() { self.replica.own_waiting() } else { 0 },
            writes: self.writes - self.stored,
            checkpoint: self.checkpoints.is_under_way(),
        }
    }

    /// The last output.
    pub(super) fn end(&mut self, departure: Departure, cx: &mut Context<'_>) {
        self.stage = Stage::Ended;
        cx.outputs.push_back(Output::Left(departure));
    }
}
