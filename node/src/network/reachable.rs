//! Whether this machine can be called from outside, and where.
//!
//! A direct connection that somebody out there opened is the proof: its local address, if that is one of the world, or
//! what the caller says it called (a router passes a port on). AutoNAT asks others to call back, for machines that only
//! ever call themselves. Who can be reached relays for others; who cannot is reached through them.

use libp2p::{
    Multiaddr, PeerId,
    core::{ConnectedPoint, transport::ListenerId},
    identify,
    multiaddr::Protocol,
    relay::Status,
    swarm::ConnectionId,
};
use std::{net::IpAddr, time::Instant};

use super::{
    Event, Network,
    address::{ip, is_of_world, is_relayed, without_peer},
};

/// Addresses at which this machine can be reached that are kept, beside those at which it listens.
const ADDRESSES_MAX: usize = 8;
/// Callers whose word on this machine's address is remembered.
const CLAIMS_MAX: usize = 256;

impl Network {
    /// Where others can call this machine directly, as far as somebody did.
    pub fn reachable_at(&self) -> impl Iterator<Item = &Multiaddr> {
        self.swarm.external_addresses().filter(|address| is_of_world(address))
    }

    /// Where this machine is reached through relays.
    pub fn relayed_at(&self) -> impl Iterator<Item = &Multiaddr> {
        self.relays.addresses()
    }

    /// A connection stands that somebody else opened.
    pub(super) fn note_caller(&mut self, peer: &PeerId, endpoint: &ConnectedPoint) {
        let ConnectedPoint::Listener { local_addr, send_back_addr } = endpoint else { return };
        // One that was punched through a router shows nothing of strangers' chances.
        let was_punched = self.links.has_circuit(peer);
        if is_of_world(local_addr) && is_of_world(send_back_addr) && !was_punched {
            self.is_reachable_at(local_addr.clone());
        }
    }

    /// A peer says where it called this machine, or where it sees it.
    pub(super) fn note_observed(&mut self, peer: &PeerId, connection: ConnectionId, info: &identify::Info) {
        let observed = without_peer(&info.observed_addr);
        let is_outside = self.links.remote(peer).is_some_and(is_of_world);
        if !is_outside || !is_of_world(&observed) || self.links.has_circuit(peer) {
            return;
        }
        if self.links.is_inbound(peer, connection) {
            let port = observed.iter().nth(1);
            let is_possible = matches!(port, Some(Protocol::Tcp(1..))) && observed.iter().count() == 2;
            if is_possible && !self.is_seen_elsewhere(&observed) {
                self.claim(*peer, observed);
            }
            return;
        }
        self.observed.insert(*peer, observed);
        self.leave_unseen();
    }

    /// Calls from here are seen to come from where this machine is now. What nobody who was called sees is an address
    /// of before.
    pub(super) fn leave_unseen(&mut self) {
        let old: Vec<Multiaddr> =
            self.reachable_at().filter(|address| self.is_seen_elsewhere(address)).cloned().collect();
        #[cfg(feature = "upnp")]
        self.router.doubt(&old);
        self.not_reachable_at(&old);
    }

    fn is_seen_elsewhere(&self, address: &Multiaddr) -> bool {
        let seen = || self.observed.values().filter_map(ip);
        ip(address).is_some_and(|at| is_elsewhere(at, seen) && !self.listens_at(at))
    }

    /// An address that a caller says it called. Nobody can check that, so each has one: another one takes its place.
    fn claim(&mut self, peer: PeerId, address: Multiaddr) {
        if self.claimed.len() >= CLAIMS_MAX {
            self.claimed.clear();
        }
        let before = self.claimed.insert(peer, address.clone()).filter(|before| *before != address);
        let is_alone = |before: &Multiaddr| !self.claimed.values().any(|other| other == before);
        if let Some(before) = before.filter(is_alone) {
            self.not_reachable_at(&[before]);
        }
        self.is_reachable_at(address);
    }

    fn listens_at(&self, at: IpAddr) -> bool {
        self.swarm.listeners().any(|address| ip(address) == Some(at))
    }

    fn is_reachable_at(&mut self, address: Multiaddr) {
        // A caller's word may be a lie; where this machine listens is the system's.
        let is_own = |known: &Multiaddr| self.swarm.listeners().any(|own| own == known);
        if is_own(&address) || self.reachable_at().filter(|known| !is_own(known)).count() < ADDRESSES_MAX {
            self.shown.note(&address);
            self.swarm.add_external_address(address);
            self.on_reachability();
        }
    }

    /// A listener has an address less.
    pub(super) fn on_expired(&mut self, listener: ListenerId, address: &Multiaddr) {
        #[cfg(feature = "upnp")]
        self.router.left(address);
        if !self.relays.has(listener) {
            self.left(address);
        }
    }

    /// This machine listens at `gone` no more. What leads to its other addresses stays: bridges of containers come and
    /// go, and so do IPv6 addresses for privacy.
    fn left(&mut self, gone: &Multiaddr) {
        let Some(gone) = ip(gone).filter(|gone| !self.listens_at(*gone)) else { return };
        let is_old = |address: &&Multiaddr| {
            !is_relayed(address)
                && ip(address).is_some_and(|at| !self.listens_at(at))
                && self.shown.hangs_on(address, gone)
        };
        let old: Vec<Multiaddr> = self.swarm.external_addresses().filter(is_old).cloned().collect();
        self.not_reachable_at(&old);
    }

    pub(super) fn not_reachable_at(&mut self, addresses: &[Multiaddr]) {
        for address in addresses.iter().filter(|address| !self.announced.contains(address)) {
            self.shown.forget(address);
            self.swarm.remove_external_address(address);
        }
        if !addresses.is_empty() {
            self.on_reachability();
        }
    }

    /// Relays if this machine can be reached, and looks for relays if not. Reservations that it has last as long as
    /// their relays: whoever says where it called this machine may lie, and libp2p's client panics where a relay
    /// answers for a listener that was removed meanwhile.
    pub(super) fn on_reachability(&mut self) {
        let reachable = self.relays_only || self.reachable_at().next().is_some();
        if self.is_reachable != reachable {
            self.is_reachable = reachable;
            let status = if reachable { Status::Enable } else { Status::Disable };
            self.swarm.behaviour_mut().relay.set_status(Some(status));
        }
        self.events.push_back(Event::Reachable);
    }

    /// Asks for reservations that are missing.
    pub(super) fn look_for_relays(&mut self) {
        let now = Instant::now();
        for relay in self.relays.take_overdue(now) {
            let _ = self.swarm.disconnect_peer_id(relay);
        }
        if self.is_reachable || !self.listens {
            return;
        }
        for (relay, circuit) in self.relays.wanted(now) {
            match self.swarm.listen_on(circuit) {
                Ok(listener) => self.relays.asked(listener, relay, now),
                Err(_) => self.relays.refused(&relay, now),
            }
        }
    }
}

/// Whether a machine is not at an address, by what is `seen` of it: any one may lie, and a provider may send calls by
/// more ways than one.
fn is_elsewhere<I: Iterator<Item = IpAddr>>(at: IpAddr, seen: impl Fn() -> I) -> bool {
    seen().any(|seen| seen.is_ipv4() == at.is_ipv4()) && seen().all(|seen| seen != at)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::NetworkConfig;
    use std::time::Duration;

    /// Once a machine gave its reservations up when somebody called it. A relay that answered after that ended the
    /// node: libp2p's client panicked.
    #[tokio::test]
    async fn a_relay_that_was_asked_is_heard_out_though_somebody_calls_this_machine_meanwhile() {
        let config = |key: u8| NetworkConfig::new([key; 32], None, vec!["/ip4/127.0.0.1/tcp/0".parse().unwrap()]);
        let mut relay = Network::start(NetworkConfig { relays_only: true, ..config(1) }).await.unwrap();
        let named = (relay.peer_id(), relay.listen_addresses()[0].clone());
        let mut node = Network::start(NetworkConfig { relays: vec![named], ..config(2) }).await.unwrap();
        node.look_for_relays();
        node.is_reachable_at("/ip4/203.0.113.5/tcp/9713".parse().unwrap());
        let granted = async {
            while node.relayed_at().next().is_none() {
                tokio::select! {
                    _ = node.next() => {}
                    _ = relay.next() => {}
                }
            }
        };
        // Nothing but a hang takes so long.
        tokio::time::timeout(Duration::from_secs(60), granted).await.expect("the relay's word");
        assert!(node.is_reachable);
    }

    /// A relay with many interfaces never learned the address at which its router passes its port on, and eight callers
    /// that lied hid where a machine listens itself.
    #[tokio::test]
    async fn where_a_machine_listens_takes_no_room_from_where_callers_say_that_they_called_it() {
        let listen = (1..=ADDRESSES_MAX + 1).map(|host| format!("/ip4/127.0.0.{host}/tcp/0").parse().unwrap());
        let config = NetworkConfig::new([1; 32], None, listen.collect());
        let mut relay = Network::start(NetworkConfig { relays_only: true, ..config }).await.unwrap();
        assert!(relay.swarm.external_addresses().count() > ADDRESSES_MAX);
        for port in 1..100 {
            relay.is_reachable_at(format!("/ip4/203.0.113.5/tcp/{port}").parse().unwrap());
        }
        assert_eq!(relay.reachable_at().count(), ADDRESSES_MAX);
        let own = relay.listen_addresses()[0].clone();
        relay.swarm.remove_external_address(&own);
        relay.is_reachable_at(own.clone());
        assert!(relay.swarm.external_addresses().any(|address| *address == own));
    }

    /// One peer that was called and lied made a machine forget the port that its router passed on.
    #[test]
    fn a_machine_is_elsewhere_once_nobody_sees_it_where_it_was_and_somebody_does_elsewhere() {
        let [was, now, other, six]: [IpAddr; 4] =
            ["203.0.113.5", "203.0.113.6", "198.51.100.1", "2001:db8::7"].map(|at| at.parse().unwrap());
        for (seen, expected) in [
            (&[][..], false),
            (&[six][..], false),
            (&[was][..], false),
            (&[now, was][..], false),
            (&[was, other, now][..], false),
            (&[now][..], true),
            (&[six, now, other][..], true),
        ] {
            assert_eq!(is_elsewhere(was, || seen.iter().copied()), expected, "{seen:?}");
        }
    }
}
