//! How many of the connections that come in may come from one host: nobody alone shuts this node's door to others.
//! While there is room, anybody has it: many machines may share a router's address.
//!
//! Not counted: what comes from this machine itself, where many nodes of a swarm may run, and what comes through a
//! relay, which shows the relay's address and not that of the caller.
//!
//! And how many calls go to machines that are connected already: these ask to be called back, to see whether they can
//! be, and may let the calls hang. The others are this node's own, and must find room.

use libp2p::{
    Multiaddr, PeerId,
    core::{Endpoint, transport::PortUse},
    swarm::{
        ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, THandler, THandlerInEvent, THandlerOutEvent,
        ToSwarm, dummy,
    },
};
use std::{
    collections::{HashMap, HashSet},
    convert::Infallible,
    net::{IpAddr, Ipv6Addr},
    task::{Context, Poll},
};

use super::address::{ip, is_relayed};

/// Once half of the room is taken, one host gets no more than this part of all.
const SHARE: usize = 4;

/// Whose connection it is: an IPv4 address, or the /64 of an IPv6 address, of which one machine may have all; on a
/// local network, where machines share it, the address. None if it is not counted.
fn host(local: &Multiaddr, remote: &Multiaddr) -> Option<IpAddr> {
    let host = ip(remote).filter(|_| !is_relayed(local))?.to_canonical();
    let is_own = host.is_loopback() || ip(local).is_some_and(|local| local.to_canonical() == host);
    (!is_own).then(|| match host {
        IpAddr::V4(_) => host,
        IpAddr::V6(address) if address.is_unicast_link_local() || address.is_unique_local() => host,
        IpAddr::V6(address) => Ipv6Addr::from(u128::from(address) & !u128::from(u64::MAX)).into(),
    })
}

/// Connections by the host that they come from.
struct Counted {
    all_max: usize,
    hosts: HashMap<ConnectionId, IpAddr>,
}

impl Counted {
    fn new(all_max: u32) -> Self {
        Self { all_max: all_max as usize, hosts: HashMap::new() }
    }

    /// Whether the host may have one more. All together are bounded by what a node takes.
    fn room(&self, host: IpAddr) -> Result<(), ConnectionDenied> {
        let count = self.hosts.values().filter(|other| **other == host).count();
        match self.hosts.len() >= self.all_max / 2 && count >= (self.all_max / SHARE).max(1) {
            true => Err(ConnectionDenied::new(format!("{host}: has {count} connections here already"))),
            false => Ok(()),
        }
    }

    fn enter(&mut self, connection: ConnectionId, host: IpAddr) -> Result<(), ConnectionDenied> {
        self.room(host)?;
        self.hosts.insert(connection, host);
        Ok(())
    }
}

/// See the module's documentation.
pub struct Hosts {
    pending: Counted,
    established: Counted,
    connected: HashSet<PeerId>,
    /// Calls under way to machines that are connected already, and how many there may be.
    second_calls: HashSet<ConnectionId>,
    second_calls_max: usize,
}

impl Hosts {
    /// Where so many connections in all may be about to come in, or to be made, and have come in.
    pub fn new(pending_max: u32, established_max: u32) -> Self {
        Self {
            pending: Counted::new(pending_max),
            established: Counted::new(established_max),
            connected: HashSet::new(),
            second_calls: HashSet::new(),
            second_calls_max: pending_max as usize / 2,
        }
    }

    fn gone(&mut self, connection: ConnectionId) {
        self.pending.hosts.remove(&connection);
        self.established.hosts.remove(&connection);
        self.second_calls.remove(&connection);
    }
}

impl NetworkBehaviour for Hosts {
    type ConnectionHandler = dummy::ConnectionHandler;
    type ToSwarm = Infallible;

    fn handle_pending_inbound_connection(
        &mut self,
        connection: ConnectionId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<(), ConnectionDenied> {
        let Some(host) = host(local, remote) else { return Ok(()) };
        // Before the handshake: whoever is refused after it takes the connection to have stood.
        self.established.room(host)?;
        self.pending.enter(connection, host)
    }

    fn handle_established_inbound_connection(
        &mut self,
        connection: ConnectionId,
        _: PeerId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.pending.hosts.remove(&connection);
        if let Some(host) = host(local, remote) {
            self.established.enter(connection, host)?;
        }
        Ok(dummy::ConnectionHandler)
    }

    fn handle_pending_outbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: Option<PeerId>,
        _: &[Multiaddr],
        _: Endpoint,
    ) -> Result<Vec<Multiaddr>, ConnectionDenied> {
        if peer.is_some_and(|peer| self.connected.contains(&peer)) {
            if self.second_calls.len() >= self.second_calls_max {
                return Err(ConnectionDenied::new("too many calls to machines that are connected already"));
            }
            self.second_calls.insert(connection);
        }
        Ok(Vec::new())
    }

    fn handle_established_outbound_connection(
        &mut self,
        connection: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.second_calls.remove(&connection);
        Ok(dummy::ConnectionHandler)
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        match event {
            FromSwarm::ConnectionEstablished(established) => {
                self.connected.insert(established.peer_id);
            }
            FromSwarm::ConnectionClosed(closed) => {
                self.gone(closed.connection_id);
                if closed.remaining_established == 0 {
                    self.connected.remove(&closed.peer_id);
                }
            }
            // Also if another behaviour refused it.
            FromSwarm::ListenFailure(failure) => self.gone(failure.connection_id),
            FromSwarm::DialFailure(failure) => self.gone(failure.connection_id),
            _ => {}
        }
    }

    fn on_connection_handler_event(&mut self, _: PeerId, _: ConnectionId, event: THandlerOutEvent<Self>) {
        match event {}
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use libp2p::{
        core::ConnectedPoint,
        swarm::{ConnectionClosed, DialError, DialFailure, behaviour::ConnectionEstablished},
    };

    const LOCAL: &str = "/ip4/198.51.100.1/tcp/9713";

    fn address(text: &str) -> Multiaddr {
        text.parse().unwrap()
    }

    fn knock(hosts: &mut Hosts, connection: usize, remote: &str) -> bool {
        let (connection, local, remote) = (ConnectionId::new_unchecked(connection), address(LOCAL), address(remote));
        hosts.handle_pending_inbound_connection(connection, &local, &remote).is_ok()
    }

    fn enter(hosts: &mut Hosts, connection: usize, remote: &str) -> bool {
        let (connection, local, remote) = (ConnectionId::new_unchecked(connection), address(LOCAL), address(remote));
        hosts.handle_established_inbound_connection(connection, PeerId::random(), &local, &remote).is_ok()
    }

    #[test]
    fn one_host_takes_no_more_than_half_and_gives_back_what_is_gone() {
        let (mut hosts, host, other) = (Hosts::new(8, 12), "/ip4/203.0.113.5/tcp/4000", "/ip4/203.0.113.6/tcp/4000");
        assert!((1..5).all(|number| knock(&mut hosts, number, host)), "there is room");
        assert!(!knock(&mut hosts, 5, host), "whichever port it comes from");
        assert!(knock(&mut hosts, 6, other) && knock(&mut hosts, 7, other));
        assert!(!knock(&mut hosts, 8, other), "a quarter, once half is taken");
        assert!((1..5).all(|number| enter(&mut hosts, number, host)), "they are pending no more");
        assert!(knock(&mut hosts, 9, host) && knock(&mut hosts, 10, host));
        assert!(enter(&mut hosts, 9, host) && enter(&mut hosts, 10, host) && !enter(&mut hosts, 11, host));
        assert!(!knock(&mut hosts, 12, host), "it would be refused after its handshake");
        assert!(knock(&mut hosts, 13, other));
        hosts.gone(ConnectionId::new_unchecked(1));
        assert!(knock(&mut hosts, 14, host));
        (1..15).for_each(|connection| hosts.gone(ConnectionId::new_unchecked(connection)));
        assert!(hosts.pending.hosts.is_empty() && hosts.established.hosts.is_empty());
    }

    /// Two peers that asked to be called back, and let the calls hang, left no room for this node's own.
    #[test]
    fn calls_to_machines_that_are_connected_leave_room_for_others() {
        let (mut hosts, [peer, other]) = (Hosts::new(8, 12), [(); 2].map(|()| PeerId::random()));
        let call = |hosts: &mut Hosts, connection: usize, peer: PeerId| {
            let connection_id = ConnectionId::new_unchecked(connection);
            hosts.handle_pending_outbound_connection(connection_id, Some(peer), &[], Endpoint::Dialer).is_ok()
        };
        let (connection_id, address) = (ConnectionId::new_unchecked(1), address(LOCAL));
        let (role_override, port_use) = (Endpoint::Dialer, PortUse::Reuse);
        let endpoint = &ConnectedPoint::Dialer { address: address.clone(), role_override, port_use };
        hosts.on_swarm_event(FromSwarm::ConnectionEstablished(ConnectionEstablished {
            peer_id: peer,
            connection_id,
            endpoint,
            failed_addresses: &[],
            other_established: 0,
        }));
        assert!((2..6).all(|connection| call(&mut hosts, connection, peer)) && !call(&mut hosts, 6, peer));
        assert!((10..20).all(|connection| call(&mut hosts, connection, other)), "it is not connected");
        let [failed, stands] = [2, 3].map(ConnectionId::new_unchecked);
        let failure = DialFailure { peer_id: Some(peer), error: &DialError::Aborted, connection_id: failed };
        hosts.on_swarm_event(FromSwarm::DialFailure(failure));
        assert!(hosts.handle_established_outbound_connection(stands, peer, &address, role_override, port_use).is_ok());
        assert!((6..8).all(|connection| call(&mut hosts, connection, peer)) && !call(&mut hosts, 8, peer));
        hosts.on_swarm_event(FromSwarm::ConnectionClosed(ConnectionClosed {
            peer_id: peer,
            connection_id,
            endpoint,
            cause: None,
            remaining_established: 0,
        }));
        assert!(hosts.connected.is_empty() && call(&mut hosts, 8, peer));
    }

    #[test]
    fn a_home_of_ipv6_is_one_host_and_this_machine_and_relays_are_none() {
        let of = |remote: &str| host(&address(LOCAL), &address(remote));
        assert_eq!(of("/ip6/2001:db8:1:2:3::4/tcp/1"), of("/ip6/2001:db8:1:2:9::8/tcp/2"));
        assert_ne!(of("/ip6/2001:db8:1:2:3::4/tcp/1"), of("/ip6/2001:db8:1:3:3::4/tcp/1"));
        assert_ne!(of("/ip6/fe80::1/tcp/1"), of("/ip6/fe80::2/tcp/1"), "machines of one network");
        assert_eq!(of("/ip6/::ffff:203.0.113.5/tcp/1"), of("/ip4/203.0.113.5/tcp/2"));
        for own in ["/ip4/127.0.0.1/tcp/1", "/ip6/::1/tcp/1", "/ip6/::ffff:127.0.0.1/tcp/1", LOCAL] {
            assert_eq!(of(own), None, "{own}");
        }
        let circuit = format!("{LOCAL}/p2p/{}/p2p-circuit", PeerId::random());
        assert_eq!(host(&address(&circuit), &address("/ip4/203.0.113.5/tcp/1")), None);
    }
}
