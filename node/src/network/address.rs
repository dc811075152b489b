//! Addresses as people write them.

use libp2p::{Multiaddr, PeerId, identity, multiaddr::Protocol};
use std::net::IpAddr;

use super::{
    error::StartError,
    scope::{Scope, scope_of},
};

/// Splits an address that ends with `/p2p/` and a peer id. One that can never be called is refused, with what could.
pub fn parse_bootstrap(text: &str) -> Result<(PeerId, Multiaddr), StartError> {
    let failed = |error: String| StartError::Bootstrap { address: text.to_owned(), error };
    let mut address: Multiaddr = text.parse().map_err(|error| failed(format!("not a multiaddr ({error})")))?;
    match address.pop() {
        Some(Protocol::P2p(peer)) if !address.is_empty() => {
            check_callable(&address).map_err(failed)?;
            if address.iter().any(|part| part == Protocol::P2p(peer)) {
                return Err(failed("the relay is the node itself: give the address of the one or the other".into()));
            }
            Ok((peer, address))
        }
        Some(Protocol::P2p(_)) => {
            Err(failed("there is no address before /p2p/: give all of the line that the other node prints".into()))
        }
        _ => Err(failed("it does not end with /p2p/ and the peer id that the other node prints".into())),
    }
}

/// As [`parse_bootstrap`], and refuses this node's own peer id.
pub fn parse_bootstrap_of_another(text: &str, own: PeerId) -> Result<(PeerId, Multiaddr), StartError> {
    let (peer, address) = parse_bootstrap(text)?;
    if peer == own {
        return Err(StartError::Bootstrap {
            address: text.to_owned(),
            error: "this is the node's own peer id: give another machine's, or another --state".into(),
        });
    }
    Ok((peer, address))
}

/// Whether a node could ever be called at an address (without its peer id), or why not, and what would do.
pub fn check_callable(address: &Multiaddr) -> Result<(), String> {
    let parts: Vec<Protocol<'_>> = address.iter().collect();
    let direct = match parts.iter().position(|part| *part == Protocol::P2pCircuit) {
        None => &parts[..],
        Some(at) if at + 1 == parts.len() => match parts[..at].split_last() {
            Some((Protocol::P2p(_), relay)) => relay,
            _ => return Err("a circuit names its relay: …/p2p/<peer id of the relay>/p2p-circuit/p2p/<peer id>".into()),
        },
        Some(_) => return Err("nothing but /p2p/<peer id> may follow /p2p-circuit".into()),
    };
    check_host(direct.first())?;
    match direct.get(1..) {
        Some([Protocol::Tcp(0)] | [Protocol::Udp(0), ..]) => {
            Err("nobody listens on port 0: give the port that the other node prints".into())
        }
        Some([Protocol::Tcp(_)]) => Ok(()),
        Some([Protocol::Udp(_), Protocol::QuicV1]) if cfg!(feature = "quic") => Ok(()),
        Some([Protocol::Udp(_), Protocol::QuicV1]) => {
            Err("this build does not speak QUIC (feature `quic`): give the node's /tcp address".into())
        }
        Some([Protocol::Tcp(_), Protocol::Ws(_) | Protocol::Wss(_) | Protocol::Tls, ..]) => {
            Err("nodes do not speak WebSocket or TLS: leave out what follows the port".into())
        }
        Some([Protocol::Tcp(_), Protocol::P2p(_), ..]) => {
            Err("it has two peer ids: give the one that the other node prints".into())
        }
        Some([]) | None => Err("the port is missing: /tcp/<port> after the host".into()),
        Some(_) => Err("only TCP can be called: /ip4, /ip6 or /dns, then /tcp/<port>".into()),
    }
}

/// Whether the first part of an address is a host that could be called.
fn check_host(host: Option<&Protocol<'_>>) -> Result<(), String> {
    match host {
        Some(Protocol::Dns(name) | Protocol::Dns4(name) | Protocol::Dns6(name)) if is_host_name(name) => Ok(()),
        Some(Protocol::Dns(name) | Protocol::Dns4(name) | Protocol::Dns6(name)) => {
            Err(match name.trim_end_matches('.').rsplit('.').next().is_some_and(is_number) {
                true => format!("{name:?} is no host name: an IP address is /ip4/<address> or /ip6/<address>"),
                false => format!("{name:?} is no host name"),
            })
        }
        Some(Protocol::Dnsaddr(name)) => {
            Err(format!("/dnsaddr is not looked up: /dns/{name}/tcp/<port> names a host and its port"))
        }
        Some(host @ (Protocol::Ip4(_) | Protocol::Ip6(_))) => match scope_of(&Multiaddr::empty().with(host.clone())) {
            Some(_) => Ok(()),
            None => Err(match host {
                Protocol::Ip6(ip) if ip.is_unicast_link_local() => {
                    "a link-local address means nothing without its link: give another of the node's addresses".into()
                }
                _ => "no machine has this address: 0.0.0.0 and :: are for listening, multicast is for many, 240.0.0.0 and \
                      what follows for nobody"
                    .into(),
            }),
        },
        _ => Err("it begins with no host: /ip4/<address>, /ip6/<address> or /dns/<name>".into()),
    }
}

/// Letters, digits, hyphens, underscores and dots; no label empty, longer than 63, or with a hyphen at an end; the last
/// one no number, which only an IP address has there (RFC 1123, 2.1).
fn is_host_name(name: &str) -> bool {
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
    };
    let mut labels = name.strip_suffix('.').unwrap_or(name).split('.');
    name.len() <= 253 && labels.clone().all(is_label) && !labels.next_back().is_some_and(is_number)
}

fn is_number(label: &str) -> bool {
    label.bytes().all(|byte| byte.is_ascii_digit())
}

/// Whether a node could listen there, or why not, and where it could.
pub fn check_listen(address: &Multiaddr) -> Result<(), String> {
    let parts: Vec<Protocol<'_>> = address.iter().collect();
    match &parts[..] {
        [Protocol::Ip4(_) | Protocol::Ip6(_), Protocol::Tcp(_)] => Ok(()),
        [Protocol::Ip4(_) | Protocol::Ip6(_), Protocol::Udp(_), Protocol::QuicV1] if cfg!(feature = "quic") => Ok(()),
        [Protocol::Ip4(_) | Protocol::Ip6(_), Protocol::Udp(_), Protocol::QuicV1] => {
            Err("this build does not speak QUIC (feature `quic`)".into())
        }
        [Protocol::Dns(_) | Protocol::Dns4(_) | Protocol::Dns6(_) | Protocol::Dnsaddr(_), ..] => {
            Err("a node listens on addresses of its machine, not on names; /ip4/0.0.0.0 stands for all of them".into())
        }
        [.., Protocol::P2pCircuit] => Err("relays are named with --relay".into()),
        _ => Err("a node listens on TCP: an IP address and a port, nothing after them".into()),
    }
}

/// The key pair of an Ed25519 seed. Its public key is the peer id.
pub(super) fn key_pair(secret_key: [u8; 32]) -> Result<identity::Keypair, StartError> {
    let mut secret_key = secret_key;
    identity::Keypair::ed25519_from_bytes(&mut secret_key).map_err(|error| StartError::Setup(error.to_string()))
}

/// The peer id of an Ed25519 seed.
pub fn peer_id(secret_key: [u8; 32]) -> Result<PeerId, StartError> {
    Ok(key_pair(secret_key)?.public().to_peer_id())
}

/// The peer id of an Ed25519 public key; None if it is none.
pub fn peer_id_of_key(key: &[u8; 32]) -> Option<PeerId> {
    let key = identity::ed25519::PublicKey::try_from_bytes(key).ok()?;
    Some(identity::PublicKey::from(key).to_peer_id())
}

/// The Ed25519 public key that a peer id holds; None if it is of another kind.
pub fn key_of_peer_id(peer: &PeerId) -> Option<[u8; 32]> {
    let bytes = peer.to_bytes();
    // Multihash: identity, 36 bytes; then the key as Protocol Buffers have it.
    let key = identity::PublicKey::try_decode_protobuf(bytes.strip_prefix(&[0, 36])?).ok()?;
    Some(key.try_into_ed25519().ok()?.to_bytes())
}

/// The IP that an address begins with.
pub(super) fn ip(address: &Multiaddr) -> Option<IpAddr> {
    match address.iter().next()? {
        Protocol::Ip4(ip) => Some(ip.into()),
        Protocol::Ip6(ip) => Some(ip.into()),
        _ => None,
    }
}

/// Without the peer id that stands at the end. That of a relay stays.
pub fn without_peer(address: &Multiaddr) -> Multiaddr {
    let mut address = address.clone();
    while let Some(Protocol::P2p(_)) = address.iter().last() {
        address.pop();
    }
    address
}

/// Whether an address leads through a relay.
pub fn is_relayed(address: &Multiaddr) -> bool {
    address.iter().any(|part| part == Protocol::P2pCircuit)
}

/// Whether an address is one of the world, not through a relay.
pub fn is_of_world(address: &Multiaddr) -> bool {
    !is_relayed(address) && scope_of(address) == Some(Scope::World)
}

/// The relay that an address leads through.
pub fn relay_of(address: &Multiaddr) -> Option<PeerId> {
    let mut parts = address.iter().take_while(|part| *part != Protocol::P2pCircuit);
    let relay = parts.find_map(|part| match part {
        Protocol::P2p(peer) => Some(peer),
        _ => None,
    });
    relay.filter(|_| is_relayed(address))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: &str = "12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN";

    #[test]
    fn an_address_that_could_be_called_is_taken_and_one_that_never_could_is_refused_with_a_remedy() {
        let through = |relay: &str| format!("/ip4/198.51.100.1/tcp/9713/p2p/{relay}/p2p-circuit");
        let relayed = through(&peer_id([5; 32]).unwrap().to_string());
        for good in [
            "/ip4/192.168.1.7/tcp/9713",
            "/ip4/127.0.0.1/tcp/1",
            "/ip6/2001:db8::1/tcp/65535",
            "/dns4/localhost/tcp/9713",
            "/dns6/node.example.org/tcp/9713",
            "/dns/my_host-7.local./tcp/9713",
            &relayed,
        ] {
            let (peer, address) = parse_bootstrap(&format!("{good}/p2p/{PEER}")).unwrap();
            assert_eq!((peer.to_string().as_str(), address.to_string().as_str()), (PEER, good));
        }
        let relayed_by_itself = through(PEER);
        for (bad, remedy) in [
            ("/ip4/192.168.1.7/tcp/0", "port 0"),
            ("/dns4/localhost/tcp/9713/ws", "WebSocket"),
            ("/dns4/localhost/tcp/9713/wss", "WebSocket"),
            ("/dns4/localhost/tcp/9713/tls/ws", "leave out"),
            ("/ip4/1.2.3.4/udp/9713", "TCP"),
            ("/ip4/1.2.3.4", "port is missing"),
            ("/ip4/0.0.0.0/tcp/9713", "for listening"),
            ("/ip6/::/tcp/9713", "for listening"),
            ("/ip4/224.0.0.1/tcp/9713", "multicast"),
            ("/ip6/fe80::1/tcp/9713", "another of the node's addresses"),
            ("/dnsaddr/example.org", "/dns/example.org/tcp/<port>"),
            ("/dns4/a b/tcp/9713", "no host name"),
            ("/dns4/a..b/tcp/9713", "no host name"),
            ("/dns/-a.example/tcp/9713", "no host name"),
            ("/dns6/127.0.0.1/tcp/9713", "/ip4/<address>"),
            ("/dns4/256.1.1.1/tcp/9713", "no host name"),
            ("/ip4/0.1.2.3/tcp/9713", "no machine has this address"),
            ("/ip4/240.0.0.1/tcp/9713", "no machine has this address"),
            (&relayed_by_itself, "the relay is the node itself"),
            ("/memory/5", "begins with no host"),
            ("/ip4/198.51.100.1/tcp/9713/p2p-circuit", "names its relay"),
            ("/p2p-circuit", "names its relay"),
        ] {
            let error = parse_bootstrap(&format!("{bad}/p2p/{PEER}")).unwrap_err().to_string();
            assert!(error.contains(bad) && error.contains(remedy), "{bad}: {error}");
        }
        let quic = parse_bootstrap(&format!("/ip4/1.2.3.4/udp/9713/quic-v1/p2p/{PEER}"));
        assert_eq!(quic.is_ok(), cfg!(feature = "quic"));
        assert!(parse_bootstrap("/ip4/1.2.3.4/tcp/9713").unwrap_err().to_string().contains("peer id"));
    }

    #[test]
    fn nodes_listen_on_addresses_of_their_machine() {
        for (address, is_good) in [
            ("/ip4/0.0.0.0/tcp/0", true),
            ("/ip6/::/tcp/9713", true),
            ("/dns4/localhost/tcp/9713", false),
            ("/ip4/0.0.0.0/tcp/9713/ws", false),
            ("/ip4/0.0.0.0", false),
            ("/unix/socket", false),
        ] {
            assert_eq!(check_listen(&address.parse().unwrap()).is_ok(), is_good, "{address}");
        }
    }

    #[test]
    fn a_key_and_its_peer_id_are_one() {
        let key = key_pair([5; 32]).unwrap();
        let public = key.public().try_into_ed25519().unwrap().to_bytes();
        let peer = peer_id([5; 32]).unwrap();
        assert_eq!((peer_id_of_key(&public), key_of_peer_id(&peer)), (Some(peer), Some(public)));
        assert_eq!(key_of_peer_id(&PeerId::random()), None);
    }

    #[test]
    fn an_address_through_a_relay_keeps_its_relay() {
        let through: Multiaddr = format!("/ip4/1.2.3.4/tcp/9/p2p/{PEER}/p2p-circuit").parse().unwrap();
        let whole = through.clone().with(Protocol::P2p(PeerId::random()));
        assert_eq!(without_peer(&whole), through);
        assert_eq!(relay_of(&whole).unwrap().to_string(), PEER);
        assert!(is_relayed(&through));
        let direct: Multiaddr = format!("/ip4/1.2.3.4/tcp/9/p2p/{PEER}").parse().unwrap();
        assert_eq!((relay_of(&direct), without_peer(&direct).to_string()), (None, "/ip4/1.2.3.4/tcp/9".into()));
    }
}
