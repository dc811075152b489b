//! GGUF: a whole model in one file, as llama.cpp has it. The file may come from a peer.
//!
//! | file | noun |
//! |---|---|
//! | `choice.rs` | which file of several is meant, by their names |
//! | `header.rs` | what the file says of itself, bounded before it is believed |
//! | `metadata.rs` | its values, by name |
//! | `config.rs` | metadata → `config.json` |
//! | `names.rs` | how llama.cpp calls and lays out the tensors of a family |
//! | `tokenizer.rs` | metadata → `tokenizer.json`, special tokens, chat template |
//! | `split.rs` | how llama.cpp cuts texts before BPE, by the names that it has for it |
//!
//! What is made of the metadata are the files of a Hugging Face checkpoint: the rest of this program knows no GGUF.

pub mod choice;
mod config;
mod header;
mod metadata;
mod names;
mod split;
mod tokenizer;

use anyhow::{Context, Result, ensure};
use protocol::manifest::Role;

use super::{OriginalFile, families, plan::Plan};
pub use config::check_architecture;
pub use header::Header;
use metadata::Metadata;
pub use names::{Layout, Order, layouts};

/// What a GGUF file says, in the files that a Hugging Face checkpoint has in its place.
pub struct Model {
    /// Where its tensors are, by llama.cpp's names.
    pub header: Header,
    /// `config.json`, `tokenizer.json` and what of the others there is something to say in, in order.
    pub files: Vec<OriginalFile>,
    /// What the config describes.
    pub plan: Plan,
}

/// Reads all of `file` but the tensors. Errors name what is wrong and what to do.
pub fn read(file: &OriginalFile) -> Result<Model> {
    let header = Header::read(file)?;
    let metadata = Metadata(&header.metadata);
    let kind = metadata.text("general.type")?.unwrap_or("model");
    ensure!(kind == "model", "it is of type {kind:?}, not a model: take the file of the language model itself");
    let parts = metadata.size("split.count")?.unwrap_or(1);
    ensure!(
        parts <= 1,
        "it is one of {parts} parts of a model: join them first, with llama.cpp's `llama-gguf-split --merge FIRST-PART OUT.gguf`"
    );
    let values = |name: &str| header.vector(file, name);
    let config = config::config(&metadata, &header.tensors, &values).context("its metadata describe no known model")?;
    let plan = families::plan(&config)?;
    let mut files = vec![OriginalFile::made(Role::Config, config)];
    files.extend(tokenizer::files(&metadata).context("its tokenizer")?);
    Ok(Model { header, files, plan })
}
