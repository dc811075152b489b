//! A `config.json`, as transformers has it, of what the metadata say of a model's shape.

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Map, Value, json};
use std::{collections::BTreeMap, f64::consts::TAU};

use super::{header::Stored, metadata::Metadata};

/// Reads the values of a small tensor by its name.
type Values<'a> = dyn Fn(&str) -> Result<Option<Vec<f32>>> + 'a;
type Tensors = BTreeMap<String, Stored>;

/// (llama.cpp's `general.architecture`, `model_type`, class).
const ARCHITECTURES: [(&str, &str, &str); 11] = [
    ("llama", "llama", "LlamaForCausalLM"),
    ("qwen2", "qwen2", "Qwen2ForCausalLM"),
    ("qwen3", "qwen3", "Qwen3ForCausalLM"),
    ("gemma2", "gemma2", "Gemma2ForCausalLM"),
    ("gemma3", "gemma3_text", "Gemma3ForCausalLM"),
    ("phi3", "phi3", "Phi3ForCausalLM"),
    ("gpt2", "gpt2", "GPT2LMHeadModel"),
    ("smollm3", "smollm3", "SmolLM3ForCausalLM"),
    ("olmo2", "olmo2", "Olmo2ForCausalLM"),
    ("granite", "granite", "GraniteForCausalLM"),
    ("gptneox", "gpt_neox", "GPTNeoXForCausalLM"),
];

/// The bytes of `config.json`. `tensors`: their names and shapes; `values` reads one of them.
pub fn config(metadata: &Metadata<'_>, tensors: &Tensors, values: &Values<'_>) -> Result<Vec<u8>> {
    let architecture = metadata.text("general.architecture")?.context("it has no general.architecture")?;
    let (_, model_type, class) = known(architecture)?;
    let source = Source { metadata, architecture, tensors };
    let mut config = Map::new();
    config.insert("model_type".into(), json!(model_type));
    config.insert("architectures".into(), json!([class]));
    config.insert("dtype".into(), json!("float32"));
    source.tokens(&mut config)?;
    match *model_type {
        "gpt2" => source.gpt2(&mut config)?,
        _ => source.usual(&mut config)?,
    }
    match *model_type {
        "gpt_neox" => source.gpt_neox(&mut config)?,
        "gemma2" | "gemma3_text" => source.gemma(model_type, &mut config)?,
        "granite" => source.granite(&mut config)?,
        _ => {}
    }
    if *model_type != "gpt2" {
        source.rotary(model_type, &mut config, values)?;
    }
    Ok(serde_json::to_vec_pretty(&Value::Object(config))?)
}

fn known(architecture: &str) -> Result<&'static (&'static str, &'static str, &'static str)> {
    let found = ARCHITECTURES.iter().find(|(name, ..)| *name == architecture);
    let known = || ARCHITECTURES.map(|(name, ..)| name).join(", ");
    found.with_context(|| format!("its architecture is {architecture:?}; of GGUF files this node runs {}", known()))
}

/// Errors if this node runs no GGUF file of this `general.architecture`.
pub fn check_architecture(architecture: &str) -> Result<()> {
    known(architecture).map(|_| ())
}

struct Source<'a> {
    metadata: &'a Metadata<'a>,
    architecture: &'a str,
    tensors: &'a Tensors,
}

impl Source<'_> {
    fn key(&self, name: &str) -> String {
        format!("{}.{name}", self.architecture)
    }

    fn some_size(&self, name: &str) -> Result<Option<u64>> {
        self.metadata.size(&self.key(name))
    }

    fn size(&self, name: &str) -> Result<u64> {
        self.some_size(name)?.with_context(|| format!("it has no {}", self.key(name)))
    }

    fn number(&self, name: &str) -> Result<Option<f64>> {
        self.metadata.number(&self.key(name))
    }

    fn has(&self, tensor: &str) -> bool {
        self.tensors.contains_key(tensor)
    }

    /// Vocabulary, special tokens, whether the head is the embedding.
    fn tokens(&self, config: &mut Map<String, Value>) -> Result<()> {
        let embedding = self.tensors.get("token_embd.weight").context("it has no tensor token_embd.weight")?;
        config.insert("vocab_size".into(), json!(embedding.shape.first()));
        config.insert("tie_word_embeddings".into(), json!(!self.has("output.weight")));
        for (ours, theirs) in [("bos", "bos"), ("eos", "eos"), ("pad", "padding")] {
            let id = self.metadata.size(&format!("tokenizer.ggml.{theirs}_token_id"))?;
            config.insert(format!("{ours}_token_id"), json!(id));
        }
        Ok(())
    }

    /// What all families but GPT-2 call alike.
    fn usual(&self, config: &mut Map<String, Value>) -> Result<()> {
        ensure!(
            self.some_size("expert_count")?.unwrap_or(0) == 0,
            "it is a mixture of experts, which is not supported"
        );
        let heads = self.size("attention.head_count")?;
        let hidden = self.size("embedding_length")?;
        let sizes = [
            ("hidden_size", hidden),
            ("intermediate_size", self.size("feed_forward_length")?),
            ("num_hidden_layers", self.size("block_count")?),
            ("num_attention_heads", heads),
            ("max_position_embeddings", self.size("context_length")?),
        ];
        config.extend(sizes.map(|(name, size)| (name.to_owned(), json!(size))));
        if self.architecture == "gptneox" {
            return Ok(());
        }
        let kv_heads = self.some_size("attention.head_count_kv")?.unwrap_or(heads);
        config.insert("num_key_value_heads".into(), json!(kv_heads));
        config.insert("rms_norm_eps".into(), json!(self.number("attention.layer_norm_rms_epsilon")?));
        let head_dim = match self.some_size("attention.key_length")? {
            Some(size) => Some(size),
            None => hidden.checked_div(heads),
        };
        config.insert("head_dim".into(), json!(head_dim));
        config.insert("attention_bias".into(), json!(self.has("blk.0.attn_q.bias")));
        config.insert("mlp_bias".into(), json!(self.has("blk.0.ffn_up.bias")));
        let window = self.some_size("attention.sliding_window")?.filter(|window| *window > 0);
        config.insert("sliding_window".into(), json!(window));
        if window.is_some() && self.architecture == "llama" {
            config.insert("model_type".into(), json!("mistral"));
            config.insert("architectures".into(), json!(["MistralForCausalLM"]));
        }
        if window.is_some() && self.architecture == "olmo2" {
            bail!("it is an OLMo 3, which is not supported");
        }
        Ok(())
    }

    fn gpt2(&self, config: &mut Map<String, Value>) -> Result<()> {
        let sizes = [
            ("n_embd", self.size("embedding_length")?),
            ("n_inner", self.size("feed_forward_length")?),
            ("n_layer", self.size("block_count")?),
            ("n_head", self.size("attention.head_count")?),
            ("n_positions", self.size("context_length")?),
        ];
        config.extend(sizes.map(|(name, size)| (name.to_owned(), json!(size))));
        config.insert("layer_norm_epsilon".into(), json!(self.number("attention.layer_norm_epsilon")?));
        Ok(())
    }

    fn gpt_neox(&self, config: &mut Map<String, Value>) -> Result<()> {
        config.insert("layer_norm_eps".into(), json!(self.number("attention.layer_norm_epsilon")?));
        let is_parallel = self.metadata.flag(&self.key("use_parallel_residual"))?.unwrap_or(true);
        config.insert("use_parallel_residual".into(), json!(is_parallel));
        config.insert("attention_bias".into(), json!(self.has("blk.0.attn_qkv.bias")));
        let head_dim = self.size("embedding_length")?.checked_div(self.size("attention.head_count")?);
        let head_dim = head_dim.filter(|size| *size > 0).context("it has heads of no elements")?;
        let turning = self.some_size("rope.dimension_count")?.unwrap_or(head_dim);
        config.insert("rotary_pct".into(), json!(turning as f64 / head_dim as f64));
        config.insert("rotary_emb_base".into(), json!(self.number("rope.freq_base")?.unwrap_or(10_000.0)));
        Ok(())
    }

    /// Gemma's scale of queries follows from its size: llama.cpp has the same rule.
    fn gemma(&self, model_type: &str, config: &mut Map<String, Value>) -> Result<()> {
        let largest = if model_type == "gemma2" { 46 } else { 62 };
        let by_heads = self.size("embedding_length")?.checked_div(self.size("attention.head_count")?);
        let scalar = match self.size("block_count")? == largest {
            true => json!(by_heads),
            false => config["head_dim"].clone(),
        };
        config.insert("query_pre_attn_scalar".into(), scalar);
        config.insert("hidden_activation".into(), json!("gelu_pytorch_tanh"));
        // Gemma 2 has them whether or not a file says so (llama.cpp); Gemma 3 has none.
        for (key, usual) in [("final_logit_softcapping", 30.0), ("attn_logit_softcapping", 50.0)] {
            let usual = (model_type == "gemma2").then_some(usual);
            config.insert(key.into(), json!(self.number(key)?.or(usual)));
        }
        let pattern = self.some_size("attention.sliding_window_pattern")?.unwrap_or(6);
        if model_type == "gemma3_text" {
            match config["sliding_window"].is_null() {
                true => drop(config.insert("sliding_window_pattern".into(), json!(1))),
                false => drop(config.insert("sliding_window_pattern".into(), json!(pattern))),
            }
        }
        Ok(())
    }

    fn granite(&self, config: &mut Map<String, Value>) -> Result<()> {
        let multipliers = [
            ("embedding_multiplier", "embedding_scale"),
            ("residual_multiplier", "residual_scale"),
            ("attention_multiplier", "attention.scale"),
            ("logits_scaling", "logit_scale"),
        ];
        for (ours, theirs) in multipliers {
            config.insert(ours.to_owned(), json!(self.number(theirs)?));
        }
        Ok(())
    }

    /// Theta, how much of a head turns, how frequencies are stretched.
    fn rotary(&self, model_type: &str, config: &mut Map<String, Value>, values: &Values<'_>) -> Result<()> {
        let theta = self.number("rope.freq_base")?.unwrap_or(10_000.0);
        config.insert("rope_theta".into(), json!(theta));
        if let Some(local) = self.number("rope.freq_base_swa")?.filter(|_| model_type == "gemma3_text") {
            config.insert("rope_local_base_freq".into(), json!(local));
        }
        if model_type == "gpt_neox" {
            return Ok(());
        }
        let head_dim = config["head_dim"].as_u64().filter(|size| *size > 0).context("it has heads of no elements")?;
        let turning = self.some_size("rope.dimension_count")?.unwrap_or(head_dim);
        if turning != head_dim {
            ensure!(
                model_type == "phi3",
                "its rope.dimension_count is {turning}, of heads of {head_dim}: a {model_type} whose heads turn in part is not \
                 supported"
            );
            config.insert("partial_rotary_factor".into(), json!(turning as f64 / head_dim as f64));
        }
        if let Some(factors) = values("rope_freqs.weight")? {
            config.insert("rope_scaling".into(), llama3(&factors, theta, turning)?);
            return Ok(());
        }
        if let (Some(long), Some(short)) = (values("rope_factors_long.weight")?, values("rope_factors_short.weight")?) {
            let window = self.size("rope.scaling.original_context_length")?;
            config.insert("original_max_position_embeddings".into(), json!(window));
            let decimals = |list: Vec<f32>| list.iter().map(|x| json!(x.to_string().parse::<f64>().ok())).collect();
            let (long, short): (Vec<Value>, Vec<Value>) = (decimals(long), decimals(short));
            let mut scaling = json!({"rope_type": "longrope", "long_factor": long, "short_factor": short});
            if let Some(attention) = self.number("rope.scaling.attn_factor")? {
                scaling["attention_factor"] = json!(attention);
            }
            config.insert("rope_scaling".into(), scaling);
            return Ok(());
        }
        self.stretched(config)
    }

    fn stretched(&self, config: &mut Map<String, Value>) -> Result<()> {
        // Some old files have rope.scale_linear.
        let kind = self.metadata.text(&self.key("rope.scaling.type"))?.unwrap_or("none");
        ensure!(
            kind != "longrope" && !self.has("rope_factors_long.weight") && !self.has("rope_factors_short.weight"),
            "its positions are stretched by longrope, and the tensors of the factors, rope_factors_long.weight and \
             rope_factors_short.weight, are not both there: take another file of the model, or convert it anew"
        );
        let factor = self.number("rope.scaling.factor")?.or(self.number("rope.scale_linear")?);
        let factor = factor.filter(|factor| *factor != 1.0 && *factor != 0.0);
        let Some(factor) = factor else { return Ok(()) };
        let mut scaling = json!({"rope_type": "linear", "factor": factor});
        match kind {
            "none" | "linear" => {}
            "yarn" => {
                scaling["rope_type"] = json!("yarn");
                if let Some(window) = self.some_size("rope.scaling.original_context_length")? {
                    scaling["original_max_position_embeddings"] = json!(window);
                }
                let parts = [
                    ("beta_fast", "yarn_beta_fast"),
                    ("beta_slow", "yarn_beta_slow"),
                    ("attention_factor", "yarn_attn_factor"),
                ];
                for (ours, theirs) in parts {
                    if let Some(number) = self.number(&format!("rope.scaling.{theirs}"))? {
                        scaling[ours] = json!(number);
                    }
                }
            }
            other => bail!("{} is {other:?}; supported are linear, yarn and longrope", self.key("rope.scaling.type")),
        }
        config.insert("rope_scaling".into(), scaling);
        Ok(())
    }
}

/// What llama3's stretching was made of, from the factors by which it divides frequencies, which are all that the file
/// has: with the bounds of every Llama 3, the window that makes the same factors.
fn llama3(factors: &[f32], theta: f64, turning: u64) -> Result<Value> {
    let factor = factors.iter().copied().fold(1.0f32, f32::max);
    for window in (4..20).map(|power| f64::from(1u32 << power)) {
        let (low, high) = (1.0, 4.0);
        let same = factors.iter().enumerate().all(|(pair, stored)| {
            let turns = window * theta.powf(-2.0 * pair as f64 / turning as f64) / TAU;
            let share: f64 = ((turns - low) / (high - low)).clamp(0.0, 1.0);
            let expected = 1.0 / ((1.0 - share) / f64::from(factor) + share);
            (expected - f64::from(*stored)).abs() <= 1e-3 * expected
        });
        if same && factors.len() as u64 == turning / 2 {
            return Ok(
                json!({"rope_type": "llama3", "factor": factor, "low_freq_factor": low, "high_freq_factor": high,
                "original_max_position_embeddings": window as u64}),
            );
        }
    }
    bail!("its rope_freqs.weight are not those of a Llama 3, and are not supported")
}
