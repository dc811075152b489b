//! Phi 3: a Llama whose queries, keys and values are one linear layer, and gate and up another (arXiv 2404.14219).

use anyhow::Result;

use super::{
    super::{
        architecture::POSITIONS_MAX,
        fields::Fields,
        plan::{Family, Inputs, MlpInputs, Plan},
    },
    llama::{self, Usual},
};

pub const FAMILY: Family = Family { name: "Phi-3", model_type: "phi3", class: "Phi3ForCausalLM", read };

fn read(config: &Fields<'_>) -> Result<Plan> {
    let usual = Usual { class: FAMILY.class, epsilon: 1e-5, window_max: 4096, ..Usual::default() };
    let mut plan = llama::plan(config, &usual)?;
    plan.attention.inputs = Inputs::Joined("self_attn.qkv_proj");
    plan.mlp.inputs = MlpInputs::GatedJoined("mlp.gate_up_proj");
    let window = config.some_size("sliding_window", POSITIONS_MAX)?;
    plan.kinds.iter_mut().for_each(|kind| kind.window = window);
    Ok(plan)
}
