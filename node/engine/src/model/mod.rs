//! Language models: one forward contract, [`Model`]; a file per family; the parts that families share.
//!
//! A family is one file in `families/`: it reads its `config.json` into a `Plan`, which says of what parts a decoder is
//! made. `decoder.rs` is the forward pass of them all, out of linear layers, norms, attention, rotary positions and
//! fused operations, which have files of their own. Reading checkpoints, tokenising, exporting, generating and losses
//! know no family.
//!
//! Weights are plain tensors that somebody else changes in place between forwards; nothing here keeps a value derived
//! from them.

// The vector loops index lanes in loops of constant length, which is what the compiler turns into vector registers.
#![allow(clippy::needless_range_loop)]

mod activation;
mod architecture;
mod attention;
mod attention_backward;
mod backward;
mod batch;
mod checkpoint;
mod checkpoint_header;
mod cross_entropy;
mod decoder;
mod directory;
mod embedding;
mod export;
mod families;
mod fields;
mod files;
mod finder;
mod generate;
mod gguf;
mod gradients;
mod hub_cache;
mod json;
mod layout;
mod linear;
mod norms;
mod operations;
mod parameters;
mod past;
mod plan;
mod queries;
mod rotary;
mod sampling;
pub(crate) mod special_tokens;
mod stored;
mod suffix;
mod text_stream;
mod tokenizer;
mod tokenizer_class;
mod told_paths;
mod unusable;
mod vector;

use anyhow::{Context, Result, ensure};
use candle_core::Tensor;
use std::collections::BTreeMap;

/// Models of Hugging Face's hub, in its cache on this machine.
pub mod hub {
    pub use super::{
        gguf::{check_architecture, choice},
        hub_cache::{HubName, cached, home, is_path_below, parse, root},
    };
}

use crate::packed::Packed;
pub use architecture::{Adapters, Architecture, Interface, Part, Stage};
pub use backward::backward;
pub use batch::{Asked, Batch, Row, Target};
pub use checkpoint::Checkpoint;
pub use cross_entropy::token_losses;
pub use export::{TrainedTensors, export, new_directory};
pub use families::architecture;
pub use files::OriginalFile;
pub use generate::{Finish, Generated, generate};
pub use gradients::Gradient;
pub use json::parse as parse_json;
pub use layout::{Layout, Span};
pub use past::{LayerPast, Past};
pub use sampling::{NotFinite, Sampling, says_nothing};
pub use suffix::SuffixModel;
pub use tokenizer::Tokenizer;
pub use told_paths::{ToldPath, told_paths};
pub use unusable::QUANTISATION;

/// A model's forward pass, in the pieces of which all decoders are made. Shapes: N tokens, which are rows packed one
/// after the other as a [`Layout`] says; hidden states of width H.
///
/// Callers run the pieces in order ([`Model::hidden`] does), or some of them anew from a hidden state that they kept.
pub trait Model: Send {
    /// Vocabulary and window.
    fn interface(&self) -> &Interface;

    /// Number of layers.
    fn layers(&self) -> usize;

    /// The hidden states before the first layer, [N, H], contiguous; `tokens`: \[N\], u32. `layout` says at which
    /// position of its row each token is, for families whose embedding depends on it. Errors if an id is outside the
    /// vocabulary.
    fn embed(&self, tokens: &Tensor, layout: &Layout) -> Result<Tensor>;

    /// The hidden states after layer `index`, [N, H], from those before it, contiguous. Each token sees what its
    /// [`Span`] in `layout` says, nothing else; with a `past`, what earlier tokens of its row left there as well, and
    /// `layout` is one span that goes on behind them ([`Layout::behind`]). They may come back in the storage of `x`,
    /// changed: who keeps `x` needs a copy of its own.
    fn layer_after(&self, index: usize, x: Tensor, layout: &Layout, past: Option<&mut LayerPast>) -> Result<Tensor>;

    /// The same of rows that are all here.
    fn layer(&self, index: usize, x: Tensor, layout: &Layout) -> Result<Tensor> {
        self.layer_after(index, x, layout, None)
    }

    /// What the output head sees, [N, H], from the hidden states after the last layer.
    fn norm(&self, x: &Tensor) -> Result<Tensor>;

    /// Logits of M tokens, [M, vocabulary], from rows of what [`Model::norm`] returns, [M, H].
    fn logits(&self, rows: &Tensor) -> Result<Tensor>;

    /// Where the trained tensor of this name is first used ([`Architecture::stage`]).
    fn stage(&self, name: &str) -> Stage;

    /// All but the logits, [N, H]; `tokens`: \[N\], u32. Errors as [`Model::check`] does.
    fn hidden(&self, tokens: &Tensor, layout: &Layout) -> Result<Tensor> {
        self.hidden_from(0, self.hidden_below(0, tokens, layout)?, layout)
    }

    /// All but the logits, [N, H], of tokens that go on behind those that left `past`, which grows by them. Errors as
    /// [`Model::check`] does.
    fn hidden_after(&self, tokens: &Tensor, past: &mut Past) -> Result<Tensor> {
        let count = tokens.dims1().context("tokens must be of one row, [N]")?;
        let layout = Layout::behind(past.length, count)?;
        self.check(tokens, &layout)?;
        let mut x = self.embed(tokens, &layout)?;
        for (index, past) in past.layers.iter_mut().enumerate() {
            x = self.layer_after(index, x, &layout, Some(past))?;
        }
        past.length += count;
        self.norm(&x)
    }

    /// Whether what a row of `length` tokens left holds for those that follow, up to `grown` in all. If not, the row is
    /// read anew.
    fn keeps_past(&self, length: usize, grown: usize) -> bool;

    /// Errors if a row is longer than the model's window, or if `layout` is not that of N tokens, at least one.
    fn check(&self, tokens: &Tensor, layout: &Layout) -> Result<()> {
        let count = tokens.dims1().context("tokens must be packed, [N]")?;
        ensure!(count == layout.tokens(), "{count} tokens, in a layout of {}", layout.tokens());
        let window_max = self.interface().window_max;
        ensure!(
            (1..=window_max).contains(&layout.longest()),
            "a row of {} tokens does not fit the model, whose max_position_embeddings is {window_max}",
            layout.longest()
        );
        Ok(())
    }

    /// The hidden states before layer `layer` (after the last one, if there is none of that number), [N, H]; `tokens`:
    /// \[N\], u32. Errors as [`Model::check`] does.
    fn hidden_below(&self, layer: usize, tokens: &Tensor, layout: &Layout) -> Result<Tensor> {
        self.check(tokens, layout)?;
        let mut x = self.embed(tokens, layout)?;
        for index in 0..layer {
            x = self.layer(index, x, layout)?;
        }
        Ok(x)
    }

    /// What the output head sees, [N, H], from the hidden states before layer `layer`, which may be changed.
    fn hidden_from(&self, layer: usize, mut x: Tensor, layout: &Layout) -> Result<Tensor> {
        for index in layer..self.layers() {
            x = self.layer(index, x, layout)?;
        }
        self.norm(&x)
    }
}

/// The model of `checkpoint`, over `tensors`, whose storage it shares, and its tokenizer.
pub fn load(checkpoint: &Checkpoint, tensors: &BTreeMap<String, Tensor>) -> Result<(Box<dyn Model>, Tokenizer)> {
    load_adapted(checkpoint, tensors, &BTreeMap::new(), &Adapters::new())
}

/// The same with matrices as they are stored, and with adapters, see [`Architecture::adapted`].
pub fn load_adapted(
    checkpoint: &Checkpoint,
    tensors: &BTreeMap<String, Tensor>,
    packed: &BTreeMap<String, Packed>,
    adapters: &Adapters,
) -> Result<(Box<dyn Model>, Tokenizer)> {
    let tokenizer = Tokenizer::of(checkpoint)?;
    Ok((checkpoint.architecture()?.adapted(tensors, packed, adapters)?, tokenizer))
}
