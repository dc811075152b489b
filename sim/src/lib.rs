//! The swarm under a virtual clock and a virtual network: `protocol::Replica` and the arithmetic of the nodes, a thousand
//! machines, hostile weather, and one seed that makes it all happen again.
//!
//! | module | noun |
//! |---|---|
//! | [`scenario`] | what a run is made of |
//! | [`world`], [`swarm`] | the machines; what they share |
//! | [`machine`] | a replica with virtual disk, network and learner |
//! | [`queue`], [`event`], [`event_log`] | virtual time; what happens; what happened |
//! | [`mesh`], [`messages`], [`wire`] | gossip as libp2p does it; what it costs |
//! | [`disk`] | what a crash leaves |
//! | [`fate`], [`hostile`] | what befalls machines; who means harm |
//! | [`objective`] | what is learnt |
//! | [`checks`], [`truth`] | the invariants; what really happened |
//! | [`metrics`], [`record`], [`report`] | what was measured, and how it is shown |
//! | [`explore`], [`plan`] | many seeds; what a run will cost |
//!
//! Everything happens on one thread, in the order of virtual time, and nothing asks the real clock or the system for randomness, so
//! that equal seeds give equal event logs, byte for byte.

pub mod checks;
pub mod cli;
pub mod disk;
pub mod event;
pub mod event_log;
pub mod explore;
pub mod fate;
pub mod hostile;
pub mod machine;
pub mod mesh;
pub mod messages;
pub mod metrics;
pub mod objective;
mod outcome;
pub mod plan;
pub mod process;
pub mod queue;
mod random;
pub mod record;
pub mod report;
pub mod run;
pub mod scenario;
pub mod swarm;
pub mod truth;
pub mod verifier;
pub mod wire;
pub mod world;
