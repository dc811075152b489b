//! Mistral: a Llama in which each token sees a window of those before it (arXiv 2310.06825). Ministral: only in some
//! layers; transformers takes every Mistral for one whose config has `layer_types`.

use anyhow::Result;

use super::{
    super::{
        architecture::POSITIONS_MAX,
        fields::Fields,
        plan::{Family, Plan},
    },
    llama::{self, Usual},
};

pub const FAMILY: Family = Family {
    name: "Mistral",
    model_type: "mistral",
    class: "MistralForCausalLM",
    sizes: llama::sizes([32_000, 4096, 14_336, 32, 32]),
    tokens: [Some(1), Some(2)],
    read,
};

pub const MINISTRAL: Family = Family {
    name: "Ministral",
    model_type: "ministral",
    class: "MinistralForCausalLM",
    read: read_ministral,
    ..FAMILY
};

fn read_ministral(config: &Fields<'_>) -> Result<Plan> {
    Ok(Plan { class: MINISTRAL.class, ..read(config)? })
}

fn read(config: &Fields<'_>) -> Result<Plan> {
    let usual = Usual { class: FAMILY.class, window_max: 131_072, kv_heads: Some(8), ..Usual::default() };
    let mut plan = llama::plan(config, &usual)?;
    // Null is none; a config of the first models leaves it out, and means this.
    let usual = if config.has("sliding_window") { None } else { Some(4096) };
    let window = config.some_size("sliding_window", POSITIONS_MAX)?.or(usual);
    let slides = config.slides(plan.kinds.len(), |_| true)?;
    for (kind, slides) in plan.kinds.iter_mut().zip(slides) {
        kind.window = window.filter(|_| slides);
    }
    Ok(plan)
}
