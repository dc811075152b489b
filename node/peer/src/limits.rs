//! What a neighbour may send, and how many faults it has. Time is an argument, in milliseconds.

/// Faults that ban.
const FAULTS_MAX: f64 = 4.0;
/// A fault is forgotten after this long.
const FAULT_LASTS_MS: f64 = 30_000.0;
/// How long a ban lasts.
pub const BAN_MS: u64 = 600_000;
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

/// Messages and bytes that may pass; refills.
#[derive(Clone, Debug)]
pub struct Allowance {
    /// Part of what a peer may send.
    share: f64,
    messages: f64,
    bytes: f64,
    as_of_ms: u64,
}

impl Allowance {
    /// What one peer may send.
    pub fn of_a_peer(now_ms: u64) -> Self {
        Self::new(1.0, now_ms)
    }

    /// What one node passes on in all.
    pub fn of_forwarding(now_ms: u64) -> Self {
        Self::new(FORWARDED_SHARE, now_ms)
    }

    fn new(share: f64, now_ms: u64) -> Self {
        Self { share, messages: share * MESSAGES_BURST, bytes: share * GOSSIP_BYTES_BURST, as_of_ms: now_ms }
    }

    fn advance(&mut self, now_ms: u64) {
        let refill = self.share * now_ms.saturating_sub(self.as_of_ms) as f64 / 1000.0;
        self.as_of_ms = now_ms;
        self.messages = (self.messages + refill * MESSAGES_PER_SECOND).min(self.share * MESSAGES_BURST);
        self.bytes = (self.bytes + refill * GOSSIP_BYTES_PER_SECOND).min(self.share * GOSSIP_BYTES_BURST);
    }

    /// Whether one more message of so many bytes may pass.
    pub fn take(&mut self, bytes: usize, now_ms: u64) -> bool {
        self.advance(now_ms);
        if self.messages < 1.0 || self.bytes < bytes as f64 {
            return false;
        }
        self.messages -= 1.0;
        self.bytes -= bytes as f64;
        true
    }

    fn is_full(&self) -> bool {
        self.messages >= self.share * MESSAGES_BURST && self.bytes >= self.share * GOSSIP_BYTES_BURST
    }
}

/// A peer's record: faults fade, allowances refill.
#[derive(Clone, Debug)]
pub struct Conduct {
    faults: f64,
    allowance: Allowance,
    as_of_ms: u64,
    banned_until_ms: Option<u64>,
}

impl Conduct {
    /// Spotless.
    pub fn new(now_ms: u64) -> Self {
        Self { faults: 0.0, allowance: Allowance::of_a_peer(now_ms), as_of_ms: now_ms, banned_until_ms: None }
    }

    /// Forgets what is long ago.
    pub fn advance(&mut self, now_ms: u64) {
        self.faults = (self.faults - now_ms.saturating_sub(self.as_of_ms) as f64 / FAULT_LASTS_MS).max(0.0);
        self.as_of_ms = now_ms;
        self.allowance.advance(now_ms);
    }

    /// Counts a fault. True if this bans the peer.
    pub fn penalize(&mut self, severity: Severity, now_ms: u64) -> bool {
        self.advance(now_ms);
        self.faults += if severity == Severity::Ban { FAULTS_MAX } else { 1.0 };
        if self.faults < FAULTS_MAX || self.is_banned() {
            return false;
        }
        self.banned_until_ms = Some(now_ms + BAN_MS);
        true
    }

    /// Whether the peer may send one more message, or question, of this size. A flood beyond that is a fault.
    pub fn allow(&mut self, gossip_bytes: usize, now_ms: u64) -> bool {
        self.allowance.take(gossip_bytes, now_ms)
    }

    /// Whether a ban was not lifted yet.
    pub fn is_banned(&self) -> bool {
        self.banned_until_ms.is_some()
    }

    /// Whether there is a ban, and it has lasted long enough.
    pub fn ban_is_over(&self, now_ms: u64) -> bool {
        self.banned_until_ms.is_some_and(|until| until <= now_ms)
    }

    /// Whether it says no more than a new one would.
    pub fn is_spotless(&self) -> bool {
        self.faults == 0.0 && self.allowance.is_full() && !self.is_banned()
    }
}
