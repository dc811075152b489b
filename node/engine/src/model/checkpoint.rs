//! A checkpoint in the Hugging Face layout, or a GGUF file: its original files, and where in them each tensor of the
//! model lies.

use anyhow::{Context, Result, bail, ensure};
use candle_core::{
    Device, Tensor,
    quantized::{GgmlDType, QStorage, QTensor},
};
use half::{bf16, f16};
use protocol::manifest::{ElementType, Role};
use safetensors::Dtype;
use std::{
    borrow::Cow,
    collections::BTreeMap,
    io::{Read as _, Seek as _, SeekFrom},
    path::Path,
};

use super::{
    Architecture, Part,
    architecture::Head,
    checkpoint_header::read_header,
    directory, families,
    files::OriginalFile,
    gguf,
    plan::Plan,
    sampling::{self, Sampling},
    special_tokens::json,
    unusable::quantised,
};
use crate::{
    device,
    packed::{Frozen, Packed},
};

/// Bytes that are read and converted at a time.
const READ_BYTES: usize = 1 << 20;

/// A base model: its original files. Values of tensors are read when they are asked for.
#[derive(Clone)]
pub struct Checkpoint {
    /// What it is called, for people: see [`protocol::manifest::BaseModel::source`].
    pub source: String,
    /// The original files, in the order of (role, name).
    pub files: Vec<OriginalFile>,
    /// Of a GGUF file: config, tokenizer and others, which are made of its metadata.
    made: Vec<OriginalFile>,
    /// config.json.
    pub config: Vec<u8>,
    /// tokenizer.json.
    pub tokenizer: Vec<u8>,
    /// By Hugging Face name: exactly those of [`Architecture::tensors`].
    stored: BTreeMap<String, StoredTensor>,
    /// What the config describes; with an output head of its own if there is one, whatever the config says.
    plan: Plan,
    /// Whether linear layers are stored [out, in], though transformers' are [in, out].
    is_turned: bool,
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
    /// In what it differs from transformers'.
    layout: gguf::Layout,
}

impl StoredTensor {
    fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    fn bytes(&self) -> usize {
        let (block, bytes) = self.element.block();
        self.elements() / block * bytes
    }
}

/// An element type that a model can be built of.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Element {
    F32,
    F16,
    Bf16,
    /// Blocks of elements that share their scales, of GGUF files.
    Block(GgmlDType),
}

impl Element {
    /// Elements of a block, and its bytes.
    fn block(self) -> (usize, usize) {
        match self {
            Self::F32 => (1, 4),
            Self::F16 | Self::Bf16 => (1, 2),
            Self::Block(kind) => (kind.block_size(), kind.type_size()),
        }
    }

    /// The values of whole blocks, behind those in `values`.
    fn read(self, bytes: &[u8], values: &mut Vec<f32>) -> Result<()> {
        match self {
            Self::F32 => values.extend(bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b))),
            Self::F16 => values.extend(bytes.as_chunks().0.iter().map(|b| f16::from_le_bytes(*b).to_f32())),
            Self::Bf16 => values.extend(bytes.as_chunks().0.iter().map(|b| bf16::from_le_bytes(*b).to_f32())),
            Self::Block(kind) => {
                let elements = bytes.len() / kind.type_size() * kind.block_size();
                let storage = QStorage::from_data(Cow::Borrowed(bytes), &Device::Cpu, kind)?;
                let read = QTensor::new(storage, elements)?.dequantize(&Device::Cpu)?;
                device::read(&read, |read| values.extend_from_slice(read))?;
            }
        }
        Ok(())
    }

    fn of_gguf(kind: GgmlDType) -> Self {
        match kind {
            GgmlDType::F32 => Self::F32,
            GgmlDType::F16 => Self::F16,
            GgmlDType::BF16 => Self::Bf16,
            other => Self::Block(other),
        }
    }
}

impl Checkpoint {
    /// Finds the files of the model at `path`, which may be a directory, a hub's cache at any level, or a GGUF file,
    /// and reads all but the values of tensors.
    ///
    /// Weights may be f32, f16 or bf16, those of a GGUF file quantised. Tables of constants and copies of tied weights
    /// are skipped. Errors name the file, the tensor and what to do.
    pub fn load(path: &Path) -> Result<Self> {
        let path = directory::find(path)?;
        Self::of_files(&directory::source(&path), directory::files(&path)?)
    }

    /// The same from files, wherever they are, in the order of (role, name).
    pub fn of_files(source: &str, files: Vec<OriginalFile>) -> Result<Self> {
        if let Some(index) = files.iter().position(|file| file.role == Role::Gguf) {
            let what = files[index].describe();
            return Self::of_gguf(source, files, index).with_context(|| format!("in {what}"));
        }
        let config = read(&files, Role::Config)?;
        let plan = families::plan(&config).with_context(|| format!("in the config.json of {source}"))?;
        let architecture: &dyn Architecture = &plan;
        let tokenizer = read(&files, Role::Tokenizer)?;
        let mut finder = Finder {
            head: architecture.head(),
            wanted: architecture.tensors().into_iter().collect(),
            architecture,
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
        let (stored, head) = (finder.stored, architecture.head());
        let source = source.to_owned();
        let mut this = Self { source, files, made: Vec::new(), config, tokenizer, stored, plan, is_turned: false };
        this.settle_head(&head)?;
        Ok(this)
    }

    /// From the GGUF file of this index.
    fn of_gguf(source: &str, files: Vec<OriginalFile>, index: usize) -> Result<Self> {
        let gguf::Model { mut header, files: made, mut plan } = gguf::read(&files[index])?;
        let is_turned = std::mem::replace(&mut plan.is_transposed, false);
        let mut layouts = gguf::layouts(&plan);
        let mut stored = BTreeMap::new();
        for (name, shape) in plan.tensors() {
            let (theirs, layout) =
                layouts.remove(&name).with_context(|| format!("no GGUF file has a tensor {name}"))?;
            let found = header.tensors.remove(&theirs);
            let found = found.with_context(|| format!("it has no tensor {theirs}, which its metadata ask for"))?;
            ensure!(
                found.shape == shape,
                "tensor {theirs} has shape {:?}, its metadata ask for {shape:?}",
                found.shape
            );
            let element = Element::of_gguf(found.kind);
            stored.insert(name, StoredTensor { file: index, start: found.start, element, shape, layout });
        }
        // Factors of rotary frequencies, which the config has.
        header.tensors.retain(|name, _| !name.starts_with("rope_f") && !name.ends_with("rot_embd"));
        if let Some(name) = header.tensors.keys().next() {
            bail!("tensor {name} is not part of the model that its metadata describe");
        }
        let (config, tokenizer) = (read(&made, Role::Config)?, read(&made, Role::Tokenizer)?);
        Ok(Self { source: source.to_owned(), files, made, config, tokenizer, stored, plan, is_turned })
    }

    /// The files beside the weights: the original ones, or those that are made of a GGUF file's metadata.
    pub fn beside_weights(&self) -> impl Iterator<Item = &OriginalFile> + Clone {
        let files = if self.made.is_empty() { &self.files } else { &self.made };
        files.iter().filter(|file| !matches!(file.role, Role::WeightsIndex | Role::Weights | Role::Gguf))
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
        let has_own_head = own? != embedding?;
        if !has_own_head {
            self.stored.remove(&head.name);
        }
        self.plan.head.is_tied = !has_own_head;
        Ok(())
    }

    /// BLAKE3 of a tensor's values as f32.
    fn digest_of_values(&self, name: &str) -> Result<[u8; 32]> {
        let (element, mut values) = (self.find(name)?.element, Vec::new());
        let mut hasher = blake3::Hasher::new();
        self.for_each_bytes(name, |piece| {
            values.clear();
            element.read(piece, &mut values)?;
            for value in &values {
                hasher.update(&value.to_le_bytes());
            }
            Ok(())
        })?;
        Ok(*hasher.finalize().as_bytes())
    }

    /// The bytes of the file of this role, if there is one.
    pub fn file(&self, role: Role) -> Result<Option<Vec<u8>>> {
        self.beside_weights().find(|file| file.role == role).map(OriginalFile::read).transpose()
    }

    /// The model that the config describes.
    pub fn architecture(&self) -> Result<Box<dyn Architecture>> {
        Ok(Box::new(self.plan.clone()))
    }

    /// As `generation_config.json` has it, or as is usual here; and the names of what it says and is not followed.
    pub fn sampling(&self) -> Result<(Sampling, Vec<&'static str>)> {
        let config = json(self.beside_weights(), Role::GenerationConfig)?;
        Ok((Sampling::of_generation_config(&config), sampling::not_followed(&config)))
    }

    /// Whether transformers has tensor `name` the other way round, [in, out], as it has all linear layers of GPT-2.
    pub fn is_turned(&self, name: &str) -> bool {
        let part = Architecture::part(&self.plan, name);
        let is_linear = matches!(part, Part::Attention | Part::Mlp) && name.ends_with(".weight");
        self.is_turned && is_linear
    }

    /// Whether transformers has the linear layers of this model [in, out].
    pub fn is_transposed(&self) -> bool {
        self.is_turned || self.plan.is_transposed
    }

    /// Whether the bytes of tensor `name` are those that a safetensors file has of it.
    pub fn is_plain(&self, name: &str) -> Result<bool> {
        let StoredTensor { element, layout, .. } = self.find(name)?;
        Ok(!matches!(element, Element::Block(_)) && *layout == gguf::Layout::default() && !self.is_turned(name))
    }

    /// Whether tensor `name` is stored in blocks that share their scales: it can be read, and not be trained.
    pub fn is_quantised(&self, name: &str) -> Result<bool> {
        Ok(matches!(self.find(name)?.element, Element::Block(_)))
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
            Element::Block(kind) => match kind {
                GgmlDType::Q4_0 => ElementType::Q4_0,
                GgmlDType::Q4_1 => ElementType::Q4_1,
                GgmlDType::Q5_0 => ElementType::Q5_0,
                GgmlDType::Q5_1 => ElementType::Q5_1,
                GgmlDType::Q8_0 => ElementType::Q8_0,
                GgmlDType::Q2K => ElementType::Q2K,
                GgmlDType::Q3K => ElementType::Q3K,
                GgmlDType::Q4K => ElementType::Q4K,
                GgmlDType::Q5K => ElementType::Q5K,
                GgmlDType::Q6K => ElementType::Q6K,
                GgmlDType::Q8K => ElementType::Q8K,
                other => bail!("tensor {name} is stored as {other:?}, which is not supported"),
            },
        })
    }

    /// The values of tensor `name`: f32, which holds each of them exactly, contiguous. Errors if one is not finite.
    pub fn tensor(&self, name: &str) -> Result<Tensor> {
        let stored = self.find(name)?;
        let elements = stored.elements();
        let mut values = Vec::new();
        values
            .try_reserve_exact(elements)
            .with_context(|| format!("the {elements} values of tensor {name} do not fit this machine's memory"))?;
        self.for_each_bytes(name, |bytes| stored.element.read(bytes, &mut values))?;
        let gguf::Layout { order, shift } = stored.layout;
        if order != gguf::Order::Same {
            let width = elements / stored.shape[0];
            let rows = (0..stored.shape[0]).map(|row| &values[order.stored(row) * width..][..width]);
            values = rows.collect::<Vec<_>>().concat();
        }
        if shift != 0.0 {
            values.iter_mut().for_each(|value| *value += shift);
        }
        if let Some(at) = values.iter().position(|v| !v.is_finite()) {
            let value = values[at];
            bail!("tensor {name}: element {at} is {value}; the checkpoint is damaged or its training diverged");
        }
        device::tensor(values, stored.shape.clone())
    }

    /// Tensor `name` for a run that does not train it: matrices of less than 32 bits stay as they are stored, all
    /// others are f32. Errors as [`Self::tensor`] does.
    pub fn frozen(&self, name: &str) -> Result<Frozen> {
        let stored = self.find(name)?;
        let kind = match stored.element {
            Element::F16 => GgmlDType::F16,
            Element::Bf16 => GgmlDType::BF16,
            Element::Block(kind) => kind,
            Element::F32 => return self.tensor(name).map(Frozen::Plain),
        };
        let [rows, columns] = stored.shape[..] else { return self.tensor(name).map(Frozen::Plain) };
        let mut bytes = Vec::new();
        let room = bytes.try_reserve_exact(stored.bytes());
        room.with_context(|| format!("tensor {name} does not fit this machine's memory"))?;
        self.for_each_bytes(name, |piece| {
            bytes.extend_from_slice(piece);
            Ok(())
        })?;
        let order = stored.layout.order;
        if order != gguf::Order::Same {
            let width = bytes.len() / rows;
            bytes = (0..rows).map(|row| &bytes[order.stored(row) * width..][..width]).collect::<Vec<_>>().concat();
        }
        Packed::new(kind, [rows, columns], bytes).map(Frozen::Packed).with_context(|| format!("tensor {name}"))
    }

    /// What [`Self::frozen`] takes in memory.
    pub fn frozen_bytes(&self, name: &str) -> Result<u64> {
        let stored = self.find(name)?;
        let bytes = if stored.shape.len() == 2 { stored.bytes() } else { 4 * stored.elements() };
        Ok(bytes as u64)
    }

    /// Width of the hidden states.
    pub fn width(&self) -> usize {
        self.plan.hidden
    }

    /// Outputs of the linear layers of one layer, all together.
    pub fn outputs_of_layer(&self) -> usize {
        let first = format!("{}0.", self.plan.layers);
        let outputs =
            self.plan.tensors().into_iter().filter(|(name, shape)| name.starts_with(&first) && shape.len() == 2);
        outputs.map(|(_, shape)| if self.plan.is_transposed { shape[1] } else { shape[0] }).sum()
    }

    /// All tensors, as [`Self::tensor`] reads them.
    pub fn tensors(&self) -> Result<BTreeMap<String, Tensor>> {
        self.stored.keys().map(|name| Ok((name.clone(), self.tensor(name)?))).collect()
    }

    /// Hands out the bytes of tensor `name` as they are stored, piece by piece, each a whole number of blocks.
    pub fn for_each_bytes(&self, name: &str, mut f: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let stored = self.find(name)?;
        let file = &self.files[stored.file];
        let unreadable = || format!("cannot read tensor {name} of {}", file.describe());
        let mut section = file.open()?;
        section.seek(SeekFrom::Start(stored.start)).with_context(unreadable)?;
        let mut left = stored.bytes();
        let (_, block) = stored.element.block();
        let mut buffer = vec![0u8; (READ_BYTES / block * block).min(left)];
        while left > 0 {
            let length = buffer.len().min(left);
            let bytes = &mut buffer[..length];
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

/// What some tools put before every name, one of these or several: data-parallel and compiled models, adapters that
/// were merged, models within models.
const WRAPPERS: [&str; 9] = [
    "module.",
    "_orig_mod.",
    "_fsdp_wrapped_module.",
    "base_model.",
    "model.",
    "language_model.",
    "text_model.",
    "transformer.",
    "gpt_neox.",
];

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
                     model's. If it is more than the model needs, in transformers load the model with from_pretrained(...), \
                     then save_pretrained(...), which leaves it out"
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
            self.stored.insert(name, StoredTensor { file: index, start, element, shape, layout: Default::default() });
        }
        Ok(())
    }

    /// The name in [`Architecture::tensors`], the head's, or a redundant one, of a tensor that a file calls `stored`:
    /// with or without the prefix of the family, behind any of [`WRAPPERS`].
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
        let mut stored = stored;
        loop {
            if let Some(name) = of(stored) {
                return Some(name);
            }
            stored = WRAPPERS.iter().find_map(|wrapper| stored.strip_prefix(wrapper))?;
        }
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
