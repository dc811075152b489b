//! What a decoder is made of, whatever its family: a family reads its config into one of these, and has no other code.
//!
//! Names are those of the checkpoint, without `.weight` and `.bias`; those in a layer come after the layer's own
//! prefix.

use anyhow::{Result, ensure};

use super::{
    activation::Activation,
    architecture::{Interface, bounded, bounded_total},
    fields::{Fields, HEADS_MAX},
    rotary::RotaryConfig,
};

/// A family of models: what names it, and how its config is read.
pub struct Family {
    /// As people say it.
    pub name: &'static str,
    /// As `config.json` says it.
    pub model_type: &'static str,
    /// Its class in transformers, which names it where `model_type` is absent.
    pub class: &'static str,
    /// Fields that a config may leave out, and what they are then, as the class has it.
    pub sizes: [(&'static str, usize); 5],
    /// BOS and EOS where a config says nothing of them. Null says that there are none.
    pub tokens: [Option<u32>; 2],
    /// Reads `config.json`, with those sizes in it. Errors name the field and the value.
    pub read: fn(&Fields<'_>) -> Result<Plan>,
}

/// A decoder: embedding, layers, norm, head.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Its class in transformers.
    pub class: &'static str,
    pub interface: Interface,
    /// What begins the names of all tensors but the head's.
    pub prefix: &'static str,
    pub embedding: Embedded,
    /// Width of the hidden states.
    pub hidden: usize,
    /// What begins the name of a layer, before its number and a dot.
    pub layers: &'static str,
    /// One a layer.
    pub kinds: Vec<LayerKind>,
    pub rotaries: Vec<RotaryConfig>,
    pub attention: AttentionPlan,
    pub mlp: MlpPlan,
    pub norms: Norms,
    pub residual: Residual,
    /// Multiplies what attention and MLP add.
    pub residual_scale: f64,
    pub head: HeadPlan,
    /// Whether linear layers, but for the head, are stored [in, out].
    pub is_transposed: bool,
}

/// From tokens to hidden states.
#[derive(Clone, Debug)]
pub struct Embedded {
    pub name: &'static str,
    /// Of its rows: that of the hidden states, unless they are projected.
    pub width: usize,
    /// Multiplies its rows.
    pub scale: f64,
    /// Learned positions, added: name, and the row of position 0.
    pub positions: Option<(&'static str, usize)>,
    /// Linear layers from the embedding's width to the hidden states', and back before the head.
    pub projections: Option<(&'static str, &'static str)>,
}

/// In what layers differ.
#[derive(Clone, PartialEq, Debug)]
pub struct LayerKind {
    /// Which of [`Plan::rotaries`] turns queries and keys, if any.
    pub rotary: Option<usize>,
    /// Tokens that a token sees, itself included, if not all.
    pub window: Option<usize>,
    /// Multiplies products of queries and keys.
    pub scale: f64,
}

#[derive(Clone, Debug)]
pub struct AttentionPlan {
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    pub inputs: Inputs,
    pub output: &'static str,
    /// Whether the linear layers of queries, keys and values have biases; that of the output.
    pub biases: (bool, bool),
    /// Norms of queries and keys before they are turned.
    pub norms: Option<(&'static str, &'static str, NormedBy)>,
    /// Scores s become cap · tanh(s / cap).
    pub cap: Option<f64>,
}

/// The linear layers of queries, keys and values.
#[derive(Clone, Debug)]
pub enum Inputs {
    /// One each.
    Separate([&'static str; 3]),
    /// One layer: all queries, then all keys, then all values.
    Joined(&'static str),
    /// One layer: for each head its query, its key, its value.
    ByHead(&'static str),
}

/// What a norm of queries or keys goes over.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NormedBy {
    Head,
    AllHeads,
}

#[derive(Clone, Debug)]
pub struct MlpPlan {
    pub width: usize,
    pub inputs: MlpInputs,
    pub output: &'static str,
    pub bias: bool,
    pub activation: Activation,
}

#[derive(Clone, Debug)]
pub enum MlpInputs {
    /// `activation(gate) · up`, of a layer each.
    Gated(&'static str, &'static str),
    /// The same of one layer: the gate, then the other.
    GatedJoined(&'static str),
    /// `activation(up)`.
    Plain(&'static str),
}

/// Norms, by where they are.
#[derive(Clone, Debug)]
pub struct Norms {
    pub kind: NormKind,
    pub epsilon: f64,
    pub before_attention: Option<&'static str>,
    pub after_attention: Option<&'static str>,
    pub before_mlp: Option<&'static str>,
    pub after_mlp: Option<&'static str>,
    /// Behind the last layer, a full name.
    pub last: Option<&'static str>,
}

#[derive(Clone, Copy, PartialEq, Debug)]
pub enum NormKind {
    /// Root mean square; what is added to the weight.
    Rms(f64),
    /// Mean and variance, with weight and bias.
    Layer,
    /// The same without either, of hidden states.
    Bare,
}

/// How a layer adds to the hidden states.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Residual {
    /// Attention, then the MLP on the sum. Norms *after* are of what is added.
    Sequential,
    /// Both on what came in.
    Parallel,
    /// Attention, then the MLP. Norms *after* are of the sum.
    NormedSum,
}

#[derive(Clone, Debug)]
pub struct HeadPlan {
    pub name: &'static str,
    /// Whether its weight is the embedding.
    pub is_tied: bool,
    /// Multiplies the logits.
    pub scale: f64,
    /// Logits l become cap · tanh(l / cap).
    pub cap: Option<f64>,
}

impl Plan {
    /// Errors name the field and the value.
    pub fn checked(self) -> Result<Self> {
        let AttentionPlan { heads, kv_heads, head_dim, .. } = self.attention;
        bounded("num_attention_heads", heads, HEADS_MAX)?;
        bounded("num_key_value_heads", kv_heads, heads)?;
        bounded("head_dim", head_dim, HEADS_MAX)?;
        ensure!(
            heads.is_multiple_of(kv_heads),
            "config.json: num_key_value_heads {kv_heads} does not divide num_attention_heads {heads}"
        );
        self.rotaries.iter().try_for_each(|rotary| rotary.check(head_dim))?;
        bounded_total(&self.tensors())?;
        Ok(self)
    }

    /// Hugging Face names and shapes of all weights.
    pub fn tensors(&self) -> Vec<(String, Vec<usize>)> {
        let mut tensors = Vec::new();
        let mut add = |name: String, shape: Vec<usize>| tensors.push((name, shape));
        let (embedding, hidden) = (&self.embedding, self.hidden);
        add(format!("{}.weight", embedding.name), vec![self.interface.vocabulary, embedding.width]);
        if let Some((name, first)) = embedding.positions {
            add(format!("{name}.weight"), vec![self.interface.window_max + first, hidden]);
        }
        if let Some((inward, outward)) = embedding.projections {
            add(format!("{inward}.weight"), vec![hidden, embedding.width]);
            add(format!("{outward}.weight"), vec![embedding.width, hidden]);
        }
        let kind = self.norms.kind;
        let mut norm = |name: String, width: usize| {
            if kind != NormKind::Bare {
                add(format!("{name}.weight"), vec![width]);
            }
            if kind == NormKind::Layer {
                add(format!("{name}.bias"), vec![width]);
            }
        };
        if let Some(name) = self.norms.last {
            norm(name.to_owned(), hidden);
        }
        let Norms { before_attention, after_attention, before_mlp, after_mlp, .. } = self.norms;
        for layer in 0..self.kinds.len() {
            for name in [before_attention, after_attention, before_mlp, after_mlp].into_iter().flatten() {
                norm(self.in_layer(layer, name), hidden);
            }
            for (name, width) in self.query_norms() {
                norm(self.in_layer(layer, name), width);
            }
        }
        for layer in 0..self.kinds.len() {
            for (name, outputs, inputs, has_bias) in self.linear_layers() {
                let name = self.in_layer(layer, name);
                let shape = if self.is_transposed { vec![inputs, outputs] } else { vec![outputs, inputs] };
                tensors.push((format!("{name}.weight"), shape));
                if has_bias {
                    tensors.push((format!("{name}.bias"), vec![outputs]));
                }
            }
        }
        if !self.head.is_tied {
            tensors.push((format!("{}.weight", self.head.name), vec![self.interface.vocabulary, embedding.width]));
        }
        tensors
    }

    /// The full name of what is called `name` in a layer.
    pub fn in_layer(&self, layer: usize, name: &str) -> String {
        format!("{}{layer}.{name}", self.layers)
    }

    /// Norms of queries and keys, and their widths.
    fn query_norms(&self) -> Vec<(&'static str, usize)> {
        let AttentionPlan { heads, kv_heads, head_dim, norms, .. } = self.attention;
        match norms {
            None => Vec::new(),
            Some((q, k, NormedBy::Head)) => vec![(q, head_dim), (k, head_dim)],
            Some((q, k, NormedBy::AllHeads)) => vec![(q, heads * head_dim), (k, kv_heads * head_dim)],
        }
    }

    /// The linear layers in each layer: name, outputs, inputs, whether it has a bias.
    fn linear_layers(&self) -> Vec<(&'static str, usize, usize, bool)> {
        let AttentionPlan { heads, kv_heads, head_dim, .. } = self.attention;
        let (q, kv, hidden) = (heads * head_dim, kv_heads * head_dim, self.hidden);
        let (inward, outward) = self.attention.biases;
        let mut layers = match self.attention.inputs {
            Inputs::Separate([queries, keys, values]) => {
                vec![(queries, q, hidden, inward), (keys, kv, hidden, inward), (values, kv, hidden, inward)]
            }
            Inputs::Joined(name) | Inputs::ByHead(name) => vec![(name, q + 2 * kv, hidden, inward)],
        };
        layers.push((self.attention.output, hidden, q, outward));
        let MlpPlan { width, bias, output, .. } = self.mlp;
        match self.mlp.inputs {
            MlpInputs::Gated(gate, up) => layers.extend([(gate, width, hidden, bias), (up, width, hidden, bias)]),
            MlpInputs::GatedJoined(name) => layers.push((name, 2 * width, hidden, bias)),
            MlpInputs::Plain(name) => layers.push((name, width, hidden, bias)),
        }
        layers.push((output, hidden, width, bias));
        layers
    }
}
