//! How a node takes part.

use libp2p::Multiaddr;
use peer::config::{CONNECTIONS_MAX, CONNECTIONS_TARGET};

/// How a node takes part.
#[derive(Clone, Debug)]
pub struct NetworkConfig {
    /// Ed25519 seed; the peer id is its public key.
    pub secret_key: [u8; 32],
    /// Gossip and discovery are of this run; without one there are only questions and answers.
    pub run: Option<[u8; 32]>,
    /// Where to listen; empty: nowhere.
    pub listen: Vec<Multiaddr>,
    /// Find peers in the local network.
    pub mdns: bool,
    /// Connections in all. More cost memory, fewer isolate.
    pub connections_max: u32,
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
            mdns: false,
            connections_max: CONNECTIONS_MAX as u32,
            connections_target: CONNECTIONS_TARGET,
        }
    }
}
