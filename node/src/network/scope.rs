//! How far an address means the same machine, as [`peer::reach`] tells of an IP address.

use libp2p::{Multiaddr, multiaddr::Protocol};
pub use peer::reach::Scope;

/// None if nobody can be called there: see [`Scope::of`]; or no address at all.
pub fn scope_of(address: &Multiaddr) -> Option<Scope> {
    match address.iter().next()? {
        Protocol::Ip4(ip) => Scope::of(ip.into()),
        Protocol::Ip6(ip) => Scope::of(ip.into()),
        Protocol::Dns(name) | Protocol::Dns4(name) | Protocol::Dns6(name) | Protocol::Dnsaddr(name) => {
            Some(if name == "localhost" { Scope::Machine } else { Scope::World })
        }
        _ => None,
    }
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
            assert_eq!(scope_of(&address.parse().unwrap()), scope, "{address}");
        }
    }
}
