//! Low-rank adapters over frozen bases of several families: as they begin, as they learn, and merged.

use candle_core::{Device, Tensor};
use engine::{
    base::{AdapterSettings, Base, BaseSettings, Merged, Started, Trained, export_adapters, start},
    model::{Batch, Checkpoint, Layout, Model, OriginalFile, Row, Target, export, load, load_adapted},
    objective::{NextToken, Objective},
};
use protocol::manifest::{DirectionScale, Half, Hyperparameters, ObjectiveLine, Role, Schedule};
use serde_json::{Map, Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use crate::largest_difference;

const VOCABULARY: u32 = 31;

/// A tiny random checkpoint of `tests/families`.
fn checkpoint(case: &str) -> Checkpoint {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/families").join(case);
    let name = |token: u32| char::from_u32(0x4e00 + token).unwrap().to_string();
    let vocabulary: Map<_, _> = (0..VOCABULARY).map(|token| (name(token), json!(token))).collect();
    let tokenizer = json!({"version": "1.0", "model": {"type": "BPE", "vocab": vocabulary, "merges": []}});
    let file = |role, name| OriginalFile::at(role, directory.join(name)).unwrap();
    let files = vec![
        file(Role::Config, "config.json"),
        OriginalFile::in_memory(Role::Tokenizer, "tokenizer.json", tokenizer.to_string().into_bytes()),
        file(Role::Weights, "model.safetensors"),
    ];
    Checkpoint::of_files("fixture", files).unwrap()
}

fn adapters(checkpoint: &Checkpoint, rank: u32, text: &str) -> anyhow::Result<AdapterSettings> {
    let architecture = checkpoint.architecture()?;
    let chosen = Trained::choose(text, &*architecture)?;
    AdapterSettings::new(rank, Some(6.0), &chosen, &*architecture)
}

/// Of a small run, whose epsilon is thrice the rate.
pub fn settings(learning_rate: f64, trained: Trained, adapters: Option<AdapterSettings>) -> BaseSettings {
    BaseSettings {
        objective: ObjectiveLine::NextToken,
        hyperparameters: Hyperparameters {
            learning_rate,
            epsilon: 3.0 * learning_rate,
            planned_gradients: 1_000,
            direction_scale: DirectionScale::Rms,
        },
        schedule: Schedule::default(),
        ledger_samples_max: 1 << 20,
        replay_budget: 1,
        authority: None,
        trained,
        adapters,
    }
}

fn run(case: &str, text: &str) -> Started {
    let checkpoint = checkpoint(case);
    let adapters = adapters(&checkpoint, 3, text).unwrap();
    let settings = settings(1e-2, Trained::Only(BTreeSet::new()), Some(adapters));
    start(checkpoint, settings, [5; 16]).unwrap()
}

fn batch() -> Batch {
    let tokens: Vec<u32> = (0..24).map(|i| (i * 7919 + 13) % VOCABULARY).collect();
    Batch {
        tokens: Tensor::new(&tokens[..], &Device::Cpu).unwrap(),
        layout: Layout::of_rows([24]).unwrap(),
        targets: (0..23).map(|i| Target { position: i, token: tokens[i as usize + 1] }).collect(),
        rows: vec![Row::of_text(0..23)],
    }
}

fn logits(model: &dyn Model) -> Vec<f32> {
    let Batch { tokens, layout, .. } = batch();
    let logits = model.logits(&model.hidden(&tokens, &layout).unwrap()).unwrap();
    logits.flatten_all().unwrap().to_vec1().unwrap()
}

/// The model of a run's base, adapters included.
fn model(base: &Base) -> Box<dyn Model> {
    load_adapted(&base.checkpoint, base.weights.tensors(), base.weights.packed(), &base.weights.adapters()).unwrap().0
}

/// Gives every B values.
fn learn(base: &Base) {
    for (seed, spec) in base.weights.specs().iter().enumerate() {
        if spec.adapter().is_some_and(|adapter| adapter.half == Half::B) {
            let tensor = &base.weights.tensors()[&spec.name];
            let values: Vec<f32> = (0..tensor.elem_count()).map(|i| ((i + seed) as f32 * 0.7).sin() * 0.2).collect();
            tensor.slice_set(&Tensor::from_vec(values, tensor.shape(), &Device::Cpu).unwrap(), 0, 0).unwrap();
        }
    }
}

const CASES: [&str; 4] = ["llama", "phi3", "gpt2", "gemma2"];

#[test]
fn adapters_begin_as_the_base_and_learn_beside_it() {
    for case in CASES {
        let Started { base, manifest, .. } = run(case, "attention,mlp");
        assert!(manifest.tensors.iter().all(|spec| spec.adapter().is_some()), "{case}: nothing else is trained");
        assert_eq!(base.weights.digest(), manifest.base_digest(), "{case}: as the manifest has them");
        let untouched = base.checkpoint.tensors().unwrap();
        let before = logits(&*model(&base));
        assert_eq!(before, logits(&*load(&base.checkpoint, &untouched).unwrap().0), "{case}");
        learn(&base);
        let after = logits(&*model(&base));
        assert!(largest_difference(&before, &after) > 0.1, "{case}");
        // A joiner has the same from the same files.
        let joined = Base::of_run(&manifest, base.checkpoint.clone()).unwrap();
        assert_eq!(joined.weights.digest(), manifest.base_digest(), "{case}");
        // Merged, and read back, it is the same model.
        let out = tempfile::tempdir().unwrap();
        let out = out.path().join("out");
        export(&out, &base.checkpoint, &Merged::of(&base.checkpoint, &base.weights).unwrap()).unwrap();
        let merged = Checkpoint::load(&out).unwrap();
        let again = logits(&*load(&merged, &merged.tensors().unwrap()).unwrap().0);
        let difference = largest_difference(&again, &after);
        assert!(difference < 1e-4, "{case}: merged, logits differ by {difference}");
    }
}

/// What `peft` reads: `AutoPeftModelForCausalLM` gives the logits of the merged export (tried by hand, peft 0.19).
#[test]
fn adapters_are_exported_as_peft_has_them() {
    for case in ["llama", "gpt2"] {
        let Started { base, .. } = run(case, "attention");
        learn(&base);
        let out = tempfile::tempdir().unwrap();
        let out = out.path().join("adapter");
        export_adapters(&out, &base.checkpoint, &base.weights).unwrap();
        let config: Value = serde_json::from_slice(&fs::read(out.join("adapter_config.json")).unwrap()).unwrap();
        assert_eq!(
            (&config["r"], &config["lora_alpha"], &config["peft_type"]),
            (&json!(3), &json!(6.0), &json!("LORA"))
        );
        assert_eq!(config["fan_in_fan_out"], json!(case == "gpt2"), "GPT-2 stores its layers the other way round");
        let tensors = candle_core::safetensors::load(out.join("adapter_model.safetensors"), &Device::Cpu).unwrap();
        assert_eq!(tensors.len(), base.weights.specs().len());
        for spec in base.weights.specs() {
            let values = |tensor: &Tensor| tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            let stored = &tensors[&format!("base_model.model.{}", spec.name)];
            assert_eq!(values(stored), values(&base.weights.tensors()[&spec.name]), "{}", spec.name);
        }
        let layers = config["target_modules"].as_array().unwrap().len();
        assert_eq!(2 * layers, tensors.len());
    }
}

#[test]
fn gradients_of_adapters_agree_with_central_differences() {
    for case in CASES {
        let Started { base, .. } = run(case, "attention,mlp");
        learn(&base);
        let (model, trained) = (model(&base), base.weights.trained());
        let wanted: Vec<Tensor> = trained.values().cloned().collect();
        let mut found = BTreeMap::new();
        let differentiated = NextToken.differentiate(&*model, &batch(), &wanted, &mut |gradients| {
            for (id, gradient) in gradients {
                let (name, _) = trained.iter().find(|(_, tensor)| tensor.id() == id).unwrap();
                found.insert(name.clone(), gradient.flatten_all()?.to_vec1::<f32>()?);
            }
            Ok(())
        });
        differentiated.unwrap();
        assert_eq!(found.len(), trained.len(), "{case}");
        for (name, gradient) in &found {
            let tensor = &trained[name];
            let values = tensor.copy().unwrap();
            let sign = |i: usize| if (i * i + i / 3).is_multiple_of(2) { 1f32 } else { -1.0 };
            let signs: Vec<f32> = (0..gradient.len()).map(sign).collect();
            let along: f64 = gradient.iter().zip(&signs).map(|(g, z)| f64::from(g * z)).sum();
            let norm = gradient.iter().map(|g| f64::from(*g).powi(2)).sum::<f64>().sqrt();
            let signs = Tensor::from_vec(signs, tensor.shape(), &Device::Cpu).unwrap();
            let step = 2f64.powi(-9);
            let loss = |step: f64| {
                tensor.slice_set(&(&values + (&signs * step).unwrap()).unwrap(), 0, 0).unwrap();
                NextToken.measure(&*model, &batch()).unwrap().mean()
            };
            let difference = (loss(step) - loss(-step)) / (2.0 * step);
            tensor.slice_set(&values, 0, 0).unwrap();
            assert!((difference - along).abs() < 0.02 * norm + 1e-4, "{case} {name}: {difference} and {along}");
        }
    }
}

#[test]
fn adapters_are_of_linear_layers_and_their_numbers_are_bounded() {
    let checkpoint = checkpoint("llama");
    let layers = |text: &str| adapters(&checkpoint, 8, text).unwrap().layers.len();
    assert_eq!((layers("attention"), layers("mlp"), layers("all"), layers("*q_proj*")), (8, 6, 14, 2));
    let refusal = |rank: u32, text: &str| adapters(&checkpoint, rank, text).unwrap_err().to_string();
    assert!(refusal(8, "norms,embedding,head").contains("linear layer"));
    assert!(refusal(0, "all").contains("rank 0") && refusal(5000, "all").contains("rank 5000"));
    assert!(refusal(8, "last:1,nothing").contains("nothing"));
}
