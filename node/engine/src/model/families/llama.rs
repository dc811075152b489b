//! Llama, and what most families take from it: RMS norms before attention and MLP, rotary positions, grouped queries,
//! gated SiLU (arXiv 2302.13971, 2307.09288, 2407.21783).

use anyhow::{Context, Result};

use super::super::{
    activation::Activation,
    architecture::WIDTH_MAX,
    fields::{Fields, HEADS_MAX},
    plan::{
        AttentionPlan, Embedded, Family, HeadPlan, Inputs, LayerKind, MlpInputs, MlpPlan, NormKind, Norms, Plan,
        Residual,
    },
    rotary::RotaryConfig,
};

pub const FAMILY: Family = Family {
    name: "Llama",
    model_type: "llama",
    class: "LlamaForCausalLM",
    sizes: sizes([32_000, 4096, 11_008, 32, 32]),
    tokens: [Some(1), Some(2)],
    read,
};

/// Sizes of a class by the names that Llama and most others have for them.
pub const fn sizes([vocabulary, hidden, mlp, layers, heads]: [usize; 5]) -> [(&'static str, usize); 5] {
    [
        ("vocab_size", vocabulary),
        ("hidden_size", hidden),
        ("intermediate_size", mlp),
        ("num_hidden_layers", layers),
        ("num_attention_heads", heads),
    ]
}

fn read(config: &Fields<'_>) -> Result<Plan> {
    let biases = config.flag("attention_bias", false)?;
    let mut plan = plan(config, &Usual { class: FAMILY.class, ..Usual::default() })?;
    plan.attention.biases = (biases, biases);
    plan.mlp.bias = config.flag("mlp_bias", false)?;
    Ok(plan)
}

/// What a config of a family that is like Llama means where it says nothing, as its class in transformers has it.
pub struct Usual {
    pub class: &'static str,
    pub is_tied: bool,
    pub theta: f64,
    pub epsilon: f64,
    pub window_max: usize,
    /// The field that names the activation, and the activation.
    pub activation: (&'static str, &'static str),
    /// Elements of a head, if not the width over the heads.
    pub head_dim: Option<usize>,
    /// Heads of keys and values where the config says nothing, if not as many as of queries. Null is as many.
    pub kv_heads: Option<usize>,
}

impl Default for Usual {
    fn default() -> Self {
        Self {
            class: "",
            is_tied: false,
            theta: 10_000.0,
            epsilon: 1e-6,
            window_max: 2048,
            activation: ("hidden_act", "silu"),
            head_dim: None,
            kv_heads: None,
        }
    }
}

/// A Llama of these sizes, without biases.
pub fn plan(config: &Fields<'_>, usual: &Usual) -> Result<Plan> {
    let mut interface = config.interface("max_position_embeddings", usual.window_max)?;
    let hidden = config.width("hidden_size")?;
    let heads = config.size("num_attention_heads", HEADS_MAX)?;
    let head_dim = config.size_or("head_dim", usual.head_dim.unwrap_or(hidden / heads), HEADS_MAX)?;
    let kv_heads = usual.kv_heads.filter(|_| !config.has("num_key_value_heads")).unwrap_or(heads);
    let layers = config.layers("num_hidden_layers")?;
    let rotary = RotaryConfig::read(config, usual.theta, interface.window_max)?;
    interface.window_max = rotary.window_max(interface.window_max);
    let kind = LayerKind { rotary: Some(0), window: None, scale: 1.0 / (head_dim as f64).sqrt() };
    Ok(Plan {
        class: usual.class,
        prefix: "model.",
        embedding: Embedded {
            name: "model.embed_tokens",
            width: hidden,
            scale: 1.0,
            positions: None,
            projections: None,
        },
        hidden,
        layers: "model.layers.",
        kinds: vec![kind; layers],
        rotaries: vec![rotary],
        attention: AttentionPlan {
            heads,
            kv_heads: config.size_or("num_key_value_heads", kv_heads, HEADS_MAX)?,
            head_dim,
            inputs: Inputs::Separate(["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"]),
            output: "self_attn.o_proj",
            biases: (false, false),
            norms: None,
            cap: None,
        },
        mlp: MlpPlan {
            width: config.size("intermediate_size", WIDTH_MAX)?,
            inputs: MlpInputs::Gated("mlp.gate_proj", "mlp.up_proj"),
            output: "mlp.down_proj",
            bias: false,
            activation: activation(config, usual.activation)?,
        },
        norms: Norms {
            kind: NormKind::Rms(0.0),
            epsilon: config.epsilon("rms_norm_eps", usual.epsilon)?,
            before_attention: Some("input_layernorm"),
            after_attention: None,
            before_mlp: Some("post_attention_layernorm"),
            after_mlp: None,
            last: Some("model.norm"),
        },
        residual: Residual::Sequential,
        residual_scale: 1.0,
        head: HeadPlan {
            name: "lm_head",
            is_tied: config.flag("tie_word_embeddings", usual.is_tied)?,
            scale: 1.0,
            cap: None,
        },
        is_transposed: false,
        interface,
    })
}

/// The activation that field `name` names.
pub fn activation(config: &Fields<'_>, (name, usual): (&str, &str)) -> Result<Activation> {
    let said = config.text(name)?.unwrap_or(usual);
    Activation::named(said).with_context(|| {
        format!("config.json: {name} is {said:?}, which is not supported; supported are {}", Activation::names())
    })
}
