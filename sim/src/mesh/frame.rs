//! What meshes send each other, and its size on the socket.

use peer::{
    framing::{TOPIC, field, framed, gossip_protobuf},
    mesh::ID_BYTES,
};
use std::rc::Rc;

/// Number of a gossip message in the whole simulation (the caller interns them: equal content has an equal number).
pub type Message = u32;
/// A machine's number in the simulation.
pub type Machine = u32;
/// What is to be sent: to whom, what.
pub type Outbox = Vec<(Machine, Frame)>;

/// What one machine's mesh sends another's. Each is one RPC: gossipsub 0.50.1 joins none of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// I listen to the topic (and, before it, the extensions that every connection starts with).
    Subscribe,
    /// A message.
    Publish(Message),
    /// I have these.
    IHave(Rc<Vec<Message>>),
    /// Send me these.
    IWant(Rc<Vec<Message>>),
    /// You are in my mesh.
    Graft,
    /// You are not, for a minute.
    Prune,
    /// I have these already.
    IDontWant(Rc<Vec<Message>>),
}

/// Bytes of a frame on a TCP socket: the protobuf of one RPC with its length, multiplexed (yamux) and encrypted
/// (noise). `size` tells the bytes of a message's content.
pub fn frame_bytes(frame: &Frame, size: &dyn Fn(Message) -> usize) -> usize {
    let ids = |messages: &[Message]| messages.len() * field(ID_BYTES);
    framed(match frame {
        // Empty extensions in a control message precede; three booleans, two of them false, are written out.
        Frame::Subscribe => return framed(field(field(0))) + framed(field(3 * 2 + field(TOPIC))),
        Frame::Publish(message) => field(gossip_protobuf(size(*message))),
        Frame::IHave(messages) => field(field(field(TOPIC) + ids(messages))),
        Frame::IWant(messages) | Frame::IDontWant(messages) => field(field(ids(messages))),
        Frame::Graft => field(field(field(TOPIC))),
        // The backoff in seconds: a tag and one byte.
        Frame::Prune => field(field(field(TOPIC) + 2)),
    })
}
