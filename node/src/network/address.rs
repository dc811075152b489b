//! Addresses as people write them.

use libp2p::{Multiaddr, PeerId, identity, multiaddr::Protocol};
use std::net::IpAddr;

use super::error::StartError;

/// Splits an address that ends with `/p2p/` and a peer id.
pub fn parse_bootstrap(text: &str) -> Result<(PeerId, Multiaddr), StartError> {
    let failed = |error: String| StartError::Bootstrap { address: text.to_owned(), error };
    let mut address: Multiaddr = text.parse().map_err(|error| failed(format!("not a multiaddr ({error})")))?;
    match address.pop() {
        Some(Protocol::P2p(peer)) if !address.is_empty() => Ok((peer, address)),
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

/// The key pair of an Ed25519 seed. Its public key is the peer id.
pub(super) fn key_pair(secret_key: [u8; 32]) -> Result<identity::Keypair, StartError> {
    let mut secret_key = secret_key;
    identity::Keypair::ed25519_from_bytes(&mut secret_key).map_err(|error| StartError::Setup(error.to_string()))
}

/// The peer id of an Ed25519 seed.
pub fn peer_id(secret_key: [u8; 32]) -> Result<PeerId, StartError> {
    Ok(key_pair(secret_key)?.public().to_peer_id())
}

/// The IP that an address begins with.
pub(super) fn ip(address: &Multiaddr) -> Option<IpAddr> {
    match address.iter().next()? {
        Protocol::Ip4(ip) => Some(ip.into()),
        Protocol::Ip6(ip) => Some(ip.into()),
        _ => None,
    }
}

pub(super) fn without_peer(address: &Multiaddr) -> Multiaddr {
    address.iter().filter(|part| !matches!(part, Protocol::P2p(_))).collect()
}
