//! A checkpoint in the Hugging Face layout: its original files, and where in them each tensor of the model lies.

use anyhow::{Context, Result, bail, ensure};
use candle_core::Tensor;
use half::{bf16, f16};
use protocol::manifest::{ElementType, Role};
use safetensors::Dtype;
use std::{
    collections::BTreeMap,
    io::{Read as _, Seek as _, SeekFrom},
    path::Path,
};

use super::{
    Architecture, architecture, architecture::Head, checkpoint_header::read_header, directory, files::OriginalFile,
    sampling::Sampling, special_tokens::json, unusable::quantised,
};
use crate::device;

/// Bytes that are read and converted at a time.
const READ_BYTES: usize = 1 << 20;

/// A base model: its original files. Values of tensors are read when they are asked for.
#[derive(Clone)]
pub struct Checkpoint {
    /// What it is called, for people: see [`protocol::manifest::BaseModel::source`].
    pub source: String,
    /// The original files, in the order of (role, name).
    pub files: Vec<OriginalFile>,
    /// config.json.
    pub config: Vec<u8>,
    /// tokenizer.json.
    pub tokenizer: Vec<u8>,
    /// By Hugging Face name: exactly those of [`Architecture::tensors`].
    stored: BTreeMap<String, StoredTensor>,
    /// Whether there is an output head that is not the embedding, whatever the config says.
    has_own_head: bool,
}

/// Where one tensor is.
#[derive(Clone)]
struct StoredTensor {
    /// Index in the list of files.
    file: usize,
    /// First byte in that file.
    start: u64,
    element: Element,
    shape: Vec<usize>,
}

/// An element type that a model can be built of.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Element {
    F32,
    F16,
    Bf16,
}

impl Element {
    fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
        }
    }

    /// From the bytes of one element to its value.
    fn convert(self) -> fn(&[u8]) -> f32 {
        match self {
            Self::F32 => |b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]),
            Self::F16 => |b| f16::from_le_bytes([b[0], b[1]]).to_f32(),
            Self::Bf16 => |b| bf16::from_le_bytes([b[0], b[1]]).to_f32(),
        }
    }
}

impl Checkpoint {
    /// Finds the files of the model in `directory`, which may be a hub's cache at any level, and reads all but the
    /// values of tensors.
    ///
    /// Weights may be f32, f16 or bf16. Tables of constants and copies of tied weights are skipped. Errors name the
    /// file, the tensor and what to do.
    pub fn load(directory: &Path) -> Result<Self> {
        let directory = directory::find(directory)?;
        Self::of_files(&directory::source(&directory), directory::files(&directory)?)
    }

    /// The same from files, wherever they are, in the order of (role, name).
    pub fn of_files(source: &str, files: Vec<OriginalFile>) -> Result<Self> {
        let config = read(&files, Role::Config)?;
        let architecture = architecture(&config).with_context(|| format!("in the config.json of {source}"))?;
        let tokenizer = read(&files, Role::Tokenizer)?;
        let mut finder = Finder {
            head: architecture.head(),
            wanted: architecture.tensors().into_iter().collect(),
            architecture: &*architecture,
            stored: BTreeMap::new(),
        };
        for (index, file) in files.iter().enumerate().filter(|(_, file)| file.role == Role::Weights) {
            let found = finder.look_into(index, file).with_context(|| format!("in {}", file.describe()));
            found.map_err(|error| match quantised(&config) {
                Some(how) => error.context(how),
                None => error,
            })?;
        }
        finder.check_complete(source)?;
        let stored = finder.stored;
        let mut this = Self { source: source.to_owned(), files, config, tokenizer, stored, has_own_head: false };
        this.settle_head(&architecture.head())?;
        Ok(this)
    }

    /// Of a tied model that stores an embedding and a head, the head is the model's own where the two differ, and left
    /// out where they do not; as transformers reads it. A head alone is the embedding as well.
    fn settle_head(&mut self, head: &Head) -> Result<()> {
        if !head.is_tied {
            return Ok(());
        }
        let Some(stored) = self.stored.get(&head.name).cloned() else { return Ok(()) };
        if !self.stored.contains_key(&head.embedding) {
            self.stored.remove(&head.name);
            self.stored.insert(head.embedding.clone(), stored);
            return Ok(());
        }
        let [own, embedding] = [&head.name, &head.embedding].map(|name| self.digest_of_values(name));
        self.has_own_head = own? != embedding?;
        if !self.has_own_head {
            self.stored.remove(&head.name);
        }
        Ok(())
    }

    /// BLAKE3 of a tensor's values as f32.
    fn digest_of_values(&self, name: &str) -> Result<[u8; 32]> {
        let (convert, bytes) = (self.find(name)?.element.convert(), self.find(name)?.element.bytes());
        let mut hasher = blake3::Hasher::new();
        self.for_each_bytes(name, |piece| {
            let values: Vec<u8> = piece.chunks_exact(bytes).flat_map(|value| convert(value).to_le_bytes()).collect();
            hasher.update(&values);
            Ok(())
        })?;
        Ok(*hasher.finalize().as_bytes())
    }

    /// The bytes of the file of this role, if there is one.
    pub fn file(&self, role: Role) -> Result<Option<Vec<u8>>> {
        self.files.iter().find(|file| file.role == role).map(OriginalFile::read).transpose()
    }

    /// The model that the config describes.
    pub fn architecture(&self) -> Result<Box<dyn Architecture>> {
        let architecture = architecture(&self.config)?;
        Ok(if self.has_own_head { architecture.with_own_head() } else { architecture })
    }

    /// How `generation_config.json` samples, if it does.
    pub fn sampling(&self) -> Result<Option<Sampling>> {
        Ok(Sampling::of_generation_config(&json(&self.files, Role::GenerationConfig)?))
    }

    /// The tensors' names and shapes, in order.
    pub fn shapes(&self) -> impl Iterator<Item = (&str, &[usize])> {
        self.stored.iter().map(|(name, stored)| (name.as_str(), &stored.shape[..]))
    }

    /// How the elements of tensor `name` are stored.
    pub fn element_type(&self, name: &str) -> Result<ElementType> {
        Ok(match self.find(name)?.element {
            Element::F32 => ElementType::F32,
            Element::F16 => ElementType::F16,
            Element::Bf16 => ElementType::Bf16,
        })
    }

    /// The values of tensor `name`: f32, which holds each of them exactly, contiguous. Errors if one is not finite.
    pub fn tensor(&self, name: &str) -> Result<Tensor> {
        let stored = self.find(name)?;
        let convert = stored.element.convert();
        let elements: usize = stored.shape.iter().product();
        let mut values = Vec::new();
        values
            .try_reserve_exact(elements)
            .with_context(|| format!("the {elements} values of tensor {name} do not fit this machine's memory"))?;
        self.for_each_bytes(name, |bytes| {
            values.extend(bytes.chunks_exact(stored.element.bytes()).map(convert));
            Ok(())
        })?;
        if let Some(at) = values.iter().position(|v| !v.is_finite()) {
            let value = values[at];
            bail!("tensor {name}: element {at} is {value}; the checkpoint is damaged or its training diverged");
        }
        device::tensor(values, stored.shape.clone())
    }

    /// All tensors, as [`Self::tensor`] reads them.
    pub fn tensors(&self) -> Result<BTreeMap<String, Tensor>> {
        self.stored.keys().map(|name| Ok((name.clone(), self.tensor(name)?))).collect()
    }

    /// Hands out the bytes of tensor `name` as they are stored, piece by piece, each a whole number of elements.
    pub fn for_each_bytes(&self, name: &str, mut f: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let stored = self.find(name)?;
        let file = &self.files[stored.file];
        let unreadable = || format!("cannot read tensor {name} of {}", file.describe());
        let mut section = file.open()?;
        section.seek(SeekFrom::Start(stored.start)).with_context(unreadable)?;
        let mut left = stored.shape.iter().product::<usize>() * stored.element.bytes();
        let mut buffer = vec![0u8; READ_BYTES.min(left)];
        while left > 0 {
            let bytes = &mut buffer[..READ_BYTES.min(left)];
            section.read_exact(bytes).with_context(unreadable)?;
            f(bytes)?;
            left -= bytes.len();
        }
        Ok(())
    }

    fn find(&self, name: &str) -> Result<&StoredTensor> {
        self.stored.get(name).with_context(|| format!("{} has no tensor {name}", self.source))
    }
}

/// The one file of a role, in memory.
fn read(files: &[OriginalFile], role: Role) -> Result<Vec<u8>> {
    let file = files.iter().find(|file| file.role == role);
    let name = role.file_name().unwrap_or_default();
    file.with_context(|| format!("the base has no {name}; a Hugging Face checkpoint has one"))?.read()
}

/// What some tools put before every name: data-parallel and compiled models, adapters that were merged, models within
/// models.
const WRAPPERS: [&str; 5] = ["", "module.", "_orig_mod.", "base_model.model.", "language_model."];

/// What output heads are called, by one release of transformers or another.
const HEADS: [&str; 2] = ["lm_head.weight", "embed_out.weight"];

/// Looks for the model's tensors in one file after the other.
struct Finder<'a> {
    architecture: &'a dyn Architecture,
    head: Head,
    wanted: BTreeMap<String, Vec<usize>>,
    stored: BTreeMap<String, StoredTensor>,
}

impl Finder<'_> {
    /// Moves what one safetensors file has from `wanted` to `stored`.
    fn look_into(&mut self, index: usize, file: &OriginalFile) -> Result<()> {
        let (metadata, data_start) = read_header(file)?;
        for (stored_name, info) in metadata.tensors() {
            let Some(name) = self.canonical(&stored_name) else {
                bail!(
                    "tensor {stored_name} is not part of the model that config.json describes; config.json may be another \
                     model's"
                );
            };
            if self.architecture.is_redundant(&name) {
                continue;
            }
            ensure!(
                !self.stored.contains_key(&name),
                "tensor {stored_name} is there twice; config.json may be another model's"
            );
            let shape = self.wanted.remove(&name).or_else(|| self.shape_of_embedding());
            let Some(shape) = shape.filter(|shape| *shape == info.shape) else {
                bail!(
                    "tensor {stored_name} has shape {:?}, config.json asks for {:?}; config.json may be another model's",
                    info.shape,
                    self.expected(&name).unwrap_or_default()
                );
            };
            let element = element(info.dtype).with_context(|| format!("cannot use tensor {stored_name}"))?;
            let start = data_start + info.data_offsets.0 as u64;
            self.stored.insert(name, StoredTensor { file: index, start, element, shape });
        }
        Ok(())
    }

    /// The name in [`Architecture::tensors`], the head's, or a redundant one, of a tensor that a file calls `stored`:
    /// with or without the prefix of the family, and without those of [`WRAPPERS`].
    fn canonical(&self, stored: &str) -> Option<String> {
        let prefix = self.architecture.prefix();
        let is_known = |name: &String| {
            self.wanted.contains_key(name)
                || self.stored.contains_key(name)
                || *name == self.head.name
                || self.architecture.is_redundant(name)
        };
        let of = |name: &str| {
            let without = name.strip_prefix(prefix).map(str::to_owned);
            let head = HEADS.contains(&name).then(|| self.head.name.clone());
            [Some(name.to_owned()), Some(format!("{prefix}{name}")), without, head].into_iter().flatten().find(is_known)
        };
        WRAPPERS.iter().find_map(|wrapper| of(stored.strip_prefix(wrapper)?))
    }

    /// Of a tied head, which is like the embedding.
    fn shape_of_embedding(&self) -> Option<Vec<usize>> {
        self.expected(&self.head.embedding)
    }

    fn expected(&self, name: &str) -> Option<Vec<usize>> {
        let name = if *name == self.head.name && self.head.is_tied { &self.head.embedding } else { name };
        self.architecture.tensors().into_iter().find(|(found, _)| found == name).map(|(_, shape)| shape)
    }

    /// Errors if a weight was not found.
    fn check_complete(&mut self, source: &str) -> Result<()> {
        let Head { name: head, embedding, is_tied } = &self.head;
        if *is_tied && self.stored.contains_key(head) {
            self.wanted.remove(embedding);
        }
        let Some(name) = self.wanted.keys().next() else { return Ok(()) };
        ensure!(
            name != head || self.wanted.len() > 1,
            "{source} has no output head ({head}), and its config.json does not say that the embedding is the head: it was \
             saved without its head (AutoModel instead of AutoModelForCausalLM). Take the checkpoint that has one, or, if \
             embedding and head are the same, say \"tie_word_embeddings\": true in config.json"
        );
        bail!(
            "{source} lacks {} of the weights that its config.json describes, first {name}; \
             the download is incomplete, or config.json is another model's",
            self.wanted.len()
        );
    }
}

fn element(dtype: Dtype) -> Result<Element> {
    match dtype {
        Dtype::F32 => Ok(Element::F32),
        Dtype::F16 => Ok(Element::F16),
        Dtype::BF16 => Ok(Element::Bf16),
        other => bail!(
            "it is stored as {other:?}; supported are F32, F16 and BF16. Convert the checkpoint: in transformers, load \
             it with from_pretrained(..., dtype=torch.bfloat16), call dequantize() if it is quantised, then \
             save_pretrained(...)"
        ),
    }
}
