//! What libp2p reports, turned into [`Event`]s.

use libp2p::{
    Multiaddr, PeerId,
    core::ConnectedPoint,
    gossipsub, identify, kad, mdns, ping, relay,
    request_response::{self, Message},
    swarm::{
        ConnectionId, DialError, SwarmEvent,
        dial_opts::{DialOpts, PeerCondition},
    },
};
use std::time::{Duration, Instant, SystemTime};

use super::{
    Network, PARTING, STRANGER_STAYS,
    address::{check_callable, ip, is_of_world, is_relayed, without_peer},
    behaviour::{BehaviourEvent, is_of_another_run},
    event::{Event, Responder},
    links::remote_of,
    older::is_older,
    relayed,
    scope::{Scope, scope_of},
    transport::causes,
};

/// Below the target number of connections, strangers are looked for this often.
const WALK_INTERVAL: Duration = Duration::from_secs(10);
/// What people hear of a bootstrap address that leads back here.
const OWN_ADDRESS: &str = "this node itself answers there: give another machine's address";
/// What people hear of a connection that the other end refuses before a word is said.
const HANDSHAKE: &str = "something answers there that does not let this node in: a private run lets in whoever has its secret, which \
                         its ticket holds (--join), and an open run whoever has none; else it is no node of onebyte, or has no room \
                         for more connections";
/// A machine that was away for this long slept.
const SLEEP_MIN: Duration = Duration::from_secs(20);
/// Listen addresses taken from one peer.
const ADDRESSES_PER_PEER_MAX: usize = 8;

impl Network {
    pub(super) fn on_swarm(&mut self, event: SwarmEvent<BehaviourEvent>) {
        match event {
            SwarmEvent::Behaviour(event) => self.on_behaviour(event),
            SwarmEvent::NewListenAddr { listener_id, address } => {
                let is_relayed = self.relays.granted(listener_id, &address);
                let is_of_use = scope_of(&address).is_some_and(|scope| scope > Scope::Machine || self.is_alone);
                if self.relays_only && is_of_use {
                    self.swarm.add_external_address(address.clone());
                }
                self.events.push_back(Event::ListenAddress(address));
                if !is_relayed {
                    self.events.push_back(Event::Moved);
                }
            }
            SwarmEvent::ExpiredListenAddr { listener_id, address } => self.on_expired(listener_id, &address),
            SwarmEvent::ListenerClosed { listener_id, .. } => {
                if let Some(relay) = self.relays.ended(listener_id, Instant::now()) {
                    self.events.push_back(Event::RelayGone(relay));
                }
            }
            SwarmEvent::ExternalAddrConfirmed { address } => {
                self.shown.note(&address);
                self.on_reachability();
            }
            SwarmEvent::ExternalAddrExpired { address } => {
                self.shown.forget(&address);
                self.on_reachability();
            }
            SwarmEvent::ConnectionEstablished { peer_id, connection_id, endpoint, num_established, .. } => {
                self.calls.remove(&connection_id);
                self.on_connected(peer_id, connection_id, &endpoint, num_established.get() == 1);
            }
            SwarmEvent::ConnectionClosed { peer_id, connection_id, num_established: 1.., .. }
                if self.links.closed(peer_id, connection_id) =>
            {
                self.events.push_back(Event::Way { peer: peer_id, is_relayed: self.links.is_relayed(&peer_id) });
            }
            SwarmEvent::ConnectionClosed { peer_id, connection_id, num_established: 0, .. } => {
                self.links.closed(peer_id, connection_id);
                self.on_gone(peer_id);
            }
            // A call of discovery to an address that somebody listed says nothing about the one that people gave.
            SwarmEvent::OutgoingConnectionError { peer_id: Some(peer), connection_id, error }
                if self.calls.remove(&connection_id) =>
            {
                self.on_dial_failed(peer, &error);
            }
            _ => {}
        }
    }

    fn on_connected(&mut self, peer: PeerId, connection: ConnectionId, endpoint: &ConnectedPoint, is_first: bool) {
        self.note_caller(&peer, endpoint);
        let is_other_way = self.links.opened(peer, connection, endpoint);
        if !self.links.is_relayed(&peer) {
            self.direct_calls.settled(&peer);
        }
        let remote = remote_of(endpoint);
        self.reach.is_near(&remote);
        if let ConnectedPoint::Dialer { .. } = endpoint {
            self.addresses.insert(peer, remote);
        }
        if is_first {
            self.events.push_back(Event::Connected(peer));
            if self.refused.contains(&peer) {
                self.part_with(peer);
            }
        }
        if is_other_way || is_first && self.links.is_relayed(&peer) {
            self.events.push_back(Event::Way { peer, is_relayed: self.links.is_relayed(&peer) });
        }
    }

    fn on_gone(&mut self, peer: PeerId) {
        self.direct_calls.settled(&peer);
        self.addresses.remove(&peer);
        self.round_trips.remove(&peer);
        self.relays.gone(&peer);
        self.of_run.remove(&peer);
        if self.observed.remove(&peer).is_some() {
            self.leave_unseen();
        }
        self.parting.remove(&peer);
        if self.refused.remove(&peer) {
            self.block(peer);
        }
        self.events.extend(match self.older.gone(&peer) {
            None => Some(Event::Disconnected(peer)),
            Some(true) => Some(Event::DialFailed { peer, error: "the connection is gone".into() }),
            Some(false) => None,
        });
    }

    /// A call that failed, or was not made, to a node that is connected meanwhile is no news.
    pub(super) fn on_dial_failed(&mut self, peer: PeerId, error: &DialError) {
        if self.swarm.is_connected(&peer) {
            return;
        }
        let error = in_words(error, self.peer_id());
        self.events.push_back(Event::DialFailed { peer, error });
    }

    /// Somebody says that the peer is at these addresses: at those that could be meant, it may be called.
    fn found<'a>(&mut self, peer: PeerId, addresses: impl IntoIterator<Item = &'a Multiaddr>) {
        let meant = callable(addresses).filter(|address| self.reach.could_be_meant(address));
        for address in meant.take(ADDRESSES_PER_PEER_MAX) {
            self.events.push_back(Event::Found { peer, address });
        }
    }

    fn on_behaviour(&mut self, event: BehaviourEvent) {
        match event {
            BehaviourEvent::Gossip(gossipsub::Event::Message { propagation_source, message_id, message }) => {
                self.counters.gossip_received(message.data.len());
                self.events.push_back(Event::Gossip {
                    source: propagation_source,
                    message: message_id,
                    bytes: message.data,
                });
            }
            BehaviourEvent::Exchange(event) => self.on_exchange(event),
            BehaviourEvent::Older(request_response::Event::Message {
                peer,
                message: Message::Request { request, channel, .. },
                ..
            }) => {
                self.counters.exchange_received(request.len());
                let answer = self.older.answer(peer, &request);
                let _ = self.swarm.behaviour_mut().older.send_response(channel, answer);
            }
            BehaviourEvent::Relay(event) => {
                self.relaying.note(&event, |peer| self.swarm.is_connected(peer), Instant::now());
            }
            BehaviourEvent::Relayed(event) => self.on_relayed(event),
            BehaviourEvent::Identify(identify::Event::Received { connection_id, peer_id, info }) => {
                self.swarm.behaviour_mut().reachable.told_by(peer_id);
                self.on_identified(peer_id, connection_id, &info)
            }
            BehaviourEvent::Kad(kad::Event::RoutingUpdated { peer, addresses, .. }) => {
                self.found(peer, addresses.iter());
            }
            BehaviourEvent::Kad(kad::Event::OutboundQueryProgressed {
                result: kad::QueryResult::GetClosestPeers(Ok(found)),
                ..
            }) => {
                for info in found.peers.into_iter().take(32) {
                    self.found(info.peer_id, &info.addrs);
                }
            }
            #[cfg(feature = "upnp")]
            BehaviourEvent::Upnp(event) => self.on_router(event),
            BehaviourEvent::Ping(ping::Event { peer, result: Ok(time), .. }) if self.swarm.is_connected(&peer) => {
                self.round_trips.insert(peer, time);
            }
            BehaviourEvent::Mdns(mdns::Event::Discovered(found))
            | BehaviourEvent::Mdns6(mdns::Event::Discovered(found)) => {
                for (peer, address) in found.into_iter().take(64) {
                    self.reach.is_near(&address);
                    self.found(peer, [&address]);
                }
            }
            _ => {}
        }
    }

    fn on_relayed(&mut self, event: relayed::Event) {
        match event {
            relayed::Event::Client(relay::client::Event::ReservationReqAccepted {
                relay_peer_id,
                renewal: true,
                ..
            }) => {
                if !self.relays.renewed(relay_peer_id, Instant::now()) {
                    let _ = self.swarm.disconnect_peer_id(relay_peer_id);
                }
            }
            relayed::Event::Client(_) => {}
            relayed::Event::Broken(peer, connection) => {
                tracing::warn!("the relay {peer} answered what no relay should: its connection is closed");
                self.relays.give_up(peer);
                self.swarm.close_connection(connection);
            }
        }
    }

    fn on_exchange(&mut self, event: request_response::Event<Vec<u8>, Vec<u8>>) {
        match event {
            request_response::Event::Message { peer, message: Message::Request { request, channel, .. }, .. } => {
                self.counters.exchange_received(request.len());
                self.events.push_back(Event::Request { peer, bytes: request, responder: Responder(channel) });
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

    fn is_of_another_run(&self, info: &identify::Info) -> bool {
        let own = self.swarm.behaviour().kad.as_ref().map_or(&[][..], |kad| kad.protocol_names());
        is_of_another_run(own, &info.protocols)
    }

    /// Whether a directly connected peer relays, and where it is called then.
    fn note_relay(&mut self, peer: PeerId, info: &identify::Info, listed: &[Multiaddr]) {
        let Some(remote) = self.links.remote(&peer).filter(|_| !self.links.is_relayed(&peer)) else { return };
        let dialed = self.addresses.get(&peer).filter(|address| !is_relayed(address)).cloned();
        // Behind the port that a caller came from, nobody listens.
        let mut listed = listed.iter().filter(|listed| !is_relayed(listed) && ip(listed) == ip(remote));
        let callable = dialed.or_else(|| listed.next().cloned());
        // Machines of another run part with this one as soon as they know.
        let is_of_this = !self.is_of_another_run(info);
        let has_protocol = info.protocols.contains(&relay::HOP_PROTOCOL_NAME);
        self.relays.says(peer, has_protocol);
        let relays = is_of_this && callable.is_some() && has_protocol;
        self.relays.offers(peer, &callable.unwrap_or_else(Multiaddr::empty), relays);
    }

    /// Where a peer that only a relay leads to could be called directly.
    fn note_direct_ways(&mut self, peer: PeerId, listed: &[Multiaddr]) {
        if self.links.is_relayed(&peer) {
            let listed = listed.iter().filter(|listed| is_of_world(listed));
            let meant = listed.filter(|listed| self.reach.could_be_meant(listed)).cloned();
            self.direct_calls.listed(peer, meant.take(ADDRESSES_PER_PEER_MAX).collect());
        }
    }

    fn call_directly(&mut self) {
        for (peer, addresses) in self.direct_calls.due(Instant::now()) {
            let call = DialOpts::peer_id(peer).addresses(addresses).condition(PeerCondition::Always).build();
            // A failure is no news: the relayed connection stands.
            let _ = self.swarm.dial(call);
        }
    }

    /// A peer's own word on where it listens: good enough to be called there, which proves it.
    fn on_identified(&mut self, peer: PeerId, connection: ConnectionId, info: &identify::Info) {
        // Its word may come after its end, and nothing would ever forget it.
        if !self.swarm.is_connected(&peer) {
            return;
        }
        if is_older(info) {
            if self.older.recognise(peer) {
                self.addresses.remove(&peer);
                self.events.extend([Event::Older(peer), Event::Disconnected(peer)]);
            }
            return;
        }
        self.note_observed(&peer, connection, info);
        let listed: Vec<Multiaddr> = callable(&info.listen_addrs).collect();
        self.note_relay(peer, info, &listed);
        self.note_direct_ways(peer, &listed);
        let same_kad = |kad: &kad::Behaviour<_>| kad.protocol_names().iter().any(|name| info.protocols.contains(name));
        let shares_run = self.swarm.behaviour().kad.as_ref().is_some_and(same_kad);
        if self.relays_only && self.swarm.behaviour().kad.is_enabled() && !shares_run {
            // Not of the run that is relayed for.
            self.hang_up_after(peer, if self.is_of_another_run(info) { PARTING } else { STRANGER_STAYS });
        }
        // What it lists beside is for those who are nearer to it.
        let distance = self.links.remote(&peer).and_then(scope_of);
        let is_for_us = |address: &Multiaddr| scope_of(address).is_some_and(|scope| Some(scope) >= distance);
        let listed: Vec<Multiaddr> = listed.into_iter().filter(is_for_us).take(ADDRESSES_PER_PEER_MAX).collect();
        if let Some(first) = listed.first() {
            self.addresses.entry(peer).or_insert_with(|| first.clone());
        }
        if shares_run {
            self.of_run.insert(peer);
            self.found(peer, &listed);
            if let Some(kad) = self.swarm.behaviour_mut().kad.as_mut() {
                list_in(kad, peer, &listed, self.addresses.get(&peer));
            }
        }
    }

    /// After sleep, whoever is gone is noticed soon, and calls that failed are made again.
    fn notice_sleep(&mut self) {
        let now = (Instant::now(), SystemTime::now());
        if slept(std::mem::replace(&mut self.awake, now), now) {
            self.liveness.woke();
            #[cfg(feature = "upnp")]
            self.router.woke();
            self.events.push_back(Event::Moved);
        }
    }

    /// Whoever has a reservation here and is not of this run goes: what this machine has to spare is for its own run.
    fn relay_for_run(&mut self) {
        if self.swarm.behaviour().kad.is_enabled() {
            let strangers = self.relaying.strangers(&self.of_run, Instant::now());
            strangers.into_iter().for_each(|peer| self.hang_up(peer));
        }
    }

    /// Looks for more peers. Walks open connections to those they ask: with enough neighbours there is nothing to look
    /// for.
    pub(super) fn look_around(&mut self) {
        self.notice_sleep();
        #[cfg(feature = "upnp")]
        self.look_at_router();
        self.look_for_relays();
        self.relay_for_run();
        self.call_directly();
        for circuit in self.links.superfluous() {
            self.swarm.close_connection(circuit);
        }
        let due: Vec<PeerId> = self.parting.extract_if(|_, at| *at <= Instant::now()).map(|(peer, _)| peer).collect();
        for peer in due {
            match self.refused.remove(&peer) {
                true => self.block(peer),
                false => drop(self.swarm.disconnect_peer_id(peer)),
            }
        }
        let few = self.swarm.connected_peers().count() < self.connections_target;
        if few && self.last_walk.elapsed() >= WALK_INTERVAL {
            self.last_walk = Instant::now();
            if let Some(kad) = self.swarm.behaviour_mut().kad.as_mut() {
                kad.get_closest_peers(PeerId::random());
            }
        }
    }
}

/// Of addresses that somebody lists, those at which a node could be called, without its peer id.
fn callable<'a>(addresses: impl IntoIterator<Item = &'a Multiaddr>) -> impl Iterator<Item = Multiaddr> {
    addresses.into_iter().map(without_peer).filter(|address| check_callable(address).is_ok())
}

/// Discovery passes on where a peer listens, and where it was `called`. What it listed before goes: it may list others
/// each time.
fn list_in(
    kad: &mut kad::Behaviour<kad::store::MemoryStore>,
    peer: PeerId,
    listed: &[Multiaddr],
    called: Option<&Multiaddr>,
) {
    if listed.is_empty() {
        return;
    }
    for address in listed {
        kad.add_address(&peer, address.clone());
    }
    let mut gone = Vec::new();
    if let Some(bucket) = kad.kbucket(peer) {
        for entry in bucket.iter().filter(|entry| *entry.node.key.preimage() == peer) {
            let is_kept = |held: &Multiaddr| listed.contains(held) || called == Some(held);
            gone.extend(entry.node.value.iter().filter(|held| !is_kept(&without_peer(held))).cloned());
        }
    }
    for address in gone {
        kad.remove_address(&peer, &address);
    }
}

/// Whether a machine slept between two looks. Its clock may have stood still meanwhile, where the time of day went on.
fn slept(before: (Instant, SystemTime), now: (Instant, SystemTime)) -> bool {
    let on_the_wall = now.1.duration_since(before.1).unwrap_or_default();
    now.0.duration_since(before.0).max(on_the_wall) >= SLEEP_MIN
}

/// The part of a dial error that people can act on.
fn in_words(error: &DialError, own: PeerId) -> String {
    match error {
        DialError::Transport(errors) if errors.iter().any(|(_, error)| is_handshake(error)) => HANDSHAKE.into(),
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

/// Whether two ends did not come to terms: of a private run and not, or with different secrets.
fn is_handshake(error: &(dyn std::error::Error + 'static)) -> bool {
    causes(error).any(|cause| cause.is::<libp2p::noise::Error>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::NetworkConfig;

    /// `node doctor` lost a run's relay after three seconds, and said that none was known.
    #[tokio::test]
    async fn a_relay_of_a_run_leaves_who_is_of_none_time_to_look_around_and_who_is_of_another_only_to_be_told() {
        let config = |key: u8, run| NetworkConfig::new([key; 32], run, vec!["/ip4/127.0.0.1/tcp/0".parse().unwrap()]);
        let mut relay = Network::start(NetworkConfig { relays_only: true, ..config(1, Some([7; 32])) }).await.unwrap();
        let (called, address, begun) = (relay.peer_id(), relay.listen_addresses()[0].clone(), Instant::now());
        for (key, run, time) in [(2, None, STRANGER_STAYS), (3, Some([8; 32]), PARTING)] {
            let mut guest = Network::start(config(key, run)).await.unwrap();
            guest.dial(called, vec![address.clone()]);
            while !relay.parting.contains_key(&guest.peer_id()) {
                tokio::select! {
                    _ = guest.next() => {}
                    _ = relay.next() => {}
                    () = tokio::time::sleep(Duration::from_millis(10)) => {}
                }
            }
            let until = relay.parting[&guest.peer_id()];
            assert!(until >= begun + time && until <= Instant::now() + time);
        }
    }

    /// What a peer listed that was gone was called for ever.
    #[tokio::test]
    async fn the_word_of_a_peer_that_is_gone_is_not_kept() {
        let mut network = Network::start(NetworkConfig::new([1; 32], Some([7; 32]), Vec::new())).await.unwrap();
        let key = crate::network::address::key_pair([9; 32]).unwrap().public();
        let (peer, connection) = (key.to_peer_id(), ConnectionId::new_unchecked(1));
        let kad = network.swarm.behaviour().kad.as_ref().unwrap().protocol_names().to_vec();
        let info = identify::Info {
            public_key: key,
            protocol_version: String::new(),
            agent_version: String::new(),
            listen_addrs: vec!["/ip4/203.0.113.5/tcp/9713".parse().unwrap()],
            protocols: kad,
            observed_addr: "/ip4/203.0.113.6/tcp/9713".parse().unwrap(),
            signed_peer_record: None,
        };
        network.on_identified(peer, connection, &info);
        assert!(network.direct_calls.due(Instant::now()).is_empty());
        assert!(network.of_run.is_empty() && network.addresses.is_empty());
    }

    #[test]
    fn of_one_peer_no_more_addresses_are_passed_on_than_it_lists_at_once() {
        let (own, peer) = (PeerId::random(), PeerId::random());
        let mut kad = kad::Behaviour::new(own, kad::store::MemoryStore::new(own));
        let at = |port: usize| -> Multiaddr { format!("/ip4/203.0.113.5/tcp/{port}").parse().unwrap() };
        let called = at(1);
        kad.add_address(&peer, called.clone());
        for push in 1..50 {
            let listed: Vec<Multiaddr> = (0..8).map(|number| at(push * 100 + number)).collect();
            list_in(&mut kad, peer, &listed, Some(&called));
        }
        let bucket = kad.kbucket(peer).unwrap();
        let held: Vec<Multiaddr> =
            bucket.iter().flat_map(|entry| entry.node.value.iter().map(without_peer).collect::<Vec<_>>()).collect();
        assert_eq!(held, std::iter::once(called).chain((0..8).map(|number| at(4_900 + number))).collect::<Vec<_>>());
    }

    /// What could never be called took the places of what could, and was passed on to others.
    #[test]
    fn of_what_is_listed_only_that_is_kept_which_could_be_called() {
        let [peer, relay] = [(); 2].map(|()| PeerId::random());
        let circuit = format!("/ip4/203.0.113.5/tcp/9713/p2p/{relay}/p2p-circuit");
        let good = ["/ip4/203.0.113.5/tcp/9713".to_owned(), circuit.clone()];
        let bad = ["/ip4/203.0.113.5/tcp/0", "/ip4/203.0.113.5/tcp/9713/ws", "/ip6/ff02::1/tcp/9713", "/memory/1"];
        let nested = format!("{circuit}/p2p/{peer}/p2p-circuit");
        let listed = good.iter().map(String::as_str).chain(bad).chain([nested.as_str()]);
        let listed: Vec<Multiaddr> = listed.map(|listed| format!("{listed}/p2p/{peer}").parse().unwrap()).collect();
        let kept: Vec<String> = callable(&listed).map(|address| address.to_string()).collect();
        assert_eq!(kept, good);
    }

    #[test]
    fn sleep_is_noticed_by_either_clock_and_a_clock_set_back_is_none() {
        let (start, epoch) = (Instant::now(), SystemTime::UNIX_EPOCH + SLEEP_MIN * 10);
        let (short, long) = (Duration::from_secs(1), SLEEP_MIN * 3);
        for (monotonic, of_day, expected) in [
            (short, epoch + short, false),
            (short, epoch + long, true),
            (long, epoch + long, true),
            (short, epoch - long, false),
        ] {
            assert_eq!(slept((start, epoch), (start + monotonic, of_day)), expected);
        }
    }
}
