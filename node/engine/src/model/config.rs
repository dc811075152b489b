//! `config.json` of a Llama, bounded: it may come from a peer.

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;

/// Most layers that a config may ask for.
const LAYERS_MAX: usize = 1024;
/// Largest hidden size, intermediate size.
const WIDTH_MAX: usize = 1 << 18;
/// Largest vocabulary.
const VOCABULARY_MAX: usize = 1 << 22;
/// Largest window.
const POSITIONS_MAX: usize = 1 << 24;
/// Most weights: 2^40.
const PARAMETERS_MAX: u64 = 1 << 40;

/// The shape of a Llama, validated: no field is zero, `kv_heads` divides `heads`, `head_dim` is even, sizes are plausible.
#[derive(Clone, PartialEq, Debug)]
pub struct LlamaConfig {
    /// Width of the residual stream.
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
    /// Number of token ids.
    pub vocab_size: usize,
    /// Epsilon of the norms.
    pub rms_norm_epsilon: f64,
    /// Base of the rotary frequencies.
    pub rope_theta: f64,
    /// Llama 3.1's stretching of low frequencies, if any.
    pub rope_scaling: Option<Llama3RopeScaling>,
    /// Longest window, tokens.
    pub max_position_embeddings: usize,
    /// Whether the output head is the token embedding.
    pub tie_word_embeddings: bool,
    /// Whether the projections of attention have biases.
    pub attention_bias: bool,
    /// Whether the projections of the MLP have biases.
    pub mlp_bias: bool,
    /// Token that starts a text, if any.
    pub bos_token_id: Option<u32>,
    /// Tokens that end a text.
    pub eos_token_ids: Vec<u32>,
}

/// `rope_type: llama3`: wavelengths above `original / low_frequency_factor` are stretched by `factor`, those
/// below `original / high_frequency_factor` kept, those between interpolated.
#[derive(Clone, PartialEq, Debug)]
pub struct Llama3RopeScaling {
    /// Stretching of long wavelengths.
    pub factor: f64,
    /// See above.
    pub low_frequency_factor: f64,
    /// See above.
    pub high_frequency_factor: f64,
    /// Window that the model was first trained for.
    pub original_max_position_embeddings: usize,
}

#[derive(Deserialize)]
struct File {
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    num_key_value_heads: Option<usize>,
    head_dim: Option<usize>,
    vocab_size: usize,
    rms_norm_eps: f64,
    rope_theta: Option<f64>,
    rope_scaling: Option<Rope>,
    /// Newer transformers: theta and scaling in one.
    rope_parameters: Option<Rope>,
    max_position_embeddings: usize,
    tie_word_embeddings: Option<bool>,
    hidden_act: Option<String>,
    attention_bias: Option<bool>,
    mlp_bias: Option<bool>,
    bos_token_id: Option<u32>,
    eos_token_id: Option<Ids>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Ids {
    One(u32),
    Many(Vec<u32>),
}

#[derive(Deserialize)]
struct Rope {
    #[serde(alias = "type")]
    rope_type: Option<String>,
    rope_theta: Option<f64>,
    factor: Option<f64>,
    low_freq_factor: Option<f64>,
    high_freq_factor: Option<f64>,
    original_max_position_embeddings: Option<usize>,
}

impl LlamaConfig {
    /// Parses and validates `config.json`. Errors name the field and the value.
    pub fn from_json(bytes: &[u8]) -> Result<Self> {
        let value: serde_json::Value = serde_json::from_slice(bytes).context("config.json is not valid JSON")?;
        refuse_other_architectures(&value)?;
        let file: File = serde_json::from_value(value).context("config.json does not describe a Llama")?;
        ensure!(
            file.hidden_act.as_deref().is_none_or(|act| act == "silu"),
            "config.json: hidden_act {:?} is not supported, only \"silu\"",
            file.hidden_act.unwrap_or_default()
        );
        let rope = file.rope_parameters.or(file.rope_scaling);
        let rope_theta = file.rope_theta.or(rope.as_ref().and_then(|rope| rope.rope_theta)).unwrap_or(10_000.0);
        let head_dim = match file.head_dim {
            Some(head_dim) => head_dim,
            None => file.hidden_size.checked_div(file.num_attention_heads).unwrap_or(0),
        };
        let config = Self {
            hidden_size: file.hidden_size,
            intermediate_size: file.intermediate_size,
            layers: file.num_hidden_layers,
            heads: file.num_attention_heads,
            kv_heads: file.num_key_value_heads.unwrap_or(file.num_attention_heads),
            head_dim,
            vocab_size: file.vocab_size,
            rms_norm_epsilon: file.rms_norm_eps,
            rope_theta,
            rope_scaling: rope.as_ref().map(rope_scaling).transpose()?.flatten(),
            max_position_embeddings: file.max_position_embeddings,
            tie_word_embeddings: file.tie_word_embeddings.unwrap_or(false),
            attention_bias: file.attention_bias.unwrap_or(false),
            mlp_bias: file.mlp_bias.unwrap_or(false),
            bos_token_id: file.bos_token_id,
            eos_token_ids: match file.eos_token_id {
                None => Vec::new(),
                Some(Ids::One(id)) => vec![id],
                Some(Ids::Many(ids)) => ids,
            },
        };
        config.validate()?;
        Ok(config)
    }

    fn validate(&self) -> Result<()> {
        let bounded = |name: &str, value: usize, max: usize| {
            ensure!((1..=max).contains(&value), "config.json: {name} is {value}, supported are 1 to {max}");
            Ok(())
        };
        bounded("hidden_size", self.hidden_size, WIDTH_MAX)?;
        bounded("intermediate_size", self.intermediate_size, WIDTH_MAX)?;
        bounded("num_hidden_layers", self.layers, LAYERS_MAX)?;
        bounded("num_attention_heads", self.heads, 1024)?;
        bounded("num_key_value_heads", self.kv_heads, self.heads)?;
        bounded("head_dim", self.head_dim, 1024)?;
        bounded("vocab_size", self.vocab_size, VOCABULARY_MAX)?;
        bounded("max_position_embeddings", self.max_position_embeddings, POSITIONS_MAX)?;
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
        ensure!(
            self.rope_theta >= 1.0 && self.rope_theta <= 1e12,
            "config.json: rope_theta is {}, supported are 1 to 1e12",
            self.rope_theta
        );
        let parameters: u64 = expected_tensors(self).iter().map(|(_, shape)| elements(shape)).sum();
        ensure!(parameters <= PARAMETERS_MAX, "config.json describes {parameters} weights, supported are 2^40");
        Ok(())
    }
}

/// Checked before the fields, so that another kind of model is called by its name, not by a field it lacks.
fn refuse_other_architectures(value: &serde_json::Value) -> Result<()> {
    let kind = value.get("model_type").and_then(|v| v.as_str());
    let architecture = value.pointer("/architectures/0").and_then(|v| v.as_str());
    if kind == Some("llama") || (kind.is_none() && architecture == Some("LlamaForCausalLM")) {
        return Ok(());
    }
    bail!(
        "config.json: unknown architecture (model_type {}, architectures {}); this node runs Llama models (model_type \"llama\")",
        kind.unwrap_or("absent"),
        architecture.unwrap_or("absent")
    )
}

fn rope_scaling(rope: &Rope) -> Result<Option<Llama3RopeScaling>> {
    match rope.rope_type.as_deref() {
        None | Some("default") => Ok(None),
        Some("llama3") => {
            let positive = |name: &str, value: Option<f64>| match value {
                Some(value) if value > 0.0 && value <= 1e6 => Ok(value),
                other => bail!("config.json: rope_scaling {name} is {other:?}, it must be above 0 and at most 1e6"),
            };
            let scaling = Llama3RopeScaling {
                factor: positive("factor", rope.factor)?,
                low_frequency_factor: positive("low_freq_factor", rope.low_freq_factor)?,
                high_frequency_factor: positive("high_freq_factor", rope.high_freq_factor)?,
                original_max_position_embeddings: rope.original_max_position_embeddings.unwrap_or(0),
            };
            ensure!(
                scaling.high_frequency_factor > scaling.low_frequency_factor
                    && (1..=POSITIONS_MAX).contains(&scaling.original_max_position_embeddings),
                "config.json: rope_scaling {scaling:?} is not a valid llama3 scaling"
            );
            Ok(Some(scaling))
        }
        Some(other) => bail!("config.json: rope scaling {other:?} is not supported, only \"llama3\" and none"),
    }
}

/// Number of elements; bounded configs do not overflow.
fn elements(shape: &[usize]) -> u64 {
    shape.iter().map(|d| *d as u64).product()
}

/// Hugging Face names and shapes of all weights, in no particular order. A tied head is not listed.
pub fn expected_tensors(config: &LlamaConfig) -> Vec<(String, Vec<usize>)> {
    let hidden = config.hidden_size;
    let (q, kv) = (config.heads * config.head_dim, config.kv_heads * config.head_dim);
    let mut tensors = vec![
        ("model.embed_tokens.weight".to_owned(), vec![config.vocab_size, hidden]),
        ("model.norm.weight".to_owned(), vec![hidden]),
    ];
    if !config.tie_word_embeddings {
        tensors.push(("lm_head.weight".to_owned(), vec![config.vocab_size, hidden]));
    }
    for layer in 0..config.layers {
        let prefix = format!("model.layers.{layer}");
        for norm in ["input_layernorm", "post_attention_layernorm"] {
            tensors.push((format!("{prefix}.{norm}.weight"), vec![hidden]));
        }
        let projections = [
            ("self_attn.q_proj", q, hidden, config.attention_bias),
            ("self_attn.k_proj", kv, hidden, config.attention_bias),
            ("self_attn.v_proj", kv, hidden, config.attention_bias),
            ("self_attn.o_proj", hidden, q, config.attention_bias),
            ("mlp.gate_proj", config.intermediate_size, hidden, config.mlp_bias),
            ("mlp.up_proj", config.intermediate_size, hidden, config.mlp_bias),
            ("mlp.down_proj", hidden, config.intermediate_size, config.mlp_bias),
        ];
        for (name, rows, columns, bias) in projections {
            tensors.push((format!("{prefix}.{name}.weight"), vec![rows, columns]));
            if bias {
                tensors.push((format!("{prefix}.{name}.bias"), vec![rows]));
            }
        }
    }
    tensors
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn sound() -> Value {
        json!({
            "model_type": "llama", "hidden_size": 64, "intermediate_size": 172, "num_hidden_layers": 5,
            "num_attention_heads": 8, "num_key_value_heads": 4, "vocab_size": 512, "max_position_embeddings": 512,
            "rms_norm_eps": 1e-5, "tie_word_embeddings": true, "eos_token_id": [2, 3]
        })
    }

    fn parse(value: &Value) -> Result<LlamaConfig> {
        LlamaConfig::from_json(value.to_string().as_bytes())
    }

    #[test]
    fn a_sound_config_parses_with_its_defaults() {
        let config = parse(&sound()).unwrap();
        assert_eq!((config.head_dim, config.kv_heads, config.rope_theta), (8, 4, 10_000.0));
        assert_eq!(config.eos_token_ids, [2, 3]);
        let weights: u64 = expected_tensors(&config).iter().map(|(_, shape)| elements(shape)).sum();
        assert_eq!(weights, 260_032);
    }

    #[test]
    fn llama3_scaling_parses_in_both_spellings() {
        let scaling = json!({"rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0,
            "high_freq_factor": 4.0, "original_max_position_embeddings": 8192});
        for field in ["rope_scaling", "rope_parameters"] {
            let mut value = sound();
            value[field] = scaling.clone();
            let config = parse(&value).unwrap();
            assert_eq!((config.rope_scaling.unwrap().factor, config.rope_theta), (8.0, 5e5));
        }
    }

    #[test]
    fn each_implausible_field_is_refused_by_name() {
        let cases = [
            ("model_type", json!("gpt2")),
            ("hidden_size", json!(0)),
            ("hidden_size", json!(1u64 << 60)),
            ("intermediate_size", json!(u64::MAX)),
            ("num_hidden_layers", json!(1_000_000_000)),
            ("num_attention_heads", json!(0)),
            ("num_key_value_heads", json!(0)),
            ("num_key_value_heads", json!(3)),
            ("num_key_value_heads", json!(16)),
            ("head_dim", json!(7)),
            ("head_dim", json!(0)),
            ("vocab_size", json!(0)),
            ("vocab_size", json!(-1)),
            ("max_position_embeddings", json!(0)),
            ("rms_norm_eps", json!(0.0)),
            ("rms_norm_eps", json!("small")),
            ("rope_theta", json!(-1.0)),
            ("hidden_act", json!("gelu")),
            ("rope_scaling", json!({"type": "yarn", "factor": 2.0})),
            ("rope_scaling", json!({"rope_type": "llama3", "factor": 0.0})),
        ];
        for (field, value) in cases {
            let mut config = sound();
            config[field] = value.clone();
            let error = format!("{:#}", parse(&config).expect_err(&format!("{field} = {value}")));
            assert!(error.starts_with("config.json"), "{error}");
        }
        assert!(LlamaConfig::from_json(b"{").is_err());
        assert!(LlamaConfig::from_json(&[b'['; 100_000]).is_err());
    }
}
