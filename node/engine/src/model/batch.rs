//! What a model is fed.

use candle_core::Tensor;

/// Target of a position that is not predicted.
pub const IGNORED: u32 = u32::MAX;

/// B windows of T tokens, and what follows each token.
pub struct Batch {
    /// [B, T] token ids, u32.
    pub inputs: Tensor,
    /// The token that follows each input, row-major, or [`IGNORED`].
    pub targets: Vec<u32>,
}
