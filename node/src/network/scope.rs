//! How far an address means the same machine: 127.0.0.1 is everybody's own, 192.168.1.7 is another machine in every
//! home.

use libp2p::{Multiaddr, multiaddr::Protocol};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

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
    /// None if nobody can be called there: unspecified, multicast, IPv6 link-local without a zone, no address at all.
    pub fn of(address: &Multiaddr) -> Option<Self> {
        match address.iter().next()? {
            Protocol::Ip4(ip) => Self::of_ip(ip.into()),
            Protocol::Ip6(ip) => Self::of_ip(ip.into()),
            Protocol::Dns(name) | Protocol::Dns4(name) | Protocol::Dns6(name) | Protocol::Dnsaddr(name) => {
                Some(if name == "localhost" { Self::Machine } else { Self::World })
            }
            _ => None,
        }
    }

    fn of_ip(ip: IpAddr) -> Option<Self> {
        match ip.to_canonical() {
            IpAddr::V4(ip) if ip.is_unspecified() || ip.is_multicast() || ip.is_broadcast() => None,
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

#[cfg(test)]
mod tests {
    use super::*;

    const CIRCUIT: &str =
        "/ip4/203.0.113.5/tcp/9713/p2p/12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN/p2p-circuit";

    #[test]
    fn an_address_means_a_machine_as_far_as_its_range_goes() {
        let table = [
            ("/ip4/127.0.0.1/tcp/9713", Some(Scope::Machine)),
            ("/ip4/127.3.2.1/tcp/1", Some(Scope::Machine)),
            ("/ip6/::1/tcp/9713", Some(Scope::Machine)),
            ("/ip6/::ffff:127.0.0.1/tcp/1", Some(Scope::Machine)),
            ("/dns4/localhost/tcp/1", Some(Scope::Machine)),
            ("/ip4/169.254.9.1/tcp/1", Some(Scope::Link)),
            ("/ip4/10.1.2.3/tcp/1", Some(Scope::Site)),
            ("/ip4/172.31.0.1/tcp/1", Some(Scope::Site)),
            ("/ip4/192.168.1.7/tcp/1", Some(Scope::Site)),
            ("/ip4/100.64.0.1/tcp/1", Some(Scope::Site)),
            ("/ip4/100.128.0.1/tcp/1", Some(Scope::World)),
            ("/ip6/fd00::1/tcp/1", Some(Scope::Site)),
            ("/ip6/2001:db8::1/tcp/1", Some(Scope::World)),
            ("/ip4/203.0.113.5/udp/1/quic-v1", Some(Scope::World)),
            ("/dns/node.example.org/tcp/1", Some(Scope::World)),
            // As far as its relay.
            (CIRCUIT, Some(Scope::World)),
            ("/ip4/0.0.0.0/tcp/1", None),
            ("/ip4/224.0.0.251/tcp/1", None),
            ("/ip6/::/tcp/1", None),
            ("/ip6/fe80::1/tcp/1", None),
            ("/unix/socket", None),
            ("", None),
        ];
        for (address, scope) in table {
            assert_eq!(Scope::of(&address.parse().unwrap()), scope, "{address}");
        }
    }
}
