//! From `config.json`, which may come from a peer, to the family of models that it describes.

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::{
    architecture::{Architecture, Family},
    llama,
};

/// Every family that can be read. A new one is a file of its own and a line here.
const FAMILIES: [&Family; 1] = [&llama::FAMILY];

/// The model that `config.json` describes.
///
/// The family is looked up before any other field is read, so that an unknown one is called by its name, not by a field
/// it lacks.
pub fn architecture(config: &[u8]) -> Result<Box<dyn Architecture>> {
    let value: Value = serde_json::from_slice(config).context("config.json is not valid JSON")?;
    let model_type = value.get("model_type").and_then(Value::as_str);
    let class = value.pointer("/architectures/0").and_then(Value::as_str);
    let is_named = |family: &&&Family| match model_type {
        Some(model_type) => model_type == family.model_type,
        None => class == Some(family.class),
    };
    let Some(family) = FAMILIES.iter().find(is_named) else {
        let known = FAMILIES.map(|family| format!("{} models (model_type {:?})", family.name, family.model_type));
        bail!(
            "config.json: unknown architecture (model_type {}, architectures {}); this node runs {}",
            model_type.unwrap_or("absent"),
            class.unwrap_or("absent"),
            known.join(", ")
        );
    };
    (family.read)(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn refusal(config: Value) -> String {
        architecture(config.to_string().as_bytes()).err().expect("must be refused").to_string()
    }

    #[test]
    fn an_unknown_family_is_refused_by_name_with_those_that_are_known() {
        let refused = refusal(json!({"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"]}));
        let expected = "config.json: unknown architecture (model_type gpt2, architectures GPT2LMHeadModel); this node runs Llama \
                        models (model_type \"llama\")";
        assert_eq!(refused, expected);
        assert!(refusal(json!({})).contains("model_type absent, architectures absent"));
        assert!(refusal(json!([])).contains("model_type absent"));
    }

    #[test]
    fn the_class_names_the_family_where_the_type_is_absent() {
        assert!(refusal(json!({"architectures": ["LlamaForCausalLM"]})).contains("does not describe a Llama"));
        let both = json!({"model_type": "gpt2", "architectures": ["LlamaForCausalLM"]});
        assert!(refusal(both).contains("unknown architecture"));
    }

    #[test]
    fn what_is_not_json_is_refused() {
        for broken in [&b"{"[..], &[b'['; 100_000]] {
            assert!(architecture(broken).err().unwrap().to_string().starts_with("config.json is not valid JSON"));
        }
    }
}
