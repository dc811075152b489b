//! What the replica wants done.

use protocol::{
    message::Gossip,
    replica::{LedgerRange, Offence, Output as Effect, Report},
};

use super::state::{Context, Running};
use crate::{Notice, Output, Work, exchange::Purpose};

impl Running {
    /// Does all that the replica wants done by now.
    pub(super) fn carry_out(&mut self, cx: &mut Context<'_>) {
        while let Some(effect) = self.replica.poll_output() {
            match effect {
                Effect::Ask(node, question) => {
                    if !cx.links.ask(node, Purpose::Replica, self.run.id, question, cx.outputs) {
                        self.replica.no_answer(node);
                    }
                }
                Effect::Publish(gossip) => publish(&gossip, cx),
                Effect::Sign { token, message } => cx.outputs.push_back(Output::Sign { token, message }),
                Effect::Persist(records, token) => {
                    self.writes += 1;
                    self.tokens.extend(token.map(|token| (self.writes, token)));
                    cx.outputs.push_back(Output::Persist { records, write: self.writes });
                }
                Effect::Replay(entries) => {
                    self.owe(entries.len() as u64);
                    self.backlog.push(Work::Replay(entries));
                }
                Effect::ReplayLedger(range) => {
                    self.owe(range.samples());
                    self.take_note(&range, cx);
                    self.backlog.push_range(range);
                }
                Effect::NewIncarnation(cause) => {
                    self.renewal = Some(cause);
                    cx.outputs.push_back(Output::NewIncarnation);
                }
                Effect::Penalize(node, offence) => {
                    let reason = match &offence {
                        Offence::Malformed(reason) | Offence::Invalid(reason) => reason.as_str(),
                        Offence::Unasked => "an answer to another question",
                    };
                    cx.links.fault(node, reason, cx.now_ms, cx.outputs);
                }
                Effect::Report(report) => {
                    if let Report::Withdrawn { is_own: true, .. } = report {
                        // What does not count any more leaves the weights: the trainer goes back to what does.
                        self.adopt_own();
                    }
                    cx.outputs.push_back(Output::Notice(Notice::Report(report)));
                }
            }
        }
    }

    /// Who makes how much. What was made before this machine came says nothing of that.
    fn take_note(&mut self, range: &LedgerRange, cx: &Context<'_>) {
        if self.goals.has_joined() && !range.removed && range.machine.key != cx.config.key {
            self.pace.saw(range.machine.key, cx.now_ms);
            self.load.came(range.samples());
        }
    }

    /// So many more entries are to come into the weights, or to leave them.
    fn owe(&mut self, entries: u64) {
        self.owed = self.owed.saturating_add(entries);
        self.owed_most = self.owed_most.max(self.owed);
    }
}

fn publish(gossip: &Gossip, cx: &mut Context<'_>) {
    // A message that is too large for gossip comes with anti-entropy.
    if let Ok(bytes) = gossip.encode() {
        cx.outputs.push_back(Output::Publish(bytes));
    }
}
