//! Why a node cannot take part, or cannot say something.

use libp2p::Multiaddr;
use thiserror::Error;

/// Why a node cannot take part.
#[derive(Debug, Error)]
pub enum StartError {
    /// Somebody else listens there.
    #[error("{0}: the port is taken by another process; choose another with --listen")]
    Occupied(Multiaddr),
    /// Anything else with the address.
    #[error(
        "{address}: cannot listen there ({error}); give --listen an address of this machine, for example \
         /ip4/0.0.0.0/tcp/9713"
    )]
    Listen { address: Multiaddr, error: String },
    /// A bootstrap address of no use.
    #[error("--bootstrap {address}: {error}; an example of a right one is /ip4/192.168.1.7/tcp/9713/p2p/12D3KooW…")]
    Bootstrap {
        address: String,
        /// What is wrong with it.
        error: String,
    },
    #[error("the network cannot be set up: {0}")]
    Setup(String),
}

impl StartError {
    /// The same in words, for an address that was given with another flag than `--bootstrap`.
    pub fn of_flag(&self, flag: &str) -> String {
        match self {
            Self::Bootstrap { address, error } => format!(
                "{flag} {address}: {error}; an example of a right one is /ip4/203.0.113.5/tcp/9713/p2p/12D3KooW…"
            ),
            other => other.to_string(),
        }
    }

    /// Whether another port would do.
    pub fn is_occupied(&self) -> bool {
        matches!(self, Self::Occupied(_))
    }
}

/// Why a message was not sent.
#[derive(Debug, Error)]
pub enum PublishError {
    /// Nobody listens yet.
    #[error("no peer has subscribed yet")]
    NoPeers,
    /// It is too large, or the queues are full.
    #[error("{0}")]
    Refused(String),
}
