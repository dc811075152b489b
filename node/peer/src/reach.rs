//! How far an address means the same machine: 127.0.0.1 is everybody's own, 192.168.1.7 is another machine in every
//! home. So a narrow address that somebody lists is called only once somebody of the swarm is known to be that near.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::planted::{Fault, Planted};

/// From where an address can be meant, narrowest first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Scope {
    /// From the same machine: loopback.
    Machine,
    /// From the same cable: IPv4 link-local (RFC 3927).
    Link,
    /// From the same home or provider: private (RFC 1918), shared (RFC 6598) and unique local (RFC 4193).
    Site,
    /// From everywhere.
    World,
}

impl Scope {
    /// None if nobody can be called there: "this network" (0/8), multicast, reserved (240/4), IPv6 link-local without a
    /// zone (RFC 6890).
    pub fn of(ip: IpAddr) -> Option<Self> {
        match ip.to_canonical() {
            IpAddr::V4(ip) if matches!(ip.octets()[0], 0 | 224..) => None,
            IpAddr::V4(ip) if ip.is_loopback() => Some(Self::Machine),
            IpAddr::V4(ip) if ip.is_link_local() => Some(Self::Link),
            IpAddr::V4(ip) if ip.is_private() || is_shared(ip) => Some(Self::Site),
            IpAddr::V6(ip) if ip.is_unspecified() || ip.is_multicast() || ip.is_unicast_link_local() => None,
            IpAddr::V6(Ipv6Addr::LOCALHOST) => Some(Self::Machine),
            IpAddr::V6(ip) if ip.is_unique_local() => Some(Self::Site),
            IpAddr::V4(_) | IpAddr::V6(_) => Some(Self::World),
        }
    }
}

/// Of a provider that translates addresses for its customers: 100.64.0.0/10.
fn is_shared(ip: Ipv4Addr) -> bool {
    let [first, second, ..] = ip.octets();
    first == 100 && second & 0b1100_0000 == 64
}

/// Where calls may go.
#[derive(Clone, Copy, Debug)]
pub struct Reach {
    /// The narrowest scope in which somebody of the swarm is.
    nearest: Scope,
    planted: Planted,
}

impl Default for Reach {
    fn default() -> Self {
        Self { nearest: Scope::World, planted: Planted::default() }
    }
}

impl Reach {
    /// With a fault in its rule, for tests.
    #[cfg(feature = "planted")]
    pub fn with(fault: Option<Fault>) -> Self {
        Self { planted: fault.map_or_else(Planted::default, Planted::from), ..Self::default() }
    }

    /// Somebody is as near as this.
    pub fn is_near(&mut self, scope: Scope) {
        self.nearest = self.nearest.min(scope);
    }

    /// Whether another machine could be meant by an address of this scope.
    pub fn could_be_meant(&self, scope: Scope) -> bool {
        scope >= self.nearest || self.planted.has(Fault::StrandsItself)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn narrow_addresses_are_meant_once_somebody_is_near() {
        let mut reach = Reach::default();
        let meant =
            |reach: &Reach| [Scope::Machine, Scope::Site, Scope::World].map(|scope| reach.could_be_meant(scope));
        assert_eq!(meant(&reach), [false, false, true]);
        reach.is_near(Scope::Site);
        assert_eq!(meant(&reach), [false, true, true]);
        reach.is_near(Scope::Machine);
        reach.is_near(Scope::World);
        assert_eq!(meant(&reach), [true; 3]);
    }
}
