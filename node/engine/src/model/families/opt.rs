//! OPT: learned positions, of which the first two rows are not used, layer norms before attention and MLP (behind them
//! in the model of 350M, whose embedding is narrower as well) (arXiv 2205.01068).

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
    name: "OPT",
    model_type: "opt",
    class: "OPTForCausalLM",
    sizes: [
        ("vocab_size", 50_272),
        ("hidden_size", 768),
        ("ffn_dim", 3072),
        ("num_hidden_layers", 12),
        ("num_attention_heads", 12),
    ],
    tokens: [Some(2), Some(2)],
    read,
};

fn read(config: &Fields<'_>) -> Result<Plan> {
    let (interface, hidden) = (config.interface("max_position_embeddings", 2048)?, config.width("hidden_size")?);
    let heads = config.size("num_attention_heads", HEADS_MAX)?;
    let head_dim = hidden / heads;
    let width = config.size_or("word_embed_proj_dim", hidden, WIDTH_MAX)?;
    let is_before = config.flag("do_layer_norm_before", true)?;
    let has_last = is_before && !config.flag("_remove_final_layer_norm", false)?;
    let bias = config.flag("enable_bias", true)?;
    let has_weights = config.flag("layer_norm_elementwise_affine", true)?;
    let kind = LayerKind { rotary: None, window: None, scale: 1.0 / (head_dim as f64).sqrt() };
    let norms = (Some("self_attn_layer_norm"), Some("final_layer_norm"));
    let (before, after) = if is_before { (norms, (None, None)) } else { ((None, None), norms) };
    Ok(Plan {
        class: FAMILY.class,
        prefix: "model.",
        embedding: Embedded {
            name: "model.decoder.embed_tokens",
            width,
            scale: 1.0,
            positions: Some(("model.decoder.embed_positions", 2)),
            projections: (width != hidden).then_some(("model.decoder.project_in", "model.decoder.project_out")),
        },
        hidden,
        layers: "model.decoder.layers.",
        kinds: vec![kind; config.layers("num_hidden_layers")?],
        rotaries: Vec::new(),
        attention: AttentionPlan {
            heads,
            kv_heads: heads,
            head_dim,
            inputs: Inputs::Separate(["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"]),
            output: "self_attn.out_proj",
            biases: (bias, bias),
            norms: None,
            cap: None,
        },
        mlp: MlpPlan {
            width: config.width("ffn_dim")?,
            inputs: MlpInputs::Plain("fc1"),
            output: "fc2",
            bias,
            activation: activation(config, ("activation_function", "relu"))?,
        },
        norms: Norms {
            kind: if has_weights { NormKind::Layer } else { NormKind::Bare },
            epsilon: 1e-5,
            before_attention: before.0,
            after_attention: after.0,
            before_mlp: before.1,
            after_mlp: after.1,
            last: has_last.then_some("model.decoder.final_layer_norm"),
        },
        residual: if is_before { Residual::Sequential } else { Residual::NormedSum },
        residual_scale: 1.0,
        head: HeadPlan { name: "lm_head", is_tied: config.flag("tie_word_embeddings", true)?, scale: 1.0, cap: None },
        is_transposed: false,
        interface,
    })
}
