//! libp2p behind an interface of opaque bytes: connections, gossip, questions and answers. Knows nothing of ledgers.

use libp2p::{
    Swarm, gossipsub,
    request_response::{OutboundRequestId, ResponseChannel},
    swarm::{
        ConnectionId, SwarmEvent,
        dial_opts::{DialOpts, PeerCondition},
    },
};
use std::{
    collections::{HashMap, HashSet, VecDeque},
    io,
    time::{Duration, Instant, SystemTime},
};

mod address;
mod behaviour;
mod codec;
mod config;
mod error;
mod events;
mod guard;
mod liveness;
mod older;
mod scope;
mod traffic;
mod transport;

pub use address::{parse_bootstrap, parse_bootstrap_of_another, peer_id};
pub use config::NetworkConfig;
pub use error::{PublishError, StartError};
pub use libp2p::{Multiaddr, PeerId, gossipsub::MessageId};
pub use peer::{framing, mesh};
pub use scope::Scope;
pub use traffic::Traffic;

use behaviour::{Behaviour, BehaviourEvent};
use futures::StreamExt;
use guard::Reach;
use libp2p::request_response::OutboundFailure;
use liveness::Liveness;
use older::Older;
use protocol::replica::Verdict;
use traffic::Counters;

/// Whether to look for more nodes is considered this often.
const UPKEEP: Duration = Duration::from_millis(500);
/// A start waits this long for the system to name the addresses that a listener stands for. The listener stands in any
/// case: addresses that are named later (an interface that comes up) are told then.
const NAMING_MAX: Duration = Duration::from_secs(5);
/// Connections get this long to close in an orderly way. Nothing depends on it: the other end notices anyhow.
const CLOSING_MAX: Duration = Duration::from_millis(300);

/// A question that was asked.
pub type RequestId = OutboundRequestId;
/// Why there is no answer.
pub type RequestError = OutboundFailure;

/// Where an answer goes.
pub struct Responder(ResponseChannel<Vec<u8>>);

/// What happens.
pub enum Event {
    /// Somebody says that the peer can be reached there.
    Found {
        /// Who.
        peer: PeerId,
        /// Where, without the peer id.
        address: Multiaddr,
    },
    /// The first connection to a peer stands.
    Connected(PeerId),
    /// The last connection to a peer is gone.
    Disconnected(PeerId),
    /// A call that was asked for ended without a connection.
    DialFailed {
        /// Who was called.
        peer: PeerId,
        /// Why there is no connection, for people.
        error: String,
    },
    /// A gossip message; wants a verdict ([`Network::report`]).
    Gossip {
        /// Who passed it on.
        source: PeerId,
        /// Its name.
        message: MessageId,
        /// Its content.
        bytes: Vec<u8>,
    },
    /// A question.
    Request {
        /// Whose.
        peer: PeerId,
        /// What.
        bytes: Vec<u8>,
        /// For the answer.
        responder: Responder,
    },
    /// An answer, or why there is none.
    Response {
        /// Whose.
        peer: PeerId,
        /// To which question.
        request: RequestId,
        /// What.
        result: Result<Vec<u8>, RequestError>,
    },
    /// A connected peer speaks version 1: it counts as disconnected.
    Older(PeerId),
    /// This node can be reached here.
    ListenAddress(Multiaddr),
    /// This machine has another address than before, or slept: calls that failed may succeed now.
    Moved,
}

/// One node's place in the network.
pub struct Network {
    swarm: Swarm<Behaviour>,
    topic: Option<gossipsub::IdentTopic>,
    counters: Counters,
    connections_target: usize,
    events: VecDeque<Event>,
    upkeep: tokio::time::Interval,
    /// Calls under way that were asked for.
    calls: HashSet<ConnectionId>,
    /// Where connected peers are.
    remotes: HashMap<PeerId, Multiaddr>,
    /// Connected peers and the address to call them at.
    addresses: HashMap<PeerId, Multiaddr>,
    /// The last ping of each connected peer, there and back.
    round_trips: HashMap<PeerId, Duration>,
    last_walk: Instant,
    /// When this machine was last seen awake.
    awake: (Instant, SystemTime),
    reach: Reach,
    liveness: Liveness,
    older: Older,
}

impl Network {
    /// Sets up and listens. Every listener stands when this returns.
    pub async fn start(config: NetworkConfig) -> Result<Self, StartError> {
        let keypair = address::key_pair(config.secret_key)?;
        let own = keypair.public().to_peer_id();
        let counters = Counters::default();
        let (reach, liveness) = (Reach::default(), Liveness::default());
        let transport = transport::build(&keypair, &counters, &reach, &liveness).map_err(StartError::Setup)?;
        let behaviour = Behaviour::new(&keypair, &config, &counters).map_err(StartError::Setup)?;
        let swarm_config =
            libp2p::swarm::Config::with_tokio_executor().with_idle_connection_timeout(Duration::from_secs(120));
        let mut network = Self {
            swarm: Swarm::new(transport, behaviour, own, swarm_config),
            topic: config.run.as_ref().map(behaviour::topic),
            counters,
            connections_target: config.connections_target,
            events: VecDeque::new(),
            upkeep: tokio::time::interval(UPKEEP),
            calls: HashSet::new(),
            remotes: HashMap::new(),
            addresses: HashMap::new(),
            round_trips: HashMap::new(),
            last_walk: Instant::now(),
            awake: (Instant::now(), SystemTime::now()),
            reach,
            liveness,
            older: Older::default(),
        };
        network.upkeep.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        if let (Some(topic), Some(gossip)) = (&network.topic, network.swarm.behaviour_mut().gossip.as_mut()) {
            gossip.subscribe(topic).map_err(|error| StartError::Setup(error.to_string()))?;
        }
        for address in &config.listen {
            network.listen(address).await?;
        }
        Ok(network)
    }

    async fn listen(&mut self, address: &Multiaddr) -> Result<(), StartError> {
        if transport::is_occupied(address) {
            return Err(StartError::Occupied(address.clone()));
        }
        let failed = |error: &(dyn std::error::Error + 'static)| match transport::is_address_in_use(error) {
            true => StartError::Occupied(address.clone()),
            false => StartError::Listen { address: address.clone(), error: format!("{error:?}") },
        };
        let listener = self.swarm.listen_on(address.clone()).map_err(|error| failed(&error))?;
        let named = async {
            loop {
                match self.swarm.select_next_some().await {
                    SwarmEvent::NewListenAddr { listener_id, address } if listener_id == listener => {
                        self.events.push_back(Event::ListenAddress(address));
                        return Ok(());
                    }
                    SwarmEvent::ListenerClosed { listener_id, reason, .. } if listener_id == listener => {
                        let error = reason.err().unwrap_or_else(|| io::Error::other("the listener was closed"));
                        return Err(failed(&error));
                    }
                    SwarmEvent::ListenerError { listener_id, error } if listener_id == listener => {
                        return Err(failed(&error));
                    }
                    other => self.on_swarm(other),
                }
            }
        };
        tokio::time::timeout(NAMING_MAX, named).await.unwrap_or(Ok(()))
    }

    /// This node's name.
    pub fn peer_id(&self) -> PeerId {
        *self.swarm.local_peer_id()
    }

    /// Where this node listens.
    pub fn listen_addresses(&self) -> Vec<Multiaddr> {
        self.swarm.listeners().cloned().collect()
    }

    /// The next event.
    pub async fn next(&mut self) -> Event {
        loop {
            if let Some(event) = self.events.pop_front() {
                return event;
            }
            tokio::select! {
                event = self.swarm.select_next_some() => self.on_swarm(event),
                _ = self.upkeep.tick() => self.look_around(),
            }
        }
    }

    /// Calls a peer at the addresses given, which people named or [`Event::Found`] did. [`Event::Connected`] or
    /// [`Event::DialFailed`] follows: a call of discovery that is under way is another call.
    pub fn dial(&mut self, peer: PeerId, addresses: Vec<Multiaddr>) {
        if self.older.is_connected(&peer) {
            return self.older.call(peer);
        }
        addresses.iter().for_each(|address| self.reach.is_near(address));
        let call = DialOpts::peer_id(peer).addresses(addresses).condition(PeerCondition::Disconnected).build();
        let id = call.connection_id();
        match self.swarm.dial(call) {
            Ok(()) => drop(self.calls.insert(id)),
            Err(error) => self.on_dial_failed(peer, &error),
        }
    }

    /// Closes connections to a peer, and refuses new ones.
    pub fn block(&mut self, peer: PeerId) {
        self.swarm.behaviour_mut().blocked.block_peer(peer);
    }

    /// Takes connections to a peer again.
    pub fn unblock(&mut self, peer: PeerId) {
        self.swarm.behaviour_mut().blocked.unblock_peer(peer);
    }

    /// Sends a gossip message to the run. What is larger than a frame of gossipsub is refused.
    pub fn publish(&mut self, bytes: Vec<u8>) -> Result<(), PublishError> {
        let (Some(topic), Some(gossip)) = (&self.topic, self.swarm.behaviour_mut().gossip.as_mut()) else {
            return Err(PublishError::NoPeers);
        };
        let length = bytes.len() as u64;
        match gossip.publish(topic.hash(), bytes) {
            Ok(_) => {
                self.counters.gossip_published(length);
                Ok(())
            }
            Err(gossipsub::PublishError::Duplicate) => Ok(()),
            Err(gossipsub::PublishError::NoPeersSubscribedToTopic) => Err(PublishError::NoPeers),
            Err(error) => Err(PublishError::Refused(error.to_string())),
        }
    }

    /// Asks a peer.
    pub fn request(&mut self, peer: PeerId, bytes: Vec<u8>) -> RequestId {
        self.swarm.behaviour_mut().exchange.send_request(&peer, bytes)
    }

    /// Answers. A peer that has gone meanwhile gets nothing.
    pub fn respond(&mut self, responder: Responder, bytes: Vec<u8>) {
        let _ = self.swarm.behaviour_mut().exchange.send_response(responder.0, bytes);
    }

    /// Tells the mesh what to do with a message.
    pub fn report(&mut self, message: &MessageId, source: &PeerId, verdict: Verdict) {
        let acceptance = match verdict {
            Verdict::Accept => gossipsub::MessageAcceptance::Accept,
            Verdict::Ignore => gossipsub::MessageAcceptance::Ignore,
            Verdict::Reject => gossipsub::MessageAcceptance::Reject,
        };
        if let Some(gossip) = self.swarm.behaviour_mut().gossip.as_mut() {
            gossip.report_message_validation_result(message, source, acceptance);
        }
    }

    /// Connected peers.
    pub fn connected(&self) -> impl Iterator<Item = &PeerId> {
        self.swarm.connected_peers()
    }

    /// Connected peers with an address each, for the next session.
    pub fn known_peers(&self) -> Vec<(PeerId, Multiaddr)> {
        self.addresses.iter().map(|(peer, address)| (*peer, address.clone())).collect()
    }

    /// Connected peers, with the address they are at and the last round trip as far as known.
    pub fn neighbours(&self) -> impl Iterator<Item = (&PeerId, Option<&Multiaddr>, Option<Duration>)> {
        let known = |peer| (peer, self.remotes.get(peer), self.round_trips.get(peer).copied());
        self.swarm.connected_peers().filter(|peer| !self.older.is_connected(peer)).map(known)
    }

    /// Bytes that went over the sockets so far.
    pub fn traffic(&self) -> Traffic {
        self.counters.read()
    }

    /// Disconnects from all.
    pub async fn close(mut self) {
        let peers: Vec<PeerId> = self.swarm.connected_peers().copied().collect();
        for peer in peers {
            let _ = self.swarm.disconnect_peer_id(peer);
        }
        let drain = async {
            while self.swarm.connected_peers().next().is_some() {
                self.swarm.select_next_some().await;
            }
        };
        let _ = tokio::time::timeout(CLOSING_MAX, drain).await;
    }
}
