//! Where this machine can be reached, best first.

use libp2p::{Multiaddr, PeerId, multiaddr::Protocol};

use crate::network::{Network, Scope, is_of_world, is_relayed, scope_of, without_peer};

/// Addresses of this machine in a ticket.
const OWN_MAX: usize = 5;
/// Circuits among them.
const CIRCUITS_MAX: usize = 2;

/// Where this machine can be reached.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Places {
    /// Where somebody from outside did, or people say so.
    pub reachable: Vec<Multiaddr>,
    /// Through relays.
    pub relayed: Vec<Multiaddr>,
    /// Where it listens, or, near it, people say that it does.
    pub listening: Vec<Multiaddr>,
    /// Other machines that were called at an address of the world.
    pub others: Vec<(PeerId, Multiaddr)>,
}

impl Places {
    /// As a network knows them now.
    pub fn of(network: &Network) -> Self {
        let is_outside =
            |(_, address): &(PeerId, Multiaddr)| scope_of(address) == Some(Scope::World) && !is_relayed(address);
        let is_own = |address: &Multiaddr| !is_relayed(address);
        let announced = network.announced().iter().filter(|address| !is_of_world(address)).cloned();
        let mut places = Self {
            reachable: network.reachable_at().cloned().collect(),
            relayed: network.relayed_at().map(without_peer).collect(),
            listening: network.listen_addresses().into_iter().chain(announced).filter(is_own).collect(),
            others: network.known_peers().into_iter().filter(is_outside).collect(),
        };
        places.reachable.sort_by_key(|address| (family(address), address.clone()));
        places.relayed.sort();
        places.listening.sort_by_key(|address| (family(address), address.clone()));
        places.others.sort();
        places
    }

    /// Addresses of this machine that are of use to others, best first.
    pub fn own(&self) -> Vec<Multiaddr> {
        let listening = |scope| self.listening.iter().filter(move |address| scope_of(address) == Some(scope));
        let circuits = self.relayed.iter().take(CIRCUITS_MAX);
        let far = self.reachable.iter().chain(listening(Scope::World)).chain(circuits);
        let near = listening(Scope::Site).chain(listening(Scope::Link));
        let mut own: Vec<Multiaddr> = Vec::new();
        for address in far.chain(near) {
            if !own.contains(address) {
                own.push(address.clone());
            }
        }
        own.truncate(OWN_MAX);
        // Loopback is of use only if there is nothing else.
        if own.is_empty() {
            own.extend(listening(Scope::Machine).take(2).cloned());
        }
        own
    }

    /// The best address of each family.
    pub fn shown(&self) -> Vec<Multiaddr> {
        let own = self.own();
        let best = own.first().and_then(scope_of);
        let mut shown: Vec<Multiaddr> = Vec::new();
        for address in own.into_iter().filter(|address| scope_of(address) == best) {
            if shown.iter().all(|known| family(known) != family(&address)) {
                shown.push(address);
            }
        }
        shown
    }

    /// Whether a machine anywhere could come to this one, as far as this one can tell.
    pub fn is_far(&self) -> bool {
        !self.reachable.is_empty() || !self.relayed.is_empty() || self.listening.iter().any(is_of_world)
    }

    /// Whether it listens to nobody but its own machine.
    pub fn is_alone(&self) -> bool {
        self.listening.iter().all(|address| scope_of(address) == Some(Scope::Machine))
    }

    /// The port that others would have to reach.
    pub fn port(&self) -> Option<u16> {
        self.listening.iter().find_map(port_of)
    }
}

/// The port of an address that is called directly, TCP's.
pub fn port_of(address: &Multiaddr) -> Option<u16> {
    match address.iter().nth(1) {
        Some(Protocol::Tcp(port)) if !is_relayed(address) => Some(port),
        _ => None,
    }
}

/// Names first, then IPv4.
fn family(address: &Multiaddr) -> u8 {
    match address.iter().next() {
        Some(Protocol::Ip4(_)) => 1,
        Some(Protocol::Ip6(_)) => 2,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::NetworkConfig;

    fn addresses(texts: &[&str]) -> Vec<Multiaddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn texts(addresses: &[Multiaddr]) -> Vec<String> {
        addresses.iter().map(ToString::to_string).collect()
    }

    const LOOPBACK: &str = "/ip4/127.0.0.1/tcp/9713";
    const HOME: &str = "/ip4/192.168.1.7/tcp/9713";
    const LINK_6: &str = "/ip6/fe80::1/tcp/9713";
    const WORLD: &str = "/ip4/203.0.113.5/tcp/9713";
    const WORLD_6: &str = "/ip6/2001:db8::7/tcp/9713";
    const CIRCUIT: &str =
        "/ip4/198.51.100.1/tcp/9713/p2p/12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN/p2p-circuit";

    /// A container's port was passed on by its host, and its ticket named the container's address and not the host's.
    #[tokio::test]
    async fn where_people_say_that_machines_of_the_site_reach_this_one_is_told() {
        let config = NetworkConfig::new([1; 32], None, addresses(&["/ip4/127.0.0.1/tcp/0"]));
        let network = Network::start(NetworkConfig { announced: addresses(&[HOME]), ..config }).await.unwrap();
        assert_eq!(texts(&Places::of(&network).own()), [HOME]);
    }

    #[test]
    fn what_others_can_reach_comes_first_and_what_nobody_can_is_left_out() {
        let mut places = Places { listening: addresses(&[LOOPBACK, HOME, LINK_6]), ..Places::default() };
        assert_eq!((texts(&places.own()), places.is_far()), (vec![HOME.into()], false));
        places.relayed = addresses(&[CIRCUIT]);
        assert_eq!((texts(&places.own()), places.is_far()), (vec![CIRCUIT.into(), HOME.into()], true));
        places.reachable = addresses(&[WORLD]);
        places.listening = addresses(&[LOOPBACK, HOME, WORLD_6]);
        assert_eq!(texts(&places.own()), [WORLD, WORLD_6, CIRCUIT, HOME]);
        assert_eq!(texts(&places.shown()), [WORLD, WORLD_6], "one of each family");
        let alone = Places { listening: addresses(&[LOOPBACK]), ..Places::default() };
        assert_eq!((texts(&alone.own()), alone.is_alone()), (vec![LOOPBACK.into()], true));
        assert_eq!(alone.port(), Some(9713));
        let nowhere = Places { listening: addresses(&[LINK_6]), ..Places::default() };
        assert!(nowhere.own().is_empty());
    }
}
