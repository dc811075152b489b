//! Gemma 3, text: five layers with a window and a theta of their own to each full one, norms of each head's queries and
//! keys in place of Gemma 2's caps (arXiv 2503.19786).

use anyhow::Result;
use serde_json::{Value, json};

use super::{
    super::{
        fields::Fields,
        plan::{Family, NormedBy, Plan},
        rotary::{RotaryConfig, theta_of},
    },
    gemma2,
    llama::{Usual, sizes},
};

pub const FAMILY: Family = Family {
    name: "Gemma 3",
    model_type: "gemma3_text",
    class: "Gemma3ForCausalLM",
    sizes: sizes([262_208, 2304, 9216, 26, 8]),
    tokens: [Some(2), Some(1)],
    read,
};

/// Theta of full layers, and of those with a window.
const THETAS: (f64, f64) = (1_000_000.0, 10_000.0);

fn read(config: &Fields<'_>) -> Result<Plan> {
    // Each kind of layer has a rotary of its own: what Llama reads would be neither.
    let mut plain = config.0.clone();
    plain["rope_scaling"] = Value::Null;
    plain["rope_parameters"] = Value::Null;
    // transformers takes it for layers of one kind only.
    plain["original_max_position_embeddings"] = Value::Null;
    let usual = Usual { class: FAMILY.class, window_max: 131_072, ..gemma2::usual() };
    let mut plan = gemma2::plan(&Fields(&plain), &usual)?;
    plan.head.cap = config.some_positive("final_logit_softcapping")?;
    plan.attention.norms = Some(("self_attn.q_norm", "self_attn.k_norm", NormedBy::Head));
    let pattern = config.size_or("sliding_window_pattern", 6, usize::MAX)?;
    gemma2::slide(config, &mut plan, |layer| !(layer + 1).is_multiple_of(pattern))?;
    plan.rotaries = rotaries(config, &Fields(&plain), plan.interface.window_max)?;
    plan.interface.window_max = plan.rotaries[0].window_max(plan.interface.window_max);
    for kind in &mut plan.kinds {
        kind.rotary = Some(usize::from(kind.window.is_some()));
    }
    Ok(plan)
}

/// Of full layers, and of those with a window; `plain` is what stands beside their parameters. Older configs have
/// `rope_scaling`, which is of full layers, and a theta each.
fn rotaries(config: &Fields<'_>, plain: &Fields<'_>, window_max: usize) -> Result<Vec<RotaryConfig>> {
    let nothing = json!({});
    let parameters = Fields(config.get("rope_parameters").unwrap_or(&nothing));
    let mut full = parameters.get("full_attention").unwrap_or(&nothing).clone();
    for (name, value) in config.get("rope_scaling").and_then(Value::as_object).into_iter().flatten() {
        full[name] = value.clone();
    }
    let sliding = parameters.get("sliding_attention").unwrap_or(&nothing);
    let theta = theta_of(config, "rope_theta", THETAS.0)?;
    let local = theta_of(config, "rope_local_base_freq", THETAS.1)?;
    Ok(vec![
        RotaryConfig::of_fields(&full, theta, plain, window_max)?,
        RotaryConfig::of_fields(sliding, local, plain, window_max)?,
    ])
}
