//! How a node takes part.

use libp2p::{Multiaddr, PeerId};
use peer::config::{CONNECTIONS_MAX, CONNECTIONS_TARGET};

use super::{
    limit::Limits,
    scope::{Scope, scope_of},
};

/// How a node takes part.
#[derive(Clone, Debug)]
pub struct NetworkConfig {
    /// Ed25519 seed; the peer id is its public key.
    pub secret_key: [u8; 32],
    /// Gossip and discovery are of this run; without one there are only questions and answers.
    pub run: Option<[u8; 32]>,
    /// Where to listen; empty: nowhere.
    pub listen: Vec<Multiaddr>,
    /// Whether it is enough to listen at one of them: a machine may have no IPv6, or no IPv4.
    pub listen_at_any: bool,
    /// Addresses that people gave: where they lead is called, however near it is.
    pub given: Vec<Multiaddr>,
    /// Relays that people named, to be reached through as long as this node cannot be reached directly.
    pub relays: Vec<(PeerId, Multiaddr)>,
    /// Where others can call this node, as people say: a router's port, a name.
    pub announced: Vec<Multiaddr>,
    /// Of a private run: what both ends of a connection must have in common.
    pub prologue: Option<[u8; 32]>,
    /// A node that only relays: it hears no gossip, and has room for more circuits.
    pub relays_only: bool,
    /// Find peers in the local network.
    pub mdns: bool,
    /// Ask the home's router to pass the port on, if the program was built with that (`upnp`).
    pub asks_router: bool,
    /// Connections in all. More cost memory, fewer isolate.
    pub connections_max: u32,
    /// What they may carry together. QUIC keeps to no limit, so there is none where there is one.
    pub limits: Limits,
    /// Below so many connections, more nodes are looked for (and found, not called).
    pub connections_target: usize,
}

impl NetworkConfig {
    /// With the usual limits and no mDNS.
    pub fn new(secret_key: [u8; 32], run: Option<[u8; 32]>, listen: Vec<Multiaddr>) -> Self {
        Self {
            secret_key,
            run,
            listen,
            listen_at_any: false,
            given: Vec::new(),
            relays: Vec::new(),
            announced: Vec::new(),
            prologue: None,
            relays_only: false,
            mdns: false,
            asks_router: false,
            connections_max: CONNECTIONS_MAX as u32,
            limits: Limits::default(),
            connections_target: CONNECTIONS_TARGET,
        }
    }

    /// Whether it listens to its own machine only.
    pub(super) fn is_alone(&self) -> bool {
        self.listen.iter().all(|address| scope_of(address) == Some(Scope::Machine))
    }

    /// The run whose gossip is heard.
    pub(super) fn gossips(&self) -> Option<&[u8; 32]> {
        self.run.as_ref().filter(|_| !self.relays_only)
    }
}
