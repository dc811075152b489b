//! Asks the router of a home to pass this machine's port on.

use libp2p::{
    multiaddr::Protocol,
    upnp::{self, tokio::Behaviour},
};

use super::{
    Event, Network, NetworkConfig,
    router::{Router, RouterAnswer},
};

impl Network {
    /// The router of this network, and what asks it, if it is to be asked.
    pub(super) fn ask_router(config: &NetworkConfig) -> (Router, Option<Behaviour>) {
        let is_asked = config.asks_router && !config.is_alone();
        (Router::new(is_asked), is_asked.then(Behaviour::default))
    }

    pub(super) fn on_router(&mut self, event: upnp::Event) {
        let answer = match event {
            upnp::Event::NewExternalAddr { external_addr, .. } => RouterAnswer::Passes(external_addr),
            upnp::Event::ExpiredExternalAddr { external_addr, .. } => RouterAnswer::PassesNoMore(external_addr),
            upnp::Event::GatewayNotFound => RouterAnswer::Silent,
            upnp::Event::NonRoutableGateway => RouterAnswer::IsInside,
        };
        self.events.extend(self.router.answers(answer).map(Event::Router));
    }

    /// A router that was found and passes nothing on says so by silence.
    pub(super) fn notice_refusal(&mut self) {
        if self.has_home() {
            self.events.extend(self.router.refuses().map(Event::Router));
        }
    }

    /// Only ports of a home's addresses are asked for.
    fn has_home(&self) -> bool {
        let is_of_home = |host| matches!(host, Some(Protocol::Ip4(ip)) if ip.is_private());
        self.swarm.listeners().any(|address| is_of_home(address.iter().next()))
    }
}
