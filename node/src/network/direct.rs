//! Peers that only a relay leads to, although they list addresses of the world: they are called there, again and again,
//! until a direct connection stands. DCUtR tries when a circuit begins, and a peer may not know then where it is.

use libp2p::{Multiaddr, PeerId};
use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

/// A peer that did not answer is called again after this.
const RETRY: Duration = Duration::from_secs(30);

struct Listed {
    addresses: Vec<Multiaddr>,
    due: Instant,
}

/// See the module's documentation. Holds connected peers only.
#[derive(Default)]
pub struct DirectCalls(HashMap<PeerId, Listed>);

impl DirectCalls {
    /// A peer that only a relay leads to lists these addresses of the world. New ones are called at once.
    pub fn listed(&mut self, peer: PeerId, addresses: Vec<Multiaddr>, now: Instant) {
        if addresses.is_empty() {
            self.0.remove(&peer);
        } else if self.0.get(&peer).is_none_or(|known| known.addresses != addresses) {
            self.0.insert(peer, Listed { addresses, due: now });
        }
    }

    /// A direct connection to the peer stands, or none at all.
    pub fn settled(&mut self, peer: &PeerId) {
        self.0.remove(peer);
    }

    /// Whom to call now, and where.
    pub fn due(&mut self, now: Instant) -> Vec<(PeerId, Vec<Multiaddr>)> {
        let due = self.0.iter_mut().filter(|(_, listed)| listed.due <= now);
        due.map(|(peer, listed)| {
            listed.due = now + RETRY;
            (*peer, listed.addresses.clone())
        })
        .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_relayed_peer_is_called_at_once_then_now_and_then_until_it_is_reached() {
        let (mut calls, peer, now) = (DirectCalls::default(), PeerId::random(), Instant::now());
        let at = |port: u16| -> Vec<Multiaddr> { vec![format!("/ip4/198.51.100.1/tcp/{port}").parse().unwrap()] };
        calls.listed(peer, at(1), now);
        assert_eq!(calls.due(now), [(peer, at(1))]);
        calls.listed(peer, at(1), now);
        assert!(calls.due(now).is_empty(), "the same is no news");
        assert_eq!(calls.due(now + RETRY), [(peer, at(1))]);
        calls.listed(peer, at(2), now);
        assert_eq!(calls.due(now), [(peer, at(2))]);
        calls.settled(&peer);
        assert!(calls.due(now + RETRY).is_empty());
        calls.listed(peer, at(1), now);
        calls.listed(peer, Vec::new(), now);
        assert!(calls.due(now + RETRY).is_empty());
    }
}
