//! Nodes of other releases, routers, listeners and relays.

use libp2p::PeerId;

use crate::network::RouterAnswer;

/// A node of an earlier release is connected.
pub fn older(peer: &PeerId) {
    tracing::warn!(
        "{peer} runs an older release, which speaks protocol version 1: it cannot be of this run, and was told so. Update it, or \
         join its run with its own release"
    );
}

/// What the home's router says to being asked for a port.
pub fn router(answer: &RouterAnswer) {
    match answer {
        RouterAnswer::Passes(address) => {
            tracing::info!("the router passes {address} on to this machine (UPnP): others can call it there");
        }
        RouterAnswer::PassesNoMore(address) => {
            tracing::warn!("the router passes {address} on no more (UPnP): relays take its place, if the run has any");
        }
        RouterAnswer::Refuses => tracing::info!(
            "the router was asked to pass this machine's port on (UPnP), and did not: allow that in its settings, or pass the port on \
             by hand (--announce)"
        ),
        RouterAnswer::IsInside => tracing::info!(
            "the router takes requests for ports (UPnP), but is behind another router itself, so none of its ports can be called: \
             where that one is yours, too, let it pass the port on to this one; else relays do"
        ),
        RouterAnswer::Silent => tracing::debug!("no router here takes requests for ports (UPnP)"),
    }
}

/// One of several addresses cannot be listened at.
pub fn not_listening(error: &str) {
    tracing::info!("{error}: going on without it");
}

/// A relay through which this machine was reached is gone.
pub fn relay_gone(relay: &PeerId) {
    tracing::info!("the relay {relay} is gone; another takes its place as soon as one is found");
}
