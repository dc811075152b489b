//! What libp2p reports, turned into [`Event`]s.

use libp2p::{
    Multiaddr, PeerId,
    core::ConnectedPoint,
    gossipsub, identify, kad, mdns,
    multiaddr::Protocol,
    ping,
    request_response::{self, Message},
    swarm::{DialError, SwarmEvent, dial_opts::DialOpts},
};
use std::time::{Duration, Instant};

use super::{BehaviourEvent, Event, Network, Responder, Severity, Verdict};

/// Below the target number of connections, strangers are looked for this often.
const WALK_INTERVAL: Duration = Duration::from_secs(10);
/// What people hear of a bootstrap address that leads back here.
const OWN_ADDRESS: &str = "this node itself answers there: give another machine's address";
/// Listen addresses taken from one peer.
const ADDRESSES_PER_PEER_MAX: usize = 8;

impl Network {
    pub(super) fn on_swarm(&mut self, event: SwarmEvent<BehaviourEvent>) {
        match event {
            SwarmEvent::Behaviour(event) => self.on_behaviour(event),
            SwarmEvent::NewListenAddr { address, .. } => self.events.push_back(Event::ListenAddress(address)),
            SwarmEvent::ConnectionEstablished { peer_id, endpoint, num_established, .. } => {
                if let ConnectedPoint::Dialer { address, .. } = &endpoint {
                    self.addresses.insert(peer_id, without_peer(address));
                }
                if num_established.get() == 1 {
                    self.peers.connected(&peer_id);
                    self.events.push_back(Event::PeerConnected(peer_id));
                }
            }
            SwarmEvent::ConnectionClosed { peer_id, num_established: 0, .. } => {
                self.peers.gone(&peer_id);
                self.addresses.remove(&peer_id);
                self.round_trips.remove(&peer_id);
                self.events.push_back(Event::PeerGone(peer_id));
            }
            SwarmEvent::OutgoingConnectionError { peer_id: Some(peer), error, .. } => self.on_call_failed(peer, &error),
            _ => {}
        }
    }

    fn on_call_failed(&mut self, peer: PeerId, error: &DialError) {
        if matches!(error, DialError::DialPeerConditionFalse(_)) || self.swarm.is_connected(&peer) {
            return;
        }
        if let Some((address, retry_in)) = self.peers.failed(&peer) {
            let error = in_words(error, self.peer_id());
            self.events.push_back(Event::BootstrapUnreachable { address, error, retry_in });
        }
    }

    fn on_behaviour(&mut self, event: BehaviourEvent) {
        match event {
            BehaviourEvent::Gossip(gossipsub::Event::Message { propagation_source, message_id, message }) => {
                self.counters.gossip_received(message.data.len());
                if !self.peers.allow(&propagation_source, message.data.len()) {
                    self.report(&message_id, &propagation_source, Verdict::Ignore);
                    return self.penalize(&propagation_source, Severity::Fault, "a flood of gossip");
                }
                self.unreported.insert(message_id.clone(), message.data.len());
                self.events.push_back(Event::Gossip {
                    source: propagation_source,
                    message: message_id,
                    bytes: message.data,
                });
            }
            BehaviourEvent::Exchange(event) => self.on_exchange(event),
            BehaviourEvent::Identify(identify::Event::Received { peer_id, info, .. }) => {
                self.on_identified(peer_id, &info)
            }
            BehaviourEvent::Kad(kad::Event::RoutingUpdated { peer, addresses, .. }) => {
                for address in addresses.iter().take(ADDRESSES_PER_PEER_MAX) {
                    self.peers.found(peer, without_peer(address));
                }
            }
            BehaviourEvent::Kad(kad::Event::OutboundQueryProgressed {
                result: kad::QueryResult::GetClosestPeers(Ok(found)),
                ..
            }) => {
                for info in found.peers.into_iter().take(32) {
                    for address in info.addrs.iter().take(ADDRESSES_PER_PEER_MAX) {
                        self.peers.found(info.peer_id, without_peer(address));
                    }
                }
            }
            BehaviourEvent::Ping(ping::Event { peer, result: Ok(time), .. }) => {
                self.round_trips.insert(peer, time);
            }
            BehaviourEvent::Mdns(mdns::Event::Discovered(found)) => {
                for (peer, address) in found.into_iter().take(64) {
                    self.peers.found(peer, without_peer(&address));
                }
            }
            _ => {}
        }
    }

    fn on_exchange(&mut self, event: request_response::Event<Vec<u8>, Vec<u8>>) {
        match event {
            request_response::Event::Message { peer, message: Message::Request { request, channel, .. }, .. } => {
                self.counters.exchange_received(request.len());
                if self.peers.allow(&peer, 0) {
                    self.events.push_back(Event::Request { peer, bytes: request, responder: Responder(channel) });
                } else {
                    self.penalize(&peer, Severity::Fault, "a flood of questions");
                }
            }
            request_response::Event::Message { peer, message: Message::Response { request_id, response }, .. } => {
                self.counters.exchange_received(response.len());
                self.events.push_back(Event::Response { peer, request: request_id, result: Ok(response) });
            }
            request_response::Event::OutboundFailure { peer, request_id, error, .. } => {
                self.events.push_back(Event::Response { peer, request: request_id, result: Err(error) });
            }
            request_response::Event::InboundFailure { .. } | request_response::Event::ResponseSent { .. } => {}
        }
    }

    /// A peer's own word on where it listens: good enough to be called there, which proves it.
    fn on_identified(&mut self, peer: PeerId, info: &identify::Info) {
        let same_kad = |kad: &kad::Behaviour<_>| kad.protocol_names().iter().any(|name| info.protocols.contains(name));
        let shares_run = self.swarm.behaviour().kad.as_ref().is_some_and(same_kad);
        for address in info.listen_addrs.iter().take(ADDRESSES_PER_PEER_MAX) {
            let address = without_peer(address);
            self.addresses.entry(peer).or_insert_with(|| address.clone());
            if shares_run {
                self.peers.found(peer, address.clone());
                if let Some(kad) = self.swarm.behaviour_mut().kad.as_mut() {
                    kad.add_address(&peer, address);
                }
            }
        }
    }

    /// Calls, pardons, looks for more peers.
    pub(super) fn look_after(&mut self) {
        for peer in self.peers.pardoned() {
            self.swarm.behaviour_mut().blocked.unblock_peer(peer);
        }
        self.dial_due();
        // Walks open connections to those they ask: with enough neighbours there is nothing to look for.
        let few = self.swarm.connected_peers().count() < self.peers.connections_target();
        if few && self.last_walk.elapsed() >= WALK_INTERVAL {
            self.last_walk = Instant::now();
            if let Some(kad) = self.swarm.behaviour_mut().kad.as_mut() {
                kad.get_closest_peers(PeerId::random());
            }
        }
    }

    pub(super) fn dial_due(&mut self) {
        let connections = self.swarm.connected_peers().count();
        let swarm = &self.swarm;
        let peers = &mut self.peers;
        for (peer, addresses) in peers.due(|peer| swarm.is_connected(peer), connections) {
            if self.is_banned(&peer) {
                continue;
            }
            let options = DialOpts::peer_id(peer).addresses(addresses).build();
            if let Err(error) = self.swarm.dial(options) {
                self.on_call_failed(peer, &error);
            }
        }
    }
}

fn without_peer(address: &Multiaddr) -> Multiaddr {
    address.iter().filter(|part| !matches!(part, Protocol::P2p(_))).collect()
}

/// The part of a dial error that people can act on.
fn in_words(error: &DialError, own: PeerId) -> String {
    match error {
        DialError::Transport(errors) => {
            let innermost = |error: &dyn std::error::Error| {
                let mut text = error.to_string();
                let mut source = error.source();
                while let Some(inner) = source {
                    text = inner.to_string();
                    source = inner.source();
                }
                text
            };
            errors.first().map_or_else(|| error.to_string(), |(_, error)| innermost(error))
        }
        // Own listen addresses are left out of a call, and there was at least one address.
        DialError::LocalPeerId { .. } | DialError::NoAddresses => OWN_ADDRESS.into(),
        DialError::WrongPeerId { obtained, .. } if *obtained == own => OWN_ADDRESS.into(),
        DialError::WrongPeerId { obtained, .. } => format!("another node answers there: {obtained}"),
        other => other.to_string(),
    }
}
