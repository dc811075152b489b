//! The state machine: connections, and the stage that the peer is at.

use protocol::{
    machine::MachineId,
    replica::{Commons, Replica, Verdict},
    signature::Verifier,
};
use std::collections::VecDeque;

use crate::{
    Answer, Config, Facts, Input, Load, NodeId, Notice, Output, Phase, Run,
    clock::Clock,
    dialing::Origin,
    exchange::Purpose,
    join::{Join, Taken},
    leave::Departure,
    links::{Links, Message},
    planted::Planted,
    running::{Context, Running},
};

/// See the crate's documentation.
pub struct Peer {
    config: Config,
    verifier: Option<Box<dyn Verifier>>,
    /// What its replica shares with others of this process.
    commons: Commons,
    clock: Clock,
    links: Links,
    stage: Stage,
    outputs: VecDeque<Output>,
    planted: Planted,
}

enum Stage {
    /// The manifest or the base is not here yet.
    Joining(Box<Join>),
    /// Both are.
    Running(Box<Running>),
    /// It gave up before that.
    Left,
}

impl Peer {
    /// Nothing is known yet but what the disk and the command line say. `verifier` checks others' signatures.
    pub fn new(config: Config, verifier: Box<dyn Verifier>) -> Self {
        Self::sharing(config, verifier, Commons::default())
    }

    /// The same, of whose replica equal ledgers are held once by all peers of this process with these `commons`.
    pub fn sharing(config: Config, verifier: Box<dyn Verifier>, commons: Commons) -> Self {
        Self {
            clock: Clock::default(),
            links: Links::new(&config),
            stage: Stage::Joining(Box::new(Join::new(config.run, &config.bootstrap))),
            verifier: Some(verifier),
            commons,
            config,
            outputs: VecDeque::new(),
            planted: Planted::default(),
        }
    }

    /// Breaks a rule from now on. To be called first of all.
    #[cfg(feature = "planted")]
    pub fn plant(&mut self, fault: crate::planted::Fault) {
        self.planted = fault.into();
        self.links.plant(self.planted);
        if let Stage::Joining(join) = &mut self.stage {
            join.plant(self.planted);
        }
    }

    /// Takes in one event, and returns all that is to be done.
    pub fn step(&mut self, input: Input, now_ms: u64) -> Vec<Output> {
        self.handle(input, now_ms);
        self.outputs.drain(..).collect()
    }

    /// The next thing to do, if any.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// The replica, once the base model is here.
    pub fn replica(&self) -> Option<&Replica> {
        match &self.stage {
            Stage::Running(running) => Some(running.replica()),
            Stage::Joining(_) | Stage::Left => None,
        }
    }

    /// The own machine.
    pub fn own_machine(&self) -> MachineId {
        let stored = MachineId { key: self.config.key, incarnation: self.config.incarnation };
        self.replica().map_or(stored, Replica::own_machine)
    }

    /// Connected nodes, in order of their numbers.
    pub fn neighbours(&self) -> impl Iterator<Item = NodeId> {
        self.links.neighbours().iter().copied()
    }

    /// A look at the peer.
    pub fn facts(&self) -> Facts {
        match &self.stage {
            Stage::Running(running) => running.facts(&self.links),
            stage => Facts {
                phase: if matches!(stage, Stage::Left) { Phase::Leaving } else { Phase::Joining },
                has_joined: false,
                is_current: false,
                neighbours: self.links.neighbours().len(),
                owed: 0,
                owed_most: 0,
                load: Load::default(),
                live: 0,
                unstored: 0,
                own_is_done: false,
                forecast: None,
                stopped_flat: false,
            },
        }
    }

    /// Takes in one event. What is to be done then, [`Peer::poll_output`] says.
    pub fn handle(&mut self, input: Input, now_ms: u64) {
        if self.is_over() {
            return;
        }
        let now_ms = self.clock.advance(now_ms);
        match input {
            Input::Found(node) => self.links.found(node, Origin::Found, now_ms, &mut self.outputs),
            Input::Recalled(node) => self.links.found(node, Origin::Earlier, now_ms, &mut self.outputs),
            Input::DialFailed(node) => self.links.dial_failed(node, now_ms, &mut self.outputs),
            Input::NetworkOpened => {
                for node in self.links.reset(now_ms, &mut self.outputs) {
                    self.advance(Input::Disconnected(node), now_ms);
                }
            }
            Input::Moved => self.links.moved(now_ms, &mut self.outputs),
            Input::Way { node, is_relayed } => self.links.set_relayed(node, is_relayed),
            Input::Answer { question, answer } => {
                if let Some((node, purpose)) = self.links.questions.close(question) {
                    self.answered(question, node, purpose, answer, now_ms);
                }
            }
            input => {
                if self.passes(&input, now_ms) {
                    self.advance(input, now_ms);
                }
            }
        }
    }

    /// Whether everything is over: it has left, or its disk is damaged.
    fn is_over(&self) -> bool {
        match &self.stage {
            Stage::Running(running) => running.has_ended(),
            Stage::Joining(_) => false,
            Stage::Left => true,
        }
    }

    /// What an event means for the connections. False if it is cut there, and answered: a flood, or from who is banned.
    fn passes(&mut self, input: &Input, now_ms: u64) -> bool {
        let Self { links, outputs, .. } = self;
        match input {
            Input::Connected(node) => return links.connected(*node, outputs),
            Input::Disconnected(node) => links.disconnected(*node, now_ms, outputs),
            Input::Tick => links.tick(now_ms, outputs),
            _ => {}
        }
        let (from, what, refusal) = match input {
            Input::Gossip { from, message, bytes } => {
                let ignored = Output::Validate { message: *message, from: *from, verdict: Verdict::Ignore };
                (*from, Message::Gossip { bytes: bytes.len() }, ignored)
            }
            Input::Request { from, request, .. } => (*from, Message::Question, Output::Drop { request: *request }),
            _ => return true,
        };
        let passes = links.allow(from, what, now_ms, outputs);
        if !passes {
            outputs.push_back(refusal);
        }
        passes
    }

    /// Gives the event to the present stage.
    fn advance(&mut self, input: Input, now_ms: u64) {
        let Self { config, links, outputs, .. } = self;
        match &mut self.stage {
            Stage::Running(running) => running.handle(input, &mut Context { config, links, outputs, now_ms }),
            Stage::Joining(_) => {
                self.join_on(input, now_ms);
                self.ask_all(now_ms);
            }
            Stage::Left => {}
        }
    }

    fn answered(&mut self, question: u64, node: NodeId, purpose: Purpose, answer: Answer, now_ms: u64) {
        let Self { config, links, outputs, .. } = self;
        match &mut self.stage {
            Stage::Running(running) => {
                running.answer(node, purpose, answer, &mut Context { config, links, outputs, now_ms });
            }
            Stage::Joining(join) => {
                let taken = join.take(node, purpose, answer, now_ms);
                self.taken(question, node, taken, now_ms);
                self.ask_all(now_ms);
            }
            Stage::Left => {}
        }
    }

    /// One event on the way into the run.
    fn join_on(&mut self, input: Input, now_ms: u64) {
        let Stage::Joining(join) = &mut self.stage else { return };
        match input {
            Input::Run(run) => join.set_run(run),
            Input::FetchBase { digests, missing } => join.fetch(digests, missing, now_ms),
            Input::DigestsStored { missing } => join.digests_stored(missing),
            Input::ChunkStored { index } => {
                if let Some((here, bytes)) = join.chunk_stored(index) {
                    self.outputs.push_back(Output::Notice(Notice::Fetched { bytes, here }));
                }
            }
            Input::BaseReady => {
                if let Some(run) = join.run().cloned() {
                    self.run(run);
                }
            }
            Input::Disconnected(node) => join.gone(node),
            Input::Tick if join.nobody_helps(self.links.neighbours(), now_ms) => {
                let neighbours = self.links.neighbours().len();
                let notice = match join.run() {
                    Some(_) => Notice::NobodyHasBase { neighbours },
                    None => Notice::NobodyHasRun { neighbours },
                };
                self.outputs.push_back(Output::Notice(notice));
            }
            // Nothing to judge it by yet; anti-entropy brings it later.
            Input::Gossip { from, message, .. } => {
                self.outputs.push_back(Output::Validate { message, from, verdict: Verdict::Ignore });
            }
            Input::Request { request, .. } => self.outputs.push_back(Output::Drop { request }),
            Input::Leave => self.give_up(Departure::Clean),
            _ => {}
        }
    }

    /// Asks every neighbour for what it may be asked, and says when nothing is missing.
    fn ask_all(&mut self, now_ms: u64) {
        let Stage::Joining(join) = &mut self.stage else { return };
        if join.is_complete() {
            join.finish();
            return self.outputs.push_back(Output::FinishBase);
        }
        let mut neighbours: Vec<NodeId> = self.links.neighbours().iter().copied().collect();
        // Relays carry no files as long as there is another way.
        let can_help = |node: &NodeId| !self.links.is_relayed(*node) && !join.rests(*node, now_ms);
        if join.fetches() && neighbours.iter().any(can_help) {
            neighbours.retain(|node| !self.links.is_relayed(*node));
        }
        for node in neighbours {
            loop {
                let open: Vec<_> = self.links.questions.open().collect();
                let Some((purpose, run, question)) = join.next_question(node, &open, now_ms) else { break };
                if !self.links.ask(node, purpose, run, question, &mut self.outputs) {
                    break;
                }
            }
        }
    }

    fn taken(&mut self, question: u64, node: NodeId, taken: Taken, now_ms: u64) {
        let outputs = &mut self.outputs;
        match taken {
            Taken::Well | Taken::Rests => {}
            Taken::NoManifest(reason) => {
                outputs.push_back(Output::Notice(Notice::NoManifest { node, reason }));
                self.links.fault(node, "no usable manifest", now_ms, outputs);
            }
            Taken::Wrong(reason) => {
                outputs.push_back(Output::Notice(Notice::GivenUp { node, reason }));
                // It is of no use here.
                self.links.ban(node, "a wrong piece of the base model", now_ms, outputs);
            }
            Taken::OtherRun { run, is_last } => {
                outputs.push_back(Output::Notice(Notice::NotTheWishedRun { node, run, is_last }));
                if is_last {
                    return self.give_up(Departure::NoRun);
                }
                self.links.part(node, now_ms, outputs);
            }
            Taken::Manifest(run) => {
                if let Stage::Joining(join) = &mut self.stage {
                    join.set_run(run.clone());
                }
                outputs.push_back(Output::StoreRun(run));
            }
            Taken::Digests(digests) => outputs.push_back(Output::StoreDigests(digests)),
            Taken::Chunk(index) => outputs.push_back(Output::StoreChunk { question, index }),
        }
    }

    fn run(&mut self, run: Run) {
        let Some(verifier) = self.verifier.take() else { return };
        let (machine, commons) = (self.own_machine(), self.commons.clone());
        let Config { replica: settings, seed, .. } = self.config.clone();
        let replica = Replica::new(run.id, run.manifest.clone(), settings, machine, verifier, seed).sharing(commons);
        self.stage = Stage::Running(Box::new(Running::new(run, replica, self.planted)));
    }

    fn give_up(&mut self, departure: Departure) {
        self.stage = Stage::Left;
        self.outputs.push_back(Output::Left(departure));
    }
}
