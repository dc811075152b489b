//! MeZO (arXiv 2305.17333, algorithm 1): measured as SPSA is, but in units of the loss, as the paper has it, and not of
//! the gradients' own size.

use protocol::codec;

/// The byte for projected gradient `g`, of which 1 is `levels` byte units. `uniform` in [0, 1) is for the stochastic
/// rounding.
pub fn encode(g: f64, levels: u8, uniform: f64) -> i8 {
    codec::encode(g, levels, uniform)
}
