//! How a node takes its place: what it is made of, and where it listens.

use futures::StreamExt;
use libp2p::{Multiaddr, Swarm, swarm::SwarmEvent};
use std::{
    collections::{HashMap, HashSet, VecDeque},
    io,
    time::{Duration, Instant, SystemTime},
};

use super::{
    Network, address,
    behaviour::{self, Behaviour},
    config::NetworkConfig,
    direct::DirectCalls,
    error::StartError,
    event::Event,
    guard::Reach,
    links::Links,
    liveness::Liveness,
    names,
    older::Older,
    relays::{Relaying, Relays},
    shown::Shown,
    traffic::Counters,
    transport,
};

/// Whether to look for more nodes is considered this often.
const UPKEEP: Duration = Duration::from_millis(500);
/// A start waits this long for the system to name the addresses that a listener stands for. The listener stands in any
/// case: addresses that are named later (an interface that comes up) are told then.
const NAMING_MAX: Duration = Duration::from_secs(5);
/// A connection that nothing uses closes after so long.
const IDLE: Duration = Duration::from_secs(120);

impl Network {
    /// Sets up and listens. Every listener stands when this returns.
    pub async fn start(config: NetworkConfig) -> Result<Self, StartError> {
        let mut network = Self::set_up(&config)?;
        if let (Some(topic), Some(gossip)) = (&network.topic, network.swarm.behaviour_mut().gossip.as_mut()) {
            gossip.subscribe(topic).map_err(|error| StartError::Setup(error.to_string()))?;
        }
        network.take_addresses(&config);
        network.listen_at_all(&config).await?;
        network.on_reachability();
        Ok(network)
    }

    /// Hears nothing yet, and listens nowhere.
    fn set_up(config: &NetworkConfig) -> Result<Self, StartError> {
        let keypair = address::key_pair(config.secret_key)?;
        let own = keypair.public().to_peer_id();
        let counters = Counters::default();
        let (reach, liveness) = (Reach::default(), Liveness::default());
        let (relayed, relay_client) = libp2p::relay::client::new(own);
        let transport = transport::build(transport::Parts {
            keypair: &keypair,
            prologue: config.prologue,
            relayed,
            counters: &counters,
            limits: config.limits,
            reach: &reach,
            liveness: &liveness,
        })
        .map_err(StartError::Setup)?;
        #[cfg(feature = "upnp")]
        let (router, upnp) = Self::ask_router(config);
        #[cfg(not(feature = "upnp"))]
        let router = super::router::Router::default();
        let behaviour = Behaviour::new(
            &keypair,
            config,
            &counters,
            relay_client,
            #[cfg(feature = "upnp")]
            upnp,
        )
        .map_err(StartError::Setup)?;
        let settings = libp2p::swarm::Config::with_tokio_executor();
        let mut upkeep = tokio::time::interval(UPKEEP);
        upkeep.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        Ok(Self {
            swarm: Swarm::new(transport, behaviour, own, settings.with_idle_connection_timeout(IDLE)),
            topic: config.gossips().map(behaviour::topic),
            counters,
            connections_target: config.connections_target,
            events: VecDeque::new(),
            upkeep,
            calls: HashSet::new(),
            links: Links::default(),
            direct_calls: DirectCalls::default(),
            relays: Relays::new(&config.relays),
            relays_only: config.relays_only,
            is_alone: config.is_alone(),
            router,
            observed: HashMap::new(),
            claimed: HashMap::new(),
            shown: Shown::default(),
            announced: Vec::new(),
            is_reachable: false,
            listens: !config.listen.is_empty(),
            relaying: Relaying::default(),
            of_run: HashSet::new(),
            parting: HashMap::new(),
            refused: HashSet::new(),
            addresses: HashMap::new(),
            round_trips: HashMap::new(),
            last_walk: Instant::now(),
            awake: (Instant::now(), SystemTime::now()),
            reach,
            liveness,
            older: Older::default(),
        })
    }

    /// Those that people gave.
    fn take_addresses(&mut self, config: &NetworkConfig) {
        for address in config.given.iter().chain(config.relays.iter().map(|(_, address)| address)) {
            self.reach.is_near(address);
            names::name(address).into_iter().for_each(|name| self.reach.trust(name));
        }
        config.announced.iter().for_each(|address| self.swarm.add_external_address(address.clone()));
        self.announced = config.announced.clone();
    }

    async fn listen_at_all(&mut self, config: &NetworkConfig) -> Result<(), StartError> {
        // Before the first of them: a port of IPv6 is looked for in both families.
        if let Some(taken) = config.listen.iter().find(|address| transport::is_occupied(address)) {
            return Err(StartError::Occupied(taken.clone()));
        }
        let (mut listens, mut failed) = (config.listen.is_empty(), None);
        for address in &config.listen {
            match self.listen(address).await {
                Ok(()) => listens = true,
                Err(error @ StartError::Listen { .. }) if config.listen_at_any => failed = failed.or(Some(error)),
                Err(error) => return Err(error),
            }
        }
        match failed {
            Some(error) if !listens => Err(error),
            Some(error) => {
                self.events.push_back(Event::NotListening(error.to_string()));
                Ok(())
            }
            None => Ok(()),
        }
    }

    async fn listen(&mut self, address: &Multiaddr) -> Result<(), StartError> {
        let failed = |error: &(dyn std::error::Error + 'static)| match transport::is_address_in_use(error) {
            true => StartError::Occupied(address.clone()),
            false => StartError::Listen { address: address.clone(), error: format!("{error:?}") },
        };
        let listener = self.swarm.listen_on(address.clone()).map_err(|error| failed(&error))?;
        let named = async {
            loop {
                match self.swarm.select_next_some().await {
                    event @ SwarmEvent::NewListenAddr { listener_id, .. } if listener_id == listener => {
                        self.on_swarm(event);
                        return Ok(());
                    }
                    SwarmEvent::ListenerClosed { listener_id, reason, .. } if listener_id == listener => {
                        let error = reason.err().unwrap_or_else(|| io::Error::other("the listener was closed"));
                        return Err(failed(&error));
                    }
                    SwarmEvent::ListenerError { listener_id, error } if listener_id == listener => {
                        return Err(failed(&error));
                    }
                    other => self.on_swarm(other),
                }
            }
        };
        tokio::time::timeout(NAMING_MAX, named).await.unwrap_or(Ok(()))
    }
}
