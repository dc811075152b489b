//! libp2p behind an interface of opaque bytes: connections, gossip, questions and answers. Knows nothing of ledgers.

use libp2p::{
    Swarm, gossipsub,
    request_response::{OutboundFailure, OutboundRequestId, ResponseChannel},
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
mod direct;
mod error;
mod events;
mod far;
mod guard;
mod hosts;
mod limit;
mod links;
mod liveness;
mod names;
mod nodes;
mod older;
mod reachable;
mod relays;
mod router;
mod scope;
mod shown;
mod traffic;
mod transport;
#[cfg(feature = "upnp")]
mod upnp;

pub use address::{
    check_callable, check_listen, is_of_world, is_relayed, key_of_peer_id, parse_bootstrap, parse_bootstrap_of_another,
    peer_id, peer_id_of_key, relay_of, without_peer,
};
pub use config::NetworkConfig;
pub use error::{PublishError, StartError};
pub use libp2p::{Multiaddr, PeerId, gossipsub::MessageId};
pub use limit::Limits;
pub use names::NO_ADDRESS;
pub use nodes::Nodes;
pub use peer::{framing, mesh};
pub use router::RouterAnswer;
pub use scope::{Scope, scope_of};
pub use traffic::Traffic;
pub use transport::{check_free, everywhere, free_port};

use behaviour::{Behaviour, BehaviourEvent};
use direct::DirectCalls;
use futures::StreamExt;
use guard::Reach;
use links::Links;
use liveness::Liveness;
use older::Older;
use protocol::replica::Verdict;
use relays::Relays;
use router::Router;
use shown::Shown;
use traffic::Counters;

/// Whether to look for more nodes is considered this often.
const UPKEEP: Duration = Duration::from_millis(500);
/// A start waits this long for the system to name the addresses that a listener stands for. The listener stands in any
/// case: addresses that are named later (an interface that comes up) are told then.
const NAMING_MAX: Duration = Duration::from_secs(5);
/// A connection that nothing uses closes after so long.
const IDLE: Duration = Duration::from_secs(120);
/// A peer that is parted with still gets what is on its way to it.
const PARTING: Duration = Duration::from_secs(3);
/// A peer that is refused for good gets this long to hear why: neighbours compare what they hold every ten seconds.
const HEARING: Duration = Duration::from_secs(15);
/// Connections get this long to close in an orderly way. Nothing depends on it: the other end notices anyhow.
const CLOSING_MAX: Duration = Duration::from_millis(300);

/// A question that was asked.
pub type RequestId = OutboundRequestId;
/// Why there is no answer.
pub type RequestError = OutboundFailure;

/// Where an answer goes.
pub struct Responder(ResponseChannel<Vec<u8>>);

pub enum Event {
    /// Somebody says that the peer can be reached there.
    Found {
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
        message: MessageId,
        bytes: Vec<u8>,
    },
    Request {
        peer: PeerId,
        bytes: Vec<u8>,
        /// For the answer.
        responder: Responder,
    },
    /// An answer, or why there is none.
    Response {
        peer: PeerId,
        /// To which question.
        request: RequestId,
        result: Result<Vec<u8>, RequestError>,
    },
    /// A connected peer speaks version 1: it counts as disconnected.
    Older(PeerId),
    /// All connections to a peer lead through a relay, or one is direct.
    Way {
        peer: PeerId,
        /// Which of the two.
        is_relayed: bool,
    },
    /// This node listens here.
    ListenAddress(Multiaddr),
    /// It is known better where this node can be reached ([`Network::reachable_at`]).
    Reachable,
    /// A relay through which this node was reached is gone; others take its place.
    RelayGone(PeerId),
    /// What the home's router says to being asked for a port.
    Router(RouterAnswer),
    /// Of several addresses to listen at, one is not to be had, for this reason.
    NotListening(String),
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
    /// Connections by peer.
    links: Links,
    /// Peers that only a relay leads to.
    direct_calls: DirectCalls,
    relays: Relays,
    relays_only: bool,
    /// Whether it listens to its own machine only.
    is_alone: bool,
    router: Router,
    /// Where peers that were called see this machine.
    observed: HashMap<PeerId, Multiaddr>,
    /// Where callers say that they called this machine.
    claimed: HashMap<PeerId, Multiaddr>,
    shown: Shown,
    /// What people say others can call this node at.
    announced: Vec<Multiaddr>,
    /// Whether anybody can call this node directly.
    is_reachable: bool,
    /// Whether it listens at all.
    listens: bool,
    /// Circuits through this node: for how many machines, and how many there are.
    relaying: relays::Relaying,
    /// Peers to disconnect from, and when.
    parting: HashMap<PeerId, Instant>,
    /// Those that may not come again, once they have been heard out.
    refused: HashSet<PeerId>,
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
        let (relayed, relay_client) = libp2p::relay::client::new(own);
        let transport = transport::build(transport::Parts {
            keypair: &keypair,
            prologue: config.prologue,
            relayed,
            counters: &counters,
            limits: config.limits,
            reach: &reach,
            liveness: &liveness,
        })
        .map_err(StartError::Setup)?;
        #[cfg(feature = "upnp")]
        let (router, upnp) = Self::ask_router(&config);
        #[cfg(not(feature = "upnp"))]
        let router = Router::default();
        let behaviour = Behaviour::new(
            &keypair,
            &config,
            &counters,
            relay_client,
            #[cfg(feature = "upnp")]
            upnp,
        )
        .map_err(StartError::Setup)?;
        let settings = libp2p::swarm::Config::with_tokio_executor();
        let mut network = Self {
            swarm: Swarm::new(transport, behaviour, own, settings.with_idle_connection_timeout(IDLE)),
            topic: config.gossips().map(behaviour::topic),
            counters,
            connections_target: config.connections_target,
            events: VecDeque::new(),
            upkeep: tokio::time::interval(UPKEEP),
            calls: HashSet::new(),
            links: Links::default(),
            direct_calls: DirectCalls::default(),
            relays: Relays::new(&config.relays),
            relays_only: config.relays_only,
            is_alone: config.is_alone(),
            router,
            observed: HashMap::new(),
            claimed: HashMap::new(),
            shown: Shown::default(),
            announced: Vec::new(),
            is_reachable: false,
            listens: !config.listen.is_empty(),
            relaying: relays::Relaying::default(),
            parting: HashMap::new(),
            refused: HashSet::new(),
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
        network.take_addresses(&config);
        network.listen_at_all(&config).await?;
        network.on_reachability();
        Ok(network)
    }

    /// Those that people gave.
    fn take_addresses(&mut self, config: &NetworkConfig) {
        for address in config.given.iter().chain(config.relays.iter().map(|(_, address)| address)) {
            self.reach.is_near(address);
            names::name(address).into_iter().for_each(|name| self.reach.trust(name));
        }
        config.announced.iter().for_each(|address| self.swarm.add_external_address(address.clone()));
        self.announced = config.announced.clone();
    }

    async fn listen_at_all(&mut self, config: &NetworkConfig) -> Result<(), StartError> {
        // Before the first of them: a port of IPv6 is looked for in both families.
        if let Some(taken) = config.listen.iter().find(|address| transport::is_occupied(address)) {
            return Err(StartError::Occupied(taken.clone()));
        }
        let (mut listens, mut failed) = (config.listen.is_empty(), None);
        for address in &config.listen {
            match self.listen(address).await {
                Ok(()) => listens = true,
                Err(error @ StartError::Listen { .. }) if config.listen_at_any => failed = failed.or(Some(error)),
                Err(error) => return Err(error),
            }
        }
        match failed {
            Some(error) if !listens => Err(error),
            Some(error) => {
                self.events.push_back(Event::NotListening(error.to_string()));
                Ok(())
            }
            None => Ok(()),
        }
    }

    async fn listen(&mut self, address: &Multiaddr) -> Result<(), StartError> {
        let failed = |error: &(dyn std::error::Error + 'static)| match transport::is_address_in_use(error) {
            true => StartError::Occupied(address.clone()),
            false => StartError::Listen { address: address.clone(), error: format!("{error:?}") },
        };
        let listener = self.swarm.listen_on(address.clone()).map_err(|error| failed(&error))?;
        let named = async {
            loop {
                match self.swarm.select_next_some().await {
                    event @ SwarmEvent::NewListenAddr { listener_id, .. } if listener_id == listener => {
                        self.on_swarm(event);
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

    /// Closes connections to a peer, once what is on its way to it has had time to arrive. It may come again.
    pub fn hang_up(&mut self, peer: PeerId) {
        self.parting.entry(peer).or_insert_with(|| Instant::now() + PARTING);
    }

    /// The run has parted with a peer: it is heard out once, long enough to learn why, and does not come again after
    /// that.
    pub fn refuse(&mut self, peer: PeerId) {
        self.refused.insert(peer);
        if self.swarm.is_connected(&peer) {
            self.part_with(peer);
        }
    }

    fn part_with(&mut self, peer: PeerId) {
        self.parting.insert(peer, Instant::now() + HEARING);
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
        let stays = |peer: &PeerId| !self.parting.contains_key(peer) && !self.refused.contains(peer);
        let known = self.addresses.iter().filter(|(peer, _)| stays(peer));
        known.map(|(peer, address)| (*peer, address.clone())).collect()
    }

    /// Connected peers, with the address they are at and the last round trip as far as known.
    pub fn neighbours(&self) -> impl Iterator<Item = (&PeerId, Option<&Multiaddr>, Option<Duration>)> {
        let known = |peer| (peer, self.links.remote(peer), self.round_trips.get(peer).copied());
        let is_parted = |peer: &&PeerId| self.older.is_connected(peer) || self.parting.contains_key(peer);
        self.swarm.connected_peers().filter(move |peer| !is_parted(peer)).map(known)
    }

    /// Where peers that were called see this machine: what routers make of its address.
    pub fn observed(&self) -> impl Iterator<Item = &Multiaddr> {
        self.observed.values()
    }

    /// What the home's router said last, if it was asked.
    pub fn router(&self) -> Option<&RouterAnswer> {
        self.router.answer()
    }

    /// Whether the home's router was asked and has not answered yet.
    pub fn waits_for_router(&self) -> bool {
        self.router.is_waited_for()
    }

    /// Connected peers that relay, and those that people named.
    pub fn relays_known(&self) -> usize {
        self.relays.known()
    }

    /// For how many machines this node is a relay, and how many connections lead through it now.
    pub fn relaying(&self) -> (usize, usize) {
        self.relaying.counts()
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
