//! `relay`: a machine that can be reached, for those of a run that cannot. It holds an identity and nothing of the run.

use anyhow::{Context, Result};
use protocol::{manifest::RunId, message::Response};
use std::time::{Duration, Instant};

use crate::{
    cli::{
        RelayArgs,
        settings::{DEFAULT_PORT, parse_announced, parse_limits, parse_listen, parse_ticket},
    },
    control::interrupt::{Interrupt, Wish},
    network::{self, Event, Multiaddr, Network, NetworkConfig, PeerId, Scope, scope_of},
    storage::StateDir,
    system::name::program,
};

/// Machines of the run that are not connected are called this often.
const CALL: Duration = Duration::from_secs(10);
/// Whether there is something to say is considered this often.
const LOOK: Duration = Duration::from_secs(1);
/// What is relayed, and where, is said this often, if it has changed.
const SAY: Duration = Duration::from_secs(30);
/// Own addresses are said at once so many times, then once in each of these spans: a router may answer soon after the
/// start.
const TIMES_AT_ONCE: u32 = 4;

/// Relays until Ctrl-C.
pub fn run(args: &RelayArgs) -> Result<()> {
    let state = StateDir::create_or_open(&args.state)?;
    // Only a start fails: who has relayed keeps its identity.
    run_in(args, &state).inspect_err(|_| state.take_back())
}

/// The same with its state directory, which is locked.
fn run_in(args: &RelayArgs, state: &StateDir) -> Result<()> {
    let ticket = args.join.as_deref().map(parse_ticket).transpose()?;
    let run = match &args.run {
        Some(id) => Some(id.parse::<RunId>().map_err(anyhow::Error::msg).context("--run")?),
        None => ticket.as_ref().map(|ticket| ticket.run),
    };
    let own = network::peer_id(state.network_key())?;
    let named = args.bootstrap.iter().map(|text| network::parse_bootstrap_of_another(text, own));
    let mut known = named.collect::<Result<Vec<_>, _>>()?;
    if let Some(ticket) = &ticket {
        let others = ticket.machines.iter().filter(|(peer, _)| *peer != own);
        known.extend(others.flat_map(|(peer, at)| at.iter().map(|address| (*peer, address.clone()))));
    }
    let mut limits = parse_limits(args.upload_limit, args.download_limit)?;
    if run.is_none() {
        limits.upload.get_or_insert(OPEN_BYTES_PER_SECOND);
        limits.download.get_or_insert(OPEN_BYTES_PER_SECOND);
    }
    let listen = args.listen.iter().map(|text| parse_listen(text)).collect::<Result<Vec<_>>>()?;
    let config = NetworkConfig {
        listen_at_any: listen.is_empty(),
        announced: args.announce.iter().map(|text| parse_announced(text)).collect::<Result<_>>()?,
        given: known.iter().map(|(_, address)| address.clone()).collect(),
        prologue: ticket.and_then(|ticket| ticket.secret).map(|secret| secret.connection()),
        relays_only: true,
        asks_router: true,
        connections_max: CONNECTIONS_MAX,
        limits,
        ..NetworkConfig::new(
            state.network_key(),
            run.map(|run| run.0),
            if listen.is_empty() { network::everywhere(DEFAULT_PORT) } else { listen },
        )
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut interrupt = Interrupt::install(|| {})?;
    interrupt.take_over();
    runtime.block_on(async {
        let network = Network::start(config).await?;
        match run {
            Some(run) => tracing::info!("relaying for machines of run {run}"),
            None => tracing::info!(
                "relaying for whoever comes, at most {} kilobytes a second together (--upload-limit says otherwise; --join or \
                 --run: for machines of one run only)",
                limits.upload.unwrap_or(OPEN_BYTES_PER_SECOND) / 1_000
            ),
        }
        let mut relay = Relay { network, known, said: (0, 0), said_at: Instant::now(), told: Told::default() };
        tokio::select! {
            () = relay.work() => {}
            _ = interrupt.wait(Wish::Stay) => {}
        }
        tracing::info!("left; machines that were reached through this relay look for another");
        relay.network.close().await;
        Ok(())
    })
}

/// What strangers get of a relay that is open to all, each way and all together: gradients of a hundred machines, and
/// no more than the small server of whoever meant well can spare.
const OPEN_BYTES_PER_SECOND: u64 = 250_000;
/// Room for machines of a large run.
const CONNECTIONS_MAX: u32 = 1_024;

struct Relay {
    network: Network,
    /// Machines to call, and where.
    known: Vec<(PeerId, Multiaddr)>,
    /// Reservations and circuits that were said last, and when.
    said: (usize, usize),
    said_at: Instant,
    told: Told,
}

/// Own addresses that people were told of, and how often lately. Whoever calls this relay may say each time that it
/// called another one: that fills no log, and no memory.
#[derive(Default)]
struct Told {
    addresses: Vec<Multiaddr>,
    times: u32,
    /// One of the times was taken off.
    at: Option<Instant>,
}

impl Told {
    /// Which of `places` people are to be told of now.
    fn news(&mut self, places: &[Multiaddr], now: Instant) -> Vec<Multiaddr> {
        if self.at.is_none_or(|at| now.saturating_duration_since(at) >= SAY) {
            (self.at, self.times) = (Some(now), self.times.saturating_sub(1));
        }
        if self.times >= TIMES_AT_ONCE {
            return Vec::new();
        }
        self.addresses.retain(|address| places.contains(address));
        let known = self.addresses.len();
        for address in places {
            if !self.addresses.contains(address) {
                self.addresses.push(address.clone());
            }
        }
        let news = self.addresses[known..].to_vec();
        self.times += u32::from(!news.is_empty());
        news
    }
}

impl Relay {
    async fn work(&mut self) {
        let mut calls = tokio::time::interval(CALL);
        calls.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        // The system names an interface's addresses one after the other.
        let mut looks = tokio::time::interval_at(tokio::time::Instant::now() + LOOK, LOOK);
        loop {
            tokio::select! {
                event = self.network.next() => self.heard(event),
                _ = calls.tick() => self.call(),
                _ = looks.tick() => self.look(),
            }
        }
    }

    fn heard(&mut self, event: Event) {
        match event {
            // Nothing of the run is here.
            Event::Request { responder, .. } => {
                if let Ok(bytes) = Response::Unavailable.encode() {
                    self.network.respond(responder, bytes);
                }
            }
            Event::DialFailed { peer, error } => tracing::debug!(%peer, %error, "a machine of the run is not there"),
            Event::Router(answer) => crate::say::router(&answer),
            Event::NotListening(error) => crate::say::not_listening(&error),
            _ => {}
        }
    }

    fn call(&mut self) {
        let connected: Vec<PeerId> = self.network.connected().copied().collect();
        let mut peers: Vec<PeerId> = self.known.iter().map(|(peer, _)| *peer).collect();
        peers.dedup();
        for peer in peers.into_iter().filter(|peer| !connected.contains(peer)) {
            let addresses = self.known.iter().filter(|(known, _)| *known == peer).map(|(_, address)| address.clone());
            self.network.dial(peer, addresses.collect());
        }
    }

    /// Says where it is, and what it does.
    fn look(&mut self) {
        let peer = self.network.peer_id();
        let mut places: Vec<Multiaddr> = self.network.reachable_at().cloned().collect();
        places.extend_from_slice(self.network.announced());
        places.extend(self.network.listen_addresses());
        let widest = places.iter().filter_map(scope_of).max();
        places.retain(|at| scope_of(at).is_some_and(|scope| scope > Scope::Machine || widest == Some(scope)));
        for address in self.told.news(&places, Instant::now()) {
            tracing::info!("machines that nobody can call name this relay: {} --relay {address}/p2p/{peer}", program());
        }
        let relaying = self.network.relaying();
        if relaying != self.said && self.said_at.elapsed() >= SAY {
            (self.said, self.said_at) = (relaying, Instant::now());
            let (machines, circuits) = relaying;
            tracing::info!("reached through this relay: {machines} machines; {circuits} connections between them now");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The address that a router passed on was said half a minute after the relay knew it.
    #[test]
    fn addresses_are_said_at_once_and_fill_neither_the_log_nor_the_memory_where_they_change_all_the_time() {
        let (mut told, now) = (Told::default(), Instant::now());
        let at = |port: u64| -> Multiaddr { format!("/ip4/203.0.113.5/tcp/{port}").parse().unwrap() };
        assert_eq!(told.news(&[at(1), at(2), at(1)], now), [at(1), at(2)]);
        assert_eq!(told.news(&[at(1), at(3)], now), [at(3)]);
        assert!(told.news(&[at(1), at(3)], now + SAY).is_empty(), "no news");
        let said =
            (0..1_000).map(|second| told.news(&[at(1), at(second + 4)], now + SAY + Duration::from_secs(second)));
        let said: usize = said.map(|said| said.len()).sum();
        assert_eq!(said, 33 + TIMES_AT_ONCE as usize - 1, "one in half a minute");
        assert_eq!(told.addresses.len(), 2);
    }
}
