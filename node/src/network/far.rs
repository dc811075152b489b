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
    collections::{HashMap, HashSet},
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
/// Of them, those that one peer tells.
const CANDIDATES_PER_PEER_MAX: usize = 4;

/// See the module's documentation.
#[derive(Default)]
pub struct Far {
    client: Client,
    questions: Questions,
    candidates: Candidates,
    /// Whose word on this machine's address comes next.
    told_by: Option<PeerId>,
}

impl Far {
    /// This peer has just said where it sees this machine. libp2p passes that on right after this, without a name.
    pub fn told_by(&mut self, peer: PeerId) {
        self.told_by = Some(peer);
    }
}

/// Addresses at which peers say that they see this machine at its present place, and who does.
#[derive(Default)]
struct Candidates(HashMap<Multiaddr, HashSet<PeerId>>);

impl Candidates {
    /// Whether this one could be called, and there is room for the peer's word, which counts once.
    fn take(&mut self, peer: PeerId, address: &Multiaddr) -> bool {
        let has_room = match self.0.get(address) {
            Some(tellers) => tellers.len() < CANDIDATES_MAX,
            None => is_of_world(address) && self.0.len() < CANDIDATES_MAX,
        };
        let told = self.0.values().filter(|tellers| tellers.contains(&peer)).count();
        let is_taken = has_room && told < CANDIDATES_PER_PEER_MAX;
        is_taken && self.0.entry(address.clone()).or_default().insert(peer)
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
            FromSwarm::NewExternalAddrCandidate(NewExternalAddrCandidate { addr })
                if !self.told_by.is_some_and(|peer| self.candidates.take(peer, addr)) =>
            {
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

    /// A peer that saw this machine elsewhere in every message filled its memory, and then all room that others had.
    #[test]
    fn of_what_peers_say_of_this_machines_address_no_more_is_kept_than_there_is_room_for() {
        let mut candidates = Candidates::default();
        let at = |port: usize| -> Multiaddr { format!("/ip4/203.0.113.5/tcp/{port}").parse().unwrap() };
        let [liar, other] = [(); 2].map(|()| PeerId::random());
        assert!(!candidates.take(liar, &"/ip4/192.168.1.7/tcp/9713".parse().unwrap()));
        let taken = (1..1_000).filter(|port| candidates.take(liar, &at(*port)));
        assert_eq!(taken.count(), CANDIDATES_PER_PEER_MAX);
        assert!(!candidates.take(liar, &at(1)), "once more makes it no likelier");
        assert!(candidates.take(other, &at(1)), "whoever says it, too, makes it likelier");
        assert!(candidates.take(other, &at(9_713)), "there is room for who does not lie");
        let taken = (2_000..3_000).filter(|port| candidates.take(PeerId::random(), &at(*port)));
        assert_eq!(taken.count(), CANDIDATES_MAX - CANDIDATES_PER_PEER_MAX - 1);
        assert_eq!((0..1_000).filter(|_| candidates.take(PeerId::random(), &at(9_713))).count(), CANDIDATES_MAX - 1);
        assert_eq!(candidates.0.values().map(HashSet::len).max(), Some(CANDIDATES_MAX));
    }
}
