//! The embedded default: a small model and a task that need no download.
//!
//! The model is a Llama of 439,296 parameters over bytes, stored as f16. It was pre-trained on `stories.grammar` by
//!
//! ```text
//! RAYON_NUM_THREADS=1 CANDLE_NUM_THREADS=1 cargo run --release --example pretrain
//! ```
//!
//! in about five minutes on one core of a busy server (900 steps of 6 x 192 bytes): 0.94 bits per byte on held-out
//! stories, 7.35 on the task's held-out text. It knows the few hundred words of its grammar and nothing of the world.
//! The task, `logbook.grammar`, is new to it.

pub mod corpus;

use anyhow::Result;
use protocol::manifest::{BaseModel, Role};

use crate::{
    data::Dataset,
    model::{Checkpoint, OriginalFile, Tokenizer},
};

/// What a manifest calls this base.
pub const SOURCE: &str = "embedded";
/// Own training text, bytes: at the default batch, four hundred gradients see each window once.
const TRAINING_BYTES: usize = 400 * 8 * 128;

const CONFIG: &[u8] = include_bytes!("config.json");
const TOKENIZER: &[u8] = include_bytes!("tokenizer.json");
const WEIGHTS: &[u8] = include_bytes!("model.safetensors");

/// The embedded base model.
pub fn checkpoint() -> Result<Checkpoint> {
    let file = |role, name, bytes: &'static [u8]| OriginalFile::in_memory(role, name, bytes);
    let files = vec![
        file(Role::Config, "config.json", CONFIG),
        file(Role::Tokenizer, "tokenizer.json", TOKENIZER),
        file(Role::Weights, "model.safetensors", WEIGHTS),
    ];
    Checkpoint::of_files(SOURCE, files)
}

/// Whether a run's base is an embedded model, of this release or another: anyone's directory may have the name.
pub fn is_of(base: &BaseModel) -> bool {
    let has = |role, bytes: &[u8]| base.file(role).is_some_and(|file| file.digest == *blake3::hash(bytes).as_bytes());
    base.source == SOURCE && has(Role::Config, CONFIG) && has(Role::Tokenizer, TOKENIZER)
}

/// A machine's own text of the task.
pub fn training(seed: u64, tokenizer: &Tokenizer, sequence_length: usize) -> Result<Dataset> {
    Dataset::from_text(&corpus::task(seed, TRAINING_BYTES), tokenizer, sequence_length)
}

/// The task's held-out text, the same for everyone.
pub fn held_out(tokenizer: &Tokenizer, sequence_length: usize) -> Result<Dataset> {
    Dataset::from_text(&corpus::held_out(), tokenizer, sequence_length)
}
