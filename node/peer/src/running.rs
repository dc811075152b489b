//! A peer that has a run and its base: the replica, and all that surrounds it.

use protocol::{
    machine::MachineId,
    message::{Gossip, Question, Request, Response},
    replica::{self, IncarnationCause, NodeId, Offence, OwnHead, Record, Replica, Verdict},
    signature::Verifier,
};
use std::collections::VecDeque;

use crate::{
    Answer, Config, Facts, GoalSettings, Input, Notice, Output, Phase, Run, Work,
    backlog::Backlog,
    checkpoint::{Checkpoints, Next},
    exchange::Purpose,
    goals::Goals,
    join,
    leave::{Departure, Leaving, Waiting},
    limits::Severity,
    links::{Links, Message},
    start,
};

/// With this many entries waiting for the trainer, the network is not read.
const BACKLOG_ENTRIES_MAX: u64 = 1 << 18;
/// With this many writes waiting for the disk, the network is not read.
const UNSTORED_WRITES_MAX: u64 = 512;
/// Gossip that no neighbour heard, and waits for one. More is left to anti-entropy.
const UNHEARD_MAX: usize = 64;
/// With more entries waiting than a swarm's ordinary delay brings, people are told that the weights are behind.
const BEHIND_ENTRIES: u64 = 10_000;

/// How far the start is.
enum Stage {
    /// Records come from the disk.
    Restoring,
    /// A new incarnation is awaited, then it starts.
    Renewing(GoalSettings),
    /// Started.
    Going,
    /// A record was damaged, or it has left.
    Ended,
}

/// See the module's documentation.
pub struct Running {
    run: Run,
    replica: Replica,
    stage: Stage,
    goals: Goals,
    checkpoints: Checkpoints,
    backlog: Backlog,
    /// Adoptions that the trainer has not confirmed: until then own samples of the old machine may be on their way.
    adopting: usize,
    /// The swarm step that own bytes are measured at.
    swarm_step: u64,
    /// Why a new incarnation was asked for.
    renewal: Option<IncarnationCause>,
    /// Writes handed out, and durable; each own segment's write and the replica's token for it.
    writes: u64,
    stored: u64,
    tokens: VecDeque<(u64, u64)>,
    unheard: VecDeque<Vec<u8>>,
    is_reading: bool,
    is_near_edge: bool,
    owed: u64,
    owed_most: u64,
    leaving: Option<Leaving>,
    #[cfg(feature = "planted")]
    pub(crate) planted: Option<crate::planted::Fault>,
}

impl Running {
    /// Nothing is restored yet.
    pub fn new(config: &Config, machine: MachineId, run: Run, verifier: Box<dyn Verifier>) -> Self {
        let settings = config.replica.clone();
        let replica = Replica::new(run.id, run.manifest.clone(), settings, machine, verifier, config.seed);
        Self {
            run,
            replica,
            stage: Stage::Restoring,
            goals: Goals::new(GoalSettings::default(), false, 0),
            checkpoints: Checkpoints::default(),
            backlog: Backlog::default(),
            adopting: 0,
            swarm_step: 0,
            renewal: None,
            writes: 0,
            stored: 0,
            tokens: VecDeque::new(),
            unheard: VecDeque::new(),
            is_reading: true,
            is_near_edge: false,
            owed: 0,
            owed_most: 0,
            leaving: None,
            #[cfg(feature = "planted")]
            planted: None,
        }
    }

    /// The replica.
    pub fn replica(&self) -> &Replica {
        &self.replica
    }

    /// A look at it.
    pub fn facts(&self, links: &Links) -> Facts {
        Facts {
            phase: self.phase(),
            has_joined: self.goals.has_joined(),
            neighbours: links.neighbours().len(),
            owed: self.owed,
            owed_most: self.owed_most,
            unstored: self.writes - self.stored,
            own_is_done: self.goals.own_is_done(&self.replica),
        }
    }

    fn phase(&self) -> Phase {
        match () {
            () if self.leaving.is_some() || matches!(self.stage, Stage::Ended) => Phase::Leaving,
            () if self.is_near_edge => Phase::Paused,
            () if !self.goals.has_joined() || self.owed > BEHIND_ENTRIES => Phase::CatchingUp,
            () if self.goals.own_is_done(&self.replica) => Phase::Serving,
            () => Phase::Training,
        }
    }

    fn is_going(&self) -> bool {
        matches!(self.stage, Stage::Going)
    }
}

/// What [`Running::handle`] works with besides itself.
pub struct Context<'a> {
    /// As it was begun with.
    pub config: &'a Config,
    /// Connections.
    pub links: &'a mut Links,
    /// What is to be done.
    pub outputs: &'a mut VecDeque<Output>,
    /// The time, ms.
    pub now_ms: u64,
}

impl Running {
    /// Takes in one event that is not about connections alone.
    pub fn handle(&mut self, input: Input, cx: &mut Context<'_>) {
        match (&self.stage, input) {
            (Stage::Ended, _) => return,
            (Stage::Restoring, Input::Restored(record)) => return self.restore(record, cx),
            (Stage::Restoring, Input::Checkpoint(contents)) => {
                let fits = self.replica.resume(&contents);
                return cx.outputs.push_back(Output::Resume(fits));
            }
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

    fn restore(&mut self, record: Record, cx: &mut Context<'_>) {
        let (machine, first) = match &record {
            Record::Chunk(chunk) => (chunk.machine, chunk.first),
            Record::Revocation(revocation) => (revocation.machine(), 0),
        };
        let restored = match record {
            Record::Chunk(chunk) => self.replica.restore_chunk(chunk),
            Record::Revocation(revocation) => self.replica.restore_revocation(revocation),
        };
        if let Err(error) = restored {
            self.stage = Stage::Ended;
            cx.outputs.push_back(Output::Damaged { machine, first, reason: error.to_string() });
        }
    }

    fn start(&mut self, settings: GoalSettings, cx: &mut Context<'_>) {
        if start::needs_incarnation(&self.replica, cx.config.is_new_incarnation) {
            self.stage = Stage::Renewing(settings);
            return cx.outputs.push_back(Output::NewIncarnation);
        }
        self.begin(settings, cx);
    }

    fn start_as(&mut self, incarnation: u64, cx: &mut Context<'_>) {
        let Stage::Renewing(settings) = std::mem::replace(&mut self.stage, Stage::Going) else { return };
        self.replica.set_own_machine(MachineId { key: cx.config.key, incarnation });
        self.begin(settings, cx);
    }

    fn begin(&mut self, settings: GoalSettings, cx: &mut Context<'_>) {
        let is_alone = cx.config.is_alone();
        let head = start::own_head(&self.replica, is_alone);
        #[cfg(feature = "planted")]
        let head = match self.planted {
            Some(crate::planted::Fault::TrustsItsDisk) => OwnHead::Sure,
            _ => head,
        };
        let head: OwnHead = head;
        self.stage = Stage::Going;
        self.goals = Goals::new(settings, !is_alone, cx.now_ms);
        self.checkpoints = Checkpoints::new(cx.now_ms);
        #[cfg(feature = "planted")]
        self.plant();
        self.replica.start(head, cx.now_ms);
        self.adopt_own();
        for node in cx.links.neighbours() {
            self.replica.peer_connected(*node, cx.now_ms);
        }
    }

    #[cfg(feature = "planted")]
    fn plant(&mut self) {
        self.goals.counts_one_incarnation = self.planted == Some(crate::planted::Fault::CountsOneIncarnation);
        self.checkpoints.claims_late = self.planted == Some(crate::planted::Fault::ClaimsLate);
    }

    /// The trainer is to work for the own machine from its next sample on.
    fn adopt_own(&mut self) {
        self.goals.adopted();
        self.adopting += 1;
        self.backlog.push(Work::Adopt(self.replica.own_machine(), self.replica.own_next_sample()));
        self.advance_swarm_step();
    }

    /// Own bytes use the learning rate of the swarm's present step. Steps never fall within a ledger, so neither does this one,
    /// whatever is revoked.
    fn advance_swarm_step(&mut self) {
        let step = self.replica.swarm_step().max(self.replica.own_swarm_step());
        if step > self.swarm_step {
            self.swarm_step = step;
            self.backlog.push(Work::SwarmStep(step));
        }
    }

    fn take_in(&mut self, input: Input, cx: &mut Context<'_>) {
        let now_ms = cx.now_ms;
        match input {
            Input::Tick => self.tick(cx),
            Input::Leave => self.wish_to_leave(cx),
            Input::Connected(node) => self.replica.peer_connected(node, now_ms),
            Input::Disconnected(node) => self.replica.peer_gone(node),
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
            input => self.take_in_from_trainer(input, cx),
        }
    }

    fn take_in_from_trainer(&mut self, input: Input, cx: &mut Context<'_>) {
        let now_ms = cx.now_ms;
        match input {
            Input::Took => self.backlog.took(),
            Input::Stepped(own) => self.replica.own_bytes(&own, now_ms),
            Input::Replayed { entries } => {
                self.owed = self.owed.saturating_sub(entries);
                if self.owed == 0 {
                    self.owed_most = 0;
                }
            }
            Input::Adopted => self.adopting = self.adopting.saturating_sub(1),
            Input::NearEdge(is_near) => self.is_near_edge = is_near,
            Input::Evaluated { took_ms } => self.goals.evaluated(took_ms, now_ms),
            Input::Written { machine, next_sample, took_ms } => {
                self.checkpoints.written(machine, next_sample, took_ms);
                self.finish_checkpoint(cx);
            }
            Input::WriteFailed | Input::Committed => self.checkpoints.ended(now_ms),
            Input::Weighed { root, digest } => self.weighed(root, digest, cx),
            _ => {}
        }
    }

    fn incarnate(&mut self, incarnation: u64, cx: &mut Context<'_>) {
        let Some(cause) = self.renewal.take() else { return };
        let machine = MachineId { key: cx.config.key, incarnation };
        cx.outputs.push_back(Output::Notice(Notice::NewIncarnation { cause, machine }));
        self.replica.adopt(machine, cx.now_ms);
        self.adopt_own();
    }

    fn stored(&mut self, write: u64, now_ms: u64) {
        self.stored = self.stored.max(write.min(self.writes));
        while self.tokens.front().is_some_and(|(write, _)| *write <= self.stored) {
            if let Some((_, token)) = self.tokens.pop_front() {
                self.replica.persisted(token, now_ms);
            }
        }
        if let Some(leaving) = &mut self.leaving {
            leaving.stored();
        }
    }

    fn gossip(&mut self, from: NodeId, message: u64, bytes: &[u8], cx: &mut Context<'_>) {
        let is_allowed = cx.links.allow(from, Message::Gossip { bytes: bytes.len() }, cx.now_ms, cx.outputs);
        // From someone who has gone: others have it, too.
        let is_heard = is_allowed && cx.links.neighbours().contains(&from);
        let verdict = match if is_heard { self.replica.gossip(from, bytes, cx.now_ms) } else { Verdict::Ignore } {
            Verdict::Accept if !cx.links.may_forward(bytes.len(), cx.now_ms) => Verdict::Ignore,
            verdict => verdict,
        };
        cx.outputs.push_back(Output::Validate { message, from, verdict });
    }

    fn request(&mut self, from: NodeId, request: u64, bytes: &[u8], cx: &mut Context<'_>) {
        let dropped = Output::Drop { request };
        if !cx.links.allow(from, Message::Question, cx.now_ms, cx.outputs) {
            return cx.outputs.push_back(dropped);
        }
        let Ok(asked) = Request::decode(bytes) else {
            cx.links.fault(from, Severity::Fault, "malformed request", cx.now_ms, cx.outputs);
            return cx.outputs.push_back(dropped);
        };
        let output = match self.response(from, &asked, cx) {
            Ok(response) => response.encode().map_or(dropped, |bytes| Output::Respond { request, bytes }),
            Err(piece) => Output::Serve { request, piece },
        };
        cx.outputs.push_back(output);
    }

    /// The answer, or the piece of the base that is one.
    fn response(&mut self, from: NodeId, asked: &Request, cx: &Context<'_>) -> Result<Response, crate::Piece> {
        let is_other_run = asked.run != self.run.id;
        match &asked.question {
            Question::Manifest => Ok(Response::Manifest(self.run.bytes.to_vec())),
            _ if is_other_run => Ok(Response::WrongRun(self.run.id)),
            Question::BaseDigests { from } => Err(crate::Piece::Digests { from: *from }),
            Question::BaseChunk { index } => Err(crate::Piece::Chunk { index: *index }),
            question if cx.links.neighbours().contains(&from) => {
                Ok(self.replica.answer(from, question, cx.now_ms).unwrap_or(Response::Unavailable))
            }
            _ => Ok(Response::Unavailable),
        }
    }

    /// An answer to a question that was asked for `purpose`.
    pub fn answer(&mut self, node: NodeId, purpose: Purpose, answer: Answer, cx: &mut Context<'_>) {
        if !self.is_going() {
            return;
        }
        match (purpose, answer) {
            (Purpose::Replica, Answer::Message(Response::WrongRun(run))) => {
                self.replica.no_answer(node);
                // Its manifest tells people what differs.
                cx.links.ask(node, Purpose::OtherRun, run, Question::Manifest, cx.outputs);
            }
            (Purpose::Replica, Answer::Message(response)) => self.replica.answered(node, response, cx.now_ms),
            (Purpose::Replica, Answer::Chunk { .. }) => {
                self.replica.answered(node, Response::BaseChunk(Vec::new()), cx.now_ms);
            }
            (Purpose::Replica, Answer::None) => self.replica.no_answer(node),
            (Purpose::Replica, Answer::Malformed(_)) => {
                self.replica.no_answer(node);
                cx.links.fault(node, Severity::Fault, "malformed response", cx.now_ms, cx.outputs);
            }
            (Purpose::OtherRun, answer) => self.refuse_other_run(node, &answer, cx),
            (Purpose::Manifest | Purpose::Digests | Purpose::Chunk(_), _) => {}
        }
        self.carry_out(cx);
        self.move_on(cx);
    }

    fn refuse_other_run(&self, node: NodeId, answer: &Answer, cx: &mut Context<'_>) {
        let Some(differences) = join::differences(&self.run.manifest, answer) else { return };
        cx.outputs.push_back(Output::Notice(Notice::OtherRun { node, differences }));
        cx.links.fault(node, join::USELESS, "another run", cx.now_ms, cx.outputs);
    }

    /// Does what the replica wants done.
    fn carry_out(&mut self, cx: &mut Context<'_>) {
        while let Some(output) = self.replica.poll_output() {
            match output {
                replica::Output::Ask(node, question) => {
                    if !cx.links.ask(node, Purpose::Replica, self.run.id, question, cx.outputs) {
                        self.replica.no_answer(node);
                    }
                }
                replica::Output::Publish(gossip) => publish(&gossip, cx),
                replica::Output::Sign { token, message } => cx.outputs.push_back(Output::Sign { token, message }),
                replica::Output::Persist(records, token) => {
                    self.writes += 1;
                    self.tokens.extend(token.map(|token| (self.writes, token)));
                    cx.outputs.push_back(Output::Persist { records, write: self.writes });
                }
                replica::Output::Replay(entries) => {
                    self.owe(entries.len() as u64);
                    self.backlog.push(Work::Replay(entries));
                }
                replica::Output::ReplayLedger(range) => {
                    self.owe(range.samples());
                    self.backlog.push_range(range);
                }
                replica::Output::NewIncarnation(cause) => {
                    self.renewal = Some(cause);
                    cx.outputs.push_back(Output::NewIncarnation);
                }
                replica::Output::Penalize(node, offence) => {
                    let reason = match &offence {
                        Offence::Malformed(reason) | Offence::Invalid(reason) => reason.as_str(),
                        Offence::Unasked => "an answer to another question",
                    };
                    cx.links.fault(node, Severity::Fault, reason, cx.now_ms, cx.outputs);
                }
                replica::Output::Report(report) => cx.outputs.push_back(Output::Notice(Notice::Report(report))),
            }
        }
    }

    fn owe(&mut self, entries: u64) {
        self.owed += entries;
        self.owed_most = self.owed_most.max(self.owed);
    }

    fn tick(&mut self, cx: &mut Context<'_>) {
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

    fn pursue_goals(&mut self, cx: &mut Context<'_>) {
        let now_ms = cx.now_ms;
        self.goals.observe(&self.replica, now_ms);
        if self.leaving.as_ref().is_some_and(|leaving| !leaving.is_agreeing()) {
            return;
        }
        if let Some(after_ms) = self.goals.joins_now(&self.replica, !cx.links.neighbours().is_empty(), now_ms) {
            cx.outputs.push_back(Output::Notice(Notice::CaughtUp { after_ms }));
        }
        if self.goals.step_is_due(now_ms) {
            self.advance_swarm_step();
        }
        if let Some(until_sample) = self.goals.new_limit(&self.replica) {
            self.backlog.push(Work::Train { until_sample });
        }
        if self.goals.evaluates_now(now_ms) {
            self.backlog.push(Work::Evaluate);
        }
        let pause_ms = self.goals.checkpoint_pause_ms(self.checkpoints.took_ms());
        if self.checkpoints.is_due(&self.replica, pause_ms, now_ms) {
            self.begin_checkpoint();
        }
        if self.backlog.is_empty() && self.goals.weighs_now(&self.replica, now_ms) {
            self.backlog.push(Work::Weigh(self.replica.root()));
        }
    }

    fn begin_checkpoint(&mut self) {
        if self.checkpoints.begin(&self.replica, self.adopting > 0) {
            self.backlog.push(Work::Checkpoint);
        }
    }

    fn finish_checkpoint(&mut self, cx: &mut Context<'_>) {
        match self.checkpoints.next(&self.replica, cx.now_ms) {
            Next::Nothing => {}
            Next::Flush => self.replica.flush(),
            Next::Discard => cx.outputs.push_back(Output::Discard),
            Next::Commit(contents) => cx.outputs.push_back(Output::Commit { contents }),
        }
    }

    fn weighed(&self, root: [u8; 32], digest: [u8; 32], cx: &mut Context<'_>) {
        cx.outputs.push_back(Output::Notice(Notice::AtRest { root, digest }));
        if root != self.replica.root() {
            // Something came meanwhile: what the weights held then is not known here any more.
            return;
        }
        let mut contents = self.replica.contents_of_others();
        contents.extend(self.replica.contents_of_own(&self.replica.own_machine(), self.replica.own_next_sample()));
        cx.outputs.push_back(Output::Notice(Notice::Weights { digest, contents }));
    }

    /// After every event: hands out work, says whether to read, and leaves if it is time.
    fn move_on(&mut self, cx: &mut Context<'_>) {
        if !self.is_going() {
            return;
        }
        self.leave_if_due(cx);
        while let Some(work) = self.backlog.hand_out() {
            cx.outputs.push_back(Output::Work(work));
        }
        let is_congested =
            self.backlog.entries() > BACKLOG_ENTRIES_MAX || self.writes - self.stored > UNSTORED_WRITES_MAX;
        let is_flushing = self.leaving.as_ref().is_some_and(|leaving| !leaving.is_agreeing());
        let reads = !is_congested && !is_flushing;
        if std::mem::replace(&mut self.is_reading, reads) != reads {
            cx.outputs.push_back(Output::Reading(reads));
        }
    }

    fn wish_to_leave(&mut self, cx: &mut Context<'_>) {
        match &mut self.leaving {
            None => {
                cx.outputs.push_back(Output::Notice(Notice::Leaving));
                self.leaving = Some(Leaving::at_once(cx.now_ms));
                self.flush_all();
            }
            Some(leaving) if leaving.is_agreeing() => {
                leaving.hurry();
                self.flush_all();
            }
            Some(_) => {}
        }
    }

    /// No more gradients, and a last checkpoint if it is quick.
    fn flush_all(&mut self) {
        self.backlog.push(Work::Train { until_sample: 0 });
        if self.checkpoints.is_quick(&self.replica) {
            self.begin_checkpoint();
        }
    }

    fn leave_if_due(&mut self, cx: &mut Context<'_>) {
        let now_ms = cx.now_ms;
        if self.leaving.is_none() && self.backlog.is_empty() && self.goals.is_done(&self.replica, now_ms) {
            self.leaving = Some(Leaving::once_all_agree(&self.replica, now_ms));
        }
        let Some(leaving) = &mut self.leaving else { return };
        if leaving.agrees_now(&self.replica, now_ms) {
            self.flush_all();
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
        #[cfg(feature = "planted")]
        if self.planted == Some(crate::planted::Fault::LeavesAtOnce) {
            return Waiting::default();
        }
        Waiting {
            // What may not be signed was never acknowledged.
            own: if self.replica.signs() { self.replica.own_waiting() } else { 0 },
            writes: self.writes - self.stored,
            checkpoint: self.checkpoints.is_under_way(),
        }
    }

    fn end(&mut self, departure: Departure, cx: &mut Context<'_>) {
        self.stage = Stage::Ended;
        cx.outputs.push_back(Output::Left(departure));
    }
}

fn publish(gossip: &Gossip, cx: &mut Context<'_>) {
    // A message that is too large for gossip comes with anti-entropy.
    if let Ok(bytes) = gossip.encode() {
        cx.outputs.push_back(Output::Publish(bytes));
    }
}
