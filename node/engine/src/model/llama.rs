//! The family of Llama: RMS norms before attention and MLP, rotary positions, grouped queries, gated SiLU
//! (arXiv 2302.13971, 2307.09288, 2407.21783).

use anyhow::{Context, Result, ensure};
use candle_core::Tensor;
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;

use super::{
    Architecture, Interface, Layout, Model, RotaryConfig, Stage,
    architecture::{Family, Head, Ids, LAYERS_MAX, POSITIONS_MAX, VOCABULARY_MAX, WIDTH_MAX, bounded, bounded_total},
    attention::Attention,
    embedding::Embedding,
    linear::Linear,
    norms::RmsNorm,
    operations::{add, silu_multiply},
    parameters::Parameters,
    rotary::{RotaryFields, RotaryTable},
};

#[cfg(test)]
mod tests;

/// Its entry in the list of families.
pub(super) const FAMILY: Family = Family {
    name: "Llama",
    model_type: "llama",
    class: "LlamaForCausalLM",
    read: |config| Ok(Box::new(LlamaConfig::from_json(config)?)),
};

/// Most heads, and elements per head.
const HEADS_MAX: usize = 1024;

/// The shape of a Llama, validated: no field is zero, `kv_heads` divides `heads`, `head_dim` is even, sizes are
/// plausible.
#[derive(Clone, PartialEq, Debug)]
pub struct LlamaConfig {
    /// Vocabulary and window.
    pub interface: Interface,
    /// Width of the hidden states.
    pub hidden_size: usize,
    /// Width of the MLP.
    pub intermediate_size: usize,
    /// Number of layers.
    pub layers: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads.
    pub kv_heads: usize,
    /// Elements per head.
    pub head_dim: usize,
    /// Epsilon of the norms.
    pub rms_norm_epsilon: f64,
    /// Frequencies of the rotary positions.
    pub rotary: RotaryConfig,
    /// Whether the output head is the token embedding.
    pub tie_word_embeddings: bool,
    /// Whether the projections of attention have biases.
    pub attention_bias: bool,
    /// Whether the projections of the MLP have biases.
    pub mlp_bias: bool,
}

/// The fields of `config.json`.
#[derive(Deserialize)]
struct Fields {
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    num_key_value_heads: Option<usize>,
    head_dim: Option<usize>,
    vocab_size: usize,
    rms_norm_eps: f64,
    rope_theta: Option<f64>,
    rope_scaling: Option<RotaryFields>,
    /// Newer transformers: theta and scaling in one.
    rope_parameters: Option<RotaryFields>,
    max_position_embeddings: usize,
    tie_word_embeddings: Option<bool>,
    hidden_act: Option<String>,
    attention_bias: Option<bool>,
    mlp_bias: Option<bool>,
    bos_token_id: Option<u32>,
    eos_token_id: Option<Ids>,
}

impl LlamaConfig {
    /// Reads and validates `config.json`. Errors name the field and the value.
    pub fn from_json(config: Value) -> Result<Self> {
        let fields: Fields = serde_json::from_value(config).context("config.json does not describe a Llama")?;
        ensure!(
            fields.hidden_act.as_deref().is_none_or(|act| act == "silu"),
            "config.json: hidden_act {:?} is not supported, only \"silu\"",
            fields.hidden_act.unwrap_or_default()
        );
        let heads = fields.num_attention_heads;
        let config = Self {
            interface: Interface {
                vocabulary: fields.vocab_size,
                window_max: fields.max_position_embeddings,
                bos: fields.bos_token_id,
                eos: Ids::list(fields.eos_token_id),
            },
            hidden_size: fields.hidden_size,
            intermediate_size: fields.intermediate_size,
            layers: fields.num_hidden_layers,
            heads,
            kv_heads: fields.num_key_value_heads.unwrap_or(heads),
            head_dim: fields.head_dim.unwrap_or_else(|| fields.hidden_size.checked_div(heads).unwrap_or(0)),
            rms_norm_epsilon: fields.rms_norm_eps,
            rotary: RotaryConfig::from_fields(
                fields.rope_theta,
                fields.rope_parameters.or(fields.rope_scaling).as_ref(),
            )?,
            tie_word_embeddings: fields.tie_word_embeddings.unwrap_or(false),
            attention_bias: fields.attention_bias.unwrap_or(false),
            mlp_bias: fields.mlp_bias.unwrap_or(false),
        };
        config.validate()?;
        Ok(config)
    }

    fn validate(&self) -> Result<()> {
        bounded("hidden_size", self.hidden_size, WIDTH_MAX)?;
        bounded("intermediate_size", self.intermediate_size, WIDTH_MAX)?;
        bounded("num_hidden_layers", self.layers, LAYERS_MAX)?;
        bounded("num_attention_heads", self.heads, HEADS_MAX)?;
        bounded("num_key_value_heads", self.kv_heads, self.heads)?;
        bounded("head_dim", self.head_dim, HEADS_MAX)?;
        bounded("vocab_size", self.interface.vocabulary, VOCABULARY_MAX)?;
        bounded("max_position_embeddings", self.interface.window_max, POSITIONS_MAX)?;
        ensure!(self.head_dim.is_multiple_of(2), "config.json: head_dim is {}, it must be even", self.head_dim);
        ensure!(
            self.heads.is_multiple_of(self.kv_heads),
            "config.json: num_key_value_heads {} does not divide num_attention_heads {}",
            self.kv_heads,
            self.heads
        );
        ensure!(
            self.rms_norm_epsilon > 0.0 && self.rms_norm_epsilon <= 1.0,
            "config.json: rms_norm_eps is {}, it must be above 0 and at most 1",
            self.rms_norm_epsilon
        );
        bounded_total(&self.tensors())
    }
}

impl Architecture for LlamaConfig {
    fn interface(&self) -> &Interface {
        &self.interface
    }

    fn class(&self) -> &'static str {
        FAMILY.class
    }

    fn tensors(&self) -> Vec<(String, Vec<usize>)> {
        let (hidden, intermediate) = (self.hidden_size, self.intermediate_size);
        let (q, kv) = (self.heads * self.head_dim, self.kv_heads * self.head_dim);
        let mut tensors = vec![
            ("model.embed_tokens.weight".to_owned(), vec![self.interface.vocabulary, hidden]),
            ("model.norm.weight".to_owned(), vec![hidden]),
        ];
        if !self.tie_word_embeddings {
            tensors.push(("lm_head.weight".to_owned(), vec![self.interface.vocabulary, hidden]));
        }
        let projections = [
            ("self_attn.q_proj", q, hidden, self.attention_bias),
            ("self_attn.k_proj", kv, hidden, self.attention_bias),
            ("self_attn.v_proj", kv, hidden, self.attention_bias),
            ("self_attn.o_proj", hidden, q, self.attention_bias),
            ("mlp.gate_proj", intermediate, hidden, self.mlp_bias),
            ("mlp.up_proj", intermediate, hidden, self.mlp_bias),
            ("mlp.down_proj", hidden, intermediate, self.mlp_bias),
        ];
        for layer in 0..self.layers {
            let prefix = format!("model.layers.{layer}");
            for norm in ["input_layernorm", "post_attention_layernorm"] {
                tensors.push((format!("{prefix}.{norm}.weight"), vec![hidden]));
            }
            for (name, rows, columns, has_bias) in projections {
                tensors.push((format!("{prefix}.{name}.weight"), vec![rows, columns]));
                if has_bias {
                    tensors.push((format!("{prefix}.{name}.bias"), vec![rows]));
                }
            }
        }
        tensors
    }

    fn prefix(&self) -> &'static str {
        "model."
    }

    fn head(&self) -> Head {
        let is_tied = self.tie_word_embeddings;
        Head { name: "lm_head.weight".into(), embedding: "model.embed_tokens.weight".into(), is_tied }
    }

    fn with_own_head(&self) -> Box<dyn Architecture> {
        Box::new(Self { tie_word_embeddings: false, ..self.clone() })
    }

    fn stage(&self, name: &str) -> Stage {
        stage(name, self.layers)
    }

    fn emphasis(&self, name: &str) -> f64 {
        let kind = |kinds: &[&str]| kinds.iter().any(|kind| name.contains(kind));
        match () {
            () if kind(&["embed_tokens", "lm_head"]) => 1.5,
            () if kind(&["k_proj"]) => 0.4,
            () if kind(&["input_layernorm"]) => 0.8,
            () if kind(&["post_attention_layernorm", "model.norm"]) => 0.7,
            () => 1.0,
        }
    }

    fn is_redundant(&self, name: &str) -> bool {
        name.ends_with("rotary_emb.inv_freq")
    }

    fn model(&self, tensors: &BTreeMap<String, Tensor>) -> Result<Box<dyn Model>> {
        let all = Parameters::new(tensors, &self.tensors())?;
        let body = all.below("model");
        let embedding = body.tensor("embed_tokens.weight")?;
        let head = if self.tie_word_embeddings { embedding.clone() } else { all.tensor("lm_head.weight")? };
        let layer = |index| Layer::new(self, &body.below("layers").below(&format!("{index}")));
        Ok(Box::new(Llama {
            interface: self.interface.clone(),
            rotary: RotaryTable::new(self.rotary.frequencies(self.head_dim)),
            embedding: Embedding { weight: embedding },
            layers: (0..self.layers).map(layer).collect::<Result<_>>()?,
            norm: RmsNorm { weight: body.tensor("norm.weight")?, epsilon: self.rms_norm_epsilon },
            head: Linear { weight: head, bias: None },
        }))
    }
}

/// Where a tensor of a Llama of so many layers is first used.
fn stage(name: &str, layers: usize) -> Stage {
    let layer = name.strip_prefix("model.layers.").and_then(|rest| rest.split('.').next()?.parse().ok());
    match (layer, name) {
        (Some(layer), _) => Stage::Layer(layer),
        (None, "model.embed_tokens.weight") => Stage::Embedding,
        (None, "model.norm.weight") => Stage::Layer(layers - 1),
        (None, _) => Stage::Head,
    }
}

struct Llama {
    interface: Interface,
    rotary: RotaryTable,
    embedding: Embedding,
    layers: Vec<Layer>,
    norm: RmsNorm,
    head: Linear,
}

struct Layer {
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    input_norm: RmsNorm,
    q: Linear,
    k: Linear,
    v: Linear,
    o: Linear,
    post_norm: RmsNorm,
    gate: Linear,
    up: Linear,
    down: Linear,
}

impl Layer {
    fn new(config: &LlamaConfig, parameters: &Parameters) -> Result<Self> {
        let norm = |name: &str| -> Result<RmsNorm> {
            Ok(RmsNorm { weight: parameters.below(name).tensor("weight")?, epsilon: config.rms_norm_epsilon })
        };
        let (attention, mlp) = (parameters.below("self_attn"), parameters.below("mlp"));
        Ok(Self {
            heads: config.heads,
            kv_heads: config.kv_heads,
            head_dim: config.head_dim,
            input_norm: norm("input_layernorm")?,
            q: attention.linear("q_proj", config.attention_bias)?,
            k: attention.linear("k_proj", config.attention_bias)?,
            v: attention.linear("v_proj", config.attention_bias)?,
            o: attention.linear("o_proj", config.attention_bias)?,
            post_norm: norm("post_attention_layernorm")?,
            gate: mlp.linear("gate_proj", config.mlp_bias)?,
            up: mlp.linear("up_proj", config.mlp_bias)?,
            down: mlp.linear("down_proj", config.mlp_bias)?,
        })
    }
}

impl Model for Llama {
    fn interface(&self) -> &Interface {
        &self.interface
    }

    fn layers(&self) -> usize {
        self.layers.len()
    }

    fn stage(&self, name: &str) -> Stage {
        stage(name, self.layers.len())
    }

    fn embed(&self, tokens: &Tensor, _layout: &Layout) -> Result<Tensor> {
        self.embedding.forward(tokens)
    }

    fn layer(&self, index: usize, x: Tensor, layout: &Layout) -> Result<Tensor> {
        let layer = &self.layers[index];
        let normed = layer.input_norm.forward(&x)?;
        let Layer { heads, kv_heads, head_dim, .. } = *layer;
        let attention =
            Attention { heads, kv_heads, head_dim, layout, rotary: self.rotary.of_length(layout.longest()) };
        let (q, k, v) = (layer.q.forward(&normed)?, layer.k.forward(&normed)?, layer.v.forward(&normed)?);
        let x = add(x, &layer.o.forward(&attention.forward(&q, &k, &v)?)?)?;
        let normed = layer.post_norm.forward(&x)?;
        let gated = silu_multiply(layer.gate.forward(&normed)?, &layer.up.forward(&normed)?)?;
        Ok(add(x, &layer.down.forward(&gated)?)?)
    }

    fn norm(&self, x: &Tensor) -> Result<Tensor> {
        Ok(self.norm.forward(x)?)
    }

    fn logits(&self, rows: &Tensor) -> Result<Tensor> {
        self.head.forward(rows)
    }
}
