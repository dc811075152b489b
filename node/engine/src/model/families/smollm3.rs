//! SmolLM 3: a Llama in which every fourth layer tells no positions.

use anyhow::{Result, bail};
use serde_json::Value;

use super::{
    super::{
        architecture::POSITIONS_MAX,
        fields::Fields,
        plan::{Family, Plan},
    },
    llama::{self, Usual},
};

pub const FAMILY: Family = Family {
    name: "SmolLM3",
    model_type: "smollm3",
    class: "SmolLM3ForCausalLM",
    sizes: llama::sizes([128_256, 2048, 11_008, 36, 16]),
    tokens: [Some(128_000), Some(128_001)],
    read,
};

fn read(config: &Fields<'_>) -> Result<Plan> {
    let usual = Usual {
        class: FAMILY.class,
        is_tied: true,
        theta: 2_000_000.0,
        window_max: 32_768,
        kv_heads: Some(4),
        ..Usual::default()
    };
    let mut plan = llama::plan(config, &usual)?;
    let biases = config.flag("attention_bias", false)?;
    plan.attention.biases = (biases, biases);
    plan.mlp.bias = config.flag("mlp_bias", false)?;
    let layers = plan.kinds.len();
    let interval = config.size_or("no_rope_layer_interval", 4, usize::MAX)?;
    let turns: Vec<bool> = match config.per_layer("no_rope_layers", layers)? {
        Some(list) => list.iter().map(turns).collect::<Result<_>>()?,
        None => (0..layers).map(|layer| !(layer + 1).is_multiple_of(interval)).collect(),
    };
    let window = config.some_size("sliding_window", POSITIONS_MAX)?;
    let window = window.filter(|_| config.flag("use_sliding_window", false).unwrap_or(false));
    let slides = config.slides(layers, |layer| !turns[layer])?;
    for ((kind, turns), slides) in plan.kinds.iter_mut().zip(&turns).zip(slides) {
        kind.rotary = turns.then_some(0);
        kind.window = window.filter(|_| slides);
    }
    Ok(plan)
}

/// 1 in `no_rope_layers` is a layer that turns, whatever the name says.
fn turns(value: &Value) -> Result<bool> {
    match value.as_u64() {
        Some(0) => Ok(false),
        Some(1) => Ok(true),
        _ => bail!("config.json: no_rope_layers has {value}; it must have 0 and 1 only"),
    }
}
