//! What meshes send each other, and its size on the socket.

use std::rc::Rc;

use super::Message;

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

/// Characters of the topic.
const TOPIC: usize = 8;
/// Bytes of a message id.
const ID: usize = 16;
/// Bytes of the header of one yamux frame, of which each carries at most [`YAMUX_SPLIT`].
const YAMUX: usize = 12;
const YAMUX_SPLIT: usize = 16 * 1024;
/// Bytes that noise puts around one flush: length and tag.
const NOISE: usize = 2 + 16;

/// Bytes of a number as a varint.
fn varint(number: usize) -> usize {
    1 + (usize::BITS - number.leading_zeros()).saturating_sub(1) as usize / 7
}

/// Bytes of a length-delimited protobuf field with a tag below 16.
fn field(content: usize) -> usize {
    1 + varint(content) + content
}

/// `raw_protobuf_len`: data and topic; sender, number and signature are absent.
pub(super) fn message_protobuf(content: usize) -> usize {
    field(content) + field(TOPIC)
}

/// Bytes of a frame on a TCP socket: the protobuf of one RPC with its length, multiplexed (yamux) and encrypted
/// (noise). `size` tells the bytes of a message's content.
pub fn frame_bytes(frame: &Frame, size: &dyn Fn(Message) -> usize) -> usize {
    let ids = |messages: &[Message]| messages.len() * field(ID);
    let stream = |rpc: usize| {
        let plain = varint(rpc) + rpc;
        plain + plain.div_ceil(YAMUX_SPLIT) * YAMUX + NOISE
    };
    stream(match frame {
        // Empty extensions in a control message precede; three booleans, two of them false, are written out.
        Frame::Subscribe => return stream(field(field(0))) + stream(field(3 * 2 + field(TOPIC))),
        Frame::Publish(message) => field(message_protobuf(size(*message))),
        Frame::IHave(messages) => field(field(field(TOPIC) + ids(messages))),
        Frame::IWant(messages) | Frame::IDontWant(messages) => field(field(ids(messages))),
        Frame::Graft => field(field(field(TOPIC))),
        // The backoff in seconds: a tag and one byte.
        Frame::Prune => field(field(field(TOPIC) + 2)),
    })
}
