//! Whom to call, and whom not to listen to.

use libp2p::{Multiaddr, PeerId, multiaddr::Protocol};
use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use super::{
    NetworkConfig, StartError,
    conduct::{Allowance, BAN_MS, Conduct, Severity},
};

/// First pause after a call that failed; doubles up to the last.
const RETRY_FIRST: Duration = Duration::from_secs(1);
const RETRY_LAST: Duration = Duration::from_secs(60);
/// Peers remembered for calling.
const CALLABLE_MAX: usize = 512;
/// Addresses remembered per peer.
const ADDRESSES_MAX: usize = 8;
/// A found peer that fails this often is forgotten.
const FAILURES_MAX: u32 = 5;
/// Splits an address that ends with `/p2p/` and a peer id.
pub fn parse_bootstrap(text: &str) -> Result<(PeerId, Multiaddr), StartError> {
    let failed = |error: String| StartError::Bootstrap { address: text.to_owned(), error };
    let mut address: Multiaddr = text.parse().map_err(|error| failed(format!("not a multiaddr ({error})")))?;
    match address.pop() {
        Some(Protocol::P2p(peer)) if !address.is_empty() => Ok((peer, address)),
        _ => Err(failed("it does not end with /p2p/ and the peer id that the other node prints".into())),
    }
}

struct Callable {
    addresses: Vec<Multiaddr>,
    failures: u32,
    next_call: Instant,
    /// Called for ever, and people hear of failures.
    is_bootstrap: bool,
}

pub struct Peers {
    own: PeerId,
    connections_target: usize,
    callable: HashMap<PeerId, Callable>,
    conduct: HashMap<PeerId, Conduct>,
    forwarding: Allowance,
    begun: Instant,
}

impl Peers {
    pub fn new(own: PeerId, config: &NetworkConfig) -> Result<Self, StartError> {
        let mut peers = Self {
            own,
            connections_target: config.connections_target,
            callable: HashMap::new(),
            conduct: HashMap::new(),
            forwarding: Allowance::of_forwarding(0),
            begun: Instant::now(),
        };
        for text in &config.bootstrap {
            let (peer, address) = parse_bootstrap(text)?;
            if peer == own {
                return Err(StartError::Bootstrap {
                    address: text.clone(),
                    error: "this is the node's own peer id: give another machine's, or another --state".into(),
                });
            }
            peers.found(peer, address);
            if let Some(callable) = peers.callable.get_mut(&peer) {
                callable.is_bootstrap = true;
            }
        }
        for (peer, address) in &config.known_peers {
            peers.found(*peer, address.clone());
        }
        Ok(peers)
    }

    pub fn connections_target(&self) -> usize {
        self.connections_target
    }

    /// Remembers an address.
    pub fn found(&mut self, peer: PeerId, address: Multiaddr) {
        let full = self.callable.len() >= CALLABLE_MAX && !self.callable.contains_key(&peer);
        if peer == self.own || full {
            return;
        }
        let callable = self.callable.entry(peer).or_insert_with(|| Callable {
            addresses: Vec::new(),
            failures: 0,
            next_call: Instant::now(),
            is_bootstrap: false,
        });
        if !callable.addresses.contains(&address) && callable.addresses.len() < ADDRESSES_MAX {
            callable.addresses.push(address);
        }
    }

    /// Whom to call now: bootstrap machines that are not connected, and others while connections are few.
    pub fn due(&mut self, connected: impl Fn(&PeerId) -> bool, connections: usize) -> Vec<(PeerId, Vec<Multiaddr>)> {
        let now = Instant::now();
        let mut room = self.connections_target.saturating_sub(connections);
        let mut due = Vec::new();
        for (peer, callable) in &mut self.callable {
            if callable.next_call > now || connected(peer) || !(callable.is_bootstrap || room > 0) {
                continue;
            }
            room = room.saturating_sub(1);
            callable.next_call = now + pause(callable.failures);
            due.push((*peer, callable.addresses.clone()));
        }
        due
    }

    /// A call failed. For a bootstrap machine: its address and the pause until the next call.
    pub fn failed(&mut self, peer: &PeerId) -> Option<(Multiaddr, Duration)> {
        let callable = self.callable.get_mut(peer)?;
        callable.failures = callable.failures.saturating_add(1);
        let pause = pause(callable.failures);
        callable.next_call = Instant::now() + pause;
        if callable.is_bootstrap {
            return callable.addresses.first().map(|address| (address.clone(), pause));
        }
        if callable.failures >= FAILURES_MAX {
            self.callable.remove(peer);
        }
        None
    }

    pub fn connected(&mut self, peer: &PeerId) {
        if let Some(callable) = self.callable.get_mut(peer) {
            callable.failures = 0;
        }
    }

    /// A connection is gone: call again, soon but not at once.
    pub fn gone(&mut self, peer: &PeerId) {
        if let Some(callable) = self.callable.get_mut(peer) {
            callable.next_call = Instant::now() + RETRY_FIRST;
        }
    }

    fn now_ms(&self) -> u64 {
        self.begun.elapsed().as_millis() as u64
    }

    fn conduct(&mut self, peer: &PeerId, now_ms: u64) -> &mut Conduct {
        self.conduct.entry(*peer).or_insert_with(|| Conduct::new(now_ms))
    }

    /// True if this bans the peer.
    pub fn penalize(&mut self, peer: &PeerId, severity: Severity, reason: &str) -> bool {
        let now_ms = self.now_ms();
        tracing::debug!(%peer, reason, ?severity, "a fault");
        let bans = self.conduct(peer, now_ms).penalize(severity, now_ms);
        if bans {
            tracing::warn!("{peer} is banned for {} minutes: {reason}", BAN_MS / 60_000);
        }
        bans
    }

    pub fn is_banned(&self, peer: &PeerId) -> bool {
        self.conduct.get(peer).is_some_and(Conduct::is_banned)
    }

    /// Bans that are over. Forgets the records of those who behave, connected or not: a new connection alone washes
    /// nothing off.
    pub fn pardoned(&mut self) -> Vec<PeerId> {
        let now_ms = self.now_ms();
        self.conduct.retain(|_, conduct| {
            conduct.advance(now_ms);
            !conduct.is_spotless()
        });
        let over = self.conduct.iter().filter(|(_, conduct)| conduct.ban_is_over(now_ms));
        let pardoned: Vec<PeerId> = over.map(|(peer, _)| *peer).collect();
        pardoned.iter().for_each(|peer| {
            self.conduct.remove(peer);
        });
        pardoned
    }

    /// Whether the peer may send one more message, or question, of this size. A flood beyond that is a fault.
    pub fn allow(&mut self, peer: &PeerId, gossip_bytes: usize) -> bool {
        let now_ms = self.now_ms();
        self.conduct(peer, now_ms).allow(gossip_bytes, now_ms)
    }

    /// Whether to pass on one more message of this size. What is not passed on, anti-entropy carries.
    pub fn may_forward(&mut self, gossip_bytes: usize) -> bool {
        let now_ms = self.now_ms();
        self.forwarding.take(gossip_bytes, now_ms)
    }
}

fn pause(failures: u32) -> Duration {
    let doubled = RETRY_FIRST.saturating_mul(1 << failures.min(10)).min(RETRY_LAST);
    // Jitter, so that a swarm does not call a returning machine all at once.
    let mut byte = [0u8; 1];
    let _ = getrandom::fill(&mut byte);
    doubled.mul_f64(0.75 + f64::from(byte[0]) / 512.0)
}
