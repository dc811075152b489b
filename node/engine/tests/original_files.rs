//! The base of a run: made of original files, told from others, and read from peers who may mean harm.

use candle_core::{DType, Device, Tensor};
use engine::{
    base::{Base, BaseSettings, Started, Trained, Written, files_within, frozen, start},
    embedded,
    model::{Checkpoint, OriginalFile, architecture, load, load_adapted},
};
use protocol::manifest::{
    Appendix, DirectionScale, Hyperparameters, Manifest, ObjectiveLine, Role, Schedule, Treatment, WEIGHT_BITS,
};
use rand_xoshiro::{
    Xoshiro256PlusPlus,
    rand_core::{Rng, SeedableRng},
};
use serde_json::{Value, json};
use std::{
    alloc::{GlobalAlloc, Layout, System},
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::atomic::{AtomicUsize, Ordering},
};

/// The system's allocator, which remembers the largest piece that it was asked for.
struct Watched;

static LARGEST: AtomicUsize = AtomicUsize::new(0);

// SAFETY: everything is passed on to the system's allocator as it came.
unsafe impl GlobalAlloc for Watched {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LARGEST.fetch_max(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller keeps to the trait's contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps to the trait's contract.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Watched = Watched;

const TOKENIZER: &str =
    r#"{"version": "1.0", "model": {"type": "BPE", "vocab": {"<s>": 0, "a": 1, "b": 2}, "merges": []}}"#;
/// Trained where a part of the tensors is frozen.
const TRAINED: [&str; 2] = ["model.layers.0.mlp.up_proj.weight", "model.norm.weight"];

fn config() -> Value {
    json!({
        "model_type": "llama", "hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 2, "num_attention_heads": 2,
        "num_key_value_heads": 1, "vocab_size": 5, "max_position_embeddings": 16, "rms_norm_eps": 1e-5,
        "tie_word_embeddings": true, "bos_token_id": 0, "eos_token_id": null
    })
}

/// Weights that bf16 holds exactly.
fn tensors() -> BTreeMap<String, Tensor> {
    let architecture = architecture(config().to_string().as_bytes()).unwrap();
    let tensor = |(name, shape): (String, Vec<usize>)| {
        let salt = name.len();
        let values: Vec<f32> =
            (0..shape.iter().product()).map(|i| ((i * 37 + salt) % 61) as f32 / 32.0 - 1.0).collect();
        (name, Tensor::from_vec(values, shape, &Device::Cpu).unwrap())
    };
    architecture.tensors().into_iter().map(tensor).collect()
}

fn safetensors(tensors: &BTreeMap<String, Tensor>, dtype: DType) -> Vec<u8> {
    let file = tempfile::NamedTempFile::new().unwrap();
    let stored: HashMap<&str, Tensor> =
        tensors.iter().map(|(name, tensor)| (name.as_str(), tensor.to_dtype(dtype).unwrap())).collect();
    candle_core::safetensors::save(&stored, file.path()).unwrap();
    std::fs::read(file.path()).unwrap()
}

fn files(config: &[u8], tokenizer: &[u8], weights: Vec<OriginalFile>) -> Vec<OriginalFile> {
    let small = [(Role::Config, "config.json", config), (Role::Tokenizer, "tokenizer.json", tokenizer)];
    let small = small.map(|(role, name, bytes)| OriginalFile::in_memory(role, name, bytes.to_vec()));
    small.into_iter().chain(weights).collect()
}

fn single(tensors: &BTreeMap<String, Tensor>, dtype: DType) -> Vec<OriginalFile> {
    vec![OriginalFile::in_memory(Role::Weights, "model.safetensors", safetensors(tensors, dtype))]
}

/// The same in two shards.
fn sharded(tensors: &BTreeMap<String, Tensor>, dtype: DType) -> Vec<OriginalFile> {
    let mut second = tensors.clone();
    let last = tensors.len() / 2;
    let first = std::iter::from_fn(|| second.pop_first()).take(last).collect();
    let shard = |name, tensors| OriginalFile::in_memory(Role::Weights, name, safetensors(tensors, dtype));
    let index = OriginalFile::in_memory(Role::WeightsIndex, "model.safetensors.index.json", b"{}".to_vec());
    vec![index, shard("a.safetensors", &first), shard("b.safetensors", &second)]
}

fn checkpoint(weights: Vec<OriginalFile>) -> Checkpoint {
    let config = config().to_string();
    Checkpoint::of_files("a model", files(config.as_bytes(), TOKENIZER.as_bytes(), weights)).unwrap()
}

fn settings(trained: Trained) -> BaseSettings {
    let hyperparameters = Hyperparameters {
        learning_rate: 3e-4,
        epsilon: 1e-3,
        planned_gradients: 1_000,
        direction_scale: DirectionScale::Rms,
    };
    BaseSettings {
        objective: ObjectiveLine::NextToken,
        hyperparameters,
        schedule: Schedule::default(),
        ledger_samples_max: 1 << 20,
        replay_budget: 1_000_000,
        authority: None,
        trained,
        adapters: None,
    }
}

fn some() -> Trained {
    Trained::Only(TRAINED.map(str::to_owned).into())
}

/// A run on the weights in one file of bf16.
fn run(trained: Trained) -> Started {
    start(checkpoint(single(&tensors(), DType::BF16)), settings(trained), [1; 16]).unwrap()
}

fn refusal(manifest: &Manifest, checkpoint: Checkpoint) -> String {
    Base::of_run(manifest, checkpoint).err().expect("it is another model").to_string()
}

#[test]
fn the_string_is_the_original_files_and_the_appendix() {
    let started = run(some());
    let base = &started.manifest.base;
    let originals = checkpoint(single(&tensors(), DType::BF16)).files;
    let mut rest = &started.string[..];
    for (file, original) in base.files.iter().zip(&originals) {
        let (bytes, behind) = rest.split_at(file.bytes as usize);
        assert!(bytes == original.read().unwrap() && *blake3::hash(bytes).as_bytes() == file.digest, "{}", file.name);
        rest = behind;
    }
    let appendix = started.manifest.appendix(rest).unwrap();
    assert_eq!(started.manifest.base.bytes(), started.string.len() as u64);
    let trained: BTreeSet<&str> = appendix
        .tensors
        .iter()
        .filter(|tensor| tensor.treatment == Treatment::Trained)
        .map(|tensor| tensor.name.as_str())
        .collect();
    assert_eq!((trained, appendix.tensors.len()), (TRAINED.into(), tensors().len()));
    let spoiled = [rest, &[0]].concat();
    assert!(started.manifest.appendix(&spoiled).is_err(), "another digest");
    let mut other = started.manifest.clone();
    let all_frozen = Appendix { tensors: appendix.tensors[..3].to_vec() }.encode().unwrap();
    other.base.appendix_digest = *blake3::hash(&all_frozen).as_bytes();
    assert!(other.appendix(&all_frozen).unwrap_err().to_string().contains("not those of the manifest's table"));
}

#[test]
fn what_comes_from_the_string_is_what_the_starter_has() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("base");
    for trained in [Trained::All, some()] {
        let Started { manifest, base, string } = run(trained);
        std::fs::write(&path, &string).unwrap();
        let fetched = Checkpoint::of_files("fetched", files_within(&manifest.base.files, &path)).unwrap();
        let again = Base::of_run(&manifest, fetched).unwrap();
        assert_eq!(again.weights.digest(), manifest.base_digest());
        for (name, tensor) in base.weights.tensors() {
            let values = |tensor: &Tensor| tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            assert_eq!(values(&again.weights.tensors()[name]), values(tensor), "{name}");
        }
        let Written { base: described, out, .. } = again.write_to(Vec::new()).unwrap();
        assert_eq!((described.files, described.chunks_root), (manifest.base.files, manifest.base.chunks_root));
        assert!(out == string);
        load_adapted(&again.checkpoint, again.weights.tensors(), again.weights.packed(), &Default::default()).unwrap();
    }
}

#[test]
fn the_same_tensors_in_other_files_are_the_same_base_and_other_bytes() {
    let Started { manifest, .. } = run(Trained::All);
    for weights in [sharded(&tensors(), DType::BF16), single(&tensors(), DType::F32), single(&tensors(), DType::F16)] {
        let base = Base::of_run(&manifest, checkpoint(weights)).unwrap();
        assert_eq!(base.weights.digest(), manifest.base_digest());
        let written = base.write_to(Vec::new()).unwrap().base;
        assert_ne!(written.chunks_root, manifest.base.chunks_root);
        assert_eq!(written.appendix_digest, manifest.base.appendix_digest);
    }
    // What is frozen must be stored as it is in the run.
    let Started { manifest, .. } = run(some());
    assert!(Base::of_run(&manifest, checkpoint(sharded(&tensors(), DType::BF16))).is_ok());
    let refused = refusal(&manifest, checkpoint(single(&tensors(), DType::F32)));
    assert!(refused.contains("the run does not train"), "{refused}");
}

#[test]
fn another_base_is_refused_by_what_differs() {
    let sound = tensors();
    let changed = |name: &str| {
        let mut tensors = sound.clone();
        tensors.insert(name.into(), (&sound[name] + 0.5).unwrap());
        checkpoint(single(&tensors, DType::BF16))
    };
    let [trained, _] = TRAINED;
    let all = run(Trained::All).manifest;
    assert_eq!(refusal(&all, changed(trained)), format!("tensor {trained} has other values"));
    let part = run(some()).manifest;
    assert_eq!(refusal(&part, changed(trained)), format!("tensor {trained} has other values"));
    assert!(refusal(&part, changed("model.layers.1.mlp.up_proj.weight")).contains("the run does not train"));

    let with = |config: &str, tokenizer: &str| {
        let files = files(config.as_bytes(), tokenizer.as_bytes(), single(&sound, DType::BF16));
        Checkpoint::of_files("another", files).unwrap()
    };
    let spaced = format!(" {}", config());
    assert_eq!(refusal(&all, with(&spaced, TOKENIZER)), "config.json differs", "bytes count");
    assert_eq!(refusal(&all, with(&config().to_string(), "{}")), "tokenizer.json differs");
    let every = (0..).zip(&sound).fold(sound.clone(), |mut tensors, (_, (name, tensor))| {
        tensors.insert(name.clone(), (tensor * 0.5).unwrap());
        tensors
    });
    let refused = refusal(&all, checkpoint(single(&every, DType::BF16)));
    assert!(refused.ends_with(&format!("and {} more", sound.len() - 5)), "{refused}");
}

#[test]
fn frozen_tensors_are_compared_with_the_appendix() {
    let Started { manifest, string, .. } = run(some());
    let appendix = manifest.appendix(&string[string.len() - manifest.base.appendix_bytes as usize..]).unwrap();
    let sound = frozen(&appendix, &checkpoint(single(&tensors(), DType::BF16))).unwrap();
    assert_eq!(sound.len(), tensors().len() - TRAINED.len());
    let mut other = tensors();
    let name = "model.layers.1.mlp.up_proj.weight";
    other.insert(name.into(), (&other[name] + 0.5).unwrap());
    let refused = frozen(&appendix, &checkpoint(single(&other, DType::BF16))).err().unwrap().to_string();
    assert!(refused.contains(name), "{refused}");
}

#[test]
fn a_tensor_to_train_must_be_there() {
    let settings = settings(Trained::Only(["model.none".to_owned()].into()));
    let refused =
        Base::of_new_run(checkpoint(single(&tensors(), DType::BF16)), &settings, [0; 16]).err().unwrap().to_string();
    assert_eq!(refused, "a model has no tensor model.none to train");
}

#[test]
fn values_of_16_bits_snap_to_values_of_16_bits() {
    // So an untouched base loses nothing but what lies below the quantum.
    let base = embedded::checkpoint().unwrap();
    let started = start(base.clone(), settings(Trained::All), [1; 16]).unwrap();
    for spec in &started.manifest.tensors {
        let snapped = started.base.weights.tensors()[&spec.name].clone();
        let distance = (base.tensor(&spec.name).unwrap() - &snapped).unwrap().abs().unwrap().flatten_all().unwrap();
        let largest = distance.max(0).unwrap().to_scalar::<f32>().unwrap();
        assert!(largest <= 2f32.powi(i32::from(spec.range_log2) - WEIGHT_BITS - 1), "{}: {largest}", spec.name);
        let halved = snapped.to_dtype(DType::F16).unwrap().to_dtype(DType::F32).unwrap();
        let lost = (halved - snapped).unwrap().abs().unwrap().flatten_all().unwrap().max(0).unwrap();
        assert_eq!(lost.to_scalar::<f32>().unwrap(), 0.0, "{}", spec.name);
    }
}

/// Flips bits, cuts, or repeats a piece.
fn spoil(bytes: &[u8], random: &mut Xoshiro256PlusPlus) -> Vec<u8> {
    let mut draw = |below: usize| (random.next_u64() % below as u64) as usize;
    let mut bytes = bytes.to_vec();
    match draw(4) {
        0 => bytes.truncate(draw(bytes.len())),
        1 => {
            let from = draw(bytes.len());
            let piece: Vec<u8> = bytes[from..].iter().take(1 + draw(40)).copied().collect();
            bytes.splice(from..from, piece);
        }
        _ => {
            for _ in 0..1 + draw(4) {
                // Where lengths and headers are, more often than elsewhere.
                let end = if draw(2) == 0 { bytes.len() } else { bytes.len().min(200) };
                bytes[draw(end)] ^= 1 << draw(8);
            }
        }
    }
    bytes
}

#[test]
fn spoiled_files_are_errors_without_a_panic_or_a_large_allocation() {
    let started = run(some());
    let sound = [config().to_string().into_bytes(), TOKENIZER.into(), safetensors(&tensors(), DType::BF16)];
    let mut random = Xoshiro256PlusPlus::seed_from_u64(7);
    // What came before, in this test's process, was small, too.
    const ALLOCATION_BYTES_MAX: usize = 4 << 20;
    let mut read = 0;
    for round in 0..6_000 {
        let mut spoiled = sound.clone();
        spoiled[round % 3] = spoil(&sound[round % 3], &mut random);
        let [config, tokenizer, weights] = &spoiled;
        let weights = OriginalFile::in_memory(Role::Weights, "model.safetensors", weights.clone());
        let Ok(checkpoint) = Checkpoint::of_files("hostile", files(config, tokenizer, vec![weights])) else { continue };
        // Whoever wrote the manifest wrote these, too: they are read before they are compared.
        if let Ok(tensors) = checkpoint.tensors() {
            read += usize::from(load(&checkpoint, &tensors).is_ok());
        }
        if spoiled != sound {
            let is_same = Base::of_run(&started.manifest, checkpoint).is_ok();
            assert!(!is_same || round % 3 == 2 && spoiled[2].len() == sound[2].len(), "only metadata may differ");
        }
    }
    assert!(read > 100, "hardly anything got as far as a model: {read}");
    let largest = LARGEST.load(Ordering::Relaxed);
    assert!(largest < ALLOCATION_BYTES_MAX, "{largest} bytes were asked for at once");
}
