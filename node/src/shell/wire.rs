//! The network's side of a shell: events become inputs, outputs become calls, questions, answers and gossip.

use peer::{Answer, Input, NodeId, Output, exchange};
use std::collections::{HashMap, HashSet, VecDeque};

use crate::{
    join::places::Places,
    network::{
        self, Event, MessageId, Multiaddr, Network, NetworkConfig, Nodes, PeerId, PublishError, RequestId, Responder,
        StartError, Traffic,
    },
    say,
};

/// At most one network at a time, and what is under way on it.
#[derive(Default)]
pub struct Wire {
    network: Option<Network>,
    nodes: Nodes,
    is_paused: bool,
    /// Own questions under way, by libp2p's number.
    asked: HashMap<RequestId, u64>,
    /// A chunk of the base model that came, by the question that brought it.
    chunk: Option<(u64, Vec<u8>)>,
    /// Others' questions and gossip that wait for the peer's word.
    requests: HashMap<u64, Responder>,
    messages: HashMap<u64, MessageId>,
    last: u64,
    /// Since somebody looked, the addresses at which this node can be reached have changed.
    places_changed: bool,
    /// Nodes of version 1 that people were told of.
    older: HashSet<PeerId>,
    /// Whose keys the run's authority withdrew: nobody talks to them any more.
    withdrawn: HashSet<PeerId>,
}

/// Nodes of version 1 that people are told of.
const OLDER_MAX: usize = 64;

impl Wire {
    /// Closes the network that there is, and opens another.
    pub async fn open(&mut self, config: NetworkConfig) -> Result<Input, StartError> {
        self.close().await;
        let mut network = Network::start(config).await?;
        self.nodes.banned().for_each(|peer| network.block(peer));
        self.withdrawn.iter().for_each(|peer| network.refuse(*peer));
        self.network = Some(network);
        Ok(Input::NetworkOpened)
    }

    /// Closes the network that there is. Nothing is under way afterwards.
    pub async fn close(&mut self) {
        if let Some(network) = self.network.take() {
            network.close().await;
        }
        self.nodes.hang_up();
        self.asked.clear();
        self.requests.clear();
        self.messages.clear();
        self.chunk = None;
    }

    /// Waits for what the network says next. For ever if there is none, or if it is not to be read.
    pub async fn next(&mut self) -> Input {
        loop {
            let event = match (&mut self.network, self.is_paused) {
                (Some(network), false) => network.next().await,
                _ => std::future::pending().await,
            };
            if let Some(input) = self.heard(event) {
                return input;
            }
        }
    }

    /// Lets the network work, whatever it says.
    pub async fn drive(&mut self) {
        match &mut self.network {
            Some(network) => drop(network.next().await),
            None => std::future::pending().await,
        }
    }

    /// An event as the peer is told of it. Nothing of a node that it has forgotten.
    fn heard(&mut self, event: Event) -> Option<Input> {
        match event {
            Event::Found { peer, .. } if self.network.as_ref().is_some_and(|network| network.peer_id() == peer) => None,
            Event::Found { peer, address } => self.know(peer, address).map(Input::Found),
            Event::Connected(peer) => {
                let node = self.nodes.number(peer);
                self.nodes.call_ended(node, None);
                self.places_changed = true;
                Some(Input::Connected(node))
            }
            Event::Disconnected(peer) => self.nodes.number_of(&peer).map(Input::Disconnected),
            Event::DialFailed { peer, error } => {
                let node = self.nodes.number_of(&peer)?;
                self.nodes.call_ended(node, Some(error)).then_some(Input::DialFailed(node))
            }
            Event::Gossip { source, message, bytes } => {
                let from = self.nodes.number_of(&source)?;
                let number = self.next_number();
                self.messages.insert(number, message);
                Some(Input::Gossip { from, message: number, bytes })
            }
            Event::Request { peer, bytes, responder } => {
                let from = self.nodes.number_of(&peer)?;
                let request = self.next_number();
                self.requests.insert(request, responder);
                Some(Input::Request { from, request, bytes })
            }
            Event::Response { request, result, peer } => {
                let question = self.asked.remove(&request)?;
                if let Err(error) = &result {
                    tracing::debug!(%peer, %error, "no answer");
                }
                let (answer, chunk) = exchange::read_answer(result.ok().as_deref());
                self.chunk = chunk.map(|chunk| (question, chunk));
                Some(Input::Answer { question, answer })
            }
            Event::Older(peer) => {
                if self.older.len() < OLDER_MAX && self.older.insert(peer) {
                    say::older(&peer);
                }
                None
            }
            Event::Way { peer, is_relayed } => self.nodes.number_of(&peer).map(|node| Input::Way { node, is_relayed }),
            Event::ListenAddress(_) | Event::Reachable => {
                self.places_changed = true;
                None
            }
            Event::RelayGone(relay) => {
                say::relay_gone(&relay);
                self.places_changed = true;
                None
            }
            Event::Router(answer) => {
                say::router(&answer);
                self.places_changed = true;
                None
            }
            Event::NotListening(error) => {
                say::not_listening(&error);
                None
            }
            Event::Moved => Some(Input::Moved),
        }
    }

    fn next_number(&mut self) -> u64 {
        self.last += 1;
        self.last
    }

    /// Carries out what concerns the network; any other output comes back. What is answered at once goes to `answers`.
    pub fn carry_out(&mut self, output: Output, answers: &mut VecDeque<Input>) -> Option<Output> {
        match output {
            Output::Dial(node) => answers.extend(self.dial(node)),
            Output::Ban(node) => {
                if let (Some(peer), Some(network)) = (self.nodes.set_banned(node, true), &mut self.network) {
                    network.block(peer);
                }
            }
            Output::Pardon(node) => {
                if let (Some(peer), Some(network)) = (self.nodes.set_banned(node, false), &mut self.network)
                    && !self.withdrawn.contains(&peer)
                {
                    network.unblock(peer);
                }
            }
            Output::HangUp(node) => {
                if let (Some(peer), Some(network)) = (self.nodes.peer_id(node), &mut self.network) {
                    network.hang_up(peer);
                }
            }
            Output::Forget(node) => self.nodes.forget(node),
            Output::Ask { node, question, bytes } => match (&mut self.network, self.nodes.peer_id(node)) {
                (Some(network), Some(peer)) => {
                    self.asked.insert(network.request(peer, bytes), question);
                }
                _ => answers.push_back(Input::Answer { question, answer: Answer::None }),
            },
            Output::Respond { request, bytes } => self.respond(request, bytes),
            Output::Drop { request } => {
                self.requests.remove(&request);
            }
            Output::Publish(bytes) => {
                let told = self.network.as_mut().map(|network| network.publish(bytes.clone()));
                match told {
                    Some(Ok(())) => {}
                    None | Some(Err(PublishError::NoPeers)) => answers.push_back(Input::Unheard(bytes)),
                    // Anti-entropy carries it.
                    Some(Err(PublishError::Refused(error))) => tracing::debug!(error, "a message that is not gossiped"),
                }
            }
            Output::Validate { message, from, verdict } => {
                let source = self.nodes.peer_id(from);
                if let (Some(message), Some(source), Some(network)) =
                    (self.messages.remove(&message), source, &mut self.network)
                {
                    network.report(&message, &source, verdict);
                }
            }
            Output::Reading(reads) => self.is_paused = !reads,
            other => return Some(other),
        }
        None
    }

    /// The run's authority withdrew the key. Its node hears that much, and nothing after it.
    pub fn refuse(&mut self, key: &[u8; 32]) {
        let Some(peer) = network::peer_id_of_key(key).filter(|peer| self.withdrawn.insert(*peer)) else { return };
        if let Some(network) = &mut self.network {
            network.refuse(peer);
        }
    }

    /// Every call is answered, by an event if not at once.
    fn dial(&mut self, node: NodeId) -> Option<Input> {
        let (Some(network), Some(peer)) = (&mut self.network, self.nodes.peer_id(node)) else {
            return Some(Input::DialFailed(node));
        };
        self.nodes.called(node);
        network.dial(peer, self.nodes.addresses(node).to_vec());
        None
    }

    /// Sends the answer to a request.
    pub fn respond(&mut self, request: u64, bytes: Vec<u8>) {
        if let (Some(responder), Some(network)) = (self.requests.remove(&request), &mut self.network) {
            network.respond(responder, bytes);
        }
    }

    /// The chunk that came in answer to the question.
    pub fn take_chunk(&mut self, question: u64) -> Option<Vec<u8>> {
        self.chunk.take_if(|(brought, _)| *brought == question).map(|(_, chunk)| chunk)
    }

    /// Remembers where a node is said to be. None if there is no room for it.
    pub fn know(&mut self, peer: PeerId, address: Multiaddr) -> Option<NodeId> {
        self.nodes.found(peer, address)
    }

    /// The nodes that have numbers.
    pub fn nodes(&self) -> &Nodes {
        &self.nodes
    }

    /// The network, if one is open.
    pub fn network(&self) -> Option<&Network> {
        self.network.as_ref()
    }

    /// Bytes on the sockets of the present network.
    pub fn traffic(&self) -> Traffic {
        self.network.as_ref().map(Network::traffic).unwrap_or_default()
    }

    /// Where this node can be reached, if that has changed since somebody looked.
    pub fn take_places(&mut self) -> Option<Places> {
        let network = self.network.as_ref().filter(|_| std::mem::take(&mut self.places_changed))?;
        Some(Places::of(network))
    }
}
