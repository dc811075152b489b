//! The connections to each peer: which are direct, and which lead through a relay.

use libp2p::{Multiaddr, PeerId, core::ConnectedPoint, swarm::ConnectionId};
use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use super::address::{is_relayed, without_peer};

/// A direct connection that has lasted this long takes the place of relayed ones.
const PROVED: Duration = Duration::from_secs(2);

struct Link {
    id: ConnectionId,
    /// Where the other end is.
    remote: Multiaddr,
    is_inbound: bool,
    since: Instant,
}

/// See the module's documentation.
#[derive(Default)]
pub struct Links(HashMap<PeerId, Vec<Link>>);

/// Where the other end of a connection is, without its peer id.
pub fn remote_of(endpoint: &ConnectedPoint) -> Multiaddr {
    match endpoint {
        // What came through a relay says of its own end only who it is.
        ConnectedPoint::Listener { local_addr, .. } if is_relayed(local_addr) => without_peer(local_addr),
        endpoint => without_peer(endpoint.get_remote_address()),
    }
}

impl Links {
    /// A connection stands. Returns whether the way to the peer is another now: relayed or not.
    pub fn opened(&mut self, peer: PeerId, id: ConnectionId, endpoint: &ConnectedPoint) -> bool {
        let was = self.is_relayed(&peer);
        let link = Link { id, remote: remote_of(endpoint), is_inbound: endpoint.is_listener(), since: Instant::now() };
        self.0.entry(peer).or_default().push(link);
        was != self.is_relayed(&peer)
    }

    /// A connection is gone. Returns whether the way to the peer is another now; with the last connection it is not.
    pub fn closed(&mut self, peer: PeerId, id: ConnectionId) -> bool {
        let was = self.is_relayed(&peer);
        let Some(links) = self.0.get_mut(&peer) else { return false };
        links.retain(|link| link.id != id);
        if links.is_empty() {
            self.0.remove(&peer);
            return false;
        }
        was != self.is_relayed(&peer)
    }

    /// Whether every connection to the peer leads through a relay; also if there is none.
    pub fn is_relayed(&self, peer: &PeerId) -> bool {
        self.0.get(peer).is_none_or(|links| links.iter().all(|link| is_relayed(&link.remote)))
    }

    /// Whether any connection to the peer leads through a relay.
    pub fn has_circuit(&self, peer: &PeerId) -> bool {
        self.0.get(peer).is_some_and(|links| links.iter().any(|link| is_relayed(&link.remote)))
    }

    /// Where the peer is: directly, if there is a direct connection.
    pub fn remote(&self, peer: &PeerId) -> Option<&Multiaddr> {
        let links = self.0.get(peer)?;
        let direct = links.iter().find(|link| !is_relayed(&link.remote));
        direct.or(links.first()).map(|link| &link.remote)
    }

    /// Whether a connection was opened by the other end, directly.
    pub fn is_inbound(&self, peer: &PeerId, id: ConnectionId) -> bool {
        let links = self.0.get(peer).into_iter().flatten();
        links.filter(|link| link.id == id).any(|link| link.is_inbound && !is_relayed(&link.remote))
    }

    /// Circuits to peers that are connected directly, too, for long enough.
    pub fn superfluous(&self) -> Vec<ConnectionId> {
        let proved = |link: &Link| !is_relayed(&link.remote) && link.since.elapsed() >= PROVED;
        let both = self.0.values().filter(|links| links.iter().any(proved));
        both.flatten().filter(|link| is_relayed(&link.remote)).map(|link| link.id).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use libp2p::core::{Endpoint, transport::PortUse};

    fn dialed(address: &str) -> ConnectedPoint {
        let address = address.parse().unwrap();
        ConnectedPoint::Dialer { address, role_override: Endpoint::Dialer, port_use: PortUse::Reuse }
    }

    #[test]
    fn a_direct_connection_counts_before_those_through_relays() {
        let (mut links, peer, relay) = (Links::default(), PeerId::random(), PeerId::random());
        let circuit = format!("/ip4/198.51.100.1/tcp/9713/p2p/{relay}/p2p-circuit");
        let (first, second) = (ConnectionId::new_unchecked(1), ConnectionId::new_unchecked(2));
        assert!(!links.opened(peer, first, &dialed(&format!("{circuit}/p2p/{peer}"))));
        assert!(links.is_relayed(&peer) && links.has_circuit(&peer));
        assert_eq!(links.remote(&peer).unwrap().to_string(), circuit);
        assert!(links.opened(peer, second, &dialed("/ip4/198.51.100.7/tcp/9713")));
        assert!(!links.is_relayed(&peer) && links.superfluous().is_empty(), "it has to last");
        links.0.get_mut(&peer).unwrap()[1].since -= PROVED;
        assert_eq!(links.superfluous(), [first]);
        assert_eq!(links.remote(&peer).unwrap().to_string(), "/ip4/198.51.100.7/tcp/9713");
        assert!(links.closed(peer, second));
        assert!(!links.closed(peer, first) && links.remote(&peer).is_none());
    }

    #[test]
    fn who_came_through_a_relay_is_where_the_relay_is() {
        let (mut links, peer, relay) = (Links::default(), PeerId::random(), PeerId::random());
        let local_addr: Multiaddr = format!("/ip4/198.51.100.1/tcp/9713/p2p/{relay}/p2p-circuit").parse().unwrap();
        let send_back_addr = format!("/p2p/{peer}").parse().unwrap();
        let (relayed, direct) = (ConnectionId::new_unchecked(1), ConnectionId::new_unchecked(2));
        links.opened(peer, relayed, &ConnectedPoint::Listener { local_addr: local_addr.clone(), send_back_addr });
        assert_eq!(links.remote(&peer), Some(&local_addr));
        assert!(!links.is_inbound(&peer, relayed), "it shows nothing of the way to this machine");
        let (local_addr, send_back_addr) =
            ("/ip4/198.51.100.2/tcp/9713".parse().unwrap(), "/ip4/198.51.100.3/tcp/5".parse().unwrap());
        links.opened(peer, direct, &ConnectedPoint::Listener { local_addr, send_back_addr });
        assert!(links.is_inbound(&peer, direct));
    }
}
