//! Numbers for other nodes, and where they are.

use peer::NodeId;
use std::collections::HashMap;

use super::{Multiaddr, PeerId};

/// Addresses remembered of one node.
const ADDRESSES_MAX: usize = 8;
/// Nodes that are remembered without ever having been connected. The peer forgets those that it will not call; this is
/// for what comes before it has.
const FOUND_MAX: usize = 4_096;

/// What is known of one node.
struct Node {
    peer: PeerId,
    addresses: Vec<Multiaddr>,
    /// A call that the peer asked for is under way.
    is_called: bool,
    /// Why the last call failed.
    error: Option<String>,
    is_banned: bool,
}

/// All nodes that have a number, until the peer forgets them.
#[derive(Default)]
pub struct Nodes {
    numbers: HashMap<PeerId, NodeId>,
    nodes: HashMap<NodeId, Node>,
    last: u64,
}

impl Nodes {
    /// The node's number; a new one if it has none.
    pub fn number(&mut self, peer: PeerId) -> NodeId {
        *self.numbers.entry(peer).or_insert_with(|| {
            self.last += 1;
            let node = NodeId(self.last);
            self.nodes
                .insert(node, Node { peer, addresses: Vec::new(), is_called: false, error: None, is_banned: false });
            node
        })
    }

    /// The node's number, if it has one.
    pub fn number_of(&self, peer: &PeerId) -> Option<NodeId> {
        self.numbers.get(peer).copied()
    }

    /// Remembers an address. None if there is no room for another node.
    pub fn found(&mut self, peer: PeerId, address: Multiaddr) -> Option<NodeId> {
        if self.numbers.len() >= FOUND_MAX && !self.numbers.contains_key(&peer) {
            return None;
        }
        let number = self.number(peer);
        let addresses = &mut self.nodes.get_mut(&number)?.addresses;
        if !addresses.contains(&address) {
            // The first is what people gave, or what worked before; of the others the latest say where it went.
            if addresses.len() == ADDRESSES_MAX {
                addresses.remove(1);
            }
            addresses.push(address);
        }
        Some(number)
    }

    /// Whom the number stands for.
    pub fn peer_id(&self, node: NodeId) -> Option<PeerId> {
        self.nodes.get(&node).map(|node| node.peer)
    }

    /// Where the node is said to be, the address that was heard of first before the others.
    pub fn addresses(&self, node: NodeId) -> &[Multiaddr] {
        self.nodes.get(&node).map_or(&[], |node| &node.addresses)
    }

    /// A call begins.
    pub fn called(&mut self, node: NodeId) {
        if let Some(node) = self.nodes.get_mut(&node) {
            node.is_called = true;
        }
    }

    /// A call ended, with an error or with a connection. Whether it was one that the peer had asked for.
    pub fn call_ended(&mut self, node: NodeId, error: Option<String>) -> bool {
        let Some(node) = self.nodes.get_mut(&node) else { return false };
        node.error = error;
        std::mem::take(&mut node.is_called)
    }

    /// Why the last call to the node failed, if it did.
    pub fn error(&self, node: NodeId) -> Option<&str> {
        self.nodes.get(&node)?.error.as_deref()
    }

    /// No call is under way any more, and nobody is told.
    pub fn hang_up(&mut self) {
        self.nodes.values_mut().for_each(|node| node.is_called = false);
    }

    /// Notes whether a node is banned; returns whom the number stands for.
    pub fn set_banned(&mut self, node: NodeId, is_banned: bool) -> Option<PeerId> {
        let node = self.nodes.get_mut(&node)?;
        node.is_banned = is_banned;
        Some(node.peer)
    }

    pub fn banned(&self) -> impl Iterator<Item = PeerId> {
        self.nodes.values().filter(|node| node.is_banned).map(|node| node.peer)
    }

    /// Its number and its addresses go.
    pub fn forget(&mut self, node: NodeId) {
        if let Some(node) = self.nodes.remove(&node) {
            self.numbers.remove(&node.peer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(port: usize) -> Multiaddr {
        format!("/ip4/127.0.0.1/tcp/{port}").parse().unwrap()
    }

    #[test]
    fn equal_numbers_mean_the_same_node_until_it_is_forgotten() {
        let mut nodes = Nodes::default();
        let (one, other) = (PeerId::random(), PeerId::random());
        let number = nodes.number(one);
        assert_eq!((nodes.number(one), nodes.number_of(&one)), (number, Some(number)));
        assert_ne!(nodes.found(other, address(1)), Some(number));
        nodes.forget(number);
        assert_eq!((nodes.peer_id(number), nodes.number_of(&one)), (None, None));
        assert_ne!(nodes.number(one), number);
    }

    #[test]
    fn neither_nodes_nor_their_addresses_grow_without_bound() {
        let mut nodes = Nodes::default();
        let crowded = PeerId::random();
        for port in 1..100 {
            nodes.found(crowded, address(port)).unwrap();
        }
        assert_eq!(nodes.addresses(nodes.number_of(&crowded).unwrap()).len(), ADDRESSES_MAX);
        let refused = (0..2 * FOUND_MAX).filter(|_| nodes.found(PeerId::random(), address(1)).is_none()).count();
        assert_eq!(refused, FOUND_MAX + 1);
        // Connected ones are few, and always get a number.
        assert!(nodes.peer_id(nodes.number_of(&crowded).unwrap()).is_some());
        let connected = PeerId::random();
        let number = nodes.number(connected);
        assert_eq!(nodes.peer_id(number), Some(connected));
    }

    #[test]
    fn only_calls_that_were_asked_for_are_answered() {
        let mut nodes = Nodes::default();
        let node = nodes.number(PeerId::random());
        assert!(!nodes.call_ended(node, Some("of discovery".into())));
        nodes.called(node);
        assert!(nodes.call_ended(node, Some("refused".into())));
        assert_eq!(nodes.error(node), Some("refused"));
        assert!(!nodes.call_ended(node, None));
        assert_eq!(nodes.error(node), None);
    }
}
