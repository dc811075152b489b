//! GGUF files: every family and every type against transformers, on tiny random files that `scripts/gguf_fixtures.py`
//! makes with llama.cpp's converter; runs on them; and files that mean harm.

use candle_core::{DType, Device, Tensor};
use engine::{
    base::{AdapterSettings, Base, Merged, Started, Trained, export_adapters, files_within, start},
    chat::{ChatTemplate, Value},
    data::{Columns, Reader},
    model::{Batch, Checkpoint, Layout, OriginalFile, Row, Target, Tokenizer, export, load, load_adapted},
    objective::{NextToken, Objective},
};
use protocol::manifest::{ElementType, Role};
use rand_xoshiro::{
    Xoshiro256PlusPlus,
    rand_core::{Rng, SeedableRng},
};
use std::{
    alloc::{GlobalAlloc, Layout as Piece, System},
    collections::{BTreeMap, BTreeSet, HashMap},
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use crate::{adapters::settings, largest_difference};

/// The system's allocator, which remembers the largest piece that it was asked for.
struct Watched;

static LARGEST: AtomicUsize = AtomicUsize::new(0);

// SAFETY: everything is passed on to the system's allocator as it came.
unsafe impl GlobalAlloc for Watched {
    unsafe fn alloc(&self, layout: Piece) -> *mut u8 {
        LARGEST.fetch_max(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller keeps to the trait's contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Piece) {
        // SAFETY: the caller keeps to the trait's contract.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Watched = Watched;

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/gguf")
}

/// The fixtures by name.
fn cases() -> Vec<PathBuf> {
    let paths = fs::read_dir(fixtures()).unwrap().map(|entry| entry.unwrap().path());
    let mut cases: Vec<PathBuf> =
        paths.filter(|path| path.extension().is_some_and(|ending| ending == "gguf")).collect();
    cases.sort();
    assert!(cases.len() >= 15, "{} cases", cases.len());
    cases
}

fn values(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

fn expected(case: &Path) -> HashMap<String, Tensor> {
    candle_core::safetensors::load(case.with_extension("safetensors"), &Device::Cpu).unwrap()
}

/// Logits of all positions, row after row.
fn logits(model: &dyn engine::model::Model, case: &Path) -> Vec<f32> {
    let tokens = expected(case)["tokens"].to_dtype(DType::U32).unwrap();
    let layout = Layout::of_rows([tokens.dims1().unwrap()]).unwrap();
    values(&model.logits(&model.hidden(&tokens, &layout).unwrap()).unwrap())
}

fn logits_of(checkpoint: &Checkpoint, case: &Path) -> Vec<f32> {
    logits(&*load(checkpoint, &checkpoint.tensors().unwrap()).unwrap().0, case)
}

#[test]
fn logits_are_those_of_transformers_and_exports_have_the_same() {
    for case in cases() {
        let checkpoint = Checkpoint::load(&case).unwrap_or_else(|error| panic!("{}: {error:#}", case.display()));
        let own = logits_of(&checkpoint, &case);
        let difference = largest_difference(&own, &values(&expected(&case)["logits"]));
        println!("{}: logits differ by {difference:.1e}", case.display());
        assert!(difference < 1e-4, "{}: logits differ by {difference}", case.display());
        let out = tempfile::tempdir().unwrap();
        export(&out.path().join("out"), &checkpoint, &BTreeMap::new()).unwrap();
        let again = Checkpoint::load(&out.path().join("out")).unwrap();
        assert_eq!(logits_of(&again, &case), own, "{}: exported", case.display());
        assert_eq!(again.tokenizer, checkpoint.tokenizer);
    }
}

/// This tokenizer puts a space before every text: a completion by itself would begin with one more.
#[test]
fn a_completion_has_the_tokens_that_it_has_behind_its_prompt() {
    let checkpoint = Checkpoint::load(&fixtures().join("llama.gguf")).unwrap();
    let tokenizer = Tokenizer::of(&checkpoint).unwrap();
    let template = ChatTemplate::of(&checkpoint, &tokenizer).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("rows.jsonl");
    fs::write(&path, r#"{"prompt": "ab", "completion": " ab"}"#).unwrap();
    let (columns, progress, scratch) = (Columns::default(), Arc::default(), directory.path());
    let reader = Reader {
        tokenizer: &tokenizer,
        template: &template,
        columns: &columns,
        sequence_length: 16,
        scratch,
        progress,
    };
    let batch = reader.load(&path).unwrap().batch_of(&[0]).unwrap();
    let read: Vec<u32> = batch.tokens.to_vec1().unwrap();
    let learned: Vec<u32> = batch.targets.iter().map(|target| target.token).collect();
    let whole = tokenizer.encode("ab ab").unwrap();
    let prompt = tokenizer.encode("ab").unwrap();
    assert_eq!(whole[..prompt.len()], prompt);
    assert_eq!(read, [&[1], &whole[..]].concat());
    assert_eq!(learned, [&whole[prompt.len()..], &[2]].concat(), "and the token that ends a turn");
    assert_eq!(tokenizer.decode(&read).unwrap(), "ab ab");
}

/// The token that ends a turn, the template and BOS are what the metadata say.
#[test]
fn tokens_and_template_are_those_of_the_metadata() {
    let checkpoint = Checkpoint::load(&fixtures().join("llama.gguf")).unwrap();
    let (_, tokenizer) = load(&checkpoint, &checkpoint.tensors().unwrap()).unwrap();
    assert_eq!(tokenizer.encode("ab abc<end>").unwrap(), [28, 30, 6, 3], "merged, and a token of the user's");
    assert_eq!(tokenizer.text_prompt("a").unwrap(), [1, 4], "add_bos_token");
    assert_eq!((tokenizer.eos(), tokenizer.turn_end(), tokenizer.bos()), (&[2][..], Some(2), Some(1)));
    assert_eq!(tokenizer.decode(&[1, 28, 30, 2]).unwrap(), "ab ab");
    let template = ChatTemplate::of(&checkpoint, &tokenizer).unwrap();
    let messages = [Value::from_pairs([("role", "user"), ("content", "ab")])];
    assert_eq!(template.render(&messages, None, false).unwrap(), "ab</s>");
}

fn run(case: &str, trained: Trained, rank: Option<u32>) -> anyhow::Result<Started> {
    let checkpoint = Checkpoint::load(&fixtures().join(case))?;
    let architecture = checkpoint.architecture().unwrap();
    let adapters = rank.map(|rank| AdapterSettings::new(rank, Some(6.0), &Trained::All, &*architecture).unwrap());
    start(checkpoint, settings(1e-3, trained, adapters), [5; 16])
}

fn nothing() -> Trained {
    Trained::Only(BTreeSet::new())
}

#[test]
fn a_run_with_adapters_is_joined_from_the_same_bytes_and_from_no_others() {
    for case in ["kinds.gguf", "llama.gguf", "gpt2.gguf", "gpt_neox.gguf"] {
        let started = run(case, nothing(), Some(2)).unwrap();
        let files = &started.manifest.base.files;
        assert!(
            files.len() == 1 && files[0].role == Role::Gguf && files[0].name == case,
            "the file as it is: {files:?}"
        );
        assert!(started.string.starts_with(&fs::read(fixtures().join(case)).unwrap()));
        // From the string, as a joiner who fetched it.
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("base");
        fs::write(&path, &started.string).unwrap();
        let fetched = Checkpoint::of_files("fetched", files_within(files, &path)).unwrap();
        let joined = Base::of_run(&started.manifest, fetched).unwrap();
        for (name, tensor) in started.base.weights.trained() {
            assert_eq!(values(&joined.weights.tensors()[&name]), values(&tensor), "{name}");
        }
        let path = fixtures().join(case);
        let model = |base: &Base| {
            load_adapted(&base.checkpoint, base.weights.tensors(), base.weights.packed(), &base.weights.adapters())
                .unwrap()
                .0
        };
        let own = logits(&*model(&started.base), &path);
        assert_eq!(own, logits(&*model(&joined), &path));
        assert!(
            largest_difference(&own, &logits_of(&started.base.checkpoint, &path)) < 1e-4,
            "adapters begin at nothing"
        );
        // From a file in which one value differs: the last byte of weights.
        let mut bytes = fs::read(&path).unwrap();
        let last = bytes.iter().rposition(|byte| *byte != 0).unwrap();
        bytes[last] ^= 1;
        let other = directory.path().join(case);
        fs::write(&other, bytes).unwrap();
        let refused = Base::of_run(&started.manifest, Checkpoint::load(&other).unwrap()).err().unwrap().to_string();
        assert!(refused.contains("the GGUF file differs"), "{refused}");
    }
}

#[test]
fn adapters_over_a_gguf_file_are_exported_merged_and_as_peft_has_them() {
    for case in ["kinds.gguf", "gpt2.gguf"] {
        let started = run(case, nothing(), Some(2)).unwrap();
        let weights = &started.base.weights;
        // Something learned: B away from zero, by whole quanta.
        for spec in weights.specs().iter().filter(|spec| spec.name.ends_with("lora_B.weight")) {
            let tensor = &weights.tensors()[&spec.name];
            let count = tensor.elem_count();
            let learned: Vec<f32> = (0..count).map(|i| ((i % 7) as f32 - 3.0) * 4096.0 * spec.quantum()).collect();
            let learned = Tensor::from_vec(learned, tensor.dims(), &Device::Cpu).unwrap();
            tensor.slice_set(&learned, 0, 0).unwrap();
        }
        let path = fixtures().join(case);
        let base = &started.base;
        let (model, _) =
            load_adapted(&base.checkpoint, weights.tensors(), weights.packed(), &weights.adapters()).unwrap();
        let adapted = logits(&*model, &path);
        assert!(largest_difference(&adapted, &logits_of(&base.checkpoint, &path)) > 1e-3, "the adapters do something");
        let out = tempfile::tempdir().unwrap();
        export(&out.path().join("merged"), &base.checkpoint, &Merged::of(&base.checkpoint, weights).unwrap()).unwrap();
        let again = Checkpoint::load(&out.path().join("merged")).unwrap();
        assert!(largest_difference(&logits_of(&again, &path), &adapted) < 1e-4, "{case}: merged");
        export_adapters(&out.path().join("peft"), &base.checkpoint, weights).unwrap();
        let config = fs::read(out.path().join("peft/adapter_config.json")).unwrap();
        let config: serde_json::Value = serde_json::from_slice(&config).unwrap();
        assert_eq!(config["fan_in_fan_out"], case == "gpt2.gguf", "as transformers stores its layers");
    }
}

/// Of the losses of a batch, through matrices as they are stored and through their values.
#[test]
fn gradients_of_adapters_are_those_over_the_values() {
    for case in ["kinds.gguf", "gpt2.gguf"] {
        let started = run(case, nothing(), Some(2)).unwrap();
        let (base, weights) = (&started.base, &started.base.weights);
        let stored: usize = weights.packed().values().map(|packed| packed.bytes()).sum();
        let elements: usize = weights.packed().values().map(|packed| packed.shape().iter().product::<usize>()).sum();
        assert!(elements > 9_000 && stored <= 2 * elements, "{case}: {stored} bytes of {elements} elements");
        let mut plain = weights.tensors().clone();
        for name in weights.packed().keys() {
            plain.insert(name.clone(), weights.values(name).unwrap());
        }
        let path = fixtures().join(case);
        let tokens = expected(&path)["tokens"].to_dtype(DType::U32).unwrap();
        let ids: Vec<u32> = tokens.to_vec1().unwrap();
        let batch = Batch {
            layout: Layout::of_rows([ids.len()]).unwrap(),
            targets: (1..ids.len()).map(|i| Target { position: i as u32 - 1, token: ids[i] }).collect(),
            rows: vec![Row::of_text(0..ids.len() - 1)],
            tokens,
        };
        let trained = weights.trained();
        let wanted: Vec<Tensor> = trained.values().cloned().collect();
        let gradients = |tensors, packed| {
            let (model, _) = load_adapted(&base.checkpoint, tensors, packed, &weights.adapters()).unwrap();
            let mut all = HashMap::new();
            let mut keep = |gradients: Vec<(candle_core::TensorId, Tensor)>| {
                all.extend(gradients.into_iter().map(|(id, gradient)| (id, values(&gradient))));
                Ok(())
            };
            NextToken.differentiate(&*model, &batch, &wanted, &mut keep).unwrap();
            all
        };
        let (own, exact) = (gradients(weights.tensors(), weights.packed()), gradients(&plain, &Default::default()));
        for (name, tensor) in &trained {
            let exact = &exact[&tensor.id()];
            let largest = exact.iter().fold(0f32, |largest, g| largest.max(g.abs()));
            assert!(largest_difference(&own[&tensor.id()], exact) <= 1e-4 * largest, "{case}: {name}");
        }
    }
}

#[test]
fn what_is_quantised_is_not_trained_and_the_rest_may_be() {
    let refused = run("kinds.gguf", Trained::All, None).err().unwrap().to_string();
    assert!(["--lora 8", "cannot be trained", "Q"].iter().all(|part| refused.contains(part)), "{refused}");
    let checkpoint = Checkpoint::load(&fixtures().join("kinds.gguf")).unwrap();
    let norms = Trained::choose("norms", &*checkpoint.architecture().unwrap()).unwrap();
    assert_eq!(run("kinds.gguf", norms, None).unwrap().manifest.tensors.len(), 11);
    assert!(run("llama.gguf", Trained::All, None).is_ok(), "f16 is trained");
    let kinds: BTreeSet<String> =
        checkpoint.shapes().map(|(name, _)| format!("{:?}", checkpoint.element_type(name).unwrap())).collect();
    let all = ["F16", "F32", "Q2K", "Q3K", "Q4K", "Q4_0", "Q4_1", "Q5K", "Q5_0", "Q5_1", "Q6K", "Q8_0"];
    assert!(kinds.iter().eq(all.iter()), "{kinds:?}");
    assert_eq!(checkpoint.element_type("model.layers.0.self_attn.v_proj.weight").unwrap(), ElementType::F16);
}

#[test]
fn a_directory_of_one_file_means_it_and_one_of_several_says_so() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    fs::copy(fixtures().join("llama.gguf"), at("tiny model (F16).gguf")).unwrap();
    fs::copy(fixtures().join("llama.gguf"), at("mmproj-F16.gguf")).unwrap();
    let loaded = Checkpoint::load(directory.path()).unwrap();
    assert_eq!(
        (loaded.source.as_str(), loaded.files[0].name.as_str()),
        ("tiny model (F16).gguf", "tiny-model--F16-.gguf")
    );
    fs::copy(fixtures().join("llama.gguf"), at("other.gguf")).unwrap();
    let refused = Checkpoint::load(directory.path()).err().unwrap().to_string();
    assert!(refused.contains("2 GGUF files") && refused.contains("other.gguf"), "{refused}");
    fs::remove_file(at("other.gguf")).unwrap();
    for beside in ["tiny.imatrix.gguf", "tiny.mmproj.gguf", "adapter_model.safetensors"] {
        fs::write(at(beside), "GGUF").unwrap();
    }
    assert!(Checkpoint::load(directory.path()).is_ok(), "what is beside a model is none");
    fs::remove_file(at("tiny model (F16).gguf")).unwrap();
    for part in ["a-00001-of-00002.gguf", "a-00002-of-00002.gguf"] {
        fs::copy(fixtures().join("llama.gguf"), at(part)).unwrap();
    }
    let refused = Checkpoint::load(directory.path()).err().unwrap().to_string();
    assert!(refused.contains("in 2 parts") && refused.contains("llama-gguf-split --merge"), "{refused}");
    // A hub's cache: the snapshot's files are links into blobs.
    let model = at("hub/models--owner--name-GGUF");
    fs::create_dir_all(model.join("snapshots/0f3e")).unwrap();
    fs::create_dir_all(model.join("blobs")).unwrap();
    fs::copy(fixtures().join("llama.gguf"), model.join("blobs/77")).unwrap();
    std::os::unix::fs::symlink("../../blobs/77", model.join("snapshots/0f3e/tiny.gguf")).unwrap();
    assert_eq!(Checkpoint::load(&at("hub")).unwrap().source, "owner/name-GGUF@0f3e");
    // A file that lies deeper in the snapshot.
    fs::create_dir(model.join("snapshots/0f3e/q8")).unwrap();
    let deeper = model.join("snapshots/0f3e/q8/other.gguf");
    std::os::unix::fs::symlink("../../../blobs/77", &deeper).unwrap();
    assert_eq!(Checkpoint::load(&deeper).unwrap().source, "owner/name-GGUF@0f3e");
    fs::remove_file(model.join("blobs/77")).unwrap();
    let refused = Checkpoint::load(&deeper).err().unwrap().to_string();
    assert!(refused.contains("is a link to") && refused.contains("download the model again"), "{refused}");
}

/// Puts `bytes` in place of the only `find` in a fixture, and says what comes of it.
fn changed(find: &[u8], bytes: &[u8]) -> String {
    changed_in("llama.gguf", find, bytes)
}

fn changed_in(case: &str, find: &[u8], bytes: &[u8]) -> String {
    let mut file = fs::read(fixtures().join(case)).unwrap();
    let at = file.windows(find.len()).position(|window| window == find).expect("it is there");
    file[at..at + bytes.len()].copy_from_slice(bytes);
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("changed.gguf");
    fs::write(&path, file).unwrap();
    match Checkpoint::load(&path) {
        Ok(_) => String::new(),
        Err(error) => format!("{error:#}"),
    }
}

#[test]
fn what_cannot_be_read_is_called_by_its_name() {
    let refused = changed(b"llama", b"mamba");
    assert!(
        refused.contains("\"mamba\"") && refused.contains("qwen3") && refused.contains("changed.gguf"),
        "{refused}"
    );
    let refused = changed(b"smollm", b"smallm");
    assert!(refused.contains("tokenizer.ggml.pre is \"smallm\"") && refused.contains("llama-bpe"), "{refused}");
    let refused = changed(b"blk.1.ffn_up.weight", b"blk.1.ffn_op.weight");
    assert!(refused.contains("no tensor blk.1.ffn_up.weight"), "{refused}");
    let refused = changed(b"gpt2", b"bert");
    assert!(refused.contains("\"bert\"") && refused.contains("SentencePiece"), "{refused}");
    // The type of a tensor: a name, dimensions, then the type.
    let tensor =
        [&b"blk.1.ffn_up.weight"[..], &2u32.to_le_bytes(), &32u64.to_le_bytes(), &20u64.to_le_bytes()].concat();
    let refused = changed(&tensor, &[&tensor[..], &20u32.to_le_bytes()].concat());
    assert!(refused.contains("IQ4_NL") && refused.contains("Q4_K_M"), "{refused}");
    let double = changed(&tensor, &[&tensor[..], &28u32.to_le_bytes()].concat());
    assert!(double.contains("stored as F64"), "{double}");
    let sound = b"GGUF\x03\0\0\0";
    let big_endian = changed(sound, b"GGUF\0\0\0\x03");
    assert!(big_endian.contains("big-endian") && big_endian.contains("gguf-convert-endian"), "{big_endian}");
    let old = changed(sound, b"GGUF\x01\0\0\0");
    assert!(old.contains("version 1") && old.contains("convert_hf_to_gguf.py"), "{old}");
    let new = changed(sound, b"GGUF\x09\0\0\0");
    assert!(new.contains("version 9") && new.contains("newer release"), "{new}");
    let older = changed(sound, b"tjgg\x03\0\0\0");
    assert!(older.contains("before GGUF"), "{older}");
    for refused in [refused, double, big_endian, old, new, older] {
        assert!(!refused.contains("download it again"), "the file is sound: {refused}");
    }
    let broken = changed(sound, b"GGUF\0\xff\xff\0");
    assert!(broken.contains("download it again"), "{broken}");
    let refused = changed_in("phi3_long.gguf", b"rope_factors_long.weight", b"rope_factors_lung.weight");
    assert!(
        refused.contains("rope_factors_long.weight and rope_factors_short.weight, are not both there"),
        "{refused}"
    );
    let refused = changed(&tensor, &[&tensor[..tensor.len() - 8], &u64::MAX.to_le_bytes()].concat());
    assert!(refused.contains("shape out of bounds"), "{refused}");
    assert!(changed(b"GGUF", b"GGML").contains("does not begin with GGUF"));
}

#[test]
fn files_that_mean_harm_are_refused_and_take_no_memory() {
    let sound = fs::read(fixtures().join("llama.gguf")).unwrap();
    let header = sound.windows(10).rposition(|window| window.starts_with(b"blk.")).unwrap() + 80;
    let mut random = Xoshiro256PlusPlus::seed_from_u64(11);
    LARGEST.store(0, Ordering::Relaxed);
    let load = |bytes: Vec<u8>| {
        let file = OriginalFile::in_memory(Role::Gguf, "hostile.gguf", bytes);
        if let Ok(checkpoint) = Checkpoint::of_files("hostile", vec![file]) {
            let _ = checkpoint.tensors().and_then(|tensors| load(&checkpoint, &tensors).map(|_| ()));
        }
    };
    for _ in 0..3_000 {
        let mut bytes = sound.clone();
        for _ in 0..1 + random.next_u64() % 3 {
            let place = random.next_u64() as usize % header;
            bytes[place] ^= 1 << (random.next_u64() % 8);
        }
        load(bytes);
    }
    for _ in 0..300 {
        load(sound[..random.next_u64() as usize % sound.len()].to_vec());
    }
    let largest = LARGEST.load(Ordering::Relaxed);
    assert!(largest < 80 << 20, "a piece of {largest} bytes");
}
