//! Events of the virtual world, and what travels between machines.

use protocol::replica::Verdict;
use std::rc::Rc;

use crate::mesh;

/// A machine's number in the simulation. Machines know each other by it, too: it is the `NodeId` of their peers.
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
    /// The stream of a question was closed without an answer.
    Closed(QuestionId),
}

/// A question, named by the asker. Its sessions are told apart, so that an answer to an earlier one is not taken for a
/// new one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct QuestionId {
    /// The asker's session.
    pub session: u32,
    /// The number that its peer gave.
    pub number: u64,
}

/// A question or an answer.
#[derive(Clone, Debug)]
pub struct Letter {
    pub question: QuestionId,
    /// Whether the asker is on its way into the run, and has no replica yet.
    pub joins: bool,
    /// The encoded message.
    pub content: Vec<u8>,
}

/// What is dispatched at a virtual time. What was meant for an earlier session of a machine is void.
#[derive(Clone, Debug)]
#[allow(missing_docs)] // The fields are what they are called.
pub enum Event {
    /// A frame has come through the network, to be received.
    Arrived { to: Number, from: Number, frame: Frame, bytes: u32 },
    /// The receiver's downlink has brought it in.
    Received { to: Number, from: Number, frame: Frame, bytes: u32 },
    /// A machine that reads again takes up the frames that waited.
    ReadOn { machine: Number, session: u32 },
    /// The peer's clock ticks.
    Tick { machine: Number, session: u32 },
    /// The gossip mesh looks after itself.
    Heartbeat { machine: Number, session: u32 },
    /// Discovery looks for others.
    Upkeep { machine: Number, session: u32 },
    /// A gradient is measured.
    Measured { machine: Number, session: u32 },
    /// Entries of others are in the weights.
    Swept { machine: Number, session: u32 },
    /// A disk transaction ends.
    Synced { machine: Number, session: u32 },
    /// A node has looked at a gossip message.
    Validated { machine: Number, session: u32, message: mesh::Message, verdict: Verdict },
    /// A question has waited long enough.
    TimedOut { machine: Number, session: u32, question: u64 },
    /// A call ends: with a connection, if both still want it.
    Called { caller: Number, session: u32, called: Number },
    /// A machine that left has closed its connection, behind the last frame that it sent.
    Closed { machine: Number, by: Number },
    /// A machine that was told to start does.
    Boot { machine: Number },
    /// A scheduled fault.
    Fault(usize),
    /// Connections are looked at.
    Look,
    /// The swarm is looked at.
    Observe,
    /// Whether all is done is looked at.
    Watch,
}

impl Event {
    /// The machine that does something then of its own accord, and sleeps over it if it sleeps.
    pub fn machine(&self) -> Option<Number> {
        match self {
            Self::ReadOn { machine, .. }
            | Self::Tick { machine, .. }
            | Self::Heartbeat { machine, .. }
            | Self::Upkeep { machine, .. }
            | Self::Measured { machine, .. }
            | Self::Swept { machine, .. }
            | Self::Synced { machine, .. }
            | Self::Validated { machine, .. }
            | Self::TimedOut { machine, .. }
            | Self::Called { caller: machine, .. } => Some(*machine),
            _ => None,
        }
    }
}
