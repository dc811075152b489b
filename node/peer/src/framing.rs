//! What TCP, noise and yamux carry for one message, bytes. Measured, and computed from the formats; `benches/wire.rs`
//! compares the sums with the sockets.

/// Characters of the topic.
pub const TOPIC: usize = 8;
/// Bytes of the header of one yamux frame, of which each carries at most [`YAMUX_SPLIT`].
const YAMUX: usize = 12;
const YAMUX_SPLIT: usize = 16 * 1024;
/// Bytes that noise puts around one flush: length and tag.
const NOISE: usize = 2 + 16;
/// What a question or an answer costs beside its content: a yamux substream, multistream-select and "/onebyte/1" (2 x
/// 32 bytes), the length, the end; three writes of 12 + 18 bytes each way.
const EXCHANGE: usize = 126;

/// Bytes of a number as a varint.
pub fn varint(number: usize) -> usize {
    1 + (usize::BITS - number.leading_zeros()).saturating_sub(1) as usize / 7
}

/// Bytes of a length-delimited protobuf field with a tag below 16.
pub fn field(content: usize) -> usize {
    1 + varint(content) + content
}

/// Bytes of a length-prefixed message on a long-lived stream.
pub fn framed(message: usize) -> usize {
    let plain = varint(message) + message;
    plain + plain.div_ceil(YAMUX_SPLIT) * YAMUX + NOISE
}

/// gossipsub's protobuf of an anonymous message: data and topic.
pub fn gossip_protobuf(content: usize) -> usize {
    field(content) + field(TOPIC)
}

/// A gossip message of so many bytes.
pub fn gossip_frame(content: usize) -> usize {
    framed(field(gossip_protobuf(content)))
}

/// A question, or an answer, of so many bytes.
pub fn exchange(content: usize) -> usize {
    content + EXCHANGE
}
