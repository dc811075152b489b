//! Finds the tensors of a model in safetensors files, whatever some tool calls them.

use anyhow::{Context, Error, Result, bail, ensure};
use protocol::manifest::Role;
use safetensors::tensor::TensorInfo;
use std::collections::{BTreeMap, BTreeSet};

use super::{
    Architecture,
    architecture::Head,
    checkpoint_header::read_header,
    files::OriginalFile,
    stored::{Element, StoredTensor},
    unusable::strangers,
};

/// What some tools put before every name, one of these or several: data-parallel models, adapters that were merged,
/// models within models.
const WRAPPERS: [&str; 8] =
    ["module.", "base_model.", "model.", "backbone.", "language_model.", "text_model.", "transformer.", "gpt_neox."];

/// What some tools put into names, wherever a module is wrapped: checkpointed activations, sharded and compiled models.
const INNER_WRAPPERS: [&str; 4] =
    ["_checkpoint_wrapped_module", "_fsdp_wrapped_module", "_forward_module", "_orig_mod"];

/// What output heads are called, by one release of transformers or another.
const HEADS: [&str; 2] = ["lm_head.weight", "embed_out.weight"];

/// Where in `files` the tensors of the model are: each of [`Architecture::tensors`], by its name; but of a tied head
/// and its embedding one or both. Errors name the file and the tensor.
pub fn find(
    source: &str,
    architecture: &dyn Architecture,
    files: &[OriginalFile],
) -> Result<BTreeMap<String, StoredTensor>> {
    let shapes: BTreeMap<_, _> = architecture.tensors().into_iter().collect();
    let mut finder = Finder {
        head: architecture.head(),
        missing: shapes.keys().cloned().collect(),
        shapes,
        architecture,
        files,
        stored: BTreeMap::new(),
        strange: Vec::new(),
        misfit: None,
    };
    for (index, file) in files.iter().enumerate().filter(|(_, file)| file.role == Role::Weights) {
        finder.look_into(index).with_context(|| format!("in {}", file.describe()))?;
    }
    finder.judge(source)
}

/// Looks for the model's tensors in one file after the other. What does not fit is judged behind the last one: what to
/// do about it depends on what is missing.
struct Finder<'a> {
    architecture: &'a dyn Architecture,
    files: &'a [OriginalFile],
    head: Head,
    /// Of the model's tensors.
    shapes: BTreeMap<String, Vec<usize>>,
    /// Those of which no file had anything yet.
    missing: BTreeSet<String>,
    stored: BTreeMap<String, StoredTensor>,
    /// Tensors that the model has not: the name, the index of the file.
    strange: Vec<(String, usize)>,
    /// What is wrong with the first tensor of the model that cannot be used.
    misfit: Option<Error>,
}

impl Finder<'_> {
    /// Adds what one safetensors file has.
    fn look_into(&mut self, file: usize) -> Result<()> {
        let (metadata, data_start) = read_header(&self.files[file])?;
        let tensors: BTreeMap<String, &TensorInfo> = metadata.tensors().into_iter().collect();
        for (stored_name, info) in tensors {
            let Some(name) = self.canonical(&stored_name) else {
                self.strange.push((stored_name, file));
                continue;
            };
            if self.architecture.is_redundant(&name) {
                continue;
            }
            self.missing.remove(&name);
            match self.fitting(&name, &stored_name, info) {
                Ok(element) => {
                    let (start, shape) = (data_start + info.data_offsets.0 as u64, info.shape.clone());
                    let found = StoredTensor { file, start, element, shape, layout: Default::default() };
                    self.keep(name, &stored_name, found)?;
                }
                Err(error) if self.misfit.is_none() => {
                    self.misfit = Some(error.context(format!("in {}", self.files[file].describe())));
                }
                Err(_) => {}
            }
        }
        Ok(())
    }

    /// How tensor `name` is stored. Errors if it has another shape than the model's, or cannot be read.
    fn fitting(&self, name: &str, stored_name: &str, info: &TensorInfo) -> Result<Element> {
        // A tied head has the embedding's.
        let is_tied_head = *name == self.head.name && self.head.is_tied;
        let expected = &self.shapes[if is_tied_head { &self.head.embedding } else { name }];
        ensure!(
            info.shape == *expected,
            "tensor {stored_name} has shape {:?}, config.json asks for {expected:?}; config.json may be another model's",
            info.shape
        );
        Element::of_safetensors(info.dtype).with_context(|| format!("cannot use tensor {stored_name}"))
    }

    /// Errors if it was found before, with other values: transformers takes the last, whatever the index says.
    fn keep(&mut self, name: String, stored_name: &str, found: StoredTensor) -> Result<()> {
        let Some(first) = self.stored.get(&name) else {
            self.stored.insert(name, found);
            return Ok(());
        };
        ensure!(
            first.digest(&name, self.files)? == found.digest(stored_name, self.files)?,
            "tensor {stored_name} is there twice, as {name} in {} as well, with other values; leave out the one that is \
             not the model's",
            self.files[first.file].describe()
        );
        Ok(())
    }

    /// The name in [`Architecture::tensors`], the head's, or a redundant one, of a tensor that a file calls `stored`:
    /// with or without the prefix of the family, behind any of [`WRAPPERS`], with [`INNER_WRAPPERS`] anywhere.
    fn canonical(&self, stored: &str) -> Option<String> {
        let prefix = self.architecture.prefix();
        let is_known = |name: &String| {
            self.shapes.contains_key(name) || *name == self.head.name || self.architecture.is_redundant(name)
        };
        let of = |name: &str| {
            let without = name.strip_prefix(prefix).map(str::to_owned);
            let head = HEADS.contains(&name).then(|| self.head.name.clone());
            [Some(name.to_owned()), Some(format!("{prefix}{name}")), without, head].into_iter().flatten().find(is_known)
        };
        let parts = stored.split('.').filter(|part| !INNER_WRAPPERS.contains(part));
        let unwrapped = parts.collect::<Vec<_>>().join(".");
        let mut rest = unwrapped.as_str();
        loop {
            if let Some(name) = of(rest) {
                return Some(name);
            }
            rest = WRAPPERS.iter().find_map(|wrapper| rest.strip_prefix(wrapper))?;
        }
    }

    /// What was found, if it is the whole model, and nothing else.
    fn judge(mut self, source: &str) -> Result<BTreeMap<String, StoredTensor>> {
        let Head { name: head, embedding, is_tied } = &self.head;
        if *is_tied && self.stored.contains_key(head) {
            self.missing.remove(embedding);
        }
        let missing: Vec<&str> = self.missing.iter().map(String::as_str).collect();
        if !self.strange.is_empty() {
            let names: Vec<&str> = self.strange.iter().map(|(name, _)| name.as_str()).collect();
            let told = strangers(&names, &missing, head, self.misfit.is_some());
            if let Some((at, what)) = told {
                bail!("in {}: tensor {} {what}", self.files[self.strange[at].1].describe(), names[at]);
            }
        }
        if let Some(misfit) = self.misfit {
            return Err(misfit);
        }
        match missing[..] {
            [] => Ok(self.stored),
            [one] if one == head => bail!(
                "{source} has no output head ({head}), and its config.json does not say that the embedding is the head: it \
                 was saved without its head (AutoModel instead of AutoModelForCausalLM). Take the checkpoint that has one, \
                 or, if embedding and head are the same, say \"tie_word_embeddings\": true in config.json"
            ),
            [first, ..] => bail!(
                "{source} lacks {} of the weights that its config.json describes, first {first}; \
                 the download is incomplete, or config.json is another model's",
                missing.len()
            ),
        }
    }
}
