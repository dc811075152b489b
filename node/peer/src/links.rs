//! Connections to other nodes: whom to call, what they may send, what they were asked.

use protocol::{manifest::RunId, message::Question};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::{
    Config, NodeId, Notice, Output,
    dialing::{Dialing, Failed, Origin},
    exchange::{Purpose, Questions},
    limits::{Limits, Severity},
};

/// Calls, bans and reputations are looked after this often, ms.
const UPKEEP_MS: u64 = 500;
/// A node of another run is not called, nor asked for anything, for so long, ms. It may have joined this one by then.
const STRANGER_MS: u64 = 600_000;
/// Nodes of other runs that are remembered.
const STRANGERS_MAX: usize = 512;

/// See the module's documentation. What it wants done it appends to the outputs that it is given.
pub struct Links {
    neighbours: BTreeSet<NodeId>,
    /// Neighbours to whom every connection leads through a relay.
    relayed: BTreeSet<NodeId>,
    /// Nodes of other runs, and until when they are taken for such.
    strangers: BTreeMap<NodeId, u64>,
    dialing: Dialing,
    limits: Limits,
    /// Questions under way.
    pub questions: Questions,
    next_upkeep_ms: u64,
}

impl Links {
    /// No connections yet.
    pub fn new(config: &Config) -> Self {
        Self {
            neighbours: BTreeSet::new(),
            relayed: BTreeSet::new(),
            strangers: BTreeMap::new(),
            dialing: Dialing::new(&config.bootstrap, config.connections_target, config.seed),
            limits: Limits::new(0),
            questions: Questions::default(),
            next_upkeep_ms: 0,
        }
    }

    /// Breaks a rule.
    #[cfg(feature = "planted")]
    pub fn plant(&mut self, planted: crate::planted::Planted) {
        self.dialing.plant(planted);
    }

    /// Connected nodes.
    pub fn neighbours(&self) -> &BTreeSet<NodeId> {
        &self.neighbours
    }

    /// An address of the node is known.
    pub fn found(&mut self, node: NodeId, origin: Origin, now_ms: u64, outputs: &mut VecDeque<Output>) {
        let neighbours = &self.neighbours;
        if let Some(gone) = self.dialing.found(node, origin, |node| neighbours.contains(&node), now_ms) {
            self.forget(gone, outputs);
        }
    }

    /// A connection stands. False if it is to a node of another run, which is no neighbour.
    pub fn connected(&mut self, node: NodeId, outputs: &mut VecDeque<Output>) -> bool {
        self.dialing.connected(node);
        if self.strangers.contains_key(&node) {
            outputs.push_back(Output::HangUp(node));
            return false;
        }
        self.neighbours.insert(node);
        true
    }

    /// The node is of another run: it is a neighbour no more, and left alone. It hears the answers that it waits for.
    pub fn part(&mut self, node: NodeId, now_ms: u64, outputs: &mut VecDeque<Output>) {
        self.neighbours.remove(&node);
        self.relayed.remove(&node);
        self.questions.gone(node);
        if self.strangers.len() < STRANGERS_MAX {
            self.strangers.insert(node, now_ms.saturating_add(STRANGER_MS));
        }
        outputs.push_back(Output::HangUp(node));
    }

    /// All connections to the node lead through a relay, or one does not.
    pub fn set_relayed(&mut self, node: NodeId, is_relayed: bool) {
        match is_relayed && self.neighbours.contains(&node) {
            true => self.relayed.insert(node),
            false => self.relayed.remove(&node),
        };
    }

    /// Whether every connection to a neighbour leads through a relay.
    pub fn is_relayed(&self, node: NodeId) -> bool {
        self.relayed.contains(&node)
    }

    /// The last connection to the node is gone.
    pub fn disconnected(&mut self, node: NodeId, now_ms: u64, outputs: &mut VecDeque<Output>) {
        self.neighbours.remove(&node);
        self.relayed.remove(&node);
        self.dialing.gone(node, now_ms);
        self.questions.gone(node);
        self.forget(node, outputs);
    }

    /// No connection is left, and everyone may be called at once. Returns who was connected.
    pub fn reset(&mut self, now_ms: u64, outputs: &mut VecDeque<Output>) -> Vec<NodeId> {
        let gone: Vec<NodeId> = self.neighbours.iter().copied().collect();
        gone.iter().for_each(|node| self.disconnected(*node, now_ms, outputs));
        self.moved(now_ms, outputs);
        gone
    }

    /// Calls that failed may succeed now: nobody waits for the next.
    pub fn moved(&mut self, now_ms: u64, outputs: &mut VecDeque<Output>) {
        self.dialing.reset(now_ms);
        self.call(now_ms, outputs);
    }

    /// A call failed.
    pub fn dial_failed(&mut self, node: NodeId, now_ms: u64, outputs: &mut VecDeque<Output>) {
        if self.neighbours.contains(&node) {
            return;
        }
        match self.dialing.failed(node, now_ms) {
            Failed::Later => {}
            Failed::BootstrapLater(retry_in_ms) => {
                outputs.push_back(Output::Notice(Notice::Unreachable { node, retry_in_ms }));
            }
            Failed::Forgotten => self.forget(node, outputs),
        }
    }

    /// Time has passed.
    pub fn tick(&mut self, now_ms: u64, outputs: &mut VecDeque<Output>) {
        if now_ms < self.next_upkeep_ms {
            return;
        }
        self.next_upkeep_ms = now_ms.saturating_add(UPKEEP_MS);
        for (node, was_banned) in self.limits.advance(now_ms) {
            if was_banned {
                outputs.push_back(Output::Pardon(node));
            }
            self.forget(node, outputs);
        }
        let due = self.strangers.iter().filter(|(_, until)| **until <= now_ms).map(|(node, _)| *node);
        for node in due.collect::<Vec<_>>() {
            self.strangers.remove(&node);
            self.forget(node, outputs);
        }
        self.call(now_ms, outputs);
    }

    fn call(&mut self, now_ms: u64, outputs: &mut VecDeque<Output>) {
        let (neighbours, limits, strangers) = (&self.neighbours, &self.limits, &self.strangers);
        let skip = |node| neighbours.contains(&node) || limits.is_banned(node) || strangers.contains_key(&node);
        outputs.extend(self.dialing.due(neighbours.len(), skip, now_ms).into_iter().map(Output::Dial));
    }

    /// Whether the node may send one more message. A flood is a fault; of one that is banned already nothing is heard.
    pub fn allow(&mut self, node: NodeId, what: Message, now_ms: u64, outputs: &mut VecDeque<Output>) -> bool {
        let (bytes, reason) = match what {
            Message::Gossip { bytes } => (bytes, "a flood of gossip"),
            Message::Question => (0, "a flood of questions"),
        };
        if self.limits.is_banned(node) {
            return false;
        }
        let allowed = self.limits.allow(node, bytes, now_ms);
        if !allowed {
            self.fault(node, reason, now_ms, outputs);
        }
        allowed
    }

    /// Whether to pass on one more gossip message of this size.
    pub fn may_forward(&mut self, bytes: usize, now_ms: u64) -> bool {
        self.limits.may_forward(bytes, now_ms)
    }

    /// Counts something against a node; too much of it bans the node for a while.
    pub fn fault(&mut self, node: NodeId, reason: &str, now_ms: u64, outputs: &mut VecDeque<Output>) {
        let banned = self.limits.fault(node, Severity::Fault, now_ms);
        tell_fault(node, reason, banned, outputs);
    }

    /// Bans a node at once, for a while.
    pub fn ban(&mut self, node: NodeId, reason: &str, now_ms: u64, outputs: &mut VecDeque<Output>) {
        let banned = self.limits.fault(node, Severity::Ban, now_ms);
        tell_fault(node, reason, banned, outputs);
    }

    /// Asks. False if the question cannot be sent, or the node is not connected, or about to be cut off.
    pub fn ask(
        &mut self,
        node: NodeId,
        purpose: Purpose,
        run: RunId,
        question: Question,
        outputs: &mut VecDeque<Output>,
    ) -> bool {
        let is_open = self.neighbours.contains(&node) && !self.limits.is_banned(node);
        let asked = if is_open { self.questions.ask(node, purpose, run, question) } else { None };
        let is_asked = asked.is_some();
        outputs.extend(asked);
        is_asked
    }

    /// Tells the shell if nothing is known of the node any more.
    fn forget(&self, node: NodeId, outputs: &mut VecDeque<Output>) {
        let is_neighbour = self.neighbours.contains(&node) || self.strangers.contains_key(&node);
        if !is_neighbour && !self.dialing.knows(node) && !self.limits.knows(node) {
            outputs.push_back(Output::Forget(node));
        }
    }
}

fn tell_fault(node: NodeId, reason: &str, banned: bool, outputs: &mut VecDeque<Output>) {
    outputs.push_back(Output::Notice(Notice::Fault { node, reason: reason.to_owned(), banned }));
    if banned {
        outputs.push_back(Output::Ban(node));
    }
}

/// What a node may send so much of.
#[derive(Clone, Copy, Debug)]
pub enum Message {
    /// Gossip of so many bytes.
    Gossip {
        /// Length.
        bytes: usize,
    },
    /// A question.
    Question,
}
