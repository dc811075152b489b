//! GPT-2: learned positions, layer norms, an MLP without a gate, linear layers stored the other way round.

use anyhow::Result;

use super::{
    super::{
        architecture::WIDTH_MAX,
        fields::{Fields, HEADS_MAX},
        plan::{
            AttentionPlan, Embedded, Family, HeadPlan, Inputs, LayerKind, MlpInputs, MlpPlan, NormKind, Norms, Plan,
            Residual,
        },
    },
    llama::activation,
};

pub const FAMILY: Family = Family {
    name: "GPT-2",
    model_type: "gpt2",
    class: "GPT2LMHeadModel",
    sizes: [("vocab_size", 50_257), ("n_positions", 1024), ("n_embd", 768), ("n_layer", 12), ("n_head", 12)],
    tokens: [Some(50_256), Some(50_256)],
    read,
};

/// Other names of fields, which come before the own ones, as in transformers' `attribute_map`.
const ALIASES: [(&str, &str); 4] = [
    ("hidden_size", "n_embd"),
    ("max_position_embeddings", "n_positions"),
    ("num_attention_heads", "n_head"),
    ("num_hidden_layers", "n_layer"),
];

fn read(config: &Fields<'_>) -> Result<Plan> {
    let mut own = config.0.clone();
    for (alias, name) in ALIASES {
        if let Some(value) = config.get(alias) {
            own[name] = value.clone();
        }
    }
    let config = &Fields(&own);
    config.refuse("add_cross_attention")?;
    let (interface, hidden) = (config.interface("n_positions", 1024)?, config.width("n_embd")?);
    let heads = config.size("n_head", HEADS_MAX)?;
    let by_root = config.flag("scale_attn_weights", true)?;
    let by_layer = config.flag("scale_attn_by_inverse_layer_idx", false)?;
    let head_dim = hidden / heads;
    let kind = |layer: usize| LayerKind {
        rotary: None,
        window: None,
        scale: if by_root { 1.0 / (head_dim as f64).sqrt() } else { 1.0 }
            / if by_layer { layer as f64 + 1.0 } else { 1.0 },
    };
    Ok(Plan {
        class: FAMILY.class,
        prefix: "transformer.",
        embedding: Embedded {
            name: "transformer.wte",
            width: hidden,
            scale: 1.0,
            positions: Some(("transformer.wpe", 0)),
            projections: None,
        },
        hidden,
        layers: "transformer.h.",
        kinds: (0..config.layers("n_layer")?).map(kind).collect(),
        rotaries: Vec::new(),
        attention: AttentionPlan {
            heads,
            kv_heads: heads,
            head_dim,
            inputs: Inputs::Joined("attn.c_attn"),
            output: "attn.c_proj",
            biases: (true, true),
            norms: None,
            cap: None,
        },
        mlp: MlpPlan {
            width: config.size_or("n_inner", 4 * hidden, WIDTH_MAX)?,
            inputs: MlpInputs::Plain("mlp.c_fc"),
            output: "mlp.c_proj",
            bias: true,
            activation: activation(config, ("activation_function", "gelu_new"))?,
        },
        norms: Norms {
            kind: NormKind::Layer,
            epsilon: config.epsilon("layer_norm_epsilon", 1e-5)?,
            before_attention: Some("ln_1"),
            after_attention: None,
            before_mlp: Some("ln_2"),
            after_mlp: None,
            last: Some("transformer.ln_f"),
        },
        residual: Residual::Sequential,
        residual_scale: 1.0,
        head: HeadPlan { name: "lm_head", is_tied: config.flag("tie_word_embeddings", true)?, scale: 1.0, cap: None },
        is_transposed: true,
        interface,
    })
}
