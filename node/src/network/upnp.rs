//! Asks the router of a home to pass this machine's port on.

use libp2p::{
    Multiaddr,
    core::transport::ListenerId,
    swarm::{FromSwarm, NetworkBehaviour, NewListenAddr},
    upnp::{self, tokio::Behaviour},
};

use super::{
    Event, Network, NetworkConfig,
    router::{Router, RouterAnswer, homes},
};

impl Network {
    /// The router of this network, and what asks it, if it is to be asked.
    pub(super) fn ask_router(config: &NetworkConfig) -> (Router, Option<Behaviour>) {
        let is_asked = config.asks_router && !config.is_alone();
        (Router::new(is_asked), is_asked.then(Behaviour::default))
    }

    pub(super) fn on_router(&mut self, event: upnp::Event) {
        let news = match event {
            upnp::Event::NewExternalAddr { local_addr, external_addr } => self.router.passes(local_addr, external_addr),
            upnp::Event::ExpiredExternalAddr { external_addr, .. } => self.router.passes_no_more(&external_addr),
            upnp::Event::GatewayNotFound => self.router_passes_nothing(RouterAnswer::Silent),
            upnp::Event::NonRoutableGateway => self.router_passes_nothing(RouterAnswer::IsInside),
        };
        self.events.extend(news.map(Event::Router));
    }

    fn router_passes_nothing(&mut self, why: RouterAnswer) -> Option<RouterAnswer> {
        let all = self.router.outside();
        self.router_passes_no_more(&all);
        self.router.passes_nothing(why)
    }

    fn router_passes_no_more(&mut self, outside: &[Multiaddr]) {
        for address in outside {
            self.events.extend(self.router.passes_no_more(address).map(Event::Router));
        }
        self.not_reachable_at(outside);
    }

    /// A router that was found and passes nothing on says so by silence. It is asked again now and then, and where this
    /// machine has moved.
    pub(super) fn look_at_router(&mut self) {
        let listeners: Vec<Multiaddr> = self.swarm.listeners().cloned().collect();
        let late = self.router.late();
        self.router_passes_no_more(&late);
        if !homes(&listeners).is_empty() {
            self.events.extend(self.router.refuses().map(Event::Router));
        }
        if self.router.is_due(&listeners) {
            self.ask_router_again(&listeners);
        }
    }

    /// From the beginning: libp2p looks for a router but once.
    fn ask_router_again(&mut self, listeners: &[Multiaddr]) {
        let lost = self.router.lost(listeners);
        self.router_passes_no_more(&lost);
        self.router.ask_again(listeners);
        let mut behaviour = Behaviour::default();
        for addr in listeners {
            // Any number will do: what was asked for is given back by its port.
            let listener_id = ListenerId::next();
            behaviour.on_swarm_event(FromSwarm::NewListenAddr(NewListenAddr { listener_id, addr }));
        }
        self.swarm.behaviour_mut().upnp = Some(behaviour).into();
    }
}
