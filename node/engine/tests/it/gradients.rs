//! The backward pass against differences of the product's own forward.

use candle_core::{Device, Tensor};
use engine::{
    data::Dataset,
    embedded,
    model::{Architecture, Batch, Layout, Model, Row, Target, architecture, load},
    objective::{NextToken, Objective},
};
use serde_json::json;
use std::collections::BTreeMap;

fn config(tied: bool, bias: bool) -> Box<dyn Architecture> {
    let config = json!({
        "model_type": "llama", "hidden_size": 48, "intermediate_size": 100, "num_hidden_layers": 3, "num_attention_heads": 6,
        "num_key_value_heads": 2, "vocab_size": 97, "max_position_embeddings": 64, "rms_norm_eps": 1e-5,
        "tie_word_embeddings": tied, "attention_bias": bias, "mlp_bias": bias
    });
    architecture(config.to_string().as_bytes()).expect("a sound config")
}

/// Normal values, reproducible: sums of twelve uniform ones.
fn random(count: usize, seed: u64, deviation: f32) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut uniform = || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 40) as f32 / (1u64 << 24) as f32
    };
    (0..count).map(|_| ((0..12).map(|_| uniform()).sum::<f32>() - 6.0) * deviation).collect()
}

fn tensors(architecture: &dyn Architecture) -> BTreeMap<String, Tensor> {
    let tensor = |(seed, (name, dims)): (u64, (String, Vec<usize>))| {
        let values = random(dims.iter().product(), seed + 1, 0.2);
        (name, Tensor::from_vec(values, dims, &Device::Cpu).expect("a tensor of that shape"))
    };
    (0u64..).zip(architecture.tensors()).map(tensor).collect()
}

/// Two rows, the second a token shorter, some of whose tokens are not predicted.
fn batch(length: usize, masked: bool) -> Batch {
    let layout = Layout::of_rows([length, length - 1]).expect("rows");
    let tokens: Vec<u32> = (0..layout.tokens()).map(|i| ((i * 7919 + 13) % 97) as u32).collect();
    let is_target = |i: &usize| !masked || i % 5 >= 2;
    let target = |i: usize| Target { position: i as u32, token: ((i * 104_729 + 5) % 97) as u32 };
    let targets: Vec<Target> = (0..tokens.len()).filter(is_target).map(target).collect();
    let first = targets.iter().filter(|target| (target.position as usize) < length).count();
    let row = Row::of_text;
    let rows = vec![row(0..first), row(first..targets.len())];
    let tokens = Tensor::from_vec(tokens, layout.tokens(), &Device::Cpu).expect("tokens");
    Batch { tokens, layout, targets, rows }
}

/// The mean loss, and its gradients by tensor.
fn gradients(
    model: &dyn Model,
    tensors: &BTreeMap<String, Tensor>,
    batch: &Batch,
) -> (f64, BTreeMap<String, Vec<f32>>) {
    let wanted: Vec<Tensor> = tensors.values().cloned().collect();
    let mut found: BTreeMap<String, Vec<f32>> = BTreeMap::new();
    let loss = NextToken
        .differentiate(model, batch, &wanted, &mut |gradients| {
            for (id, gradient) in gradients {
                let (name, tensor) = tensors.iter().find(|(_, tensor)| tensor.id() == id).expect("one of them");
                assert_eq!(gradient.dims(), tensor.dims(), "{name}");
                let earlier = found.insert(name.clone(), gradient.flatten_all()?.to_vec1()?);
                assert!(earlier.is_none(), "{name} came twice");
            }
            Ok(())
        })
        .expect("a gradient");
    (loss.mean(), found)
}

/// The loss with `moved` in place of the tensor called `name`.
fn loss_at(
    architecture: &dyn Architecture,
    tensors: &BTreeMap<String, Tensor>,
    batch: &Batch,
    name: &str,
    moved: &Tensor,
) -> f64 {
    let mut tensors = tensors.clone();
    tensors.insert(name.into(), moved.clone());
    let model = architecture.model(&tensors).expect("a model");
    NextToken.measure(&*model, batch).expect("a loss").mean()
}

/// Every tensor's gradient, along a direction of ±1: central differences with a step of 2^-9 in f32 agree to 1% of what
/// such a product is large (the gradient's norm).
#[test]
fn gradients_agree_with_central_differences_for_every_tensor() {
    for (tied, bias, masked) in [(true, false, false), (false, true, true)] {
        let architecture = config(tied, bias);
        let tensors = tensors(&*architecture);
        let model = architecture.model(&tensors).expect("a model");
        let batch = batch(21, masked);
        let (loss, gradients) = gradients(&*model, &tensors, &batch);
        assert!((loss - NextToken.measure(&*model, &batch).expect("a loss").mean()).abs() < 1e-6);
        assert_eq!(gradients.len(), tensors.len());
        for (seed, (name, tensor)) in (0u64..).zip(&tensors) {
            let gradient = &gradients[name];
            let direction: Vec<f32> = random(gradient.len(), 1000 + seed, 1.0).iter().map(|z| z.signum()).collect();
            let product: f64 = gradient.iter().zip(&direction).map(|(g, z)| f64::from(g * z)).sum();
            let norm = gradient.iter().map(|g| f64::from(*g).powi(2)).sum::<f64>().sqrt();
            let step = 2f64.powi(-9);
            let direction = Tensor::from_vec(direction, tensor.shape(), &Device::Cpu).expect("a direction");
            let at = |step: f64| {
                let moved = (tensor + (&direction * step).expect("a step")).expect("a sum");
                loss_at(&*architecture, &tensors, &batch, name, &moved)
            };
            let difference = (at(step) - at(-step)) / (2.0 * step);
            assert!((difference - product).abs() <= 0.01 * norm, "{name}: {difference} and {product}, norm {norm}");
        }
    }
}

#[test]
fn the_embedded_models_gradients_are_its_slopes_along_single_weights() {
    let checkpoint = embedded::checkpoint().expect("the embedded model is sound");
    let tensors = checkpoint.tensors().expect("sound tensors");
    let (model, tokenizer) = load(&checkpoint, &tensors).expect("a model");
    let data: Dataset = embedded::training(1, &tokenizer, 65).expect("a text");
    let batch = data.batch(1, 0, 4).expect("a batch");
    let (_, gradients) = gradients(&*model, &tensors, &batch);
    let architecture = architecture(&checkpoint.config).expect("a sound config");
    for (name, tensor) in &tensors {
        let gradient = &gradients[name];
        let largest = |a: &(usize, &f32), b: &(usize, &f32)| a.1.abs().total_cmp(&b.1.abs());
        let (at, slope) = gradient.iter().enumerate().max_by(largest).expect("a weight");
        let values = tensor.flatten_all().expect("values").to_vec1::<f32>().expect("values");
        let step = 2f64.powi(-8);
        let loss = |step: f64| {
            let mut values = values.clone();
            values[at] += step as f32;
            let moved = Tensor::from_vec(values, tensor.shape(), &Device::Cpu).expect("a tensor");
            loss_at(&*architecture, &tensors, &batch, name, &moved)
        };
        let difference = (loss(step) - loss(-step)) / (2.0 * step);
        let slope = f64::from(*slope);
        // A single weight moves the loss by little more than its rounding.
        assert!((difference - slope).abs() <= 0.05 * slope.abs() + 1e-4, "{name}[{at}]: {difference} and {slope}");
    }
}

#[test]
fn gradients_are_the_same_every_time_and_with_any_thread_count() {
    let measured = || {
        let architecture = config(true, false);
        let tensors = tensors(&*architecture);
        gradients(&*architecture.model(&tensors).expect("a model"), &tensors, &batch(64, false))
    };
    let pool = rayon::ThreadPoolBuilder::new().num_threads(3).build().expect("threads");
    assert_eq!(measured(), pool.install(measured));
}

#[test]
fn only_wanted_gradients_are_handed_out_and_a_weight_of_another_model_is_missed() {
    let architecture = config(false, false);
    let tensors = tensors(&*architecture);
    let model = architecture.model(&tensors).expect("a model");
    let batch = batch(9, false);
    let mut one = tensors.clone();
    one.retain(|name, _| name == "model.layers.1.mlp.up_proj.weight");
    let (_, some) = gradients(&*model, &one, &batch);
    let (_, all) = gradients(&*model, &tensors, &batch);
    assert_eq!(some.len(), 1);
    assert!(some.iter().all(|(name, gradient)| all[name] == *gradient));
    let foreign = Tensor::zeros(4, candle_core::DType::F32, &Device::Cpu).expect("a tensor");
    let refusal = NextToken.differentiate(&*model, &batch, &[foreign], &mut |_| Ok(())).expect_err("is missed");
    assert!(refusal.to_string().contains("records no gradient"), "{refusal}");
}
