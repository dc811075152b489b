//! TCP with noise and yamux, its bytes counted; QUIC beside it if the feature is on.

use libp2p::{
    Multiaddr, PeerId, Transport,
    core::{muxing::StreamMuxerBox, transport::Boxed, upgrade::Version},
    identity,
    multiaddr::Protocol,
    noise, tcp, yamux,
};
use std::{
    error::Error,
    io,
    net::{IpAddr, SocketAddr, TcpListener},
    time::Duration,
};

use super::{
    guard::{Guarded, Reach},
    liveness::Liveness,
    traffic::{Counted, Counters},
};

/// A connection must stand within this time.
const UPGRADE_MAX: Duration = Duration::from_secs(10);

pub fn build(
    keypair: &identity::Keypair,
    counters: &Counters,
    reach: &Reach,
    liveness: &Liveness,
) -> Result<Boxed<(PeerId, StreamMuxerBox)>, String> {
    let (counters, watcher) = (counters.clone(), liveness.clone());
    let tcp = tcp::tokio::Transport::new(tcp::Config::default().nodelay(true))
        .map(move |stream, _| {
            let local = stream.0.local_addr().ok().map(|address| address.ip());
            watcher.watch(Counted::new(stream, counters.clone()), local)
        })
        .upgrade(Version::V1Lazy)
        .authenticate(noise::Config::new(keypair).map_err(|error| error.to_string())?)
        .multiplex(yamux::Config::default())
        .timeout(UPGRADE_MAX);
    #[cfg(feature = "quic")]
    {
        use futures::future::Either;
        let quic = libp2p::quic::tokio::Transport::new(libp2p::quic::Config::new(keypair));
        let all = quic.or_transport(tcp).map(|either, _| match either {
            Either::Left((peer, muxer)) => (peer, StreamMuxerBox::new(muxer)),
            Either::Right((peer, muxer)) => (peer, StreamMuxerBox::new(muxer)),
        });
        Ok(Guarded::new(all.boxed(), reach.clone(), liveness.clone()).boxed())
    }
    #[cfg(not(feature = "quic"))]
    {
        let all = tcp.map(|(peer, muxer), _| (peer, StreamMuxerBox::new(muxer)));
        Ok(Guarded::new(all.boxed(), reach.clone(), liveness.clone()).boxed())
    }
}

/// Whether another process, or another listener of this one, holds the TCP port. libp2p listens with SO_REUSEPORT, so
/// two nodes would share the port, and each get half of the calls: without that option the system tells.
pub fn is_occupied(address: &Multiaddr) -> bool {
    let mut parts = address.iter();
    let ip: IpAddr = match parts.next() {
        Some(Protocol::Ip4(ip)) => ip.into(),
        Some(Protocol::Ip6(ip)) => ip.into(),
        _ => return false,
    };
    match parts.next() {
        Some(Protocol::Tcp(port)) if port != 0 => {
            TcpListener::bind(SocketAddr::new(ip, port)).is_err_and(|error| error.kind() == io::ErrorKind::AddrInUse)
        }
        _ => false,
    }
}

/// Whether the address is taken, by the first cause of an error: libp2p wraps the system's errors in its own.
pub fn is_address_in_use(error: &(dyn Error + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        cause = match error.downcast_ref::<io::Error>() {
            Some(error) if error.kind() == io::ErrorKind::AddrInUse => return true,
            // What an `io::Error` was made from is not its source.
            Some(wrapper) => wrapper.get_ref().map(|inner| inner as &(dyn Error + 'static)),
            None => error.source(),
        };
    }
    false
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
