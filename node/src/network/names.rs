//! A transport that looks names up with the system's own resolver, so that hosts files, VPNs and `.local` count.
//!
//! A name may stand for any address. What others list must not lead to machines near this one, so results that are
//! narrower than anybody of the swarm is are called only if a person gave the name (see [`Reach::trust`]).

use libp2p::{
    Multiaddr, Transport,
    core::transport::{DialOpts, ListenerId, TransportError, TransportEvent},
    multiaddr::Protocol,
};
use std::{
    io,
    net::IpAddr,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
};

use super::guard::{Guarded, Reach};

/// In what is said of a call that failed: the name leads nowhere.
pub const NO_ADDRESS: &str = "has no address that could be called from here";
/// Addresses of one name that are called.
const ADDRESSES_MAX: usize = 8;

/// See the module's documentation.
pub struct Named {
    inner: Arc<Mutex<Guarded>>,
    reach: Reach,
}

impl Named {
    pub fn new(inner: Guarded, reach: Reach) -> Self {
        Self { inner: Arc::new(Mutex::new(inner)), reach }
    }

    fn inner(&self) -> MutexGuard<'_, Guarded> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The name that an address begins with.
pub fn name(address: &Multiaddr) -> Option<String> {
    match address.iter().next()? {
        Protocol::Dns(name) | Protocol::Dns4(name) | Protocol::Dns6(name) => Some(name.into_owned()),
        _ => None,
    }
}

/// An address with an IP in the place of its name; None if its kind of name does not stand for such an IP.
fn with_ip(address: &Multiaddr, ip: IpAddr) -> Option<Multiaddr> {
    let host = match (address.iter().next()?, ip) {
        (Protocol::Dns(_) | Protocol::Dns4(_), IpAddr::V4(ip)) => Protocol::Ip4(ip),
        (Protocol::Dns(_) | Protocol::Dns6(_), IpAddr::V6(ip)) => Protocol::Ip6(ip),
        _ => return None,
    };
    address.replace(0, |_| Some(host))
}

type Output = <Guarded as Transport>::Output;

/// Calls the addresses that a name stands for, one after the other.
async fn call(inner: Arc<Mutex<Guarded>>, reach: Reach, address: Multiaddr, options: DialOpts) -> io::Result<Output> {
    let name = name(&address).ok_or(io::ErrorKind::InvalidInput)?;
    let unknown = |error: String| io::Error::other(format!("the name {name} {NO_ADDRESS}: {error}"));
    let found = tokio::net::lookup_host((name.as_str(), 0)).await.map_err(|error| unknown(error.to_string()))?;
    let meant = found.filter_map(|found| with_ip(&address, found.ip())).filter(|found| reach.may_follow(&name, found));
    let mut last = unknown("what it stands for could be no machine of the run".into());
    for found in meant.take(ADDRESSES_MAX) {
        let dial = inner.lock().unwrap_or_else(PoisonError::into_inner).dial_checked(found, options);
        last = match dial {
            Ok(dial) => match dial.await {
                Ok(connection) => return Ok(connection),
                Err(error) => error,
            },
            Err(error) => io::Error::other(error),
        };
    }
    Err(last)
}

impl Transport for Named {
    type Output = Output;
    type Error = io::Error;
    type ListenerUpgrade = <Guarded as Transport>::ListenerUpgrade;
    type Dial = Pin<Box<dyn Future<Output = io::Result<Output>> + Send>>;

    fn listen_on(&mut self, id: ListenerId, address: Multiaddr) -> Result<(), TransportError<io::Error>> {
        self.inner().listen_on(id, address)
    }

    fn remove_listener(&mut self, id: ListenerId) -> bool {
        self.inner().remove_listener(id)
    }

    fn dial(&mut self, address: Multiaddr, options: DialOpts) -> Result<Self::Dial, TransportError<io::Error>> {
        // The relay's name in a circuit is looked up when the relay is called.
        if name(&address).is_none() || super::address::is_relayed(&address) {
            let dial = self.inner().dial(address, options)?;
            return Ok(Box::pin(dial));
        }
        Ok(Box::pin(call(self.inner.clone(), self.reach.clone(), address, options)))
    }

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<TransportEvent<Self::ListenerUpgrade, io::Error>> {
        Pin::new(&mut *self.inner()).poll(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_stands_for_addresses_of_its_family() {
        let (v4, v6): (IpAddr, IpAddr) = ("192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap());
        for (kind, takes_v4, takes_v6) in [("dns", true, true), ("dns4", true, false), ("dns6", false, true)] {
            let address: Multiaddr = format!("/{kind}/example.org/tcp/5").parse().unwrap();
            assert_eq!(name(&address).as_deref(), Some("example.org"));
            let v4 = with_ip(&address, v4).map(|address| address.to_string());
            let v6 = with_ip(&address, v6).map(|address| address.to_string());
            assert_eq!(v4, takes_v4.then(|| "/ip4/192.0.2.1/tcp/5".into()));
            assert_eq!(v6, takes_v6.then(|| "/ip6/2001:db8::1/tcp/5".into()));
        }
    }
}
