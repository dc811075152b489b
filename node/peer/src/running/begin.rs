//! From the disk's records to the first work, and on under a new incarnation.

use protocol::{
    machine::MachineId,
    replica::{OwnHead, Record},
    statement::Statement,
};

use std::sync::Arc;

use super::state::{Context, Running, Stage};
use crate::{
    GoalSettings, Notice, Output, Work, checkpoint::Checkpoints, goals::Goals, load::LoadMeter, pace::Pace,
    planted::Fault, start,
};

impl Running {
    /// A record from the disk. One that breaks a rule ends everything: what else there is cannot be trusted either.
    pub(super) fn restore(&mut self, record: Record, cx: &mut Context<'_>) {
        let (machine, first) = match &record {
            Record::Chunk(chunk) => (chunk.machine, chunk.first),
            Record::Statement(Statement::Revocation(revocation)) => (revocation.machine(), 0),
            Record::Statement(statement) => (MachineId { key: statement.key(), incarnation: 0 }, 0),
        };
        if let Record::Chunk(_) = &record {
            self.forgotten.restored(self.planted, &machine);
        }
        let restored = match record {
            Record::Chunk(chunk) => self.replica.restore_chunk(Arc::unwrap_or_clone(chunk)),
            Record::Statement(statement) => self.replica.restore_statement(statement),
        };
        if let Err(error) = restored {
            self.stage = Stage::Ended;
            cx.outputs.push_back(Output::Damaged { machine, first, reason: error.to_string() });
        }
    }

    /// All is restored.
    pub(super) fn start(&mut self, settings: GoalSettings, cx: &mut Context<'_>) {
        if start::needs_incarnation(&self.replica, cx.config.is_new_incarnation, cx.config.is_alone()) {
            self.stage = Stage::Renewing(settings);
            return cx.outputs.push_back(Output::NewIncarnation);
        }
        self.begin(settings, cx);
    }

    /// The new incarnation that the start asked for is here.
    pub(super) fn start_as(&mut self, incarnation: u64, cx: &mut Context<'_>) {
        let Stage::Renewing(settings) = std::mem::replace(&mut self.stage, Stage::Going) else { return };
        self.replica.set_own_machine(MachineId { key: cx.config.key, incarnation });
        self.begin(settings, cx);
    }

    fn begin(&mut self, settings: GoalSettings, cx: &mut Context<'_>) {
        let head = match start::own_head(&self.replica) {
            _ if self.planted.has(Fault::TrustsItsDisk) => OwnHead::Sure,
            head => head,
        };
        self.stage = Stage::Going;
        let batch = settings.batch_samples;
        self.goals = Goals::new(settings, !cx.config.is_alone(), cx.now_ms, self.planted);
        self.pace = Pace::new(self.run.manifest.replay_budget, batch, cx.now_ms);
        self.load = LoadMeter::new(cx.now_ms);
        self.backlog.plant(self.planted);
        self.checkpoints = Checkpoints::new(cx.now_ms, self.planted);
        self.replica.start(head, cx.now_ms);
        self.adopt_own();
        for node in cx.links.neighbours() {
            self.replica.peer_connected(*node, cx.now_ms);
        }
    }

    /// A new incarnation, which the replica asked for. One that has a ledger is not new: to go on from its beginning
    /// would sign its samples a second time.
    pub(super) fn incarnate(&mut self, incarnation: u64, cx: &mut Context<'_>) {
        let Some(cause) = self.renewal else { return };
        let machine = MachineId { key: cx.config.key, incarnation };
        if machine == self.replica.own_machine() || self.replica.ledger(&machine).is_some() {
            return cx.outputs.push_back(Output::NewIncarnation);
        }
        self.renewal = None;
        cx.outputs.push_back(Output::Notice(Notice::NewIncarnation { cause, machine }));
        self.replica.adopt(machine, cx.now_ms);
        self.adopt_own();
    }

    /// The trainer is to rest, then to work for the own machine from the first sample on that it does not hold. A limit
    /// follows with the next tick: one that was meant for another machine would be wrong.
    pub(super) fn adopt_own(&mut self) {
        self.goals.adopted();
        self.twins.own(self.replica.own_machine());
        self.adopting += 1;
        let next_sample = self.replica.own_kept();
        self.pace.begin_at(next_sample);
        self.backlog.rest();
        self.backlog.push(Work::Adopt(self.replica.own_machine(), next_sample));
        self.advance_swarm_step();
    }

    /// Own bytes use the learning rate of the swarm's present step. Steps never fall within a ledger, so neither does
    /// this one, whatever is revoked.
    pub(super) fn advance_swarm_step(&mut self) {
        let step = self.replica.swarm_step().max(self.replica.own_swarm_step());
        if step > self.swarm_step {
            self.swarm_step = step;
            self.backlog.push(Work::SwarmStep(step));
        }
    }
}
