//! Whom to call, and whom not to listen to.

use libp2p::{Multiaddr, PeerId, multiaddr::Protocol};
use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use super::{NetworkConfig, StartError};

/// First pause after a call that failed; doubles up to the last.
const RETRY_FIRST: Duration = Duration::from_secs(1);
const RETRY_LAST: Duration = Duration::from_secs(60);
/// Peers remembered for calling.
const CALLABLE_MAX: usize = 512;
/// Addresses remembered per peer.
const ADDRESSES_MAX: usize = 8;
/// A found peer that fails this often is forgotten.
const FAILURES_MAX: u32 = 5;
/// Faults that ban.
const FAULTS_MAX: f64 = 4.0;
/// A fault is forgotten after this long.
const FAULT_LASTS: Duration = Duration::from_secs(30);
/// How long a ban lasts.
const BAN: Duration = Duration::from_secs(600);
/// Messages and questions per second that a peer may send on average, and at once.
const MESSAGES_PER_SECOND: f64 = 1_000.0;
const MESSAGES_BURST: f64 = 4_000.0;
/// Bytes of gossip per second that a peer may send on average, and at once.
const GOSSIP_BYTES_PER_SECOND: f64 = 4e6;
const GOSSIP_BYTES_BURST: f64 = 16e6;
/// Part of what a peer may send that is spent on passing others' gossip on: several who flood, each within its allowance,
/// must not make this node one who floods.
const FORWARDED_SHARE: f64 = 0.5;

/// How bad it was.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Severity {
    /// Could be a bug; a few of them ban.
    Fault,
    /// Ban at once.
    Ban,
}

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

/// Messages and bytes that may pass; refills.
struct Allowance {
    /// Part of what a peer may send.
    share: f64,
    messages: f64,
    bytes: f64,
    as_of: Instant,
}

impl Allowance {
    fn new(share: f64, now: Instant) -> Self {
        Self { share, messages: share * MESSAGES_BURST, bytes: share * GOSSIP_BYTES_BURST, as_of: now }
    }

    fn advance(&mut self, now: Instant) {
        let refill = self.share * now.duration_since(self.as_of).as_secs_f64();
        self.as_of = now;
        self.messages = (self.messages + refill * MESSAGES_PER_SECOND).min(self.share * MESSAGES_BURST);
        self.bytes = (self.bytes + refill * GOSSIP_BYTES_PER_SECOND).min(self.share * GOSSIP_BYTES_BURST);
    }

    fn take(&mut self, bytes: f64) -> bool {
        if self.messages < 1.0 || self.bytes < bytes {
            return false;
        }
        self.messages -= 1.0;
        self.bytes -= bytes;
        true
    }

    fn is_full(&self) -> bool {
        self.messages >= self.share * MESSAGES_BURST && self.bytes >= self.share * GOSSIP_BYTES_BURST
    }
}

/// A peer's record: faults fade, allowances refill.
struct Conduct {
    faults: f64,
    allowance: Allowance,
    as_of: Instant,
    banned_until: Option<Instant>,
}

impl Conduct {
    fn new(now: Instant) -> Self {
        Self { faults: 0.0, allowance: Allowance::new(1.0, now), as_of: now, banned_until: None }
    }

    fn advance(&mut self, now: Instant) {
        let seconds = now.duration_since(self.as_of).as_secs_f64();
        self.as_of = now;
        self.faults = (self.faults - seconds / FAULT_LASTS.as_secs_f64()).max(0.0);
        self.allowance.advance(now);
    }

    /// Whether it says no more than a new one would.
    fn is_spotless(&self) -> bool {
        self.faults == 0.0 && self.allowance.is_full()
    }
}

pub struct Peers {
    own: PeerId,
    connections_target: usize,
    callable: HashMap<PeerId, Callable>,
    conduct: HashMap<PeerId, Conduct>,
    forwarding: Allowance,
}

impl Peers {
    pub fn new(own: PeerId, config: &NetworkConfig) -> Result<Self, StartError> {
        let mut peers = Self {
            own,
            connections_target: config.connections_target,
            callable: HashMap::new(),
            conduct: HashMap::new(),
            forwarding: Allowance::new(FORWARDED_SHARE, Instant::now()),
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

    fn conduct(&mut self, peer: &PeerId) -> &mut Conduct {
        let now = Instant::now();
        let conduct = self.conduct.entry(*peer).or_insert_with(|| Conduct::new(now));
        conduct.advance(now);
        conduct
    }

    /// True if this bans the peer.
    pub fn penalize(&mut self, peer: &PeerId, severity: Severity, reason: &str) -> bool {
        let conduct = self.conduct(peer);
        conduct.faults += if severity == Severity::Ban { FAULTS_MAX } else { 1.0 };
        tracing::debug!(%peer, reason, faults = conduct.faults, "a fault");
        if conduct.faults < FAULTS_MAX || conduct.banned_until.is_some() {
            return false;
        }
        conduct.banned_until = Some(Instant::now() + BAN);
        tracing::warn!("{peer} is banned for {} minutes: {reason}", BAN.as_secs() / 60);
        true
    }

    pub fn is_banned(&self, peer: &PeerId) -> bool {
        self.conduct.get(peer).is_some_and(|conduct| conduct.banned_until.is_some())
    }

    /// Bans that are over. Forgets the records of those who behave, connected or not: a new connection alone washes
    /// nothing off.
    pub fn pardoned(&mut self) -> Vec<PeerId> {
        let now = Instant::now();
        self.conduct.retain(|_, conduct| {
            conduct.advance(now);
            conduct.banned_until.is_some() || !conduct.is_spotless()
        });
        let over = |conduct: &Conduct| conduct.banned_until.is_some_and(|until| until <= now);
        let pardoned: Vec<PeerId> =
            self.conduct.iter().filter(|(_, conduct)| over(conduct)).map(|(peer, _)| *peer).collect();
        pardoned.iter().for_each(|peer| {
            self.conduct.remove(peer);
        });
        pardoned
    }

    /// Whether the peer may send one more message, or question, of this size. A flood beyond that is a fault.
    pub fn allow(&mut self, peer: &PeerId, gossip_bytes: usize) -> bool {
        self.conduct(peer).allowance.take(gossip_bytes as f64)
    }

    /// Whether to pass on one more message of this size. What is not passed on, anti-entropy carries.
    pub fn may_forward(&mut self, gossip_bytes: usize) -> bool {
        self.forwarding.advance(Instant::now());
        self.forwarding.take(gossip_bytes as f64)
    }
}

fn pause(failures: u32) -> Duration {
    let doubled = RETRY_FIRST.saturating_mul(1 << failures.min(10)).min(RETRY_LAST);
    // Jitter, so that a swarm does not call a returning machine all at once.
    let mut byte = [0u8; 1];
    let _ = getrandom::fill(&mut byte);
    doubled.mul_f64(0.75 + f64::from(byte[0]) / 512.0)
}
