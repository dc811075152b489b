//! What a node hears from the network.

use libp2p::{
    Multiaddr, PeerId,
    gossipsub::MessageId,
    request_response::{OutboundFailure, OutboundRequestId, ResponseChannel},
};

use super::router::RouterAnswer;

/// A question that was asked.
pub type RequestId = OutboundRequestId;
/// Why there is no answer.
pub type RequestError = OutboundFailure;

/// Where an answer goes.
pub struct Responder(pub(super) ResponseChannel<Vec<u8>>);

pub enum Event {
    /// Somebody says that the peer can be reached there.
    Found {
        peer: PeerId,
        /// Where, without the peer id.
        address: Multiaddr,
    },
    /// The first connection to a peer stands.
    Connected(PeerId),
    /// The last connection to a peer is gone.
    Disconnected(PeerId),
    /// A call that was asked for ended without a connection.
    DialFailed {
        peer: PeerId,
        /// Why there is no connection, for people.
        error: String,
    },
    /// A gossip message; wants a verdict ([`super::Network::report`]).
    Gossip {
        /// Who passed it on.
        source: PeerId,
        message: MessageId,
        bytes: Vec<u8>,
    },
    Request {
        peer: PeerId,
        bytes: Vec<u8>,
        responder: Responder,
    },
    /// An answer, or why there is none.
    Response {
        peer: PeerId,
        /// To which question.
        request: RequestId,
        result: Result<Vec<u8>, RequestError>,
    },
    /// A connected peer speaks version 1: it counts as disconnected.
    Older(PeerId),
    /// All connections to a peer lead through a relay, or one is direct.
    Way {
        peer: PeerId,
        /// Which of the two.
        is_relayed: bool,
    },
    /// This node listens here.
    ListenAddress(Multiaddr),
    /// It is known better where this node can be reached ([`super::Network::reachable_at`]).
    Reachable,
    /// A relay through which this node was reached is gone; others take its place.
    RelayGone(PeerId),
    /// What the home's router says to being asked for a port.
    Router(RouterAnswer),
    /// Of several addresses to listen at, one is not to be had, for this reason.
    NotListening(String),
    /// This machine has another address than before, or slept: calls that failed may succeed now.
    Moved,
}
