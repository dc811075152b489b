use super::*;
use serde_json::json;

fn sound() -> Value {
    json!({
        "model_type": "llama", "hidden_size": 64, "intermediate_size": 172, "num_hidden_layers": 5,
        "num_attention_heads": 8, "num_key_value_heads": 4, "vocab_size": 512, "max_position_embeddings": 512,
        "rms_norm_eps": 1e-5, "tie_word_embeddings": true, "eos_token_id": [2, 3]
    })
}

fn parse(value: &Value) -> Result<LlamaConfig> {
    LlamaConfig::from_json(value.clone())
}

#[test]
fn a_sound_config_parses_with_its_defaults() {
    let config = parse(&sound()).unwrap();
    assert_eq!((config.head_dim, config.kv_heads, config.rotary.theta), (8, 4, 10_000.0));
    assert_eq!(config.interface.eos, [2, 3]);
    let weights: u64 = config.tensors().iter().map(|(_, shape)| shape.iter().product::<usize>() as u64).sum();
    assert_eq!(weights, 260_032);
}

#[test]
fn llama3_scaling_parses_in_both_spellings() {
    let scaling = json!({"rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0,
        "high_freq_factor": 4.0, "original_max_position_embeddings": 8192});
    for field in ["rope_scaling", "rope_parameters"] {
        let mut value = sound();
        value[field] = scaling.clone();
        let config = parse(&value).unwrap();
        assert_eq!((config.rotary.scaling.unwrap().factor, config.rotary.theta), (8.0, 5e5));
    }
}

#[test]
fn each_implausible_field_is_refused_by_name() {
    let cases = [
        ("hidden_size", json!(0)),
        ("hidden_size", json!(1u64 << 60)),
        ("intermediate_size", json!(u64::MAX)),
        ("num_hidden_layers", json!(1_000_000_000)),
        ("num_attention_heads", json!(0)),
        ("num_key_value_heads", json!(0)),
        ("num_key_value_heads", json!(3)),
        ("num_key_value_heads", json!(16)),
        ("head_dim", json!(7)),
        ("head_dim", json!(0)),
        ("vocab_size", json!(0)),
        ("vocab_size", json!(-1)),
        ("max_position_embeddings", json!(0)),
        ("rms_norm_eps", json!(0.0)),
        ("rms_norm_eps", json!("small")),
        ("rope_theta", json!(-1.0)),
        ("hidden_act", json!("gelu")),
        ("rope_scaling", json!({"type": "yarn", "factor": 2.0})),
        ("rope_scaling", json!({"rope_type": "llama3", "factor": 0.0})),
    ];
    for (field, value) in cases {
        let mut config = sound();
        config[field] = value.clone();
        let error = format!("{:#}", parse(&config).expect_err(&format!("{field} = {value}")));
        assert!(error.starts_with("config.json"), "{error}");
    }
}
