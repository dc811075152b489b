//! Qwen 2 and 2.5: a Llama with biases of queries, keys and values (arXiv 2407.10671).

use anyhow::{Context, Result};

use super::{
    super::{
        architecture::{LAYERS_MAX, POSITIONS_MAX},
        fields::Fields,
        plan::{Family, Plan},
    },
    llama::{self, Usual},
};

pub const FAMILY: Family = Family {
    name: "Qwen2",
    model_type: "qwen2",
    class: "Qwen2ForCausalLM",
    sizes: llama::sizes([151_936, 4096, 22_016, 32, 32]),
    tokens: [None, None],
    read,
};

fn read(config: &Fields<'_>) -> Result<Plan> {
    let usual = Usual { class: FAMILY.class, window_max: 32_768, kv_heads: Some(32), ..Usual::default() };
    let mut plan = llama::plan(config, &usual)?;
    plan.attention.biases = (true, false);
    slide(config, &mut plan)?;
    Ok(plan)
}

/// Upper layers, or those that `layer_types` names, see a window, where the config says so.
pub fn slide(config: &Fields<'_>, plan: &mut Plan) -> Result<()> {
    let window = config.size_or("sliding_window", 4096, POSITIONS_MAX)?;
    // Null is none.
    let is_null = config.has("sliding_window") && config.get("sliding_window").is_none();
    let window = (config.flag("use_sliding_window", false)? && !is_null).then_some(window);
    // It may be 0: all of them.
    let full = config.get("max_window_layers").map_or(Ok(28), |value| {
        let layers = value.as_u64();
        layers.with_context(|| format!("config.json: max_window_layers is {value}, it must be a whole number"))
    })?;
    let full = full.min(LAYERS_MAX as u64) as usize;
    let slides = config.slides(plan.kinds.len(), |layer| layer >= full)?;
    for (kind, slides) in plan.kinds.iter_mut().zip(slides) {
        kind.window = window.filter(|_| slides);
    }
    Ok(())
}
