//! libp2p: one swarm behind an interface of opaque bytes.
