//! Qwen 3, dense: norms of each head's queries and keys in place of Qwen 2's biases (arXiv 2505.09388).

use anyhow::Result;

use super::{
    super::{
        fields::Fields,
        plan::{Family, NormedBy, Plan},
    },
    llama::{self, Usual},
    qwen2::slide,
};

pub const FAMILY: Family = Family {
    name: "Qwen3",
    model_type: "qwen3",
    class: "Qwen3ForCausalLM",
    sizes: llama::sizes([151_936, 4096, 22_016, 32, 32]),
    tokens: [None, None],
    read,
};

fn read(config: &Fields<'_>) -> Result<Plan> {
    let usual =
        Usual { class: FAMILY.class, window_max: 32_768, head_dim: Some(128), kv_heads: Some(32), ..Usual::default() };
    let mut plan = llama::plan(config, &usual)?;
    let biases = config.flag("attention_bias", false)?;
    plan.attention.biases = (biases, biases);
    plan.attention.norms = Some(("self_attn.q_norm", "self_attn.k_norm", NormedBy::Head));
    slide(config, &mut plan)?;
    Ok(plan)
}
