//! TCP and circuits through relays, with noise and yamux, the bytes on sockets counted; QUIC beside them if the feature
//! is on.
//!
//! *Private runs:* what follows from the run's secret is the prologue of every noise handshake, so that it stands only
//! between two who know the secret, whatever the way: directly, or through a relay, end to end.

use libp2p::{
    Multiaddr, PeerId, Transport,
    core::{muxing::StreamMuxerBox, transport::OrTransport, upgrade::Version},
    identity,
    multiaddr::Protocol,
    noise, relay, tcp, yamux,
};
use std::{
    error::Error,
    io, iter,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener},
    time::Duration,
};

use super::{
    error::StartError,
    guard::{Connections, Guarded, Reach},
    limit::{Limited, Limits, Rate},
    liveness::Liveness,
    names::Named,
    traffic::{Counted, Counters},
};

/// A connection must stand within this time.
const UPGRADE_MAX: Duration = Duration::from_secs(10);
/// One through a relay takes more ways there and back.
const RELAYED_UPGRADE_MAX: Duration = Duration::from_secs(20);

/// Whose connections, and what goes with each of them.
pub struct Parts<'a> {
    pub keypair: &'a identity::Keypair,
    /// Of a private run: what both ends of every connection must have in common.
    pub prologue: Option<[u8; 32]>,
    pub relayed: relay::client::Transport,
    pub counters: &'a Counters,
    pub limits: Limits,
    pub reach: &'a Reach,
    pub liveness: &'a Liveness,
}

pub fn build(parts: Parts<'_>) -> Result<Connections, String> {
    let Parts { keypair, prologue, relayed, counters, limits, reach, liveness } = parts;
    let prologue = prologue.map_or_else(Vec::new, |prologue| prologue.to_vec());
    let is_private = !prologue.is_empty();
    let noise = noise::Config::new(keypair).map_err(|error| error.to_string())?.with_prologue(prologue);
    let (counters, watcher) = (counters.clone(), liveness.clone());
    let (download, upload) = (limits.download.map(Rate::new), limits.upload.map(Rate::new));
    let tcp = tcp::tokio::Transport::new(tcp::Config::default().nodelay(true))
        .map(move |stream, _| {
            let local = stream.0.local_addr().ok().map(|address| address.ip());
            let limited = Limited::new(stream, download.clone(), upload.clone());
            watcher.watch(Counted::new(limited, counters.clone()), local)
        })
        .upgrade(Version::V1Lazy)
        .authenticate(noise.clone())
        .multiplex(yamux::Config::default())
        .timeout(UPGRADE_MAX)
        .map(|(peer, muxer), _| (peer, StreamMuxerBox::new(muxer)));
    let relayed = relayed
        .upgrade(Version::V1Lazy)
        .authenticate(noise)
        .multiplex(yamux::Config::default())
        .timeout(RELAYED_UPGRADE_MAX)
        .map(|(peer, muxer), _| (peer, StreamMuxerBox::new(muxer)));
    let all = either(OrTransport::new(relayed, tcp));
    let all = with_quic(all, keypair, is_private || limits.any());
    Ok(Named::new(Guarded::new(all, reach.clone(), liveness.clone()), reach.clone()).boxed())
}

/// The same connections, whichever of two ways they come.
fn either<A, B>(two: OrTransport<A, B>) -> Connections
where
    A: Transport<Output = (PeerId, StreamMuxerBox)> + Send + Unpin + 'static,
    B: Transport<Output = (PeerId, StreamMuxerBox)> + Send + Unpin + 'static,
    A::Dial: Send + 'static,
    B::Dial: Send + 'static,
    A::ListenerUpgrade: Send + 'static,
    B::ListenerUpgrade: Send + 'static,
    A::Error: Send + Sync + 'static,
    B::Error: Send + Sync + 'static,
{
    two.map(|either, _| either.into_inner()).boxed()
}

/// QUIC has a handshake of its own, which knows no secret, and sockets of its own, which keep to no limit: there is
/// none in private runs, and none where there are limits.
#[cfg(feature = "quic")]
fn with_quic(others: Connections, keypair: &identity::Keypair, is_barred: bool) -> Connections {
    if is_barred {
        return others;
    }
    let quic = libp2p::quic::tokio::Transport::new(libp2p::quic::Config::new(keypair))
        .map(|(peer, muxer), _| (peer, StreamMuxerBox::new(muxer)));
    either(OrTransport::new(quic, others))
}

#[cfg(not(feature = "quic"))]
fn with_quic(others: Connections, _: &identity::Keypair, _: bool) -> Connections {
    others
}

/// All addresses of this machine, of both families.
pub fn everywhere(port: u16) -> Vec<Multiaddr> {
    let at = |host| Multiaddr::empty().with(host).with(Protocol::Tcp(port));
    vec![at(Protocol::Ip4(Ipv4Addr::UNSPECIFIED)), at(Protocol::Ip6(Ipv6Addr::UNSPECIFIED))]
}

/// A port that nobody listens on, in either family.
pub fn free_port() -> Result<u16, StartError> {
    let both = TcpListener::bind((Ipv6Addr::UNSPECIFIED, 0)).or_else(|_| TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)));
    let port = both.and_then(|listener| listener.local_addr()).map(|address| address.port());
    port.map_err(|error| StartError::Setup(format!("no port is free ({error})")))
}

/// Whether another process, or another listener of this one, holds the TCP port. libp2p listens with SO_REUSEPORT, so
/// two nodes would share the port, and each get half of the calls: without that option the system tells.
pub fn is_occupied(address: &Multiaddr) -> bool {
    why_not(address).is_some_and(|error| error.kind() == io::ErrorKind::AddrInUse)
}

/// Errors if nobody could listen at this address now: it is taken, or not one of this machine.
pub fn check_free(address: &Multiaddr) -> Result<(), StartError> {
    match why_not(address) {
        None => Ok(()),
        Some(error) if error.kind() == io::ErrorKind::AddrInUse => Err(StartError::Occupied(address.clone())),
        Some(error) => Err(StartError::Listen { address: address.clone(), error: error.to_string() }),
    }
}

/// Why the system lets nobody listen at a TCP address, if it does not. Of other addresses it is not known.
fn why_not(address: &Multiaddr) -> Option<io::Error> {
    let mut parts = address.iter();
    let ip: IpAddr = match parts.next() {
        Some(Protocol::Ip4(ip)) => ip.into(),
        Some(Protocol::Ip6(ip)) => ip.into(),
        _ => return None,
    };
    match parts.next() {
        Some(Protocol::Tcp(port)) => TcpListener::bind(SocketAddr::new(ip, port)).err(),
        _ => None,
    }
}

/// An error and what caused it, the innermost last.
pub fn causes<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    iter::successors(Some(error), |&error: &&'a (dyn Error + 'static)| match error.downcast_ref::<io::Error>() {
        // What an `io::Error` was made from is not its source.
        Some(wrapper) => wrapper.get_ref().map(|inner| inner as &(dyn Error + 'static)),
        None => error.source(),
    })
}

/// Whether the address is taken, by the first cause of an error: libp2p wraps the system's errors in its own.
pub fn is_address_in_use(error: &(dyn Error + 'static)) -> bool {
    let is_in_use = |error: &io::Error| error.kind() == io::ErrorKind::AddrInUse;
    causes(error).any(|cause| cause.downcast_ref().is_some_and(is_in_use))
}

#[cfg(test)]
mod tests {
    use super::*;
    use libp2p::TransportError;

    #[test]
    fn an_address_in_use_is_known_by_its_kind_however_deep() {
        let taken = || io::Error::from(io::ErrorKind::AddrInUse);
        let wrapped = TransportError::Other(io::Error::other(io::Error::other(taken())));
        assert!(is_address_in_use(&taken()) && is_address_in_use(&wrapped));
        let in_words_only = io::Error::other("address in use");
        assert!(!is_address_in_use(&in_words_only));
        assert!(!is_address_in_use(&io::Error::from(io::ErrorKind::AddrNotAvailable)));
    }
}
