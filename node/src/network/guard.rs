//! A transport that calls only where a node of the swarm could be meant.
//!
//! Addresses of strangers come from strangers: discovery passes on what others listed, 127.0.0.1 and 192.168.1.7
//! included. From here these are other machines, or this one. So narrow addresses are called only once somebody is
//! known to be that near, and own addresses never: with a shared port TCP would connect to itself.

use libp2p::{
    Multiaddr, PeerId, Transport,
    core::{
        muxing::StreamMuxerBox,
        transport::{Boxed, DialOpts, ListenerId, TransportError, TransportEvent},
    },
};
use std::{
    collections::HashSet,
    net::IpAddr,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
};

use super::{
    address::{ip, is_relayed, without_peer},
    circuits::Circuits,
    liveness::Liveness,
    scope::scope_of,
};

/// Of every transport, to whoever answered.
pub type Connections = Boxed<(PeerId, StreamMuxerBox)>;

/// Where calls may go. Clones share.
#[derive(Clone)]
pub struct Reach(Arc<Mutex<Known>>);

struct Known {
    /// How near somebody of the swarm is.
    near: peer::reach::Reach,
    /// Where this node listens.
    own: Vec<Multiaddr>,
    /// Names that people gave.
    trusted: HashSet<String>,
}

impl Default for Reach {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(Known {
            near: peer::reach::Reach::default(),
            own: Vec::new(),
            trusted: HashSet::new(),
        })))
    }
}

impl Reach {
    fn known<T>(&self, look: impl FnOnce(&mut Known) -> T) -> T {
        look(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Somebody is as near as this address says.
    pub fn is_near(&self, address: &Multiaddr) {
        if let Some(scope) = scope_of(address) {
            self.known(|known| known.near.is_near(scope));
        }
    }

    /// Whether another node could be meant by an address.
    pub fn could_be_meant(&self, address: &Multiaddr) -> bool {
        let address = without_peer(address);
        self.known(|known| {
            scope_of(&address).is_some_and(|scope| known.near.could_be_meant(scope)) && !known.own.contains(&address)
        })
    }

    /// A person gave this name: whatever it stands for may be called.
    pub fn trust(&self, name: String) {
        self.known(|known| known.trusted.insert(name));
    }

    /// Whether an address that a name stands for may be called.
    pub fn may_follow(&self, name: &str, address: &Multiaddr) -> bool {
        let is_trusted =
            self.known(|known| known.trusted.contains(name) && !known.own.contains(&without_peer(address)));
        is_trusted && scope_of(address).is_some() || self.could_be_meant(address)
    }

    /// Whether no listener is at this IP any more.
    fn has_left(&self, gone: IpAddr) -> bool {
        self.known(|known| !known.own.iter().any(|own| ip(own) == Some(gone)))
    }
}

/// See the module's documentation.
pub struct Guarded {
    inner: Connections,
    reach: Reach,
    liveness: Liveness,
    circuits: Circuits,
}

impl Guarded {
    pub fn new(inner: Connections, reach: Reach, liveness: Liveness) -> Self {
        Self { inner, reach, liveness, circuits: Circuits::default() }
    }

    /// Calls an address of which is known that it could be meant.
    pub fn dial_checked(
        &mut self,
        address: Multiaddr,
        options: DialOpts,
    ) -> Result<<Self as Transport>::Dial, TransportError<<Self as Transport>::Error>> {
        self.inner.dial(address, options)
    }
}

impl Transport for Guarded {
    type Output = <Connections as Transport>::Output;
    type Error = <Connections as Transport>::Error;
    type ListenerUpgrade = <Connections as Transport>::ListenerUpgrade;
    type Dial = <Connections as Transport>::Dial;

    fn listen_on(&mut self, id: ListenerId, address: Multiaddr) -> Result<(), TransportError<Self::Error>> {
        self.circuits.asked(id, &address);
        self.inner.listen_on(id, address).inspect_err(|_| self.circuits.closed(id))
    }

    fn remove_listener(&mut self, id: ListenerId) -> bool {
        self.inner.remove_listener(id)
    }

    fn dial(&mut self, address: Multiaddr, options: DialOpts) -> Result<Self::Dial, TransportError<Self::Error>> {
        match self.reach.could_be_meant(&address) {
            true => self.inner.dial(address, options),
            false => Err(TransportError::MultiaddrNotSupported(address)),
        }
    }

    fn poll(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<TransportEvent<Self::ListenerUpgrade, Self::Error>> {
        let mut event = Pin::new(&mut self.inner).poll(context);
        while let Poll::Ready(TransportEvent::NewAddress { listener_id, listen_addr }) = &event
            && !self.circuits.take(*listener_id, listen_addr)
        {
            event = Pin::new(&mut self.inner).poll(context);
        }
        match &event {
            // At a relay, other nodes have the same address but for the peer id.
            Poll::Ready(TransportEvent::NewAddress { listen_addr, .. }) if !is_relayed(listen_addr) => {
                self.reach.known(|known| known.own.push(listen_addr.clone()));
            }
            Poll::Ready(TransportEvent::AddressExpired { listen_addr, .. }) => {
                self.reach.known(|known| known.own.retain(|own| own != listen_addr));
                // Sockets of an address that is gone stay open for a quarter of an hour.
                if let Some(gone) = ip(listen_addr).filter(|gone| self.reach.has_left(*gone)) {
                    self.liveness.cut(gone);
                }
            }
            Poll::Ready(TransportEvent::ListenerClosed { listener_id, .. }) => self.circuits.closed(*listener_id),
            _ => {}
        }
        event
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> Multiaddr {
        text.parse().unwrap()
    }

    #[test]
    fn narrow_addresses_are_meant_once_somebody_is_near() {
        let reach = Reach::default();
        let meant = |text: &str| reach.could_be_meant(&address(text));
        assert!(meant("/ip4/203.0.113.5/tcp/9713"));
        assert!(!meant("/ip4/192.168.1.7/tcp/9713") && !meant("/ip4/127.0.0.1/tcp/1"));
        reach.is_near(&address("/ip4/192.168.1.9/tcp/4"));
        assert!(meant("/ip4/192.168.1.7/tcp/9713") && !meant("/ip4/127.0.0.1/tcp/1"));
        reach.is_near(&address("/ip4/127.0.0.1/tcp/4"));
        reach.is_near(&address("/ip4/203.0.113.5/tcp/4"));
        assert!(meant("/ip4/127.0.0.1/tcp/1") && meant("/ip4/203.0.113.5/tcp/1"));
    }

    #[test]
    fn names_of_strangers_lead_nowhere_near_and_those_that_people_gave_do() {
        let reach = Reach::default();
        let (near, far) = (address("/ip4/192.168.1.7/tcp/9713"), address("/ip4/203.0.113.5/tcp/9713"));
        assert!(!reach.may_follow("example.org", &near) && reach.may_follow("example.org", &far));
        reach.trust("example.org".into());
        assert!(reach.may_follow("example.org", &near) && !reach.may_follow("example.com", &near));
        reach.known(|known| known.own.push(near.clone()));
        assert!(!reach.may_follow("example.org", &near), "one's own address is nobody else's");
        assert!(!reach.may_follow("example.org", &address("/ip4/0.0.0.0/tcp/1")));
    }

    #[test]
    fn own_addresses_are_never_meant_whatever_stands_behind_them() {
        let reach = Reach::default();
        reach.is_near(&address("/ip4/127.0.0.1/tcp/4"));
        reach.known(|known| known.own.push(address("/ip4/127.0.0.1/tcp/9713")));
        let named = format!("/ip4/127.0.0.1/tcp/9713/p2p/{}", PeerId::random());
        assert!(!reach.could_be_meant(&address(&named)));
        assert!(reach.could_be_meant(&address("/ip4/127.0.0.1/tcp/9714")));
    }
}
