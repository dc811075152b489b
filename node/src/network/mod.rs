//! libp2p behind an interface of opaque bytes: connections, gossip, questions and answers. Knows nothing of ledgers.

use libp2p::{
    Swarm, gossipsub,
    swarm::{
        ConnectionId,
        dial_opts::{DialOpts, PeerCondition},
    },
};
use std::{
    collections::{HashMap, HashSet, VecDeque},
    time::{Duration, Instant, SystemTime},
};

mod address;
mod behaviour;
mod circuits;
mod codec;
mod config;
mod direct;
mod error;
mod event;
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
mod relayed;
mod relays;
mod router;
mod scope;
mod shown;
mod start;
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
pub use event::{Event, RequestError, RequestId, Responder};
pub use libp2p::{Multiaddr, PeerId, gossipsub::MessageId};
pub use limit::Limits;
pub use names::NO_ADDRESS;
pub use nodes::Nodes;
pub use peer::{framing, mesh};
pub use router::RouterAnswer;
pub use scope::{Scope, scope_of};
pub use traffic::Traffic;
pub use transport::{check_free, everywhere, free_port};

use behaviour::Behaviour;
use direct::DirectCalls;
use futures::StreamExt;
use guard::Reach;
use links::Links;
use liveness::Liveness;
use older::Older;
use protocol::replica::Verdict;
use relays::{Relaying, Relays};
use router::Router;
use shown::Shown;
use traffic::Counters;

/// A peer that is parted with still gets what is on its way to it.
const PARTING: Duration = Duration::from_secs(3);
/// A machine that relays for a run leaves one that is of none connected for so long: it may just be looking around.
pub const STRANGER_STAYS: Duration = relays::STRANGER_MAX.saturating_add(PARTING);
/// A peer that is refused for good gets this long to hear why: neighbours compare what they hold every ten seconds.
const HEARING: Duration = Duration::from_secs(15);
/// Connections get this long to close in an orderly way. Nothing depends on it: the other end notices anyhow.
const CLOSING_MAX: Duration = Duration::from_millis(300);

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
    relaying: Relaying,
    /// Connected peers that look for others of this run.
    of_run: HashSet<PeerId>,
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
    /// This node's name.
    pub fn peer_id(&self) -> PeerId {
        *self.swarm.local_peer_id()
    }

    /// Where this node listens.
    pub fn listen_addresses(&self) -> Vec<Multiaddr> {
        self.swarm.listeners().cloned().collect()
    }

    /// Where people say that others can call this node.
    pub fn announced(&self) -> &[Multiaddr] {
        &self.announced
    }

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
        self.hang_up_after(peer, PARTING);
    }

    fn hang_up_after(&mut self, peer: PeerId, time: Duration) {
        self.parting.entry(peer).or_insert_with(|| Instant::now() + time);
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
