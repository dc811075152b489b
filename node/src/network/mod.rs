//! libp2p behind an interface of opaque bytes: connections, gossip, questions and answers. Knows nothing of ledgers.

use libp2p::{
    Swarm, gossipsub, identity,
    request_response::{OutboundRequestId, ResponseChannel},
    swarm::SwarmEvent,
};
use std::{
    collections::{HashMap, VecDeque},
    time::{Duration, Instant},
};
use thiserror::Error;

mod behaviour;
mod codec;
pub mod conduct;
mod events;

pub use peer::{framing, mesh};
mod peers;
mod traffic;
mod transport;

pub use behaviour::ANSWER_MAX;
pub use conduct::Severity;
pub use libp2p::{Multiaddr, PeerId, gossipsub::MessageId};
pub use peers::parse_bootstrap;
pub use traffic::Traffic;

use behaviour::{Behaviour, BehaviourEvent};
use futures::StreamExt;
use libp2p::request_response::OutboundFailure;
use peers::Peers;
use traffic::Counters;

/// Largest gossip message that is sent: one gossipsub frame with room (see `max_transmit_size`).
pub const GOSSIP_BYTES_MAX: usize = 57_000;
/// Most connections of one node.
pub const CONNECTIONS_MAX: u32 = 128;
/// Below so many connections, new ones are opened.
pub const CONNECTIONS_TARGET: usize = 10;
/// Connections are looked after this often.
pub const UPKEEP: Duration = Duration::from_millis(500);
/// A listener must say that it listens within this time.
const LISTEN_MAX: Duration = Duration::from_secs(5);

/// A question that was asked.
pub type RequestId = OutboundRequestId;
/// Why there is no answer.
pub type RequestError = OutboundFailure;

/// What to do with a gossip message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// Pass it on.
    Accept,
    /// Drop it.
    Ignore,
    /// Drop it and hold it against the sender.
    Reject,
}

/// How a node takes part.
#[derive(Clone, Debug)]
pub struct NetworkConfig {
    /// Ed25519 seed; the peer id is its public key.
    pub secret_key: [u8; 32],
    /// Gossip and discovery are of this run; without one there are only questions and answers.
    pub run: Option<[u8; 32]>,
    /// Where to listen; empty: nowhere.
    pub listen: Vec<Multiaddr>,
    /// Addresses that end with `/p2p/` and a peer id, called until they answer.
    pub bootstrap: Vec<String>,
    /// Addresses from earlier sessions.
    pub known_peers: Vec<(PeerId, Multiaddr)>,
    /// Find peers in the local network.
    pub mdns: bool,
    /// Connections in all. More cost memory, fewer isolate.
    pub connections_max: u32,
    /// New connections are opened below this many.
    pub connections_target: usize,
}

impl NetworkConfig {
    /// With the usual limits, no bootstrap and no mDNS.
    pub fn new(secret_key: [u8; 32], run: Option<[u8; 32]>, listen: Vec<Multiaddr>) -> Self {
        Self {
            secret_key,
            run,
            listen,
            bootstrap: Vec::new(),
            known_peers: Vec::new(),
            mdns: false,
            connections_max: CONNECTIONS_MAX,
            connections_target: CONNECTIONS_TARGET,
        }
    }
}

/// Why a node cannot take part.
#[derive(Debug, Error)]
pub enum StartError {
    /// Somebody else listens there.
    #[error("{0}: the port is taken by another process; choose another with --listen")]
    Occupied(Multiaddr),
    /// Anything else with the address.
    #[error("{address}: cannot listen there ({error}); an example that works is /ip4/0.0.0.0/tcp/9713")]
    Listen {
        /// As given.
        address: Multiaddr,
        /// What went wrong.
        error: String,
    },
    /// A bootstrap address of no use.
    #[error("--bootstrap {address}: {error}; an example of a right one is /ip4/192.168.1.7/tcp/9713/p2p/12D3KooW…")]
    Bootstrap {
        /// As given.
        address: String,
        /// What is wrong with it.
        error: String,
    },
    /// Anything else.
    #[error("the network cannot be set up: {0}")]
    Setup(String),
}

impl StartError {
    /// Whether another port would do.
    pub fn is_occupied(&self) -> bool {
        matches!(self, Self::Occupied(_))
    }
}

/// Why a message was not sent.
#[derive(Debug, Error)]
pub enum PublishError {
    /// Nobody listens yet.
    #[error("no peer has subscribed yet")]
    NoPeers,
    /// It is too large, or the queues are full.
    #[error("{0}")]
    Refused(String),
}

/// Where an answer goes.
pub struct Responder(ResponseChannel<Vec<u8>>);

/// What happens.
pub enum Event {
    /// The first connection to a peer stands.
    PeerConnected(PeerId),
    /// The last connection to a peer is gone.
    PeerGone(PeerId),
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
    /// This node can be reached here.
    ListenAddress(Multiaddr),
    /// A bootstrap address does not answer; it is tried again.
    BootstrapUnreachable {
        /// Which.
        address: Multiaddr,
        /// Why.
        error: String,
        /// When.
        retry_in: Duration,
    },
}

/// One node's place in the network.
pub struct Network {
    swarm: Swarm<Behaviour>,
    topic: Option<gossipsub::IdentTopic>,
    peers: Peers,
    counters: Counters,
    events: VecDeque<Event>,
    upkeep: tokio::time::Interval,
    /// Bytes of each message that waits for its verdict.
    unreported: HashMap<MessageId, usize>,
    /// Connected peers and the address to reach them at.
    addresses: HashMap<PeerId, Multiaddr>,
    /// The last ping of each connected peer, there and back.
    round_trips: HashMap<PeerId, Duration>,
    last_walk: Instant,
}

impl Network {
    /// Sets up and listens. Every listener stands when this returns.
    pub async fn start(config: NetworkConfig) -> Result<Self, StartError> {
        let mut secret = config.secret_key;
        let keypair =
            identity::Keypair::ed25519_from_bytes(&mut secret).map_err(|error| StartError::Setup(error.to_string()))?;
        let own = keypair.public().to_peer_id();
        let counters = Counters::default();
        let transport = transport::build(&keypair, &counters).map_err(StartError::Setup)?;
        let behaviour = Behaviour::new(&keypair, &config, &counters).map_err(StartError::Setup)?;
        let swarm_config =
            libp2p::swarm::Config::with_tokio_executor().with_idle_connection_timeout(Duration::from_secs(120));
        let peers = Peers::new(own, &config)?;
        let mut network = Self {
            swarm: Swarm::new(transport, behaviour, own, swarm_config),
            topic: config.run.as_ref().map(behaviour::topic),
            peers,
            counters,
            events: VecDeque::new(),
            upkeep: tokio::time::interval(UPKEEP),
            unreported: HashMap::new(),
            addresses: HashMap::new(),
            round_trips: HashMap::new(),
            last_walk: Instant::now(),
        };
        network.upkeep.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        if let (Some(topic), Some(gossip)) = (&network.topic, network.swarm.behaviour_mut().gossip.as_mut()) {
            gossip.subscribe(topic).map_err(|error| StartError::Setup(error.to_string()))?;
        }
        for address in &config.listen {
            network.listen(address).await?;
        }
        network.dial_due();
        Ok(network)
    }

    async fn listen(&mut self, address: &Multiaddr) -> Result<(), StartError> {
        let failed = |error: String| {
            if error.contains("in use") || error.contains("AddrInUse") {
                StartError::Occupied(address.clone())
            } else {
                StartError::Listen { address: address.clone(), error }
            }
        };
        if transport::is_occupied(address) {
            return Err(StartError::Occupied(address.clone()));
        }
        let listener = self.swarm.listen_on(address.clone()).map_err(|error| failed(format!("{error:?}")))?;
        let wait = async {
            loop {
                match self.swarm.select_next_some().await {
                    SwarmEvent::NewListenAddr { listener_id, address } if listener_id == listener => {
                        self.events.push_back(Event::ListenAddress(address));
                        return Ok(());
                    }
                    SwarmEvent::ListenerClosed { listener_id, reason, .. } if listener_id == listener => {
                        return Err(failed(format!("{reason:?}")));
                    }
                    SwarmEvent::ListenerError { listener_id, error } if listener_id == listener => {
                        return Err(failed(error.to_string()));
                    }
                    other => self.on_swarm(other),
                }
            }
        };
        tokio::time::timeout(LISTEN_MAX, wait).await.unwrap_or_else(|_| Err(failed("no answer from the system".into())))
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
                _ = self.upkeep.tick() => self.look_after(),
            }
        }
    }

    /// Sends a gossip message to the run.
    pub fn publish(&mut self, bytes: Vec<u8>) -> Result<(), PublishError> {
        if bytes.len() > GOSSIP_BYTES_MAX {
            return Err(PublishError::Refused(format!(
                "{} bytes are more than the {GOSSIP_BYTES_MAX} of one gossip message",
                bytes.len()
            )));
        }
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

    /// Tells the mesh what to do with a message. What is accepted is passed on as far as neighbours would take it.
    pub fn report(&mut self, message: &MessageId, source: &PeerId, verdict: Verdict) {
        let bytes = self.unreported.remove(message).unwrap_or_default();
        let acceptance = match verdict {
            Verdict::Accept if self.peers.may_forward(bytes) => gossipsub::MessageAcceptance::Accept,
            Verdict::Accept | Verdict::Ignore => gossipsub::MessageAcceptance::Ignore,
            Verdict::Reject => gossipsub::MessageAcceptance::Reject,
        };
        if let Some(gossip) = self.swarm.behaviour_mut().gossip.as_mut() {
            gossip.report_message_validation_result(message, source, acceptance);
        }
    }

    /// Holds something against a peer; too much of it bans the peer for a while.
    pub fn penalize(&mut self, peer: &PeerId, severity: Severity, reason: &str) {
        if self.peers.penalize(peer, severity, reason) {
            self.swarm.behaviour_mut().blocked.block_peer(*peer);
        }
    }

    /// Whether the peer is banned at present.
    pub fn is_banned(&self, peer: &PeerId) -> bool {
        self.peers.is_banned(peer)
    }

    /// Connected peers.
    pub fn connected(&self) -> impl Iterator<Item = &PeerId> {
        self.swarm.connected_peers()
    }

    /// Connected peers with an address each, for the next session.
    pub fn known_peers(&self) -> Vec<(PeerId, Multiaddr)> {
        self.addresses.iter().map(|(peer, address)| (*peer, address.clone())).collect()
    }

    /// Connected peers, with the address and the last round trip as far as known.
    pub fn neighbours(&self) -> impl Iterator<Item = (&PeerId, Option<&Multiaddr>, Option<Duration>)> {
        let known = |peer| (peer, self.addresses.get(peer), self.round_trips.get(peer).copied());
        self.swarm.connected_peers().map(known)
    }

    /// Bytes that went over the sockets so far.
    pub fn traffic(&self) -> Traffic {
        self.counters.read()
    }

    /// Disconnects, within a bounded time.
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
        let _ = tokio::time::timeout(Duration::from_millis(300), drain).await;
    }
}
