//! What the real network adds to a message, TCP payload bytes. Gossip frames are computed (see [`crate::mesh`]). A question opens a yamux
//! substream, negotiates multistream-select and "/onebyte/1" (2 x 32 bytes), sends its length and content, and closes: three writes of
//! 12 + 18 bytes each way.

/// A question: a new substream, its negotiation, length, content, end.
const QUESTION_OVERHEAD: usize = 126;
/// An answer on that substream.
const ANSWER_OVERHEAD: usize = 126;
/// What one side of a new connection receives: encryption, multiplexing, identification, and its share of discovery.
pub const CONNECTION_BYTES: u64 = 2_400;
/// What one side of an idle connection receives: keep-alive.
pub const IDLE_BYTES_PER_SECOND: f64 = 10.0;

/// Bytes of a question of so many bytes.
pub fn question_bytes(content: usize) -> usize {
    content + QUESTION_OVERHEAD
}

/// Bytes of an answer of so many bytes.
pub fn answer_bytes(content: usize) -> usize {
    content + ANSWER_OVERHEAD
}
