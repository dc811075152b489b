//! libp2p's relay client, which panics over some answers: of a reservation that ends beyond all time, for one. A
//! connection whose task has panicked would be taken to stand for ever, and nobody could close it.

use libp2p::{
    Multiaddr, PeerId,
    core::{Endpoint, transport::PortUse},
    relay::client,
    swarm::{
        ConnectionDenied, ConnectionHandler, ConnectionHandlerEvent, ConnectionId, FromSwarm, NetworkBehaviour,
        SubstreamProtocol, THandler, THandlerInEvent, THandlerOutEvent, ToSwarm, handler::ConnectionEvent,
    },
};
use std::{
    collections::VecDeque,
    panic::{AssertUnwindSafe, catch_unwind},
    task::{Context, Poll},
};

/// What the client has to say.
#[derive(Debug)]
pub enum Event {
    Client(client::Event),
    /// It panicked over what the peer said on a connection, which is to be closed.
    Broken(PeerId, ConnectionId),
}

/// See the module's documentation.
pub struct Relayed {
    client: client::Behaviour,
    broken: VecDeque<(PeerId, ConnectionId)>,
}

impl Relayed {
    pub fn new(client: client::Behaviour) -> Self {
        Self { client, broken: VecDeque::new() }
    }
}

impl NetworkBehaviour for Relayed {
    type ConnectionHandler = Caught<<client::Behaviour as NetworkBehaviour>::ConnectionHandler>;
    type ToSwarm = Event;

    fn handle_established_inbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.client.handle_established_inbound_connection(connection, peer, local, remote).map(Caught::new)
    }

    fn handle_established_outbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        address: &Multiaddr,
        role: Endpoint,
        port: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.client.handle_established_outbound_connection(connection, peer, address, role, port).map(Caught::new)
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        self.client.on_swarm_event(event);
    }

    fn on_connection_handler_event(&mut self, peer: PeerId, connection: ConnectionId, event: THandlerOutEvent<Self>) {
        match event {
            Some(event) => self.client.on_connection_handler_event(peer, connection, event),
            None => self.broken.push_back((peer, connection)),
        }
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        match self.broken.pop_front() {
            Some((peer, connection)) => Poll::Ready(ToSwarm::GenerateEvent(Event::Broken(peer, connection))),
            None => self.client.poll(context).map(|action| action.map_out(Event::Client)),
        }
    }
}

/// A connection's handler. Once it has panicked it says so, by None, and nothing after that.
pub struct Caught<H> {
    inner: H,
    is_broken: bool,
}

impl<H> Caught<H> {
    fn new(inner: H) -> Self {
        Self { inner, is_broken: false }
    }
}

impl<H: ConnectionHandler> ConnectionHandler for Caught<H> {
    type FromBehaviour = H::FromBehaviour;
    type ToBehaviour = Option<H::ToBehaviour>;
    type InboundProtocol = H::InboundProtocol;
    type OutboundProtocol = H::OutboundProtocol;
    type InboundOpenInfo = H::InboundOpenInfo;
    type OutboundOpenInfo = H::OutboundOpenInfo;

    fn listen_protocol(&self) -> SubstreamProtocol<Self::InboundProtocol, Self::InboundOpenInfo> {
        self.inner.listen_protocol()
    }

    fn connection_keep_alive(&self) -> bool {
        !self.is_broken && self.inner.connection_keep_alive()
    }

    fn poll(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<ConnectionHandlerEvent<Self::OutboundProtocol, Self::OutboundOpenInfo, Self::ToBehaviour>> {
        if self.is_broken {
            return Poll::Pending;
        }
        match catch_unwind(AssertUnwindSafe(|| self.inner.poll(context))) {
            Ok(poll) => poll.map(|event| event.map_custom(Some)),
            Err(_) => {
                self.is_broken = true;
                Poll::Ready(ConnectionHandlerEvent::NotifyBehaviour(None))
            }
        }
    }

    fn poll_close(&mut self, context: &mut Context<'_>) -> Poll<Option<Self::ToBehaviour>> {
        match self.is_broken {
            true => Poll::Ready(None),
            false => self.inner.poll_close(context).map(|event| event.map(Some)),
        }
    }

    fn on_behaviour_event(&mut self, event: Self::FromBehaviour) {
        if !self.is_broken {
            self.inner.on_behaviour_event(event);
        }
    }

    fn on_connection_event(
        &mut self,
        event: ConnectionEvent<
            '_,
            Self::InboundProtocol,
            Self::OutboundProtocol,
            Self::InboundOpenInfo,
            Self::OutboundOpenInfo,
        >,
    ) {
        if !self.is_broken {
            self.inner.on_connection_event(event);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use libp2p::core::upgrade::DeniedUpgrade;
    use std::{
        task::Waker,
        time::{Duration, Instant},
    };

    /// Does what the client does with a reservation's end.
    struct Reserves(Duration);

    impl ConnectionHandler for Reserves {
        type FromBehaviour = ();
        type ToBehaviour = Instant;
        type InboundProtocol = DeniedUpgrade;
        type OutboundProtocol = DeniedUpgrade;
        type InboundOpenInfo = ();
        type OutboundOpenInfo = ();

        fn listen_protocol(&self) -> SubstreamProtocol<DeniedUpgrade> {
            SubstreamProtocol::new(DeniedUpgrade, ())
        }

        fn connection_keep_alive(&self) -> bool {
            true
        }

        fn poll(&mut self, _: &mut Context<'_>) -> Poll<ConnectionHandlerEvent<DeniedUpgrade, (), Instant>> {
            Poll::Ready(ConnectionHandlerEvent::NotifyBehaviour(Instant::now() + self.0))
        }

        fn on_behaviour_event(&mut self, (): ()) {
            unreachable!("it is broken");
        }

        fn on_connection_event(&mut self, _: ConnectionEvent<'_, DeniedUpgrade, DeniedUpgrade>) {}
    }

    #[test]
    fn a_handler_that_panics_says_so_once_and_is_left_alone() {
        let mut context = Context::from_waker(Waker::noop());
        let mut sound = Caught::new(Reserves(Duration::from_secs(3_600)));
        let said = sound.poll(&mut context);
        assert!(matches!(said, Poll::Ready(ConnectionHandlerEvent::NotifyBehaviour(Some(_)))));
        let mut broken = Caught::new(Reserves(Duration::MAX));
        let said = broken.poll(&mut context);
        assert!(matches!(said, Poll::Ready(ConnectionHandlerEvent::NotifyBehaviour(None))));
        assert!(broken.poll(&mut context).is_pending() && !broken.connection_keep_alive());
        broken.on_behaviour_event(());
    }
}
