//! What other nodes may send, and what is held against them.

use std::collections::BTreeMap;

use crate::NodeId;

/// Faults that ban.
const FAULTS_MAX: f64 = 4.0;
/// A fault is forgotten after this long, ms.
const FAULT_LASTS_MS: f64 = 30_000.0;
/// How long a ban lasts, ms.
pub const BAN_MS: u64 = 600_000;
/// Bans at once. Keys cost nothing: who comes under ever new ones must not fill the memory.
const BANS_MAX: usize = 2_048;
/// Messages and questions that a node may send: on average a second, and at once.
const MESSAGES_PER_SECOND: f64 = 1_000.0;
const MESSAGES_BURST: f64 = 4_000.0;
/// Bytes of gossip that a node may send: on average a second, and at once.
const GOSSIP_BYTES_PER_SECOND: f64 = 4e6;
const GOSSIP_BYTES_BURST: f64 = 16e6;
/// Part of what a node may send that is spent on passing others' gossip on: several who flood, each within its
/// allowance, must not make this node one who floods.
const FORWARDED_SHARE: f64 = 0.5;

/// How bad a fault was.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Severity {
    /// Could be a bug: a few of them ban.
    Fault,
    /// Bans at once.
    Ban,
}

/// A token bucket for messages and one for bytes.
#[derive(Clone, Debug)]
struct Allowance {
    /// Part of what one node may send.
    share: f64,
    messages: f64,
    bytes: f64,
    as_of_ms: u64,
}

impl Allowance {
    fn new(share: f64, now_ms: u64) -> Self {
        Self { share, messages: share * MESSAGES_BURST, bytes: share * GOSSIP_BYTES_BURST, as_of_ms: now_ms }
    }

    fn advance(&mut self, now_ms: u64) {
        let refill = self.share * now_ms.saturating_sub(self.as_of_ms) as f64 / 1000.0;
        self.as_of_ms = now_ms;
        self.messages = (self.messages + refill * MESSAGES_PER_SECOND).min(self.share * MESSAGES_BURST);
        self.bytes = (self.bytes + refill * GOSSIP_BYTES_PER_SECOND).min(self.share * GOSSIP_BYTES_BURST);
    }

    fn take(&mut self, bytes: usize, now_ms: u64) -> bool {
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

/// One node's reputation: faults fade, allowances refill, bans end.
#[derive(Clone, Debug)]
struct Reputation {
    faults: f64,
    allowance: Allowance,
    as_of_ms: u64,
    banned_until_ms: Option<u64>,
}

impl Reputation {
    fn new(now_ms: u64) -> Self {
        Self { faults: 0.0, allowance: Allowance::new(1.0, now_ms), as_of_ms: now_ms, banned_until_ms: None }
    }

    fn advance(&mut self, now_ms: u64) {
        self.faults = (self.faults - now_ms.saturating_sub(self.as_of_ms) as f64 / FAULT_LASTS_MS).max(0.0);
        self.as_of_ms = now_ms;
        self.allowance.advance(now_ms);
    }

    /// True if this bans the node.
    fn fault(&mut self, severity: Severity, now_ms: u64) -> bool {
        self.advance(now_ms);
        self.faults += if severity == Severity::Ban { FAULTS_MAX } else { 1.0 };
        if self.faults < FAULTS_MAX || self.banned_until_ms.is_some() {
            return false;
        }
        self.banned_until_ms = Some(now_ms.saturating_add(BAN_MS));
        true
    }

    /// Whether it says no more than a new one would.
    fn is_spotless(&self) -> bool {
        self.faults == 0.0 && self.allowance.is_full() && self.banned_until_ms.is_none()
    }
}

/// The reputations of all nodes that have one, and what this node passes on in all.
#[derive(Clone, Debug)]
pub struct Limits {
    nodes: BTreeMap<NodeId, Reputation>,
    forwarding: Allowance,
}

impl Limits {
    /// Everyone is spotless.
    pub fn new(now_ms: u64) -> Self {
        Self { nodes: BTreeMap::new(), forwarding: Allowance::new(FORWARDED_SHARE, now_ms) }
    }

    fn of(&mut self, node: NodeId, now_ms: u64) -> &mut Reputation {
        self.nodes.entry(node).or_insert_with(|| Reputation::new(now_ms))
    }

    /// Whether the node may send one more message of so many bytes of gossip (0 for a question). If not, it is a flood.
    pub fn allow(&mut self, node: NodeId, gossip_bytes: usize, now_ms: u64) -> bool {
        self.of(node, now_ms).allowance.take(gossip_bytes, now_ms)
    }

    /// Whether to pass on one more message of this size. What is not passed on, anti-entropy carries.
    pub fn may_forward(&mut self, gossip_bytes: usize, now_ms: u64) -> bool {
        self.forwarding.take(gossip_bytes, now_ms)
    }

    /// Counts a fault. True if this bans the node.
    pub fn fault(&mut self, node: NodeId, severity: Severity, now_ms: u64) -> bool {
        self.of(node, now_ms).fault(severity, now_ms)
    }

    /// Whether the node is banned at present.
    pub fn is_banned(&self, node: NodeId) -> bool {
        self.nodes.get(&node).is_some_and(|reputation| reputation.banned_until_ms.is_some())
    }

    /// Whether anything is remembered of the node.
    pub fn knows(&self, node: NodeId) -> bool {
        self.nodes.contains_key(&node)
    }

    /// Forgets those who behave, connected or not (a new connection alone washes nothing off), bans that are over, and
    /// the oldest of too many. Returns whom it forgot, and whether they were banned.
    pub fn advance(&mut self, now_ms: u64) -> Vec<(NodeId, bool)> {
        let mut forgotten = Vec::new();
        self.nodes.retain(|node, reputation| {
            reputation.advance(now_ms);
            let was_banned = reputation.banned_until_ms.is_some();
            let is_pardoned = reputation.banned_until_ms.is_some_and(|until| until <= now_ms);
            if is_pardoned || reputation.is_spotless() {
                forgotten.push((*node, was_banned));
                return false;
            }
            true
        });
        let banned = |(node, reputation): (&NodeId, &Reputation)| Some((reputation.banned_until_ms?, *node));
        let mut bans: Vec<(u64, NodeId)> = self.nodes.iter().filter_map(banned).collect();
        bans.sort_unstable();
        bans.truncate(bans.len().saturating_sub(BANS_MAX));
        for (_, node) in bans {
            self.nodes.remove(&node);
            forgotten.push((node, true));
        }
        forgotten
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODE: NodeId = NodeId(7);

    #[test]
    fn four_faults_at_once_ban_and_slow_ones_are_forgiven() {
        let mut limits = Limits::new(0);
        let faults = |limits: &mut Limits, pause_ms: u64| {
            (0..12).any(|fault| limits.fault(NODE, Severity::Fault, fault * pause_ms))
        };
        assert!(!faults(&mut limits, 40_000), "one in forty seconds fades");
        assert!(faults(&mut Limits::new(0), 1_000));
        assert!(Limits::new(0).fault(NODE, Severity::Ban, 0), "some things ban at once");
    }

    #[test]
    fn a_ban_ends_and_leaves_nothing_behind() {
        let mut limits = Limits::new(0);
        limits.fault(NODE, Severity::Ban, 0);
        assert!(!limits.fault(NODE, Severity::Ban, 10), "it is banned once");
        assert!(limits.advance(BAN_MS - 1).is_empty() && limits.is_banned(NODE));
        assert_eq!(limits.advance(BAN_MS), [(NODE, true)]);
        assert!(!limits.is_banned(NODE) && !limits.knows(NODE));
    }

    /// Each of the keys that one machine came under stayed in memory for ten minutes once it was banned.
    #[test]
    fn of_too_many_bans_the_oldest_end() {
        let (mut limits, all) = (Limits::new(0), BANS_MAX as u64 + 3);
        (0..all).for_each(|node| assert!(limits.fault(NodeId(node), Severity::Ban, node)));
        assert_eq!(limits.advance(all), [0, 1, 2].map(|node| (NodeId(node), true)));
        assert!(limits.is_banned(NodeId(3)) && limits.advance(all).is_empty());
    }

    #[test]
    fn a_flood_is_cut_at_the_allowance_and_forwarding_at_half_of_it() {
        let mut limits = Limits::new(0);
        let passed = (0..10_000).filter(|_| limits.allow(NODE, 100, 0)).count();
        assert_eq!(passed, 4_000);
        assert!(limits.allow(NODE, 100, 1_000), "it refills");
        assert_eq!((0..10_000).filter(|_| limits.may_forward(100, 0)).count(), 2_000);
        assert!(!Limits::new(0).allow(NODE, 17_000_000, 0), "bytes count, too");
    }

    #[test]
    fn who_behaves_is_forgotten_once_its_allowance_is_full() {
        let mut limits = Limits::new(0);
        limits.allow(NODE, 100, 0);
        assert!(limits.advance(0).is_empty());
        assert_eq!(limits.advance(10_000), [(NODE, false)]);
    }
}
