//! Whom to call, and when.

use rand_xoshiro::{
    Xoshiro256PlusPlus,
    rand_core::{Rng, SeedableRng},
};
use std::{cmp::Reverse, collections::BTreeMap};

use crate::{
    NodeId,
    planted::{Fault, Planted},
};

/// First pause after a call that failed, ms; doubles up to the last.
const RETRY_FIRST_MS: u64 = 1_000;
const RETRY_LAST_MS: u64 = 20_000;
/// The same for nodes of earlier sessions: there may be hundreds, and many are gone for good.
const RETRY_LAST_EARLIER_MS: u64 = 120_000;
/// People hear of the first failures of a bootstrap node, and then of one in so many: each five minutes or so.
const TOLD_FIRST: u32 = 6;
const TOLD_EACH: u32 = 15;
/// A connection that was gone so soon after the call, ms, counts as a call that failed: there was no room, perhaps.
const SOON_MS: u64 = 20_000;
/// Calls to others than bootstrap nodes that are under way at once, and for how long a call counts as such, ms. What is
/// beyond the network's own limit fails at once, whomever it is meant for.
const CALLS_MAX: usize = 16;
const CALL_MS: u64 = 15_000;
/// Nodes that are remembered for calling.
const CALLABLE_MAX: usize = 512;
/// A node that was found, and fails this often, is forgotten.
const FAILURES_MAX: u32 = 5;

/// How a node came to be known, which says for how long it is called.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// People named it: called for ever, and they hear of failures.
    Bootstrap,
    /// An earlier session met it: called for ever, ever more seldom. It may come back after this machine has moved,
    /// and then only this machine knows where the other is.
    Earlier,
    /// It was found: forgotten once it has failed often.
    Found,
}

struct Callable {
    failures: u32,
    next_call_ms: u64,
    origin: Origin,
    /// A connection stood once: it is more than somebody's word.
    has_answered: bool,
    /// The last call.
    call: Option<Call>,
}

struct Call {
    begun_ms: u64,
    is_under_way: bool,
}

impl Callable {
    fn new(next_call_ms: u64, origin: Origin) -> Self {
        Self { failures: 0, next_call_ms, origin, has_answered: false, call: None }
    }

    fn was_called_within(&self, ms: u64, now_ms: u64) -> bool {
        self.call.as_ref().is_some_and(|call| now_ms.saturating_sub(call.begun_ms) < ms)
    }

    /// The call is no longer under way. False if none was.
    fn end_call(&mut self) -> bool {
        self.call.as_mut().is_some_and(|call| std::mem::take(&mut call.is_under_way))
    }

    /// How long to wait after a call.
    fn pause_ms(&self, random: &mut impl Rng) -> u64 {
        let last_ms = if self.origin == Origin::Earlier { RETRY_LAST_EARLIER_MS } else { RETRY_LAST_MS };
        pause_ms(self.failures, last_ms, random)
    }
}

/// What a failed call leads to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Failed {
    /// Another call, later.
    Later,
    /// Another call to a bootstrap node after so long, ms: people should hear of it.
    BootstrapLater(u64),
    /// The node is called no more.
    Forgotten,
}

/// Nodes that may be called.
pub struct Dialing {
    connections_target: usize,
    nodes: BTreeMap<NodeId, Callable>,
    random: Xoshiro256PlusPlus,
    planted: Planted,
}

impl Dialing {
    /// `seed` spreads the calls. Below `connections_target` connections, nodes that were found are called.
    pub fn new(bootstrap: &[NodeId], connections_target: usize, seed: u64) -> Self {
        let nodes = bootstrap.iter().map(|node| (*node, Callable::new(0, Origin::Bootstrap))).collect();
        let random = Xoshiro256PlusPlus::seed_from_u64(seed);
        Self { connections_target, nodes, random, planted: Planted::default() }
    }

    /// A node has an address. Anybody can list any number of nodes, so one that is connected takes the place of one
    /// that was only found. Returns who is not remembered for want of room: the node itself, or another.
    pub fn found(
        &mut self,
        node: NodeId,
        origin: Origin,
        is_connected: impl Fn(NodeId) -> bool,
        now_ms: u64,
    ) -> Option<NodeId> {
        let is_full = self.nodes.len() >= CALLABLE_MAX && !self.knows(node);
        let gone = if is_full && is_connected(node) { self.take_least(&is_connected) } else { None };
        if is_full && gone.is_none() {
            return Some(node);
        }
        let callable = self.nodes.entry(node).or_insert(Callable::new(now_ms, origin));
        if callable.origin == Origin::Found {
            callable.origin = origin;
        }
        callable.has_answered |= is_connected(node);
        gone
    }

    /// Forgets the node that is least worth a call, of those that were only found, and are not connected or called now.
    fn take_least(&mut self, is_connected: impl Fn(NodeId) -> bool) -> Option<NodeId> {
        let is_called = |callable: &Callable| callable.call.as_ref().is_some_and(|call| call.is_under_way);
        let is_least = |(node, callable): &(&NodeId, &Callable)| {
            callable.origin == Origin::Found && !is_called(callable) && !is_connected(**node)
        };
        let worth = |(_, callable): &(&NodeId, &Callable)| (callable.has_answered, Reverse(callable.failures));
        let least = *self.nodes.iter().filter(is_least).min_by_key(worth)?.0;
        self.nodes.remove(&least);
        Some(least)
    }

    /// Breaks a rule.
    #[cfg(feature = "planted")]
    pub fn plant(&mut self, planted: Planted) {
        self.planted = planted;
    }

    /// Whether the node may be called.
    pub fn knows(&self, node: NodeId) -> bool {
        self.nodes.contains_key(&node)
    }

    /// Whom to call now: bootstrap nodes, and others while `connections` are few. `skip` tells who needs no call.
    pub fn due(&mut self, connections: usize, skip: impl Fn(NodeId) -> bool, now_ms: u64) -> Vec<NodeId> {
        let is_under_way = |callable: &&Callable| {
            let is_under_way = callable.call.as_ref().is_some_and(|call| call.is_under_way);
            callable.origin != Origin::Bootstrap && is_under_way && callable.was_called_within(CALL_MS, now_ms)
        };
        let under_way = self.nodes.values().filter(is_under_way).count();
        let room = self.connections_target.saturating_sub(connections);
        let mut room = room.min(CALLS_MAX.saturating_sub(under_way));
        let mut due = Vec::new();
        for (node, callable) in &mut self.nodes {
            if callable.next_call_ms > now_ms || !(callable.origin == Origin::Bootstrap || room > 0) || skip(*node) {
                continue;
            }
            room = room.saturating_sub(1);
            callable.next_call_ms = now_ms.saturating_add(callable.pause_ms(&mut self.random));
            callable.call = Some(Call { begun_ms: now_ms, is_under_way: true });
            due.push(*node);
        }
        due
    }

    /// A call failed. One that was not made from here, as by discovery to an address that somebody listed, says
    /// nothing of the next.
    pub fn failed(&mut self, node: NodeId, now_ms: u64) -> Failed {
        let Some(callable) = self.nodes.get_mut(&node) else { return Failed::Forgotten };
        if !callable.end_call() && !self.planted.has(Fault::StrandsItself) {
            return Failed::Later;
        }
        callable.failures = callable.failures.saturating_add(1);
        let pause = callable.pause_ms(&mut self.random);
        callable.next_call_ms = now_ms.saturating_add(pause);
        let (failures, origin) = (callable.failures, callable.origin);
        match origin {
            Origin::Bootstrap if failures <= TOLD_FIRST || failures % TOLD_EACH == 0 => Failed::BootstrapLater(pause),
            Origin::Found if failures >= FAILURES_MAX => {
                self.nodes.remove(&node);
                Failed::Forgotten
            }
            _ => Failed::Later,
        }
    }

    /// A connection stands.
    pub fn connected(&mut self, node: NodeId) {
        if let Some(callable) = self.nodes.get_mut(&node) {
            callable.end_call();
            callable.has_answered = true;
        }
    }

    /// A connection is gone: call again, soon but not at once.
    pub fn gone(&mut self, node: NodeId, now_ms: u64) {
        let Some(callable) = self.nodes.get_mut(&node) else { return };
        let pause = if callable.was_called_within(SOON_MS, now_ms) {
            callable.failures = callable.failures.saturating_add(1);
            callable.pause_ms(&mut self.random)
        } else {
            callable.failures = 0;
            RETRY_FIRST_MS
        };
        callable.next_call_ms = now_ms.saturating_add(pause);
    }

    /// Everyone may be called at once, whatever failed before.
    pub fn reset(&mut self, now_ms: u64) {
        for callable in self.nodes.values_mut() {
            (callable.next_call_ms, callable.failures) = (now_ms, 0);
            // Nobody tells any more what became of a call that was under way.
            callable.call = None;
        }
    }
}

/// Doubles with the failures, between three quarters and five quarters of that: a swarm must not call a node that comes
/// back all at once.
fn pause_ms(failures: u32, last_ms: u64, random: &mut impl Rng) -> u64 {
    let doubled = RETRY_FIRST_MS.saturating_mul(1 << failures.min(10)).min(last_ms);
    let jitter = (random.next_u64() >> 11) as f64 / (1u64 << 53) as f64;
    (doubled as f64 * (0.75 + 0.5 * jitter)) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOOTSTRAP: NodeId = NodeId(1);
    const FOUND: NodeId = NodeId(2);

    fn dialing() -> Dialing {
        let mut dialing = Dialing::new(&[BOOTSTRAP], 2, 3);
        found(&mut dialing, FOUND, Origin::Found);
        dialing
    }

    /// Whether a node that is not connected is remembered.
    fn found(dialing: &mut Dialing, node: NodeId, origin: Origin) -> bool {
        dialing.found(node, origin, |_| false, 0).is_none()
    }

    fn call_fails(dialing: &mut Dialing, node: NodeId) -> Failed {
        dialing.nodes.get_mut(&node).unwrap().call = Some(Call { begun_ms: 0, is_under_way: true });
        dialing.failed(node, 0)
    }

    /// Once discovery called where somebody had said that the node was, each failure put the next call off, and
    /// machines never came back to a node that had been away for a minute.
    #[test]
    fn a_call_that_was_not_made_from_here_puts_none_off() {
        let mut dialing = dialing();
        for now_ms in 0..100 {
            assert_eq!(dialing.failed(BOOTSTRAP, now_ms), Failed::Later);
        }
        assert_eq!(dialing.due(0, |_| false, 100), [BOOTSTRAP, FOUND]);
    }

    #[test]
    fn bootstrap_nodes_are_called_always_and_others_while_connections_are_few() {
        assert_eq!(dialing().due(0, |_| false, 0), [BOOTSTRAP, FOUND]);
        assert_eq!(dialing().due(2, |_| false, 0), [BOOTSTRAP]);
        assert_eq!(dialing().due(0, |node| node == BOOTSTRAP, 0), [FOUND]);
        let mut called = dialing();
        called.due(0, |_| false, 0);
        assert!(called.due(0, |_| false, 100).is_empty(), "a call is given time");
    }

    #[test]
    fn pauses_double_up_to_a_limit_and_start_over_after_a_connection() {
        let mut dialing = dialing();
        let pause = |dialing: &mut Dialing| match call_fails(dialing, BOOTSTRAP) {
            Failed::BootstrapLater(pause) => pause,
            other => panic!("{other:?}"),
        };
        let pauses: Vec<u64> = (0..TOLD_FIRST).map(|_| pause(&mut dialing)).collect();
        assert!((1_500..=2_500).contains(&pauses[0]) && (15_000..=25_000).contains(&pauses[5]), "{pauses:?}");
        let told = (TOLD_FIRST..150).filter(|_| call_fails(&mut dialing, BOOTSTRAP) != Failed::Later).count();
        assert_eq!(told, 10, "one that is gone for good fills no log");
        dialing.connected(BOOTSTRAP);
        dialing.gone(BOOTSTRAP, 60_000);
        assert!(pause(&mut dialing) <= 2_500);
    }

    #[test]
    fn a_connection_that_is_gone_at_once_is_a_call_that_failed() {
        let mut dialing = dialing();
        let mut now_ms = 0;
        for _ in 0..8 {
            assert_eq!(dialing.due(0, |node| node == FOUND, now_ms), [BOOTSTRAP]);
            dialing.connected(BOOTSTRAP);
            dialing.gone(BOOTSTRAP, now_ms);
            now_ms = dialing.nodes[&BOOTSTRAP].next_call_ms;
        }
        assert!(now_ms > 60_000, "{now_ms}");
    }

    #[test]
    fn few_calls_are_under_way_at_once() {
        let mut dialing = Dialing::new(&[], 100, 3);
        (0..200).for_each(|node| assert!(found(&mut dialing, NodeId(node), Origin::Earlier)));
        assert_eq!(dialing.due(0, |_| false, 0).len(), CALLS_MAX);
        assert!(dialing.due(0, |_| false, 1).is_empty());
        dialing.connected(NodeId(0));
        assert_eq!(dialing.due(1, |_| false, 2).len(), 1);
        assert_eq!(dialing.due(1, |_| false, 2 * CALL_MS).len(), CALLS_MAX, "nobody told what became of them");
    }

    #[test]
    fn a_found_node_that_fails_five_times_is_forgotten() {
        let mut dialing = dialing();
        let failed: Vec<Failed> = (0..5).map(|_| call_fails(&mut dialing, FOUND)).collect();
        assert_eq!(failed, [Failed::Later, Failed::Later, Failed::Later, Failed::Later, Failed::Forgotten]);
        assert!(!dialing.knows(FOUND));
    }

    #[test]
    fn a_node_of_an_earlier_session_is_never_forgotten_and_called_ever_more_seldom() {
        let mut dialing = dialing();
        assert!([FOUND, BOOTSTRAP].iter().all(|node| found(&mut dialing, *node, Origin::Earlier)));
        assert!((0..100).all(|_| call_fails(&mut dialing, FOUND) == Failed::Later));
        let next_call_ms = dialing.nodes[&FOUND].next_call_ms;
        assert!((90_000..=150_000).contains(&next_call_ms), "{next_call_ms}");
        assert!(matches!(call_fails(&mut dialing, BOOTSTRAP), Failed::BootstrapLater(_)), "what people named stays so");
        dialing.reset(0);
        assert_eq!(dialing.due(0, |_| false, 0), [BOOTSTRAP, FOUND]);
    }

    #[test]
    fn no_more_nodes_are_remembered_than_there_is_room_for() {
        let mut dialing = dialing();
        let remembered = (10..2_000).filter(|node| found(&mut dialing, NodeId(*node), Origin::Found)).count();
        assert_eq!(remembered, CALLABLE_MAX - 2);
        assert!(found(&mut dialing, FOUND, Origin::Found), "who is known stays so");
    }

    /// A peer that listed hundreds of machines that are not there had this one forget every neighbour that came later.
    #[test]
    fn a_neighbour_takes_the_place_of_one_that_was_only_listed() {
        let mut dialing = dialing();
        for node in 10..2_000 {
            found(&mut dialing, NodeId(node), Origin::Found);
        }
        dialing.connected(FOUND);
        call_fails(&mut dialing, NodeId(100));
        let neighbour = NodeId(5_000);
        let is_connected = |node| node == neighbour;
        assert_eq!(dialing.found(neighbour, Origin::Found, is_connected, 0), Some(NodeId(100)), "it failed once");
        assert!(dialing.knows(neighbour) && !found(&mut dialing, NodeId(100), Origin::Found));
        // Neighbours that are gone stay before what never answered, and take no place from each other.
        let all = 6_000..7_000;
        let kept = all.filter(|node| dialing.found(NodeId(*node), Origin::Found, |_| true, 0) != Some(NodeId(*node)));
        assert_eq!(kept.count(), 0, "all are connected: nobody goes");
        for node in 6_000..6_000 + CALLABLE_MAX as u64 - 3 {
            dialing.found(NodeId(node), Origin::Found, |other| other == NodeId(node), 0);
            dialing.gone(NodeId(node), 0);
        }
        assert!([BOOTSTRAP, FOUND, neighbour].iter().all(|node| dialing.knows(*node)));
        assert_eq!(dialing.nodes.len(), CALLABLE_MAX);
    }
}
