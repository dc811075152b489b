//! Language models: one forward contract, [`Model`]; a file per family; the parts that families share.
//!
//! A family is one file (`llama.rs` is the first). It says how its `config.json` is read ([`Architecture`]) and how
//! hidden states flow ([`Model`]), out of linear layers, norms, attention, rotary positions and fused operations, which
//! have files of their own. It is entered in the list of `families.rs`. Reading checkpoints, tokenising, exporting,
//! generating and losses know no family.
//!
//! Weights are plain tensors that somebody else changes in place between forwards; nothing here keeps a value derived
//! from them.

// The vector loops index lanes in loops of constant length, which is what the compiler turns into vector registers.
#![allow(clippy::needless_range_loop)]

mod architecture;
mod attention;
mod batch;
mod checkpoint;
mod cross_entropy;
mod export;
mod families;
mod generate;
mod linear;
pub mod llama;
mod norms;
mod operations;
mod parameters;
mod rotary;
mod tokenizer;
mod vector;

use anyhow::{Context, Result, ensure};
use candle_core::Tensor;
use std::collections::BTreeMap;

pub use architecture::{Architecture, Interface};
pub use batch::{Batch, IGNORED};
pub use checkpoint::Checkpoint;
pub use cross_entropy::cross_entropy;
pub use export::export;
pub use families::architecture;
pub use generate::{Sampling, generate};
pub use rotary::{Llama3Scaling, RotaryConfig};
pub use tokenizer::Tokenizer;

/// A model's forward pass, in the pieces of which all decoders are made. Shapes: B windows of T tokens, hidden states
/// of width H.
///
/// Callers run the pieces in order ([`Model::hidden`] does), or some of them anew from a hidden state that they kept.
pub trait Model: Send {
    /// Vocabulary and window.
    fn interface(&self) -> &Interface;

    /// Number of layers.
    fn layers(&self) -> usize;

    /// The hidden states before the first layer, [B, T, H], contiguous; `tokens`: [B, T], u32. Errors if an id is
    /// outside the vocabulary.
    fn embed(&self, tokens: &Tensor) -> Result<Tensor>;

    /// The hidden states after layer `index`, [B, T, H], from those before it, contiguous. They may come back in the
    /// storage of `x`, changed: who keeps `x` needs a copy of its own.
    fn layer(&self, index: usize, x: Tensor) -> Result<Tensor>;

    /// What the output head sees, [B, T, H], from the hidden states after the last layer.
    fn norm(&self, x: &Tensor) -> Result<Tensor>;

    /// Logits of N positions, [N, vocabulary], from rows of what [`Model::norm`] returns, [N, H].
    fn logits(&self, rows: &Tensor) -> Result<Tensor>;

    /// All but the logits, [B, T, H]; `tokens`: [B, T], u32. Errors if the window is longer than the model's.
    fn hidden(&self, tokens: &Tensor) -> Result<Tensor> {
        let (_, length) = tokens.dims2().context("tokens must be [batch, length]")?;
        let window_max = self.interface().window_max;
        ensure!(
            (1..=window_max).contains(&length),
            "a window of {length} tokens does not fit the model, whose max_position_embeddings is {window_max}"
        );
        let mut x = self.embed(tokens)?;
        for index in 0..self.layers() {
            x = self.layer(index, x)?;
        }
        self.norm(&x)
    }
}

/// The model that `config.json` describes, over `tensors`, whose storage it shares, and its tokenizer.
pub fn load(
    config: &[u8],
    tokenizer: &[u8],
    tensors: &BTreeMap<String, Tensor>,
) -> Result<(Box<dyn Model>, Tokenizer)> {
    let architecture = architecture(config)?;
    let tokenizer = Tokenizer::from_bytes(tokenizer, architecture.interface())?;
    Ok((architecture.model(tensors)?, tokenizer))
}
