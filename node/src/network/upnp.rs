//! Asks the router of a home to pass this machine's port on.

use libp2p::{
    core::transport::ListenerId,
    multiaddr::Protocol,
    swarm::{FromSwarm, NetworkBehaviour, NewListenAddr},
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
            upnp::Event::NewExternalAddr { local_addr, external_addr } => {
                self.router.passes_to(local_addr);
                RouterAnswer::Passes(external_addr)
            }
            upnp::Event::ExpiredExternalAddr { external_addr, .. } => RouterAnswer::PassesNoMore(external_addr),
            upnp::Event::GatewayNotFound => RouterAnswer::Silent,
            upnp::Event::NonRoutableGateway => RouterAnswer::IsInside,
        };
        self.events.extend(self.router.answers(answer).map(Event::Router));
    }

    /// A router that was found and passes nothing on says so by silence. It is asked again now and then, and where this
    /// machine has moved.
    pub(super) fn look_at_router(&mut self) {
        if self.has_home() {
            self.events.extend(self.router.refuses().map(Event::Router));
        }
        if self.router.is_due(|local| self.swarm.listeners().any(|address| address == local)) {
            self.ask_router_again();
        }
    }

    /// From the beginning: libp2p looks for a router but once.
    fn ask_router_again(&mut self) {
        if let Some(RouterAnswer::Passes(address)) = self.router.answer().cloned() {
            self.swarm.remove_external_address(&address);
            self.events.extend(self.router.answers(RouterAnswer::PassesNoMore(address)).map(Event::Router));
            self.on_reachability();
        }
        self.router.ask_again();
        let mut behaviour = Behaviour::default();
        for addr in self.swarm.listeners() {
            // Any number will do: what was asked for is given back by its port.
            let listener_id = ListenerId::next();
            behaviour.on_swarm_event(FromSwarm::NewListenAddr(NewListenAddr { listener_id, addr }));
        }
        self.swarm.behaviour_mut().upnp = Some(behaviour).into();
    }

    /// Only ports of a home's addresses are asked for.
    fn has_home(&self) -> bool {
        let is_of_home = |host| matches!(host, Some(Protocol::Ip4(ip)) if ip.is_private());
        self.swarm.listeners().any(|address| is_of_home(address.iter().next()))
    }
}
