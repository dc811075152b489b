//! Every family against transformers, on tiny random checkpoints that `scripts/family_fixtures.py` makes, with what
//! transformers 5.24 says of them (`families/`).

use candle_core::{Device, Tensor};
use engine::{
    model::{
        Batch, Checkpoint, Finish, Layout, OriginalFile, Row, Sampling, Target, architecture, export, generate, load,
        token_losses,
    },
    objective::{NextToken, Objective},
};
use protocol::manifest::Role;
use serde_json::{Map, Value, json};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fs,
    path::{Path, PathBuf},
};

use crate::largest_difference;

const VOCABULARY: usize = 31;
/// Tokens of the prompt of which transformers' greedy text goes on.
const PROMPT: usize = 7;

/// The cases, in the order of their names.
fn cases() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/families");
    let mut cases: Vec<PathBuf> = fs::read_dir(root).unwrap().map(|entry| entry.unwrap().path()).collect();
    cases.sort();
    assert!(cases.len() >= 20, "{} cases", cases.len());
    cases
}

/// Token i is called by one character.
fn name(token: u32) -> String {
    char::from_u32(0x4e00 + token).unwrap().to_string()
}

fn tokenizer() -> Vec<u8> {
    let vocabulary: Map<_, _> = (0..VOCABULARY as u32).map(|token| (name(token), json!(token))).collect();
    let model = json!({"type": "BPE", "vocab": vocabulary, "merges": []});
    json!({"version": "1.0", "decoder": {"type": "Fuse"}, "model": model}).to_string().into_bytes()
}

struct Case {
    checkpoint: Checkpoint,
    tensors: BTreeMap<String, Tensor>,
    expected: HashMap<String, Tensor>,
    tokens: Vec<u32>,
}

impl Case {
    fn open(directory: &Path) -> Self {
        let file = |role, name| OriginalFile::at(role, directory.join(name)).unwrap();
        let files = vec![
            file(Role::Config, "config.json"),
            OriginalFile::in_memory(Role::Tokenizer, "tokenizer.json", tokenizer()),
            file(Role::Weights, "model.safetensors"),
        ];
        let checkpoint = Checkpoint::of_files("fixture", files);
        let checkpoint = checkpoint.unwrap_or_else(|error| panic!("{}: {error:#}", directory.display()));
        let expected = candle_core::safetensors::load(directory.join("expected.safetensors"), &Device::Cpu).unwrap();
        let tokens = tokens(&expected["tokens"]);
        Self { tensors: checkpoint.tensors().unwrap(), checkpoint, expected, tokens }
    }

    /// Every token but the last predicts the next.
    fn batch(&self) -> Batch {
        let count = self.tokens.len();
        let target = |i: usize| Target { position: i as u32, token: self.tokens[i + 1] };
        Batch {
            tokens: Tensor::new(&self.tokens[..count], &Device::Cpu).unwrap(),
            layout: Layout::of_rows([count]).unwrap(),
            targets: (0..count - 1).map(target).collect(),
            rows: vec![Row::of_text(0..count - 1)],
        }
    }

    /// Logits of all positions, row after row.
    fn logits(&self, checkpoint: &Checkpoint, tensors: &BTreeMap<String, Tensor>) -> Vec<f32> {
        let (model, _) = load(checkpoint, tensors).unwrap();
        let Batch { tokens, layout, .. } = self.batch();
        let logits = model.logits(&model.hidden(&tokens, &layout).unwrap()).unwrap();
        logits.flatten_all().unwrap().to_vec1().unwrap()
    }
}

fn tokens(tensor: &Tensor) -> Vec<u32> {
    tensor.to_dtype(candle_core::DType::U32).unwrap().to_vec1().unwrap()
}

#[test]
fn logits_and_losses_are_those_of_transformers() {
    for directory in cases() {
        let case = Case::open(&directory);
        let expected: Vec<f32> = case.expected["logits"].flatten_all().unwrap().to_vec1().unwrap();
        let logits = case.logits(&case.checkpoint, &case.tensors);
        let difference = largest_difference(&logits, &expected);
        let (model, _) = load(&case.checkpoint, &case.tensors).unwrap();
        let losses = token_losses(&*model, &case.batch()).unwrap();
        let loss = losses.iter().sum::<f64>() / losses.len() as f64;
        let theirs = f64::from(case.expected["loss"].to_vec1::<f32>().unwrap()[0]);
        println!("{}: logits differ by {difference:.1e}, loss by {:.1e}", directory.display(), (loss - theirs).abs());
        assert!(difference < 1e-4, "{}: logits differ by {difference}", directory.display());
        assert!((loss - theirs).abs() < 1e-5, "{}: {loss}, transformers {theirs}", directory.display());
    }
}

/// Those of transformers' OPT with `layer_norm_elementwise_affine` false. A node refused it.
#[test]
fn norms_without_weights_are_those_of_ones_and_zeros() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/families/opt");
    let case = Case::open(&directory);
    let mut config: Value = serde_json::from_slice(&fs::read(directory.join("config.json")).unwrap()).unwrap();
    let [plain, bare] = [true, false].map(|has_weights| {
        config["layer_norm_elementwise_affine"] = json!(has_weights);
        architecture(config.to_string().as_bytes()).unwrap()
    });
    let names: BTreeSet<String> = bare.tensors().into_iter().map(|(name, _)| name).collect();
    let (mut ones, mut without) = (case.tensors.clone(), case.tensors.clone());
    without.retain(|name, _| names.contains(name));
    assert_eq!(ones.len() - without.len(), 2 * (2 * bare.layers() + 1));
    for (name, tensor) in ones.iter_mut().filter(|(name, _)| !names.contains(*name)) {
        *tensor = if name.ends_with(".bias") { tensor.zeros_like() } else { tensor.ones_like() }.unwrap();
    }
    let Batch { tokens, layout, .. } = case.batch();
    let [expected, found] = [(plain, ones), (bare, without)].map(|(architecture, tensors)| {
        let hidden = architecture.model(&tensors).unwrap().hidden(&tokens, &layout).unwrap();
        hidden.flatten_all().unwrap().to_vec1::<f32>().unwrap()
    });
    assert_eq!(found, expected);
}

/// The gradient of each tensor along signs that both sides spell out, as a part of its norm, and its norm.
#[test]
fn gradients_are_those_of_transformers() {
    for directory in cases() {
        let case = Case::open(&directory);
        let (model, _) = load(&case.checkpoint, &case.tensors).unwrap();
        let wanted: Vec<Tensor> = case.tensors.values().cloned().collect();
        let mut found = 0;
        let differentiated = NextToken.differentiate(&*model, &case.batch(), &wanted, &mut |gradients| {
            for (id, gradient) in gradients {
                let (name, _) = case.tensors.iter().find(|(_, tensor)| tensor.id() == id).unwrap();
                let gradient: Vec<f32> = gradient.flatten_all()?.to_vec1()?;
                // What transformers 5 calls one way in memory and another way in files.
                let theirs = name.replace("embed_out", "lm_head");
                let first: u32 = theirs.bytes().map(u32::from).sum();
                let sign = |i: usize| (0.37 * i as f64 + f64::from(first)).sin().signum();
                let along: f64 = gradient.iter().enumerate().map(|(i, g)| f64::from(*g) * sign(i)).sum();
                let norm = gradient.iter().map(|g| f64::from(*g).powi(2)).sum::<f64>().sqrt();
                let expected = case.expected.get(&format!("gradient {theirs}"));
                let expected = expected.unwrap_or_else(|| panic!("transformers has no {name}")).to_vec1::<f32>()?;
                let [their_along, their_norm] = [0, 1].map(|i| f64::from(expected[i]));
                // What a norm or the softmax cancels is zero but for rounding.
                let allowed = 1e-3 * their_norm + 1e-6;
                assert!((norm - their_norm).abs() < allowed, "{} {name}: {norm}, {their_norm}", directory.display());
                let allowed = allowed * (gradient.len() as f64).sqrt().min(30.0);
                assert!(
                    (along - their_along).abs() < allowed,
                    "{} {name}: {along}, {their_along}",
                    directory.display()
                );
                found += 1;
            }
            Ok(())
        });
        differentiated.unwrap_or_else(|error| panic!("{}: {error:#}", directory.display()));
        assert_eq!(found, case.tensors.len());
    }
}

#[test]
fn an_export_loads_back_equal() {
    for directory in cases() {
        let case = Case::open(&directory);
        let out = tempfile::tempdir().unwrap();
        let out = out.path().join("out");
        export(&out, &case.checkpoint, &case.tensors).unwrap();
        let loaded = Checkpoint::load(&out).unwrap();
        let again = case.logits(&loaded, &loaded.tensors().unwrap());
        assert_eq!(again, case.logits(&case.checkpoint, &case.tensors), "{}", directory.display());
    }
}

/// Generation keeps what earlier tokens left; transformers was asked anew for each.
#[test]
fn greedy_tokens_are_those_of_transformers() {
    for directory in cases() {
        let case = Case::open(&directory);
        let (model, tokenizer) = load(&case.checkpoint, &case.tensors).unwrap();
        let expected = tokens(&case.expected["greedy"]);
        let made = &expected[PROMPT..];
        let made = &made[..made.iter().position(|token| tokenizer.eos().contains(token)).unwrap_or(made.len())];
        let sampling = Sampling { temperature: 0.0, tokens_max: expected.len() - PROMPT, ..Sampling::default() };
        let mut text = String::new();
        let generated = generate(&*model, &tokenizer, &case.tokens[..PROMPT], &sampling, |piece| {
            text.push_str(piece);
            Ok(())
        });
        let expected: String = made.iter().map(|token| name(*token)).collect();
        assert_eq!(text, expected, "{}", directory.display());
        let is_whole = made.len() == sampling.tokens_max;
        assert_eq!(generated.unwrap().finish == Finish::Length, is_whole, "{}", directory.display());
    }
}

/// Releases of transformers differ in what they call the head of GPT-NeoX, and tools in whether they store a tied one.
#[test]
fn a_head_may_go_by_either_name() {
    for (case, other) in [("gpt_neox", "lm_head.weight"), ("llama", "embed_out.weight")] {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/families").join(case);
        let whole = Case::open(&root);
        let own = whole.checkpoint.architecture().unwrap().head().name;
        let directory = tempfile::tempdir().unwrap();
        let mut tensors = candle_core::safetensors::load(root.join("model.safetensors"), &Device::Cpu).unwrap();
        let head = tensors.remove(&own).unwrap();
        tensors.insert(other.into(), head);
        candle_core::safetensors::save(&tensors, directory.path().join("model.safetensors")).unwrap();
        for (name, bytes) in
            [("config.json", fs::read(root.join("config.json")).unwrap()), ("tokenizer.json", tokenizer())]
        {
            fs::write(directory.path().join(name), bytes).unwrap();
        }
        let renamed = Checkpoint::load(directory.path()).unwrap();
        let logits = whole.logits(&renamed, &renamed.tensors().unwrap());
        assert_eq!(logits, whole.logits(&whole.checkpoint, &whole.tensors), "{case}");
    }
}
