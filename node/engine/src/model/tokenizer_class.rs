//! Which of its classes transformers 5.24 takes for a tokenizer, as far as that decides what is put around a text.

use serde_json::Value;

/// What stands around a text. What `tokenizer_config.json` says of it (`add_bos_token`, `add_eos_token`) counts for no
/// class once there is a `tokenizer.json`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Around {
    /// What the post-processor of `tokenizer.json` says.
    PostProcessor,
    /// Nothing: the class makes a post-processor of its own.
    Nothing,
    /// BOS before it, likewise.
    Beginning,
}

/// Of models of these types the class that files name is not taken, or believes the post-processor.
const OWN_CLASS: [&str; 6] = ["mistral", "ministral", "qwen2", "phi3", "olmo2", "granite"];

impl Around {
    /// As `AutoTokenizer` chooses the class by `config.json` and `tokenizer_config.json`; null if it is not there.
    pub fn of(config: &Value, tokenizer_config: &Value) -> Self {
        let said = |file: &Value, field: &str| file.get(field).and_then(Value::as_str).map(str::to_owned);
        let model_type = said(config, "model_type").unwrap_or_default();
        let class = said(tokenizer_config, "tokenizer_class").or(said(config, "tokenizer_class"));
        let class = match (class, &*model_type) {
            (_, model_type) if OWN_CLASS.contains(&model_type) => return Self::PostProcessor,
            (None, "gpt_neox") => "GPTNeoXTokenizer".to_owned(),
            (class, _) => class.unwrap_or_default(),
        };
        match class.strip_suffix("Fast").unwrap_or(&class) {
            "GPTNeoXTokenizer" => Self::Nothing,
            "CodeLlamaTokenizer" => Self::Beginning,
            _ => Self::PostProcessor,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_class_follows_from_the_type_and_the_files() {
        let of = |model_type: &str, class: Value| {
            let (config, named) = (json!({ "model_type": model_type }), json!({ "tokenizer_class": class }));
            let beside = json!({"model_type": model_type, "tokenizer_class": class});
            assert_eq!(Around::of(&config, &named), Around::of(&beside, &Value::Null), "{model_type}, {class}");
            Around::of(&config, &named)
        };
        assert_eq!(of("gpt_neox", Value::Null), Around::Nothing);
        assert_eq!(of("gpt_neox", json!("PreTrainedTokenizerFast")), Around::PostProcessor);
        for class in ["GPTNeoXTokenizer", "GPTNeoXTokenizerFast"] {
            for model_type in ["gpt_neox", "llama", "gpt2", "opt", "qwen3", "gemma2", "gemma3_text", "smollm3"] {
                assert_eq!(of(model_type, json!(class)), Around::Nothing, "{model_type}");
            }
            for model_type in OWN_CLASS {
                assert_eq!(of(model_type, json!(class)), Around::PostProcessor, "{model_type}");
            }
        }
        assert_eq!(of("llama", json!("CodeLlamaTokenizerFast")), Around::Beginning);
        for class in ["LlamaTokenizer", "GPT2TokenizerFast", "unknown"] {
            assert_eq!(of("llama", json!(class)), Around::PostProcessor, "{class}");
        }
        assert_eq!(Around::of(&Value::Null, &json!({"add_bos_token": false})), Around::PostProcessor);
    }
}
