//! Pre-trains the embedded model with backpropagation and writes its files.
//!
//! `cargo run --release -p engine --example pretrain -- [directory] [steps]`: by default `node/engine/src/embedded`,
//! 900 steps. `RAYON_NUM_THREADS=1 CANDLE_NUM_THREADS=1` keeps candle's threads from waiting for each other on a busy
//! machine.
//!
//! The engine's own forward has no backward (it is fused, and training by gradients of the loss alone needs none), so
//! this spells the same model out in operations that have one.

use anyhow::{Context, Result};
use candle_core::{D, DType, Device, Tensor, Var};
use candle_nn::{AdamW, Optimizer, ParamsAdamW};
use engine::{
    data::Dataset,
    embedded::corpus,
    model::{Architecture, Tokenizer, architecture, generate},
    objective::{NextToken, evaluate},
};
use half::f16;
use rand_xoshiro::{
    Xoshiro256PlusPlus,
    rand_core::{Rng, SeedableRng},
};
use safetensors::tensor::{Dtype, TensorView};
use serde_json::{Map, Value, json};
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    time::Instant,
};

const LAYERS: usize = 3;
const HEADS: usize = 4;
const KV_HEADS: usize = 2;
const HEAD_DIM: usize = 32;
const EPSILON: f64 = 1e-5;
const THETA: f64 = 10_000.0;
const SEQUENCE_LENGTH: usize = 193;
const BATCH_SIZE: usize = 6;
const LEARNING_RATE: f64 = 4e-3;
const WARM_UP_STEPS: f64 = 50.0;
const CORPUS_BYTES: usize = 8 << 20;
const SEED: u64 = 2306_10015;

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let directory =
        arguments.next().map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src/embedded"), PathBuf::from);
    let steps: u64 = arguments.next().map_or(Ok(900), |text| text.parse()).context("steps must be a number")?;
    let config_json = serde_json::to_string_pretty(&config())?;
    let config = architecture(config_json.as_bytes())?;
    let tokenizer_json = serde_json::to_string_pretty(&tokenizer())?;
    let tokenizer = Tokenizer::from_bytes(tokenizer_json.as_bytes(), config.interface())?;
    let train = Dataset::from_text(&corpus::stories(SEED, CORPUS_BYTES), &tokenizer, SEQUENCE_LENGTH)?;
    let held_out = Dataset::from_text(&corpus::stories(!SEED, 128 * 1024), &tokenizer, SEQUENCE_LENGTH)?;
    let task = Dataset::from_text(&corpus::held_out(), &tokenizer, 128)?;
    let variables = initial(&*config)?;
    let tensors: BTreeMap<String, Tensor> =
        variables.iter().map(|(name, variable)| (name.clone(), variable.as_tensor().clone())).collect();
    let fused = config.model(&tensors)?;
    let evaluate = |text, windows_max| evaluate(&NextToken, &*fused, text, 16, windows_max);
    let settings = ParamsAdamW { lr: LEARNING_RATE, beta2: 0.98, weight_decay: 0.02, ..ParamsAdamW::default() };
    let mut optimizer = AdamW::new(variables.values().cloned().collect(), settings)?;
    let begin = Instant::now();
    for step in 0..steps {
        let done = step as f64 / steps as f64;
        let warm_up = ((step + 1) as f64 / WARM_UP_STEPS).min(1.0);
        let decay = 0.5 * (1.0 + (done * std::f64::consts::PI).cos());
        optimizer.set_learning_rate(LEARNING_RATE * warm_up * decay);
        let batch = train.batch(SEED, step, BATCH_SIZE)?;
        // The windows are of one length, and predict all their tokens but the first.
        let inputs = batch.tokens.reshape((BATCH_SIZE, SEQUENCE_LENGTH - 1))?;
        let logits = forward(&variables, &inputs)?;
        let targets: Vec<u32> = batch.targets.iter().map(|target| target.token).collect();
        let targets = Tensor::new(targets, &Device::Cpu)?;
        let loss = candle_nn::loss::cross_entropy(&logits, &targets)?;
        optimizer.backward_step(&loss)?;
        if step % 100 == 0 {
            let (own, fused_loss) = (loss.to_scalar::<f32>()?, evaluate(&held_out, Some(32))?);
            println!(
                "{:4.0} s, step {step}: loss {own:.4}, held out {:.4}",
                begin.elapsed().as_secs_f64(),
                fused_loss.loss
            );
        }
    }
    write(&directory, &config_json, &tokenizer_json, &tensors)?;
    println!("stories, held out: {:?}", evaluate(&held_out, None)?);
    println!("task, held out: {:?}", evaluate(&task, None)?);
    generate(&*fused, &tokenizer, &tokenizer.encode("One morning, ")?, &Default::default(), |text| {
        print!("{text}");
        Ok(())
    })?;
    Ok(())
}

fn config() -> Value {
    json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 128, "intermediate_size": 224,
        "num_hidden_layers": LAYERS, "num_attention_heads": HEADS, "num_key_value_heads": KV_HEADS,
        "head_dim": HEAD_DIM, "vocab_size": 257,
        "max_position_embeddings": 192, "rms_norm_eps": EPSILON, "rope_theta": THETA, "rope_scaling": null,
        "hidden_act": "silu", "attention_bias": false, "mlp_bias": false, "tie_word_embeddings": true,
        "bos_token_id": null, "eos_token_id": 256, "torch_dtype": "float16"
    })
}

/// A byte-level BPE without merges: the id of a byte is its value, 256 ends a text.
fn tokenizer() -> Value {
    let vocabulary: Map<String, Value> = (0..=255u8)
        .map(|byte| (byte_symbol(byte).to_string(), json!(byte)))
        .chain([("<|end|>".into(), json!(256))])
        .collect();
    let byte_level = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false});
    json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": [{"id": 256, "content": "<|end|>", "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true}],
        "normalizer": null, "pre_tokenizer": byte_level, "post_processor": null, "decoder": byte_level,
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
            "vocab": vocabulary, "merges": []}
    })
}

/// GPT-2's printable stand-in for a byte (`bytes_to_unicode` in transformers).
fn byte_symbol(byte: u8) -> char {
    let printable = |b: u8| matches!(b, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    if printable(byte) {
        return char::from(byte);
    }
    let before = (0..byte).filter(|b| !printable(*b)).count() as u32;
    char::from_u32(256 + before).unwrap_or('?')
}

fn initial(config: &dyn Architecture) -> Result<BTreeMap<String, Var>> {
    let mut random = Xoshiro256PlusPlus::seed_from_u64(SEED);
    let mut uniform = || ((random.next_u64() >> 11) as f64 + 0.5) / (1u64 << 53) as f64;
    let mut variables = BTreeMap::new();
    for (name, shape) in config.tensors() {
        let elements: usize = shape.iter().product();
        let deviation = match name.as_str() {
            name if name.ends_with("o_proj.weight") || name.ends_with("down_proj.weight") => 0.03,
            _ => 0.06,
        };
        let values: Vec<f32> = match shape.len() {
            1 => vec![1.0; elements],
            _ => (0..elements)
                .map(|_| {
                    (deviation * (-2.0 * uniform().ln()).sqrt() * (std::f64::consts::TAU * uniform()).cos()) as f32
                })
                .collect(),
        };
        variables.insert(name, Var::from_vec(values, shape, &Device::Cpu)?);
    }
    Ok(variables)
}

/// Logits [B · T, vocabulary], with a backward.
fn forward(variables: &BTreeMap<String, Var>, tokens: &Tensor) -> Result<Tensor> {
    let (batch, length) = tokens.dims2()?;
    let weight = |name: &str| variables.get(name).map(Var::as_tensor).with_context(|| name.to_owned());
    let linear = |x: &Tensor, name: &str| -> Result<Tensor> { Ok(x.matmul(&weight(name)?.t()?)?) };
    let norm = |x: &Tensor, name: &str| -> Result<Tensor> {
        Ok(candle_nn::ops::rms_norm_slow(x, weight(name)?, EPSILON as f32)?)
    };
    let half = HEAD_DIM / 2;
    let angles: Vec<f32> =
        (0..length * half).map(|i| (i / half) as f32 / THETA.powf((i % half) as f64 / half as f64) as f32).collect();
    let angles = Tensor::from_vec(angles, (length, half), &Device::Cpu)?;
    let (cos, sin) = (angles.cos()?, angles.sin()?);
    let mask: Vec<f32> = (0..length * length).map(|i| if i % length > i / length { -1e9 } else { 0.0 }).collect();
    let mask = Tensor::from_vec(mask, (length, length), &Device::Cpu)?;
    let embedding = weight("model.embed_tokens.weight")?;
    let mut x = embedding.index_select(&tokens.flatten_all()?, 0)?;
    for layer in 0..LAYERS {
        let name = |part: &str| format!("model.layers.{layer}.{part}.weight");
        let normed = norm(&x, &name("input_layernorm"))?;
        let heads = |part: &str, heads: usize| -> Result<Tensor> {
            let y = linear(&normed, &name(part))?.reshape((batch, length, heads, HEAD_DIM))?;
            Ok(y.transpose(1, 2)?.contiguous()?)
        };
        let group = HEADS / KV_HEADS;
        let repeat = |y: Tensor| -> Result<Tensor> {
            let y = y.unsqueeze(2)?.expand((batch, KV_HEADS, group, length, HEAD_DIM))?;
            Ok(y.reshape((batch, HEADS, length, HEAD_DIM))?)
        };
        let q = candle_nn::rotary_emb::rope_slow(&heads("self_attn.q_proj", HEADS)?, &cos, &sin)?;
        let k = candle_nn::rotary_emb::rope_slow(&heads("self_attn.k_proj", KV_HEADS)?, &cos, &sin)?;
        let (k, v) = (repeat(k)?, repeat(heads("self_attn.v_proj", KV_HEADS)?)?);
        let scores = (q.matmul(&k.t()?)? / (HEAD_DIM as f64).sqrt())?.broadcast_add(&mask)?;
        let mixed = candle_nn::ops::softmax(&scores, D::Minus1)?.matmul(&v)?.transpose(1, 2)?.contiguous()?;
        let mixed = mixed.reshape((batch * length, HEADS * HEAD_DIM))?;
        x = (x + linear(&mixed, &name("self_attn.o_proj"))?)?;
        let normed = norm(&x, &name("post_attention_layernorm"))?;
        let gated = (linear(&normed, &name("mlp.gate_proj"))?.silu()? * linear(&normed, &name("mlp.up_proj"))?)?;
        x = (x + linear(&gated, &name("mlp.down_proj"))?)?;
    }
    linear(&norm(&x, "model.norm.weight")?, "model.embed_tokens.weight")
}

fn write(directory: &Path, config: &str, tokenizer: &str, tensors: &BTreeMap<String, Tensor>) -> Result<()> {
    fs::write(directory.join("config.json"), config)?;
    fs::write(directory.join("tokenizer.json"), tokenizer)?;
    let mut halves: Vec<(&str, Vec<usize>, Vec<u8>)> = Vec::new();
    for (name, tensor) in tensors {
        let values = tensor.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
        halves.push((
            name,
            tensor.dims().to_vec(),
            values.iter().flat_map(|v| f16::from_f32(*v).to_le_bytes()).collect(),
        ));
    }
    let views =
        halves.iter().map(|(name, shape, bytes)| Ok((*name, TensorView::new(Dtype::F16, shape.clone(), bytes)?)));
    let views: Vec<_> = views.collect::<Result<_, safetensors::SafeTensorError>>()?;
    let metadata = Some([("format".to_owned(), "pt".to_owned())].into());
    Ok(safetensors::serialize_to_file(views, metadata, &directory.join("model.safetensors"))?)
}
