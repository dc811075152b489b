//! GPT-NeoX, as Pythia is: layer norms, rotary positions of a part of each head, attention and MLP side by side (arXiv
//! 2204.06745, 2304.01373).

use anyhow::Result;
use serde_json::{Value, json};

use super::{
    super::{
        architecture::WIDTH_MAX,
        fields::{Fields, HEADS_MAX},
        plan::{
            AttentionPlan, Embedded, Family, HeadPlan, Inputs, LayerKind, MlpInputs, MlpPlan, NormKind, Norms, Plan,
            Residual,
        },
        rotary::{RotaryConfig, theta_of},
    },
    llama::{activation, sizes},
};

pub const FAMILY: Family = Family {
    name: "GPT-NeoX",
    model_type: "gpt_neox",
    class: "GPTNeoXForCausalLM",
    sizes: sizes([50_432, 6144, 24_576, 44, 64]),
    tokens: [Some(0), Some(2)],
    read,
};

fn read(config: &Fields<'_>) -> Result<Plan> {
    let (mut interface, hidden) = (config.interface("max_position_embeddings", 2048)?, config.width("hidden_size")?);
    let heads = config.size("num_attention_heads", HEADS_MAX)?;
    let head_dim = hidden / heads;
    let rotary = rotary(config, interface.window_max)?;
    interface.window_max = rotary.window_max(interface.window_max);
    let kind = LayerKind { rotary: Some(0), window: None, scale: 1.0 / (head_dim as f64).sqrt() };
    let is_parallel = config.flag("use_parallel_residual", true)?;
    let biases = config.flag("attention_bias", true)?;
    Ok(Plan {
        class: FAMILY.class,
        prefix: "gpt_neox.",
        embedding: Embedded {
            name: "gpt_neox.embed_in",
            width: hidden,
            scale: 1.0,
            positions: None,
            projections: None,
        },
        hidden,
        layers: "gpt_neox.layers.",
        kinds: vec![kind; config.layers("num_hidden_layers")?],
        rotaries: vec![rotary],
        attention: AttentionPlan {
            heads,
            kv_heads: heads,
            head_dim,
            inputs: Inputs::ByHead("attention.query_key_value"),
            output: "attention.dense",
            biases: (biases, biases),
            norms: None,
            cap: None,
        },
        mlp: MlpPlan {
            width: config.size("intermediate_size", WIDTH_MAX)?,
            inputs: MlpInputs::Plain("mlp.dense_h_to_4h"),
            output: "mlp.dense_4h_to_h",
            bias: true,
            activation: activation(config, ("hidden_act", "gelu"))?,
        },
        norms: Norms {
            kind: NormKind::Layer,
            epsilon: config.epsilon("layer_norm_eps", 1e-5)?,
            before_attention: Some("input_layernorm"),
            after_attention: None,
            before_mlp: Some("post_attention_layernorm"),
            after_mlp: None,
            last: Some("gpt_neox.final_layer_norm"),
        },
        residual: if is_parallel { Residual::Parallel } else { Residual::Sequential },
        residual_scale: 1.0,
        head: HeadPlan {
            name: "embed_out",
            is_tied: config.flag("tie_word_embeddings", false)?,
            scale: 1.0,
            cap: None,
        },
        is_transposed: false,
        interface,
    })
}

/// Older configs have `rotary_pct` and `rotary_emb_base`; other names for them beside the parameters do not count.
fn rotary(config: &Fields<'_>, window_max: usize) -> Result<RotaryConfig> {
    let part = config.number_or("rotary_pct", 0.25)?;
    let mut with_part = config.0.clone();
    with_part["partial_rotary_factor"] = json!(part);
    with_part["rope_theta"] = Value::Null;
    RotaryConfig::read(&Fields(&with_part), theta_of(config, "rotary_emb_base", 10_000.0)?, window_max)
}
