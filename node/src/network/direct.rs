//! Peers that only a relay leads to, although they list addresses of the world: they are called there, again and again,
//! until a direct connection stands. DCUtR tries when a circuit begins, and a peer may not know then where it is.

use libp2p::{Multiaddr, PeerId};
use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

/// A peer that did not answer is called again after this, whatever it lists meanwhile, and after twice as long each
/// time, up to the last: what it lists may be anybody's, or behind a firewall for good.
const RETRY: Duration = Duration::from_secs(30);
const RETRY_LAST: Duration = Duration::from_secs(600);

struct Listed {
    addresses: Vec<Multiaddr>,
    called: Option<Instant>,
    /// From the last call to the next.
    pause: Duration,
}

/// See the module's documentation. Holds connected peers only.
#[derive(Default)]
pub struct DirectCalls(HashMap<PeerId, Listed>);

impl DirectCalls {
    /// A peer that only a relay leads to lists these addresses of the world. The first are called at once.
    pub fn listed(&mut self, peer: PeerId, addresses: Vec<Multiaddr>) {
        let nothing = || Listed { addresses: Vec::new(), called: None, pause: RETRY };
        let listed = self.0.entry(peer).or_insert_with(nothing);
        if listed.addresses != addresses {
            (listed.addresses, listed.pause) = (addresses, RETRY);
        }
    }

    /// A direct connection to the peer stands, or none at all.
    pub fn settled(&mut self, peer: &PeerId) {
        self.0.remove(peer);
    }

    /// Whom to call now, and where.
    pub fn due(&mut self, now: Instant) -> Vec<(PeerId, Vec<Multiaddr>)> {
        let is_due = |listed: &Listed| {
            let rests = listed.called.is_some_and(|called| now.saturating_duration_since(called) < listed.pause);
            !rests && !listed.addresses.is_empty()
        };
        let due = self.0.iter_mut().filter(|(_, listed)| is_due(listed));
        due.map(|(peer, listed)| {
            if listed.called.replace(now).is_some() {
                listed.pause = (listed.pause * 2).min(RETRY_LAST);
            }
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
        calls.listed(peer, Vec::new());
        assert!(calls.due(now).is_empty());
        calls.listed(peer, at(1));
        assert_eq!(calls.due(now), [(peer, at(1))]);
        calls.listed(peer, at(1));
        assert!(calls.due(now).is_empty(), "the same is no news");
        assert_eq!(calls.due(now + RETRY), [(peer, at(1))]);
        calls.settled(&peer);
        assert!(calls.due(now + RETRY_LAST).is_empty());
    }

    /// A peer that listed others in every message had this machine call them, as fast as it liked.
    #[test]
    fn whatever_a_peer_lists_it_is_called_ever_more_seldom() {
        let (mut calls, peer, now) = (DirectCalls::default(), PeerId::random(), Instant::now());
        let at = |port: u64| -> Vec<Multiaddr> { vec![format!("/ip4/198.51.100.1/tcp/{port}").parse().unwrap()] };
        let made = |calls: &mut DirectCalls, lists: &dyn Fn(u64) -> Vec<Multiaddr>| {
            let seconds = 0..3_600;
            let called = seconds.filter(|second| {
                calls.listed(peer, lists(*second));
                !calls.due(now + Duration::from_secs(*second)).is_empty()
            });
            called.collect::<Vec<u64>>()
        };
        let steady = made(&mut calls, &|_| at(1));
        assert_eq!(steady[..7], [0, 30, 90, 210, 450, 930, 1_530]);
        calls.settled(&peer);
        let restless = made(&mut calls, &|second| if second % 2 == 0 { at(second + 1) } else { Vec::new() });
        assert_eq!(restless.len(), 120, "one in half a minute");
    }
}
