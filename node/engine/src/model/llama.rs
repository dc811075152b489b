//! The Llama forward pass over shared weights.

use anyhow::{Context, Result, ensure};
use candle_core::{D, DType, Tensor};
use std::collections::BTreeMap;

use super::{
    attention::{Attention, Rotary},
    config::{LlamaConfig, expected_tensors},
    operations::{add, rms_norm, silu_multiply},
};

/// A Llama whose weights are shared with whoever mutates them between forwards. It keeps no value derived from a weight.
pub struct Llama {
    config: LlamaConfig,
    embedding: Tensor,
    layers: Vec<Layer>,
    norm: Tensor,
    pub(super) head: Tensor,
}

struct Layer {
    input_norm: Tensor,
    q: Linear,
    k: Linear,
    v: Linear,
    o: Linear,
    post_norm: Tensor,
    gate: Linear,
    up: Linear,
    down: Linear,
}

/// `x · weightᵀ + bias`; weight: [out, in].
struct Linear {
    weight: Tensor,
    bias: Option<Tensor>,
}

impl Linear {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let y = x.matmul(&self.weight.t()?)?;
        Ok(match &self.bias {
            Some(bias) => y.broadcast_add(bias)?,
            None => y,
        })
    }
}

impl Llama {
    /// Builds the model from tensors with Hugging Face names; they are cloned, which shares their storage.
    ///
    /// Errors if one of [`expected_tensors`] is missing, has another shape, or is not contiguous f32 on the CPU.
    pub fn new(config: &LlamaConfig, tensors: &BTreeMap<String, Tensor>) -> Result<Self> {
        for (name, shape) in expected_tensors(config) {
            let tensor = tensors.get(&name).with_context(|| format!("tensor {name} is missing"))?;
            ensure!(tensor.dims() == shape, "tensor {name} has shape {:?}, expected {shape:?}", tensor.dims());
            let sound = tensor.dtype() == DType::F32 && tensor.is_contiguous() && tensor.device().is_cpu();
            ensure!(sound, "tensor {name} must be contiguous f32 on the CPU");
        }
        let get = |name: &str| tensors.get(name).cloned().with_context(|| format!("tensor {name} is missing"));
        let layer = |index: usize| -> Result<Layer> {
            let get = |name: &str| get(&format!("model.layers.{index}.{name}"));
            let linear = |name: &str, bias: bool| -> Result<Linear> {
                let bias = bias.then(|| get(&format!("{name}.bias"))).transpose()?;
                Ok(Linear { weight: get(&format!("{name}.weight"))?, bias })
            };
            Ok(Layer {
                input_norm: get("input_layernorm.weight")?,
                q: linear("self_attn.q_proj", config.attention_bias)?,
                k: linear("self_attn.k_proj", config.attention_bias)?,
                v: linear("self_attn.v_proj", config.attention_bias)?,
                o: linear("self_attn.o_proj", config.attention_bias)?,
                post_norm: get("post_attention_layernorm.weight")?,
                gate: linear("mlp.gate_proj", config.mlp_bias)?,
                up: linear("mlp.up_proj", config.mlp_bias)?,
                down: linear("mlp.down_proj", config.mlp_bias)?,
            })
        };
        let embedding = get("model.embed_tokens.weight")?;
        let head = if config.tie_word_embeddings { embedding.clone() } else { get("lm_head.weight")? };
        Ok(Self {
            config: config.clone(),
            embedding,
            layers: (0..config.layers).map(layer).collect::<Result<_>>()?,
            norm: get("model.norm.weight")?,
            head,
        })
    }

    /// The model's shape.
    pub fn config(&self) -> &LlamaConfig {
        &self.config
    }

    /// Final hidden states after the last norm, [B, T, hidden]; `tokens`: [B, T], u32, T at most `max_position_embeddings`.
    pub fn hidden(&self, tokens: &Tensor) -> Result<Tensor> {
        let (batch, length) = tokens.dims2().context("tokens must be [batch, length]")?;
        ensure!(
            (1..=self.config.max_position_embeddings).contains(&length),
            "a window of {length} tokens does not fit the model, whose max_position_embeddings is {}",
            self.config.max_position_embeddings
        );
        let attention = Attention {
            heads: self.config.heads,
            kv_heads: self.config.kv_heads,
            head_dim: self.config.head_dim,
            rotary: rotary(&self.config, length),
        };
        let epsilon = self.config.rms_norm_epsilon;
        let flat = tokens.flatten_all()?;
        let x = self.embedding.index_select(&flat, 0).context("a token id is outside the vocabulary")?;
        for layer in &self.layers {
            let normed = rms_norm(&x, &layer.input_norm, epsilon)?;
            let heads = |linear: &Linear| -> Result<Tensor> {
                let y = linear.forward(&normed)?;
                Ok(y.reshape((batch, length, y.dim(D::Minus1)?))?)
            };
            let mixed = attention.forward(&heads(&layer.q)?, &heads(&layer.k)?, &heads(&layer.v)?)?;
            add(&x, &layer.o.forward(&mixed.flatten_to(1)?)?)?;
            let normed = rms_norm(&x, &layer.post_norm, epsilon)?;
            let gate = layer.gate.forward(&normed)?;
            silu_multiply(&gate, &layer.up.forward(&normed)?)?;
            add(&x, &layer.down.forward(&gate)?)?;
        }
        Ok(rms_norm(&x, &self.norm, epsilon)?.reshape((batch, length, self.config.hidden_size))?)
    }

    /// Logits of all positions, [B, T, vocabulary].
    pub fn logits(&self, tokens: &Tensor) -> Result<Tensor> {
        let hidden = self.hidden(tokens)?;
        let (batch, length, _) = hidden.dims3()?;
        let logits = hidden.flatten_to(1)?.matmul(&self.head.t()?)?;
        Ok(logits.reshape((batch, length, self.config.vocab_size))?)
    }
}

/// cos and sin of positions 0..length. They depend on no weight, and cost little enough to be made anew for each forward.
fn rotary(config: &LlamaConfig, length: usize) -> Rotary {
    let frequencies = rotary_frequencies(config);
    let angles = (0..length).flat_map(|position| frequencies.iter().map(move |f| (position as f32 * f).sin_cos()));
    let (sin, cos) = angles.unzip();
    Rotary { cos, sin }
}

/// Frequencies of the head_dim / 2 pairs (arXiv 2104.09864), stretched as transformers' `_compute_llama3_parameters` does.
pub fn rotary_frequencies(config: &LlamaConfig) -> Vec<f32> {
    let frequency = |i: usize| 1.0 / config.rope_theta.powf(2.0 * i as f64 / config.head_dim as f64);
    let scaled = |frequency: f64| {
        let Some(scaling) = &config.rope_scaling else { return frequency };
        let rotations = scaling.original_max_position_embeddings as f64 * frequency / std::f64::consts::TAU;
        if rotations < scaling.low_frequency_factor {
            return frequency / scaling.factor;
        }
        if rotations > scaling.high_frequency_factor {
            return frequency;
        }
        let smooth =
            (rotations - scaling.low_frequency_factor) / (scaling.high_frequency_factor - scaling.low_frequency_factor);
        (1.0 - smooth) * frequency / scaling.factor + smooth * frequency
    };
    (0..config.head_dim / 2).map(|i| scaled(frequency(i)) as f32).collect()
}
