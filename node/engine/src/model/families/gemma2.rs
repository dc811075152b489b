//! Gemma 2: norms on both sides of attention and MLP, soft caps, a window in every other layer, a scaled embedding
//! (arXiv 2408.00118).

use anyhow::Result;

use super::{
    super::{
        architecture::POSITIONS_MAX,
        fields::Fields,
        plan::{Family, NormKind, Plan},
    },
    llama::{self, Usual},
};

pub const FAMILY: Family = Family {
    name: "Gemma 2",
    model_type: "gemma2",
    class: "Gemma2ForCausalLM",
    sizes: llama::sizes([256_000, 2304, 9216, 26, 8]),
    tokens: [Some(2), Some(1)],
    read,
};

fn read(config: &Fields<'_>) -> Result<Plan> {
    let mut plan = plan(config, &Usual { class: FAMILY.class, window_max: 8192, ..usual() })?;
    // Null is none.
    let cap = |name: &str, usual: f64| match config.has(name) {
        true => config.some_positive(name),
        false => Ok(Some(usual)),
    };
    plan.attention.cap = cap("attn_logit_softcapping", 50.0)?;
    plan.head.cap = cap("final_logit_softcapping", 30.0)?;
    slide(config, &mut plan, |layer| layer % 2 == 0)?;
    Ok(plan)
}

/// What both versions mean where a config says nothing.
pub fn usual() -> Usual {
    Usual {
        is_tied: true,
        activation: ("hidden_activation", "gelu_pytorch_tanh"),
        head_dim: Some(256),
        kv_heads: Some(4),
        ..Usual::default()
    }
}

/// What both versions share.
pub fn plan(config: &Fields<'_>, usual: &Usual) -> Result<Plan> {
    config.refuse_ahead("use_bidirectional_attention", true)?;
    let mut plan = llama::plan(config, usual)?;
    let biases = config.flag("attention_bias", false)?;
    plan.attention.biases = (biases, biases);
    plan.embedding.scale = f64::from((plan.hidden as f32).sqrt());
    plan.norms.kind = NormKind::Rms(1.0);
    plan.norms.after_attention = Some("post_attention_layernorm");
    plan.norms.before_mlp = Some("pre_feedforward_layernorm");
    plan.norms.after_mlp = Some("post_feedforward_layernorm");
    let scale = 1.0 / config.positive_or("query_pre_attn_scalar", 256.0)?.sqrt();
    plan.kinds.iter_mut().for_each(|kind| kind.scale = scale);
    Ok(plan)
}

/// The layers that `layer_types` names, or `usual` ones, see a window.
pub fn slide(config: &Fields<'_>, plan: &mut Plan, usual: impl Fn(usize) -> bool) -> Result<()> {
    let window = config.size_or("sliding_window", 4096, POSITIONS_MAX)?;
    let slides = config.slides(plan.kinds.len(), usual)?;
    for (kind, slides) in plan.kinds.iter_mut().zip(slides) {
        kind.window = slides.then_some(window);
    }
    Ok(())
}
