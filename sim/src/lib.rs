//! The swarm under a virtual clock and a virtual network: the nodes' own `peer::Peer` and the arithmetic of the nodes,
//! a thousand machines, faults, adversaries, and one seed that makes it all happen again.
//!
//! | module | noun |
//! |---|---|
//! | [`scenario`] | what a run is made of |
//! | [`world`], [`swarm`] | the machines; what they share |
//! | [`machine`] | a peer with virtual disk, links and trainer |
//! | [`queue`], [`event`], [`event_log`] | virtual time; events to come; events past |
//! | [`lines`], [`router`] | links that fail, connections that die; who can call whom |
//! | [`mesh`], [`messages`], [`wire`] | gossip as libp2p does it; what it costs |
//! | [`disk`] | what a crash leaves |
//! | [`schedule`], [`adversary`] | faults and their times; who breaks the rules on purpose |
//! | [`objective`] | what is learnt |
//! | [`checks`], [`truth`] | the invariants; what really happened |
//! | [`metrics`], [`summary`], [`report`] | what was measured, and how it is shown |
//! | [`explore`], [`plan`], [`replay`] | many seeds; what a run will cost; a real node's recording |
//!
//! Everything happens on one thread, in the order of virtual time, and nothing asks the real clock or the system for
//! randomness, so that equal seeds give equal event logs, byte for byte.

// Of a program: a name that says it all needs no second one.
#![allow(missing_docs)]

pub mod adversary;
pub mod checks;
pub mod cli;
mod connections;
pub mod disk;
pub mod event;
pub mod event_log;
pub mod explore;
mod fault;
pub mod lines;
pub mod machine;
pub mod mesh;
pub mod messages;
pub mod metrics;
pub mod objective;
mod outcome;
pub mod plan;
pub mod process;
mod progress;
pub mod queue;
mod random;
pub mod replay;
pub mod report;
pub mod router;
pub mod run;
pub mod scenario;
pub mod schedule;
pub mod summary;
pub mod swarm;
pub mod truth;
pub mod verifier;
pub mod wire;
pub mod world;
