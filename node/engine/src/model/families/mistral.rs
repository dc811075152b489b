//! Mistral: a Llama in which each token sees a window of those before it (arXiv 2310.06825).

use anyhow::Result;

use super::{
    super::{
        architecture::POSITIONS_MAX,
        fields::Fields,
        plan::{Family, Plan},
    },
    llama::{self, Usual},
};

pub const FAMILY: Family = Family { name: "Mistral", model_type: "mistral", class: "MistralForCausalLM", read };

fn read(config: &Fields<'_>) -> Result<Plan> {
    let mut plan = llama::plan(config, &Usual { class: FAMILY.class, window_max: 131_072, ..Usual::default() })?;
    plan.attention.kv_heads = config.size_or("num_key_value_heads", 8, plan.attention.heads)?;
    // Null is none; a config of the first models leaves it out, and means this.
    let usual = if config.has("sliding_window") { None } else { Some(4096) };
    let window = config.some_size("sliding_window", POSITIONS_MAX)?.or(usual);
    plan.kinds.iter_mut().for_each(|kind| kind.window = window);
    Ok(plan)
}
