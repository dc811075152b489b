//! What a family of models is, and what every config of one must keep to: it may come from a peer.

use anyhow::{Result, ensure};
use candle_core::Tensor;
use std::collections::BTreeMap;

use super::Model;
use crate::packed::Packed;

/// Most layers that a config may ask for.
pub const LAYERS_MAX: usize = 1024;
/// Largest width of hidden states, or inside a layer.
pub const WIDTH_MAX: usize = 1 << 18;
/// Largest vocabulary.
pub const VOCABULARY_MAX: usize = 1 << 22;
/// Longest window, tokens.
pub const POSITIONS_MAX: usize = 1 << 24;
/// Most weights: 2^40.
const PARAMETERS_MAX: u64 = 1 << 40;

/// Where in the forward pass a tensor is first used: everything before it stays as it is when the tensor changes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Stage {
    /// Before the first layer: embeddings, and what is tied to them.
    Embedding,
    /// In the layer of this number, or between it and the next; behind the last one, all that is small.
    Layer(usize),
    /// The output head, if it has weights of its own.
    Head,
}

/// One model's shape, validated: sizes are plausible, and no sum of them overflows.
pub trait Architecture {
    /// Vocabulary and window.
    fn interface(&self) -> &Interface;

    /// Its class in transformers.
    fn class(&self) -> &'static str;

    /// Hugging Face names and shapes of all weights, in no particular order.
    fn tensors(&self) -> Vec<(String, Vec<usize>)>;

    /// What begins the names of all tensors but the head's, with its dot: files may leave it out.
    fn prefix(&self) -> &'static str;

    /// The output head, as the config has it.
    fn head(&self) -> Head;

    /// Where the tensor of this name, one of [`Architecture::tensors`], is first used.
    fn stage(&self, name: &str) -> Stage;

    /// Number of layers.
    fn layers(&self) -> usize;

    /// What the tensor of this name, one of [`Architecture::tensors`], does.
    fn part(&self, name: &str) -> Part;

    /// How much more, relative to its own size, a run moves the tensor of this name than others: found by measurement.
    fn emphasis(&self, name: &str) -> f64;

    /// Whether a checkpoint may hold a tensor of this name that is no weight: a table of constants.
    fn is_redundant(&self, name: &str) -> bool;

    /// Whether linear layers are stored [in, out].
    fn is_transposed(&self) -> bool;

    /// Builds the model on clones of `tensors`, which share their storage. Errors if one of [`Architecture::tensors`]
    /// is missing, has another shape, or is not contiguous f32 where the model computes.
    fn model(&self, tensors: &BTreeMap<String, Tensor>) -> Result<Box<dyn Model>> {
        self.adapted(tensors, &BTreeMap::new(), &Adapters::new())
    }

    /// The same with `adapters`, whose halves are among `tensors`, as `<layer>.lora_A.weight` [rank, in] and
    /// `<layer>.lora_B.weight` [out, rank]. Matrices that nobody trains may be among `packed` instead.
    fn adapted(
        &self,
        tensors: &BTreeMap<String, Tensor>,
        packed: &BTreeMap<String, Packed>,
        adapters: &Adapters,
    ) -> Result<Box<dyn Model>>;
}

/// Linear layers that have an adapter, without `.weight`, and what the product of its halves is multiplied by.
pub type Adapters = BTreeMap<String, f64>;

/// What a tensor does, whatever its family calls it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Part {
    /// From tokens and positions to hidden states.
    Embedding,
    /// A linear layer of attention, or its bias.
    Attention,
    /// Of an MLP, likewise.
    Mlp,
    /// A norm's weight or bias.
    Norm,
    /// From hidden states to logits, where it has weights of its own.
    Head,
}

/// Names of the output head's weight and of the token embedding's.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Head {
    /// The head's.
    pub name: String,
    /// The embedding's, which has the same shape.
    pub embedding: String,
    /// Whether the two are one tensor, which goes by the embedding's name.
    pub is_tied: bool,
}

/// What a model's callers must know of it, whatever its family.
#[derive(Clone, PartialEq, Debug)]
pub struct Interface {
    /// Number of token ids.
    pub vocabulary: usize,
    /// Longest window, tokens.
    pub window_max: usize,
    /// Token that starts a text, if any. It may lie outside the vocabulary.
    pub bos: Option<u32>,
    /// Tokens that end a text.
    pub eos: Vec<u32>,
}

/// Errors unless field `name` is from 1 to `max`.
pub fn bounded(name: &str, value: usize, max: usize) -> Result<()> {
    ensure!((1..=max).contains(&value), "config.json: {name} is {value}, supported are 1 to {max}");
    Ok(())
}

/// Errors if tensors of these shapes, of bounded dimensions, have more than 2^40 elements together.
pub fn bounded_total(tensors: &[(String, Vec<usize>)]) -> Result<()> {
    let elements = |shape: &[usize]| shape.iter().map(|dimension| *dimension as u64).product::<u64>();
    let parameters: u64 = tensors.iter().map(|(_, shape)| elements(shape)).sum();
    ensure!(parameters <= PARAMETERS_MAX, "config.json describes {parameters} weights, supported are 2^40");
    Ok(())
}
