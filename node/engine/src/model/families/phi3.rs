//! Phi 3: a Llama whose queries, keys and values are one linear layer, and gate and up another (arXiv 2404.14219).

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use super::{
    super::{
        architecture::POSITIONS_MAX,
        fields::Fields,
        plan::{Family, Inputs, MlpInputs, Plan},
        rotary::Scaling,
    },
    llama::{self, Usual},
};

pub const FAMILY: Family = Family {
    name: "Phi-3",
    model_type: "phi3",
    class: "Phi3ForCausalLM",
    sizes: llama::sizes([32_064, 3072, 8192, 32, 32]),
    tokens: [Some(1), Some(32_000)],
    read,
};

fn read(config: &Fields<'_>) -> Result<Plan> {
    let usual = Usual { class: FAMILY.class, epsilon: 1e-5, window_max: 4096, ..Usual::default() };
    let mut plan = llama::plan(&Fields(&with_long_rope(config)), &usual)?;
    // transformers refuses any other, and so an export.
    ensure!(
        matches!(plan.rotaries[0].scaling, Scaling::None | Scaling::LongRope(_)),
        "config.json: the rotary scaling of this family is longrope, or none; take config.json as the model was published"
    );
    plan.attention.inputs = Inputs::Joined("self_attn.qkv_proj");
    plan.mlp.inputs = MlpInputs::GatedJoined("mlp.gate_up_proj");
    let window = config.some_size("sliding_window", POSITIONS_MAX)?;
    plan.kinds.iter_mut().for_each(|kind| kind.window = window);
    Ok(plan)
}

/// The config as its class in transformers reads it: the window that a model was first trained for stands beside the
/// rotary's parameters, and nowhere else; what older configs call `yarn` or `su` is LongRoPE.
fn with_long_rope(config: &Fields<'_>) -> Value {
    let mut own = config.0.clone();
    if config.get("original_max_position_embeddings").is_none() {
        own["original_max_position_embeddings"] = json!(4096);
    }
    for name in ["rope_scaling", "rope_parameters"] {
        let kind = ["rope_type", "type"].iter().find_map(|field| own.get(name)?.get(field)?.as_str());
        if matches!(kind, Some("yarn" | "su")) {
            own[name]["rope_type"] = json!("longrope");
        }
    }
    own
}
