//! Addresses at which relays say that this machine is reached through them. A relay may say anything, and says it anew
//! whenever a reservation is renewed; what is believed is passed on to every peer, as long as the reservation lasts.

use libp2p::{Multiaddr, PeerId, core::transport::ListenerId};
use std::collections::HashMap;

use super::{
    address::{check_callable, relay_of, without_peer},
    scope::{Scope, scope_of},
};

/// Addresses of one relay that are of the world, some for each family; and as many nearer ones, as its bridges of
/// containers are.
const ADDRESSES_MAX: usize = 4;

/// By the listeners at relays.
#[derive(Default)]
pub struct Circuits(HashMap<ListenerId, Circuit>);

struct Circuit {
    relay: PeerId,
    /// What was taken from it.
    taken: Vec<Multiaddr>,
}

impl Circuits {
    /// This machine asks to be reached at `address`; through a relay, if it names one.
    pub fn asked(&mut self, listener: ListenerId, address: &Multiaddr) {
        if let Some(relay) = relay_of(address) {
            self.0.insert(listener, Circuit { relay, taken: Vec::new() });
        }
    }

    /// Whether a listener's address is news that could be true. Those of listeners at no relay are the system's word.
    pub fn take(&mut self, listener: ListenerId, address: &Multiaddr) -> bool {
        let Some(circuit) = self.0.get_mut(&listener) else { return true };
        let leads_through = relay_of(address) == Some(circuit.relay);
        let is_of_world = |address: &Multiaddr| scope_of(address) == Some(Scope::World);
        let alike = circuit.taken.iter().filter(|taken| is_of_world(taken) == is_of_world(address)).count();
        let has_room = alike < ADDRESSES_MAX && !circuit.taken.contains(address);
        let is_taken = leads_through && has_room && check_callable(&without_peer(address)).is_ok();
        if is_taken {
            circuit.taken.push(address.clone());
        }
        is_taken
    }

    /// The listener is gone.
    pub fn closed(&mut self, listener: ListenerId) {
        self.0.remove(&listener);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A relay that named others at every renewal filled this machine's memory, and its list of addresses became too
    /// long for peers to read.
    #[test]
    fn of_a_relay_only_so_much_is_taken_that_could_be_true() {
        let [relay, other, own] = [(); 3].map(|()| PeerId::random());
        let at = |host: &str, relay: PeerId| -> Multiaddr {
            format!("{host}/p2p/{relay}/p2p-circuit/p2p/{own}").parse().unwrap()
        };
        let (listener, direct) = (ListenerId::next(), ListenerId::next());
        let mut circuits = Circuits::default();
        circuits.asked(listener, &without_peer(&at("/ip4/198.51.100.1/tcp/9713", relay)));
        circuits.asked(direct, &"/ip4/0.0.0.0/tcp/9713".parse().unwrap());
        for wrong in [
            at("/ip4/198.51.100.1/tcp/9713", other),
            at("/ip4/198.51.100.1/tcp/0", relay),
            at("/ip4/224.0.0.1/tcp/9713", relay),
            at(&format!("/ip4/198.51.100.1/tcp/9713/p2p/{relay}/p2p-circuit"), relay),
            "/ip4/198.51.100.1/tcp/9713".parse().unwrap(),
        ] {
            assert!(!circuits.take(listener, &wrong), "{wrong}");
        }
        let good = at("/ip6/2001:db8::1/tcp/9713", relay);
        assert!(circuits.take(listener, &good) && !circuits.take(listener, &good), "a renewal is no news");
        let many = (1..1_000).map(|port| at(&format!("/ip4/198.51.100.1/tcp/{port}"), relay));
        assert_eq!(many.filter(|address| circuits.take(listener, address)).count(), ADDRESSES_MAX - 1);
        assert!(circuits.take(direct, &"/ip4/192.168.1.7/tcp/9713".parse().unwrap()));
        circuits.closed(listener);
        assert!(circuits.0.is_empty());
    }

    /// Of a relay that listed its bridges of containers first, the one address of use found no room.
    #[test]
    fn what_a_relay_lists_of_its_site_takes_no_room_from_what_is_of_the_world() {
        let (relay, listener) = (PeerId::random(), ListenerId::next());
        let at = |host: &str| -> Multiaddr { format!("{host}/tcp/9713/p2p/{relay}/p2p-circuit").parse().unwrap() };
        let mut circuits = Circuits::default();
        circuits.asked(listener, &at("/ip4/198.51.100.1"));
        let bridges = (16..32).map(|number| at(&format!("/ip4/172.{number}.0.1")));
        assert_eq!(bridges.filter(|bridge| circuits.take(listener, bridge)).count(), ADDRESSES_MAX);
        assert!(circuits.take(listener, &at("/ip4/198.51.100.1")));
    }
}
