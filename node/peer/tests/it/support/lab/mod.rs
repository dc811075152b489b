//! The laboratory's shell: events in the order of time, links, and what carries out the outputs.

mod links;
mod outputs;
mod puppet;

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
