//! OLMo 2: norms behind attention and MLP, and of all queries and keys together (arXiv 2501.00656).

use anyhow::Result;

use super::{
    super::{
        fields::Fields,
        plan::{Family, NormedBy, Plan},
    },
    llama::{self, Usual},
};

pub const FAMILY: Family = Family {
    name: "OLMo 2",
    model_type: "olmo2",
    class: "Olmo2ForCausalLM",
    sizes: llama::sizes([50_304, 4096, 11_008, 32, 32]),
    tokens: [None, Some(50_279)],
    read,
};

fn read(config: &Fields<'_>) -> Result<Plan> {
    let mut plan = llama::plan(config, &Usual { class: FAMILY.class, epsilon: 1e-5, ..Usual::default() })?;
    let biases = config.flag("attention_bias", false)?;
    plan.attention.biases = (biases, biases);
    plan.attention.norms = Some(("self_attn.q_norm", "self_attn.k_norm", NormedBy::AllHeads));
    plan.norms.before_attention = None;
    plan.norms.after_attention = Some("post_attention_layernorm");
    plan.norms.before_mlp = None;
    plan.norms.after_mlp = Some("post_feedforward_layernorm");
    Ok(plan)
}
