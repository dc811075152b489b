//! The laboratory's shell: events in the order of time, links, and what carries out the outputs.

use peer::{Answer, Config, Input, Look, NodeId, Output, Peer, Work, exchange, leave::Departure, record::Recorder};
use protocol::{
    machine::MachineId,
    message::{Question, Request, Response},
    replica::{Record, Verdict},
    signature::{Ed25519Verifier, Signer as _},
};
use rand_xoshiro::{
    Xoshiro256PlusPlus,
    rand_core::{Rng, SeedableRng},
};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::{
    base, base_digests,
    disk::Write,
    node::{Node, SharedFile},
    run, secret, signer,
    trainer::{Task, Trainer, Weights, digest_of},
};

/// From where an answer comes. On each channel, order is kept.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Channel {
    Disk,
    Key,
    Incarnation,
    Trainer,
    /// Manifest and base on their way to the disk.
    Base,
    /// Everything from the network.
    Net,
}

pub const CHANNELS: [Channel; 6] =
    [Channel::Disk, Channel::Key, Channel::Incarnation, Channel::Trainer, Channel::Base, Channel::Net];

/// What travels on a link.
#[derive(Clone, Debug)]
pub enum Frame {
    Question { question: u64, bytes: Vec<u8> },
    Answer { question: u64, bytes: Option<Vec<u8>> },
    Gossip(Vec<u8>),
}

/// What arrives at a node.
#[derive(Clone, Debug)]
pub enum Item {
    Tell(Input),
    /// The disk ends its oldest write.
    DiskTurn,
    Connected(usize),
    Disconnected(usize),
    DialFailed(usize),
    Frame {
        from: usize,
        link: u64,
        frame: Frame,
    },
}

enum Event {
    Tick {
        node: usize,
        life: u64,
    },
    Arrive {
        node: usize,
        life: u64,
        channel: Channel,
        item: Item,
    },
    TrainerTurn {
        node: usize,
        life: u64,
    },
    Timeout {
        node: usize,
        life: u64,
        question: u64,
    },
    Call {
        from: usize,
        life: u64,
        to: usize,
    },
    Boot {
        node: usize,
    },
    /// All connections of a node that has left are closed.
    Close {
        node: usize,
        life: u64,
    },
}

/// How long things take, ms: from, to.
#[derive(Clone, Copy)]
pub struct Tempo {
    pub answers: (u64, u64),
    pub disk: (u64, u64),
    pub net: (u64, u64),
    pub training: (u64, u64),
}

impl Default for Tempo {
    fn default() -> Self {
        Self { answers: (0, 0), disk: (4, 4), net: (10, 10), training: (20, 20) }
    }
}

pub struct Lab {
    pub nodes: Vec<Node>,
    pub now_ms: u64,
    pub tempo: Tempo,
    pub loses_gossip: bool,
    pub run: peer::Run,
    pub random: Xoshiro256PlusPlus,
    events: BTreeMap<(u64, u64), Event>,
    sequence: u64,
    /// Each link, and which it is of those that there were between the two.
    links: BTreeMap<(usize, usize), u64>,
    last_link: u64,
    base: Vec<Vec<u8>>,
    records: bool,
}

impl Lab {
    /// Nobody is there.
    pub fn new(seed: u64) -> Self {
        Self {
            nodes: Vec::new(),
            now_ms: 0,
            tempo: Tempo::default(),
            loses_gossip: false,
            run: run(),
            random: Xoshiro256PlusPlus::seed_from_u64(seed),
            events: BTreeMap::new(),
            sequence: 0,
            links: BTreeMap::new(),
            last_link: 0,
            base: base(),
            records: false,
        }
    }

    /// `count` nodes that are up, each with the base and a goal of so many samples, all connected; the first began the
    /// run.
    pub fn swarm(seed: u64, count: usize, samples: u64) -> Self {
        let mut lab = Self::new(seed);
        for number in 0..count {
            lab.add_with_base(samples);
            lab.nodes[number].disk.knows_others = number > 0;
            lab.boot(number);
        }
        for a in 0..count {
            for b in 0..a {
                lab.connect(a, b);
            }
        }
        lab
    }

    /// All peers that come up from now on are recorded.
    pub fn record(&mut self) {
        self.records = true;
    }

    /// A node that is down, with an empty disk.
    pub fn add(&mut self) -> usize {
        let number = self.nodes.len();
        let mut node = Node::new(number);
        node.goals = super::goal(0);
        self.nodes.push(node);
        number
    }

    /// A node that is down, and has run and base.
    pub fn add_with_base(&mut self, samples: u64) -> usize {
        let number = self.add();
        let node = &mut self.nodes[number];
        node.goals = super::goal(samples);
        node.disk.run = Some(self.run.clone());
        node.disk.has_base = true;
        number
    }

    /// A node without a peer, which does what the test wants.
    pub fn add_puppet(&mut self) -> usize {
        let number = self.add();
        self.nodes[number].is_puppet = true;
        number
    }

    pub fn draw(&mut self, (from, to): (u64, u64)) -> u64 {
        from + self.random.next_u64() % (to - from + 1)
    }

    fn at(&mut self, at_ms: u64, event: Event) {
        self.sequence += 1;
        self.events.insert((at_ms, self.sequence), event);
    }

    fn clock(&self, node: usize) -> u64 {
        self.now_ms.saturating_add_signed(self.nodes[node].clock_offset_ms)
    }

    /// Comes up with what its disk holds.
    pub fn boot(&mut self, number: usize) {
        let life = self.nodes[number].life;
        let incarnation = self.random.next_u64() | 1;
        let seed = self.random.next_u64();
        let records = self.records;
        let node = &mut self.nodes[number];
        let is_new_incarnation = node.disk.incarnation == 0;
        if is_new_incarnation {
            node.disk.incarnation = incarnation;
        }
        let config = Config {
            key: signer(number).key(),
            incarnation: node.disk.incarnation,
            is_new_incarnation,
            seed,
            run: node.wished,
            bootstrap: node.bootstrap.iter().map(|node| NodeId(*node as u64)).collect(),
            knows_others: node.disk.knows_others,
            connections_target: 10,
            replica: node.replica_settings.clone(),
        };
        if records {
            let file = SharedFile::default();
            let recorder = Recorder::begin(file.clone(), &config, u64::MAX).unwrap();
            node.recording = Some((recorder, file));
        }
        node.peer = Some(Peer::new(config, Box::new(Ed25519Verifier)));
        (node.left, node.damaged, node.reads, node.last_write) = (None, None, true, 0);
        node.trainer = Trainer { dice: seed | 1, ..Trainer::new(Weights::new()) };
        self.at(self.now_ms + 1 + number as u64 % 50, Event::Tick { node: number, life });
        self.at(self.now_ms + 1, Event::TrainerTurn { node: number, life });
        if let Some(run) = self.nodes[number].disk.run.clone() {
            self.tell(number, Input::Run(run));
            match self.nodes[number].disk.has_base {
                true => self.restore(number),
                false => self.fetch_base(number),
            }
        }
    }

    /// Tells the peer what its disk holds, and starts it.
    pub fn restore(&mut self, number: usize) {
        self.tell(number, Input::BaseReady);
        for record in self.nodes[number].disk.records() {
            self.tell(number, Input::Restored(record));
        }
        if let Some((_, contents)) = self.nodes[number].disk.checkpoint.clone() {
            self.tell(number, Input::Checkpoint(contents));
        }
        let (goals, curve) = (self.nodes[number].goals.clone(), self.nodes[number].disk.curve.clone());
        self.tell(number, Input::Curve(curve));
        self.tell(number, Input::Start(goals));
    }

    fn fetch_base(&mut self, number: usize) {
        let digests = self.nodes[number].disk.digests.clone();
        let missing = self.missing(number);
        self.tell(number, Input::FetchBase { digests, missing });
    }

    fn missing(&self, number: usize) -> Vec<u64> {
        (0..self.base.len() as u64).filter(|index| !self.nodes[number].disk.base_chunks.contains(index)).collect()
    }

    /// Goes down at once: what is not durable is lost.
    pub fn crash(&mut self, number: usize) {
        let others = self.neighbours(number);
        others.iter().for_each(|other| self.cut(number, *other));
        let node = &mut self.nodes[number];
        node.life += 1;
        node.peer = None;
        node.disk.waiting.clear();
        node.last_on.clear();
        node.held.values_mut().for_each(VecDeque::clear);
        node.unread.clear();
        node.open.clear();
        node.requests.clear();
        node.messages.clear();
        node.banned.clear();
    }

    pub fn neighbours(&self, number: usize) -> BTreeSet<usize> {
        self.links.keys().filter(|(a, _)| *a == number).map(|(_, b)| *b).collect()
    }

    /// A connection stands from now on. False if there was one, or someone is down or refuses it.
    pub fn connect(&mut self, a: usize, b: usize) -> bool {
        let is_there = |node: &Node| node.is_puppet || node.is_up();
        let is_refused = self.nodes[a].banned.contains(&b) || self.nodes[b].banned.contains(&a);
        if a == b || is_refused || !is_there(&self.nodes[a]) || !is_there(&self.nodes[b]) {
            return false;
        }
        if self.links.contains_key(&(a, b)) {
            return false;
        }
        self.last_link += 1;
        self.links.insert((a, b), self.last_link);
        self.links.insert((b, a), self.last_link);
        self.arrive(a, Channel::Net, Item::Connected(b), 0);
        self.arrive(b, Channel::Net, Item::Connected(a), 0);
        true
    }

    /// A connection breaks.
    pub fn cut(&mut self, a: usize, b: usize) {
        if self.links.remove(&(a, b)).is_some() {
            self.links.remove(&(b, a));
            self.arrive(a, Channel::Net, Item::Disconnected(b), 0);
            self.arrive(b, Channel::Net, Item::Disconnected(a), 0);
        }
    }

    /// Lets an answer, or something from the network, come after so long.
    fn arrive(&mut self, node: usize, channel: Channel, item: Item, after_ms: u64) {
        let life = self.nodes[node].life;
        if let Some(held) = self.nodes[node].held.get_mut(&channel) {
            held.push_back(item);
            return;
        }
        let last = self.nodes[node].last_on.entry(channel).or_insert(0);
        *last = (*last).max(self.now_ms + after_ms);
        let at_ms = *last;
        self.at(at_ms, Event::Arrive { node, life, channel, item });
    }

    fn answer(&mut self, node: usize, channel: Channel, input: Input) {
        let after_ms = self.draw(self.tempo.answers);
        self.arrive(node, channel, Item::Tell(input), after_ms);
    }

    /// From now on, nothing comes from there.
    pub fn hold(&mut self, node: usize, channel: Channel) {
        self.nodes[node].held.entry(channel).or_default();
    }

    /// What was held back comes now, in order.
    pub fn release(&mut self, node: usize, channel: Channel) {
        let held = self.nodes[node].held.remove(&channel).unwrap_or_default();
        held.into_iter().for_each(|item| self.arrive(node, channel, item, 0));
    }

    fn send(&mut self, from: usize, to: usize, frame: Frame) {
        if let Some(link) = self.links.get(&(from, to)).copied() {
            let after_ms = self.draw(self.tempo.net);
            self.arrive(to, Channel::Net, Item::Frame { from, link, frame }, after_ms);
        }
    }

    /// A puppet sends gossip.
    pub fn puppet_gossip(&mut self, puppet: usize, to: usize, bytes: Vec<u8>) {
        self.send(puppet, to, Frame::Gossip(bytes));
    }

    /// A puppet asks, about this laboratory's run.
    pub fn puppet_asks(&mut self, puppet: usize, to: usize, question: Question) {
        let bytes = Request { run: self.run.id, question }.encode().unwrap();
        self.puppet_sends_question(puppet, to, bytes);
    }

    /// A puppet sends something as a question.
    pub fn puppet_sends_question(&mut self, puppet: usize, to: usize, bytes: Vec<u8>) {
        self.send(puppet, to, Frame::Question { question: 0, bytes });
    }

    /// Questions that a puppet was asked, and has not answered.
    pub fn puppet_questions(&mut self, puppet: usize) -> Vec<(usize, u64, Request)> {
        let heard = std::mem::take(&mut self.nodes[puppet].heard);
        let question = |(from, frame)| match frame {
            Frame::Question { question, bytes } => Some((from, question, Request::decode(&bytes).unwrap())),
            Frame::Answer { .. } | Frame::Gossip(_) => None,
        };
        heard.into_iter().filter_map(question).collect()
    }

    /// A puppet answers: a message, or anything else.
    pub fn puppet_answers(&mut self, puppet: usize, to: usize, question: u64, bytes: Option<Vec<u8>>) {
        self.send(puppet, to, Frame::Answer { question, bytes });
    }

    /// Lets time pass, while a puppet answers what it is asked as it is told to. `None`: it does not answer.
    pub fn pass_answering(&mut self, puppet: usize, ms: u64, mut answer: impl FnMut(&Question) -> Option<Response>) {
        let end = self.now_ms + ms;
        while self.now_ms < end {
            self.pass(10);
            for (from, question, request) in self.puppet_questions(puppet) {
                if let Some(response) = answer(&request.question) {
                    self.puppet_answers(puppet, from, question, Some(response.encode().unwrap()));
                }
            }
        }
    }

    /// Time passes.
    pub fn pass(&mut self, ms: u64) {
        let end = self.now_ms + ms;
        while let Some(((at_ms, sequence), _)) = self.events.first_key_value().map(|(key, event)| (*key, event))
            && at_ms <= end
        {
            let Some(event) = self.events.remove(&(at_ms, sequence)) else { break };
            self.now_ms = self.now_ms.max(at_ms);
            self.happen(event);
        }
        self.now_ms = end;
    }

    /// Time passes until something holds; panics after so long.
    pub fn pass_until(&mut self, ms_max: u64, what: &str, mut holds: impl FnMut(&Self) -> bool) {
        let end = self.now_ms + ms_max;
        while !holds(self) {
            assert!(self.now_ms < end, "after {ms_max} ms still not: {what}");
            self.pass(10);
        }
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Tick { node, life } if self.is_alive(node, life) => {
                self.tell(node, Input::Tick);
                self.at(self.now_ms + peer::TICK_MS, Event::Tick { node, life });
            }
            Event::Arrive { node, life, channel, item } if self.is_alive(node, life) => {
                let node_is_deaf = channel == Channel::Net && !self.nodes[node].reads;
                match node_is_deaf {
                    true => self.nodes[node].unread.push_back(item),
                    false => self.take(node, item),
                }
            }
            Event::TrainerTurn { node, life } if self.is_alive(node, life) => {
                self.train(node);
                let after_ms = match self.nodes[node].trainer.tasks.is_empty() {
                    true => self.draw(self.tempo.training),
                    false => 1,
                };
                self.at(self.now_ms + after_ms.max(1), Event::TrainerTurn { node, life });
            }
            Event::Timeout { node, life, question } if self.is_alive(node, life) => self.no_answer(node, question),
            Event::Call { from, life, to } if self.is_alive(from, life) => {
                let stands = self.links.contains_key(&(from, to)) || self.connect(from, to);
                if !stands {
                    self.arrive(from, Channel::Net, Item::DialFailed(to), 0);
                }
            }
            Event::Close { node, life } if self.nodes[node].life == life => {
                self.neighbours(node).into_iter().for_each(|other| self.cut(node, other));
            }
            Event::Boot { node } if self.nodes[node].peer.is_none() => self.boot(node),
            _ => {}
        }
    }

    /// Lets a node that is down come up later.
    pub fn boot_after(&mut self, node: usize, ms: u64) {
        self.at(self.now_ms + ms, Event::Boot { node });
    }

    fn is_alive(&self, node: usize, life: u64) -> bool {
        self.nodes[node].life == life && (self.nodes[node].is_puppet || self.nodes[node].is_up())
    }

    fn no_answer(&mut self, node: usize, question: u64) {
        if self.nodes[node].open.remove(&question).is_some() {
            self.tell(node, Input::Answer { question, answer: Answer::None });
        }
    }

    fn take(&mut self, number: usize, item: Item) {
        let is_puppet = self.nodes[number].is_puppet;
        match item {
            Item::Frame { from, link, frame } if is_puppet => {
                if self.links.get(&(from, number)) == Some(&link) {
                    self.nodes[number].heard.push((from, frame));
                }
            }
            _ if is_puppet => {}
            Item::Tell(input) => self.tell(number, input),
            Item::DiskTurn => self.disk_turn(number),
            Item::Connected(other) => self.tell(number, Input::Connected(NodeId(other as u64))),
            Item::Disconnected(other) => {
                self.tell(number, Input::Disconnected(NodeId(other as u64)));
                let lost: Vec<u64> =
                    self.nodes[number].open.iter().filter(|(_, to)| **to == other).map(|(q, _)| *q).collect();
                lost.into_iter().for_each(|question| self.no_answer(number, question));
            }
            Item::DialFailed(other) => self.tell(number, Input::DialFailed(NodeId(other as u64))),
            Item::Frame { from, link, frame } => {
                if self.links.get(&(from, number)) == Some(&link) {
                    self.take_frame(number, from, link, frame);
                }
            }
        }
    }

    fn take_frame(&mut self, number: usize, from: usize, link: u64, frame: Frame) {
        let node = &mut self.nodes[number];
        let source = NodeId(from as u64);
        match frame {
            Frame::Question { question, bytes } => {
                node.last_number += 1;
                let request = node.last_number;
                node.requests.insert(request, (from, question, link));
                self.tell(number, Input::Request { from: source, request, bytes });
            }
            Frame::Answer { question, bytes } => {
                if node.open.remove(&question).is_some() {
                    let (answer, chunk) = exchange::read_answer(bytes.as_deref());
                    node.chunk = chunk.map(|chunk| (question, chunk));
                    self.tell(number, Input::Answer { question, answer });
                    self.nodes[number].chunk = None;
                }
            }
            Frame::Gossip(bytes) => {
                if node.seen.insert(*blake3::hash(&bytes).as_bytes()) {
                    node.last_number += 1;
                    let message = node.last_number;
                    node.messages.insert(message, bytes.clone());
                    self.tell(number, Input::Gossip { from: source, message, bytes });
                }
            }
        }
    }

    /// Tells the peer, and carries out what it wants done.
    pub fn tell(&mut self, number: usize, input: Input) {
        if !self.nodes[number].is_up() {
            return;
        }
        let now_ms = self.clock(number);
        let node = &mut self.nodes[number];
        let Some(peer) = &mut node.peer else { return };
        let outputs = peer.step(input.clone(), now_ms);
        if let Some((recorder, _)) = &mut node.recording {
            assert!(recorder.step(now_ms, &input, &outputs).unwrap());
        }
        let neighbours: BTreeSet<usize> = peer.neighbours().map(|node| node.0 as usize).collect();
        for output in outputs {
            let node = &mut self.nodes[number];
            node.check(&output, &neighbours);
            node.outputs.push(output.clone());
            self.carry_out(number, output);
        }
    }

    fn carry_out(&mut self, number: usize, output: Output) {
        let node = &mut self.nodes[number];
        match output {
            Output::Dial(to) => {
                let life = node.life;
                let after_ms = self.draw(self.tempo.net);
                self.at(self.now_ms + after_ms, Event::Call { from: number, life, to: to.0 as usize });
            }
            Output::Ban(other) => {
                node.banned.insert(other.0 as usize);
                self.cut(number, other.0 as usize);
            }
            Output::Pardon(other) => assert!(node.banned.remove(&(other.0 as usize)), "who is pardoned was banned"),
            Output::HangUp(other) => self.cut(number, other.0 as usize),
            Output::Forget(_) => {}
            Output::Ask { node: to, question, bytes } => {
                node.open.insert(question, to.0 as usize);
                let life = node.life;
                self.at(self.now_ms + exchange::ANSWER_MS_MAX, Event::Timeout { node: number, life, question });
                self.send(number, to.0 as usize, Frame::Question { question, bytes });
            }
            Output::Respond { request, bytes } => self.respond(number, request, Some(bytes)),
            Output::Drop { request } => self.respond(number, request, None),
            Output::Serve { request, piece } => {
                let base = &self.base;
                let chunk = |index| usize::try_from(index).ok().and_then(|index: usize| base.get(index)).cloned();
                let response = exchange::serve(piece, &base_digests(), chunk);
                self.respond(number, request, Some(response.encode().unwrap()));
            }
            Output::Publish(bytes) => self.publish(number, bytes),
            Output::Validate { message, from, verdict } => {
                let bytes = node.messages.remove(&message).expect("every message is judged once");
                if verdict == Verdict::Accept && !self.loses_gossip {
                    for other in self.neighbours(number).into_iter().filter(|other| *other != from.0 as usize) {
                        self.send(number, other, Frame::Gossip(bytes.clone()));
                    }
                }
            }
            Output::Reading(reads) => self.set_reading(number, reads),
            Output::Notice(notice) => node.notices.push(notice),
            Output::Left(departure) => self.leave(number, departure),
            Output::Damaged { reason, .. } => node.damaged = Some(reason),
            Output::Work(work) => self.work(number, work),
            output => self.keep(number, output),
        }
    }

    /// What concerns the disk and the key.
    fn keep(&mut self, number: usize, output: Output) {
        let incarnation = self.random.next_u64() | 1;
        let node = &mut self.nodes[number];
        match output {
            Output::StoreRun(run) => {
                node.disk.run = Some(run);
                let missing = self.missing(number);
                self.answer(number, Channel::Base, Input::FetchBase { digests: Vec::new(), missing });
            }
            Output::StoreDigests(digests) => {
                assert_eq!(digests, base_digests(), "only the run's own digests are stored");
                node.disk.digests = digests;
                let missing = self.missing(number);
                self.answer(number, Channel::Base, Input::DigestsStored { missing });
            }
            Output::StoreChunk { question, index } => {
                let (brought, chunk) = node.chunk.take().expect("a chunk came");
                assert_eq!(brought, question);
                assert_eq!(Some(&chunk), self.base.get(index as usize), "only right chunks are stored");
                node.disk.base_chunks.insert(index);
                self.answer(number, Channel::Base, Input::ChunkStored { index });
            }
            Output::FinishBase => {
                assert_eq!(self.missing(number), [], "the base is complete");
                self.nodes[number].disk.has_base = true;
                self.restore(number);
            }
            Output::Resume(fits) => {
                let weights = node.disk.checkpoint.as_ref().map(|(weights, _)| weights.clone()).filter(|_| fits);
                node.trainer.weights = weights.unwrap_or_default();
            }
            Output::NewIncarnation => {
                node.disk.incarnation = incarnation;
                self.answer(number, Channel::Incarnation, Input::Incarnation(incarnation));
            }
            Output::Persist { records, write } => {
                node.disk.waiting.push_back(Write::Records(write, records));
                let after_ms = self.draw(self.tempo.disk);
                self.arrive(number, Channel::Disk, Item::DiskTurn, after_ms);
            }
            Output::Commit { contents } => {
                let weights = node.trainer.written.take().expect("a file was written");
                node.disk.waiting.push_back(Write::Checkpoint(weights, contents));
                let after_ms = self.draw(self.tempo.disk);
                self.arrive(number, Channel::Disk, Item::DiskTurn, after_ms);
            }
            Output::Discard => assert!(node.trainer.written.take().is_some(), "a file was written"),
            Output::Sign { token, message } => {
                let signature = signer(number).sign(&message);
                self.answer(number, Channel::Key, Input::Signed { token, signature });
            }
            other => panic!("nobody carries out {other:?}"),
        }
    }

    fn disk_turn(&mut self, number: usize) {
        let node = &mut self.nodes[number];
        if node.disk.is_full {
            self.arrive(number, Channel::Disk, Item::DiskTurn, 500);
            return self.tell(number, Input::StoreFailed);
        }
        match node.disk.waiting.pop_front() {
            Some(Write::Records(write, records)) => {
                node.note_durable(&records);
                records.into_iter().for_each(|record: Record| node.disk.store(record));
                self.tell(number, Input::Stored { write });
            }
            Some(Write::Checkpoint(weights, contents)) => {
                node.disk.checkpoint = Some((weights, contents));
                self.tell(number, Input::Committed);
            }
            None => {}
        }
    }

    fn respond(&mut self, number: usize, request: u64, bytes: Option<Vec<u8>>) {
        let (from, question, link) = self.nodes[number].requests.remove(&request).expect("answered once");
        if self.links.get(&(number, from)) == Some(&link) {
            self.send(number, from, Frame::Answer { question, bytes });
        }
    }

    fn publish(&mut self, number: usize, bytes: Vec<u8>) {
        let neighbours = self.neighbours(number);
        self.nodes[number].seen.insert(*blake3::hash(&bytes).as_bytes());
        if neighbours.is_empty() {
            return self.answer(number, Channel::Net, Input::Unheard(bytes));
        }
        if !self.loses_gossip {
            neighbours.into_iter().for_each(|other| self.send(number, other, Frame::Gossip(bytes.clone())));
        }
    }

    fn set_reading(&mut self, number: usize, reads: bool) {
        let node = &mut self.nodes[number];
        assert_ne!(node.reads, reads, "nothing is said twice");
        node.reads = reads;
        if reads {
            let unread = std::mem::take(&mut node.unread);
            unread.into_iter().for_each(|item| self.arrive(number, Channel::Net, item, 0));
        }
    }

    fn leave(&mut self, number: usize, departure: Departure) {
        let node = &mut self.nodes[number];
        node.left = Some(departure);
        node.life += 1;
        let life = node.life;
        // What was published last still goes out.
        self.at(self.now_ms + 300, Event::Close { node: number, life });
    }

    /// Samples of ledgers are spelled out when they are handed out.
    fn work(&mut self, number: usize, work: Work) {
        let node = &mut self.nodes[number];
        let task = match work {
            Work::Adopt(machine, next_sample) => Task::Adopt(machine, next_sample),
            Work::SwarmStep(step) => Task::SwarmStep(step),
            Work::Train { until_sample } => Task::Train { until_sample },
            Work::Replay(entries) => Task::Replay(entries),
            Work::ReplayLedgers(ranges) => {
                let replica = node.peer().replica().unwrap();
                Task::Replay(ranges.iter().flat_map(|range| replica.contributions(range)).collect())
            }
            Work::Evaluate => Task::Evaluate,
            Work::Checkpoint => Task::Checkpoint,
            Work::Weigh(root) => Task::Weigh(root),
        };
        node.trainer.tasks.push_back(task);
    }

    /// The trainer does one thing.
    fn train(&mut self, number: usize) {
        let run = self.run.id;
        let node = &mut self.nodes[number];
        let trainer = &mut node.trainer;
        let Some(task) = trainer.tasks.pop_front() else {
            if trainer.wants_to_measure() {
                let own = trainer.measure(&run);
                self.answer(number, Channel::Trainer, Input::Stepped(own));
            }
            return;
        };
        let told = match task {
            Task::Adopt(machine, next_sample) => {
                (trainer.machine, trainer.next_sample) = (Some(machine), next_sample);
                Some(Input::Adopted)
            }
            Task::SwarmStep(step) => {
                trainer.swarm_step = step;
                None
            }
            Task::Train { until_sample } => {
                trainer.until_sample = until_sample;
                None
            }
            Task::Replay(entries) => {
                trainer.apply(&entries);
                Some(Input::Replayed { entries: entries.len() as u64, took_us: 10 })
            }
            Task::Evaluate => {
                let machine = trainer.machine.expect("an evaluation comes after an adoption");
                let (loss, digest) = ((node.loss)(trainer.weights.len() as u64), digest_of(&trainer.weights));
                Some(Input::Evaluated(Look { loss, digest, machine, next_sample: trainer.next_sample, took_ms: 5 }))
            }
            Task::Checkpoint => {
                trainer.written = Some(trainer.weights.clone());
                let machine = trainer.machine.expect("a checkpoint comes after an adoption");
                Some(Input::Written { machine, next_sample: trainer.next_sample, took_ms: 5 })
            }
            Task::Weigh(root) => Some(Input::Weighed { root, digest: [7; 32] }),
        };
        self.answer(number, Channel::Trainer, Input::Took);
        told.into_iter().for_each(|input| self.answer(number, Channel::Trainer, input));
    }

    /// Own gradients whose acknowledgement was not lost, over all machines of node `number`.
    pub fn durable_samples(&self, number: usize) -> BTreeSet<(MachineId, u64)> {
        self.nodes[number].signed.keys().copied().collect()
    }

    /// All nodes hold the same, and their weights are what the ledgers say.
    pub fn assert_agreed(&self) {
        let up: Vec<&Node> = self.nodes.iter().filter(|node| node.is_up()).collect();
        for node in &up {
            assert_eq!(node.root(), up[0].root(), "nodes {} and {} differ", node.number, up[0].number);
            assert!(
                node.trainer.weights == node.effective(),
                "the weights of node {} are not its ledgers'",
                node.number
            );
        }
    }

    /// Whether all hold the same and nothing is on its way.
    pub fn is_at_rest(&self) -> bool {
        let up: Vec<&Node> = self.nodes.iter().filter(|node| node.is_up()).collect();
        up.iter().all(|node| {
            node.peer().replica().is_some_and(|replica| replica.root() == up[0].root() && replica.own_waiting() == 0)
                && node.trainer.tasks.is_empty()
                && node.peer().facts().owed == 0
                && node.peer().facts().own_is_done
                && node.trainer.weights == node.effective()
        })
    }

    /// What a recording of node `number` holds so far.
    pub fn recorded(&mut self, number: usize) -> Vec<u8> {
        let (recorder, file) = self.nodes[number].recording.as_mut().expect("it is recorded");
        recorder.flush().unwrap();
        file.0.borrow().clone()
    }

    /// The secret of node `number`.
    pub fn secret(&self, number: usize) -> [u8; 32] {
        secret(number)
    }
}
