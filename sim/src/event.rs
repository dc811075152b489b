//! What happens, and what travels.

use std::rc::Rc;

use crate::mesh;

/// A machine's number in the simulation.
pub type Number = u32;

/// What one machine sends another.
#[derive(Clone, Debug)]
pub enum Frame {
    /// Of the gossip mesh.
    Gossip(mesh::Frame),
    /// An encoded `Request`.
    Question(Rc<Letter>),
    /// An encoded `Response`.
    Answer(Rc<Letter>),
}

/// A question or an answer.
#[derive(Clone, Debug)]
pub struct Letter {
    /// Number of the question.
    pub question: u64,
    /// Whether it is about what a joiner fetches before its replica starts.
    pub joins: bool,
    /// What is said.
    pub content: Vec<u8>,
}

/// What happens at a virtual time. `life` tells a machine's starts apart: what was meant for an earlier one is void.
#[derive(Clone, Debug)]
#[allow(missing_docs)] // The fields are what they are called.
pub enum Event {
    /// A frame has come through the network, to be received.
    Arrived { to: Number, from: Number, frame: Frame, bytes: u32 },
    /// The receiver's downlink has brought it in.
    Received { to: Number, from: Number, frame: Frame, bytes: u32 },
    /// The replica's clock ticks.
    Tick { machine: Number, life: u32 },
    /// The gossip mesh looks after itself.
    Heartbeat { machine: Number, life: u32 },
    /// Connections are looked after.
    Upkeep { machine: Number, life: u32 },
    /// A gradient is measured.
    Measured { machine: Number, life: u32 },
    /// A disk transaction ends.
    Synced { machine: Number, life: u32 },
    /// A node has looked at a gossip message.
    Validated { machine: Number, life: u32, message: mesh::Message, verdict: mesh::Verdict },
    /// A question has waited long enough.
    NoAnswer { machine: Number, life: u32, question: u64 },
    /// A connection stands, unless one of them has gone meanwhile.
    Connected { caller: Number, called: Number },
    /// A machine that was told to come up does.
    Rise { machine: Number },
    /// Part of the scenario.
    Fate(usize),
    /// The swarm is looked at.
    Observe,
    /// Whether all is done is looked at.
    Watch,
}
