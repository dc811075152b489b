//! How dense the gossip is. Every neighbour in the mesh sends on what it has not yet received back, so a message comes
//! to a node about (degree − 1) times; announcements to a few others, and anti-entropy after them, carry what the mesh
//! lost.

use std::time::Duration;

/// Time between heartbeats.
pub const HEARTBEAT: Duration = Duration::from_secs(1);
/// Mesh neighbours that are aimed at. Random graphs of degree 4 are connected, and stay so when a quarter of the nodes
/// keep silent.
pub const DEGREE: usize = 4;
/// With fewer, neighbours are grafted.
pub const DEGREE_LOW: usize = 3;
/// From so many on, neighbours are pruned, and inbound ones are refused. gossipsub's 12 would let most nodes have more
/// than 6.
pub const DEGREE_HIGH: usize = 5;
/// Mesh neighbours that this node called, at least: others cannot fill the mesh by calling. Two of four could not be
/// had by all.
pub const OUTBOUND_MIN: usize = 1;
/// Neighbours outside the mesh that hear an announcement, at least.
pub const LAZY: usize = 2;
/// The share of those outside the mesh, where that is more.
pub const LAZY_SHARE: f64 = 0.05;
/// Heartbeats that a message is announced.
pub const ANNOUNCED: usize = 2;
/// Bytes of a message's name, the beginning of its hash. To find another message of a given name takes 2^64 hashes,
/// within the two minutes that names are remembered; to find two of one name takes 2^32, and they suppress each other
/// only.
pub const ID_BYTES: usize = 8;
/// Message ids in one announcement or request. gossipsub refuses what is larger than 16 KiB and closes the stream, and
/// by default sends more than that once a few hundred messages a second go round.
pub const IDS_MAX: usize = 1_500;
/// A message that comes again is known for this long.
pub const DUPLICATES_KNOWN: Duration = Duration::from_secs(120);
