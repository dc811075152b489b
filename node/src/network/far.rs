//! AutoNAT's client, which is told of addresses of the world only, and asks seldom: whether an address of a home or of
//! this machine can be called is known without asking, and each question may cost a hundred kilobytes.

use libp2p::{
    Multiaddr, PeerId, autonat,
    core::{Endpoint, transport::PortUse},
    swarm::{
        ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, NewExternalAddrCandidate, NewListenAddr, THandler,
        THandlerInEvent, THandlerOutEvent, ToSwarm,
    },
};
use std::{
    collections::HashSet,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use super::address::{is_of_world, is_relayed};

type Client = autonat::v2::client::Behaviour;

/// Questions at one place of this machine, at once.
const QUESTIONS_MAX: u32 = 4;
/// After them one more is asked each hour.
const ANOTHER_AFTER: Duration = Duration::from_secs(3_600);
/// Addresses at one place that the client is told of. It keeps all of them for good, and a peer may see this machine
/// at another one in every message.
const CANDIDATES_MAX: usize = 64;

/// See the module's documentation.
#[derive(Default)]
pub struct Far {
    client: Client,
    questions: Questions,
    candidates: Candidates,
}

/// Addresses at which peers say that they see this machine at its present place.
#[derive(Default)]
struct Candidates(HashSet<Multiaddr>);

impl Candidates {
    /// Whether this one could be called, and there is room for it.
    fn take(&mut self, address: &Multiaddr) -> bool {
        let is_known = self.0.contains(address);
        is_known || is_of_world(address) && self.0.len() < CANDIDATES_MAX && self.0.insert(address.clone())
    }
}

/// Questions that may be asked. The client itself asks again every five seconds where the call back meets a firewall
/// that says nothing: it takes the silence for a fault of the connection to whom it asked.
struct Questions {
    left: u32,
    since: Instant,
}

impl Default for Questions {
    fn default() -> Self {
        Self { left: QUESTIONS_MAX, since: Instant::now() }
    }
}

impl Questions {
    /// Whether one more may be asked.
    fn take(&mut self) -> bool {
        if self.since.elapsed() >= ANOTHER_AFTER {
            self.since = Instant::now();
            self.left = (self.left + 1).min(QUESTIONS_MAX);
        }
        let may = self.left > 0;
        self.left = self.left.saturating_sub(1);
        may
    }
}

impl NetworkBehaviour for Far {
    type ConnectionHandler = <Client as NetworkBehaviour>::ConnectionHandler;
    type ToSwarm = <Client as NetworkBehaviour>::ToSwarm;

    fn handle_established_inbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.client.handle_established_inbound_connection(connection, peer, local, remote)
    }

    fn handle_established_outbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        address: &Multiaddr,
        role: Endpoint,
        port: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.client.handle_established_outbound_connection(connection, peer, address, role, port)
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        match event {
            FromSwarm::NewExternalAddrCandidate(NewExternalAddrCandidate { addr }) if !self.candidates.take(addr) => {
                return;
            }
            // At another place, other answers.
            FromSwarm::NewListenAddr(NewListenAddr { addr, .. }) if !is_relayed(addr) => {
                (self.questions, self.candidates) = Default::default();
            }
            _ => {}
        }
        self.client.on_swarm_event(event);
    }

    fn on_connection_handler_event(&mut self, peer: PeerId, connection: ConnectionId, event: THandlerOutEvent<Self>) {
        self.client.on_connection_handler_event(peer, connection, event);
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        loop {
            match self.client.poll(context) {
                // The client never asks again what it believes to be under way.
                Poll::Ready(ToSwarm::NotifyHandler { .. }) if !self.questions.take() => {}
                other => return other,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Once a home behind a firewall sent eight kilobytes a second to its relay, for ever.
    #[test]
    fn a_few_questions_may_be_asked_at_once_and_one_more_each_hour() {
        let mut questions = Questions::default();
        let asked = |questions: &mut Questions| (0..100).filter(|_| questions.take()).count();
        assert_eq!(asked(&mut questions), QUESTIONS_MAX as usize);
        questions.since = Instant::now().checked_sub(ANOTHER_AFTER).unwrap_or(questions.since);
        assert!(asked(&mut questions) <= 1);
    }

    /// A peer that saw this machine elsewhere in every message filled its memory.
    #[test]
    fn of_what_peers_say_of_this_machines_address_no_more_is_kept_than_there_is_room_for() {
        let mut candidates = Candidates::default();
        let at = |port: usize| -> Multiaddr { format!("/ip4/203.0.113.5/tcp/{port}").parse().unwrap() };
        assert!(!candidates.take(&"/ip4/192.168.1.7/tcp/9713".parse().unwrap()));
        assert_eq!((1..1_000).filter(|port| candidates.take(&at(*port))).count(), CANDIDATES_MAX);
        assert_eq!(candidates.0.len(), CANDIDATES_MAX);
        assert!(candidates.take(&at(1)), "whoever says it, too, makes it likelier");
    }
}
