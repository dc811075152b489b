//! Connections, and what travels on them.

use super::*;

impl Lab {
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

    /// From now on, nothing comes from there.
    pub fn hold(&mut self, node: usize, channel: Channel) {
        self.nodes[node].held.entry(channel).or_default();
    }

    /// What was held back comes now, in order.
    pub fn release(&mut self, node: usize, channel: Channel) {
        let held = self.nodes[node].held.remove(&channel).unwrap_or_default();
        held.into_iter().for_each(|item| self.arrive(node, channel, item, 0));
    }

    pub(super) fn send(&mut self, from: usize, to: usize, frame: Frame) {
        if let Some(link) = self.links.get(&(from, to)).copied() {
            let after_ms = self.draw(self.tempo.net);
            self.arrive(to, Channel::Net, Item::Frame { from, link, frame }, after_ms);
        }
    }

    pub(super) fn take_frame(&mut self, number: usize, from: usize, link: u64, frame: Frame) {
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

    pub(super) fn respond(&mut self, number: usize, request: u64, bytes: Option<Vec<u8>>) {
        let (from, question, link) = self.nodes[number].requests.remove(&request).expect("answered once");
        if self.links.get(&(number, from)) == Some(&link) {
            self.send(number, from, Frame::Answer { question, bytes });
        }
    }

    pub(super) fn publish(&mut self, number: usize, bytes: Vec<u8>) {
        let neighbours = self.neighbours(number);
        self.nodes[number].seen.insert(*blake3::hash(&bytes).as_bytes());
        if neighbours.is_empty() {
            return self.answer(number, Channel::Net, Input::Unheard(bytes));
        }
        if !self.loses_gossip {
            neighbours.into_iter().for_each(|other| self.send(number, other, Frame::Gossip(bytes.clone())));
        }
    }

    pub(super) fn set_reading(&mut self, number: usize, reads: bool) {
        let node = &mut self.nodes[number];
        assert_ne!(node.reads, reads, "nothing is said twice");
        node.reads = reads;
        if reads {
            let unread = std::mem::take(&mut node.unread);
            unread.into_iter().for_each(|item| self.arrive(number, Channel::Net, item, 0));
        }
    }
}
