//! From `config.json`, which may come from a peer, to the family of models that it describes.

mod gemma2;
mod gemma3;
mod gpt2;
mod gpt_neox;
mod granite;
mod llama;
mod mistral;
mod olmo2;
mod opt;
mod phi3;
mod qwen2;
mod qwen3;
mod smollm3;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::{
    architecture::Architecture,
    fields::Fields,
    json,
    plan::{Family, Plan},
    rotary::RotaryConfig,
};

/// Every family that can be read. A new one is a file of its own and a line here.
const FAMILIES: [&Family; 14] = [
    &llama::FAMILY,
    &mistral::FAMILY,
    &mistral::MINISTRAL,
    &qwen2::FAMILY,
    &qwen3::FAMILY,
    &gemma2::FAMILY,
    &gemma3::FAMILY,
    &phi3::FAMILY,
    &smollm3::FAMILY,
    &olmo2::FAMILY,
    &granite::FAMILY,
    &gpt2::FAMILY,
    &gpt_neox::FAMILY,
    &opt::FAMILY,
];

/// Those of which a part of a head may turn.
const TURN_IN_PART: [&str; 2] = [phi3::FAMILY.model_type, gpt_neox::FAMILY.model_type];

/// The model that `config.json` describes.
///
/// The family is looked up before any other field is read, so that an unknown one is called by its name, not by a field
/// it lacks.
pub fn architecture(config: &[u8]) -> Result<Box<dyn Architecture>> {
    Ok(Box::new(plan(config)?))
}

/// What it is made of.
pub fn plan(config: &[u8]) -> Result<Plan> {
    let mut value = json::parse(config).context("config.json is not valid JSON; download it again")?;
    let model_type = value.get("model_type").and_then(Value::as_str);
    let class = value.pointer("/architectures/0").and_then(Value::as_str);
    let is_named = |family: &&&Family| match model_type {
        Some(model_type) => model_type == family.model_type,
        None => class == Some(family.class),
    };
    let Some(family) = FAMILIES.iter().find(is_named) else {
        if let Some(how) = text_part(&value) {
            let what = model_type.or(class).unwrap_or("the model");
            bail!("config.json: {what} takes more than text, and this node runs no such model; {how}");
        }
        let known = FAMILIES.map(|family| format!("{} ({})", family.name, family.model_type));
        bail!(
            "config.json: unknown architecture (model_type {}, architectures {}); this node runs, by name and model_type, {}",
            model_type.unwrap_or("absent"),
            class.unwrap_or("absent"),
            known.join(", ")
        );
    };
    if let Some(fields) = value.as_object_mut() {
        for (name, size) in family.sizes {
            fields.entry(name).or_insert(size.into());
        }
        // Configs of small models leave out the ids as well.
        let vocabulary = fields.get("vocab_size").and_then(Value::as_u64).unwrap_or_default();
        for (name, id) in ["bos_token_id", "eos_token_id"].into_iter().zip(family.tokens) {
            let id = id.filter(|id| u64::from(*id) < vocabulary);
            fields.entry(name).or_insert(id.into());
        }
    }
    let turn = |mut plan: Plan| {
        if !TURN_IN_PART.contains(&family.model_type) {
            plan.rotaries.iter_mut().try_for_each(RotaryConfig::turn_whole)?;
        }
        plan.checked()
    };
    let plan = not_of_any(&Fields(&value)).and_then(|()| (family.read)(&Fields(&value))).and_then(turn);
    plan.with_context(|| format!("config.json does not describe a model of {}", family.name))
}

/// Errors if the config says what transformers follows in every family, and nothing here.
fn not_of_any(config: &Fields<'_>) -> Result<()> {
    config.refuse_ahead("is_causal", false)?;
    ensure!(
        config.get("per_layer_config").is_none(),
        "config.json: per_layer_config gives layers shapes of their own, which is not supported"
    );
    Ok(())
}

/// Of a model of several parts, one of which is a language model of a family that is known: how to have that alone.
fn text_part(config: &Value) -> Option<String> {
    let model_type = config.pointer("/text_config/model_type")?.as_str()?;
    let Family { name, class, .. } = FAMILIES.iter().find(|family| family.model_type == model_type)?;
    Some(format!(
        "its language model is a {name}, which it does. Save that alone, in Python, with the model's path for PATH: \
         whole = transformers.AutoModelForImageTextToText.from_pretrained(PATH); \
         text = transformers.{class}(whole.config.text_config); \
         text.model, text.lm_head = whole.model.language_model, whole.lm_head; text.save_pretrained(\"text\"); \
         transformers.AutoTokenizer.from_pretrained(PATH).save_pretrained(\"text\"). Then --model text"
    ))
}

#[cfg(test)]
mod tests;
