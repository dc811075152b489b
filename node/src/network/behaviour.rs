//! The libp2p protocols of a node, and their limits.

use libp2p::{
    StreamProtocol, allow_block_list, autonat, connection_limits, dcutr,
    gossipsub::{self, IdentTopic, MessageId, WhitelistSubscriptionFilter},
    identify, identity, kad, mdns, ping, relay,
    request_response::{self, ProtocolSupport},
    swarm::{NetworkBehaviour, behaviour::toggle::Toggle},
};
use peer::{exchange::ANSWER_MS_MAX, liveness::PING_MS, mesh};
use std::{collections::HashSet, time::Duration};

use super::{
    codec::{BytesCodec, EXCHANGE},
    config::NetworkConfig,
    far::Far,
    hosts::Hosts,
    older::EXCHANGE_1,
    relayed::Relayed,
    relays,
    traffic::Counters,
};

/// Streams that one peer may have open for questions.
const STREAMS_PER_CONNECTION: usize = 8;
/// One way each, the direct one that takes the place of a relayed one, and a call back that shows whether this machine
/// can be reached.
const CONNECTIONS_PER_PEER: u32 = 4;
/// Connections of which it is not known yet whose they are.
const PENDING_MAX: u32 = 64;

#[derive(NetworkBehaviour)]
pub struct Behaviour {
    pub blocked: allow_block_list::Behaviour<allow_block_list::BlockedPeers>,
    pub limits: connection_limits::Behaviour,
    pub hosts: Hosts,
    pub identify: identify::Behaviour,
    pub ping: ping::Behaviour,
    pub exchange: request_response::Behaviour<BytesCodec>,
    /// What nodes of version 1 ask.
    pub older: request_response::Behaviour<BytesCodec>,
    pub gossip: Toggle<gossipsub::Behaviour<Counters, WhitelistSubscriptionFilter>>,
    pub kad: Toggle<kad::Behaviour<kad::store::MemoryStore>>,
    pub mdns: Toggle<mdns::tokio::Behaviour>,
    /// The same over IPv6.
    pub mdns6: Toggle<mdns::tokio::Behaviour>,
    /// Circuits through others.
    pub relayed: Relayed,
    /// Circuits of others through this node, as long as it can be reached.
    pub relay: relay::Behaviour,
    /// From a circuit to a direct connection.
    pub punch: dcutr::Behaviour,
    /// Asks others whether this node can be reached.
    pub reachable: Far,
    /// Tells others whether they can be.
    pub reach: autonat::v2::server::Behaviour,
    /// Asks the router to let others in.
    #[cfg(feature = "upnp")]
    pub upnp: Toggle<libp2p::upnp::tokio::Behaviour>,
}

/// The run's topic: short, because every message carries it.
pub fn topic(run: &[u8; 32]) -> IdentTopic {
    IdentTopic::new(prefix(run))
}

fn prefix(run: &[u8; 32]) -> String {
    run[..4].iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What discovery protocols begin with, before what they have of their run.
const KAD: &str = "/onebyte/2/kad/";

/// Whether who speaks the protocols `told` is of a run, and `own` of another one.
pub fn is_of_another_run(own: &[StreamProtocol], told: &[StreamProtocol]) -> bool {
    let of_runs = || told.iter().filter(|name| name.as_ref().starts_with(KAD));
    !own.is_empty() && of_runs().next().is_some() && !of_runs().any(|name| own.contains(name))
}

/// The discovery protocol of one run, so that the tables of different runs do not mix.
fn kad_protocol(run: &[u8; 32]) -> Result<StreamProtocol, String> {
    StreamProtocol::try_from_owned(format!("{KAD}{}", prefix(run))).map_err(|error| error.to_string())
}

impl Behaviour {
    pub fn new(
        keypair: &identity::Keypair,
        config: &NetworkConfig,
        counters: &Counters,
        relayed: relay::client::Behaviour,
        #[cfg(feature = "upnp")] upnp: Option<libp2p::upnp::tokio::Behaviour>,
    ) -> Result<Self, String> {
        let own = keypair.public().to_peer_id();
        // The rest is for own calls: strangers must not lock this node out of its swarm.
        let incoming_max = config.connections_max * 3 / 4;
        let limits = connection_limits::ConnectionLimits::default()
            .with_max_established(Some(config.connections_max))
            .with_max_established_incoming(Some(incoming_max))
            .with_max_established_per_peer(Some(CONNECTIONS_PER_PEER))
            .with_max_pending_incoming(Some(PENDING_MAX))
            .with_max_pending_outgoing(Some(PENDING_MAX));
        let exchange = request_response::Config::default()
            .with_request_timeout(Duration::from_millis(ANSWER_MS_MAX))
            .with_max_concurrent_streams(STREAMS_PER_CONNECTION);
        let identify = identify::Config::new("/onebyte/identify/2".into(), keypair.public())
            .with_agent_version(concat!("onebyte/", env!("CARGO_PKG_VERSION")).into())
            .with_push_listen_addr_updates(true)
            // What it remembers it would have called, too, whoever may be meant by it.
            .with_cache_size(0);
        let mdns = |enable_ipv6| {
            let behaviour = mdns::tokio::Behaviour::new(mdns::Config { enable_ipv6, ..Default::default() }, own);
            config.mdns.then_some(behaviour).transpose().map_err(|error| error.to_string())
        };
        let mut relay = relay::Behaviour::new(own, relays::limits(config.relays_only));
        // Circuits through others are external addresses, too, but no reason to relay.
        relay.set_status(Some(relay::Status::Disable));
        Ok(Self {
            blocked: Default::default(),
            limits: connection_limits::Behaviour::new(limits),
            hosts: Hosts::new(PENDING_MAX, incoming_max),
            identify: identify::Behaviour::new(identify),
            ping: ping::Behaviour::new(ping::Config::new().with_interval(Duration::from_millis(PING_MS))),
            older: request_response::Behaviour::new([(EXCHANGE_1, ProtocolSupport::Inbound)], exchange.clone()),
            exchange: request_response::Behaviour::new([(EXCHANGE, ProtocolSupport::Full)], exchange),
            gossip: config.gossips().map(|run| gossip(run, counters.clone())).transpose()?.into(),
            kad: config.run.as_ref().map(|run| discovery(own, run)).transpose()?.into(),
            mdns: mdns(false)?.into(),
            // Without IPv6 there is nobody to be found over it.
            mdns6: mdns(true).unwrap_or_default().into(),
            relayed: Relayed::new(relayed),
            relay,
            punch: dcutr::Behaviour::new(own),
            reachable: Far::default(),
            reach: autonat::v2::server::Behaviour::default(),
            #[cfg(feature = "upnp")]
            upnp: upnp.into(),
        })
    }
}

/// Anonymous messages (their content is signed), each validated before it is passed on. The transmit limit stays at its
/// default: smaller ones make bursts vanish.
fn gossip(
    run: &[u8; 32],
    counters: Counters,
) -> Result<gossipsub::Behaviour<Counters, WhitelistSubscriptionFilter>, String> {
    let config = gossipsub::ConfigBuilder::default()
        .validation_mode(gossipsub::ValidationMode::Anonymous)
        .validate_messages()
        .message_id_fn(|message| MessageId::from(&blake3::hash(&message.data).as_bytes()[..mesh::ID_BYTES]))
        .heartbeat_interval(mesh::HEARTBEAT)
        .mesh_n(mesh::DEGREE)
        .mesh_n_low(mesh::DEGREE_LOW)
        .mesh_n_high(mesh::DEGREE_HIGH)
        .mesh_outbound_min(mesh::OUTBOUND_MIN)
        .gossip_lazy(mesh::LAZY)
        .gossip_factor(mesh::LAZY_SHARE)
        .history_gossip(mesh::ANNOUNCED)
        // Own messages go the way of all others: to the mesh.
        .flood_publish(false)
        .duplicate_cache_time(mesh::DUPLICATES_KNOWN)
        .max_control_messages_sent(mesh::IDS_MAX)
        .build()
        .map_err(|error| error.to_string())?;
    let filter = WhitelistSubscriptionFilter(HashSet::from([topic(run).hash()]));
    let anonymous = gossipsub::MessageAuthenticity::Anonymous;
    gossipsub::Behaviour::new_with_subscription_filter_and_transform(anonymous, config, filter, counters)
        .map_err(str::to_owned)
}

/// Kademlia as a table of peers; nothing is stored in it.
fn discovery(own: libp2p::PeerId, run: &[u8; 32]) -> Result<kad::Behaviour<kad::store::MemoryStore>, String> {
    let mut config = kad::Config::new(kad_protocol(run)?);
    config
        .set_record_filtering(kad::StoreInserts::FilterBoth)
        .set_periodic_bootstrap_interval(Some(Duration::from_secs(60)))
        .set_query_timeout(Duration::from_secs(20));
    let mut kad = kad::Behaviour::with_config(own, kad::store::MemoryStore::new(own), config);
    kad.set_mode(Some(kad::Mode::Server));
    Ok(kad)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A machine of another run on the same network was taken as a relay, and went when it was parted with.
    #[test]
    fn whose_run_a_machine_is_of_is_told_by_how_it_looks_for_others() {
        let run = |number: u8| kad_protocol(&[number; 32]).unwrap();
        let other = StreamProtocol::new("/libp2p/circuit/relay/0.2.0/hop");
        assert!(is_of_another_run(&[run(1)], &[other.clone(), run(2)]));
        assert!(!is_of_another_run(&[run(1)], &[other.clone(), run(1)]));
        assert!(!is_of_another_run(&[run(1)], std::slice::from_ref(&other)), "it relays for all runs");
        assert!(!is_of_another_run(&[], &[other, run(2)]), "who looks for a run may go through any");
    }
}
