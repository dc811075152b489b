//! The swarm under a virtual clock and a virtual network.

fn main() {}
