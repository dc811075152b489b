//! Granite 3: a Llama with a multiplier at each end and in between.

use anyhow::Result;

use super::{
    super::{
        fields::Fields,
        plan::{Family, Plan},
    },
    llama::{self, Usual},
};

pub const FAMILY: Family = Family {
    name: "Granite",
    model_type: "granite",
    class: "GraniteForCausalLM",
    sizes: llama::sizes([32_000, 4096, 11_008, 32, 32]),
    tokens: [Some(1), Some(2)],
    read,
};

fn read(config: &Fields<'_>) -> Result<Plan> {
    let mut plan = llama::plan(config, &Usual { class: FAMILY.class, ..Usual::default() })?;
    let biases = config.flag("attention_bias", false)?;
    plan.attention.biases = (biases, biases);
    plan.mlp.bias = config.flag("mlp_bias", false)?;
    plan.embedding.scale = config.positive_or("embedding_multiplier", 1.0)?;
    plan.residual_scale = config.positive_or("residual_multiplier", 1.0)?;
    plan.head.scale = 1.0 / config.positive_or("logits_scaling", 1.0)?;
    let scale = config.positive_or("attention_multiplier", 1.0)?;
    plan.kinds.iter_mut().for_each(|kind| kind.scale = scale);
    Ok(plan)
}
