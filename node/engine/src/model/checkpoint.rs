//! A checkpoint in the Hugging Face layout: its original files, and where in them each tensor of the model lies.

use anyhow::{Context, Result, bail, ensure};
use candle_core::Tensor;
use half::{bf16, f16};
use protocol::manifest::{ElementType, Role};
use safetensors::{Dtype, tensor::Metadata};
use std::{
    collections::BTreeMap,
    io::{Read, Seek, SeekFrom},
    path::Path,
};

use super::{Architecture, architecture, directory, files::OriginalFile};
use crate::device;

/// Largest header of a safetensors file, bytes: some fifty thousand tensors. It may come from a peer.
const HEADER_BYTES_MAX: u64 = 8 << 20;
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
}

impl Checkpoint {
    /// Finds the files of the model in `directory`, and reads all but the values of tensors.
    ///
    /// Weights may be f32, f16 or bf16. Tables of constants and copies of tied weights are skipped. Errors name the
    /// file, the tensor and what to do.
    pub fn load(directory: &Path) -> Result<Self> {
        Self::of_files(&directory::source(directory), directory::files(directory)?)
    }

    /// The same from files, wherever they are, in the order of (role, name).
    pub fn of_files(source: &str, files: Vec<OriginalFile>) -> Result<Self> {
        let config = read(&files, Role::Config)?;
        let architecture = architecture(&config).with_context(|| format!("in the config.json of {source}"))?;
        let tokenizer = read(&files, Role::Tokenizer)?;
        let mut finder = Finder {
            architecture: &*architecture,
            wanted: architecture.tensors().into_iter().collect(),
            stored: BTreeMap::new(),
        };
        for (index, file) in files.iter().enumerate().filter(|(_, file)| file.role == Role::Weights) {
            finder.look_into(index, file).with_context(|| format!("in {}", file.describe()))?;
        }
        let Finder { wanted, stored, .. } = finder;
        if let Some(name) = wanted.keys().next() {
            bail!(
                "{source} lacks {} of the weights that its config.json describes, first {name}; \
                 the download is incomplete, or config.json is another model's",
                wanted.len()
            );
        }
        Ok(Self { source: source.to_owned(), files, config, tokenizer, stored })
    }

    /// The model that the config describes.
    pub fn architecture(&self) -> Result<Box<dyn Architecture>> {
        architecture(&self.config)
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
        let convert: fn(&[u8]) -> f32 = match stored.element {
            Element::F32 => |b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]),
            Element::F16 => |b| f16::from_le_bytes([b[0], b[1]]).to_f32(),
            Element::Bf16 => |b| bf16::from_le_bytes([b[0], b[1]]).to_f32(),
        };
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

/// Looks for the model's tensors in one file after the other.
struct Finder<'a> {
    architecture: &'a dyn Architecture,
    wanted: BTreeMap<String, Vec<usize>>,
    stored: BTreeMap<String, StoredTensor>,
}

impl Finder<'_> {
    /// Moves what one safetensors file has from `wanted` to `stored`.
    fn look_into(&mut self, index: usize, file: &OriginalFile) -> Result<()> {
        let (metadata, data_start) = read_header(file)?;
        for (name, info) in metadata.tensors() {
            if self.architecture.is_redundant(&name) {
                continue;
            }
            let Some(shape) = self.wanted.remove(&name) else {
                let repeated =
                    if self.stored.contains_key(&name) { "is there twice" } else { "is not part of the model" };
                bail!("tensor {name} {repeated} that config.json describes; config.json may be another model's");
            };
            ensure!(
                shape == info.shape,
                "tensor {name} has shape {:?}, config.json asks for {shape:?}; config.json may be another model's",
                info.shape
            );
            let element = element(info.dtype).with_context(|| format!("cannot use tensor {name}"))?;
            let start = data_start + info.data_offsets.0 as u64;
            self.stored.insert(name, StoredTensor { file: index, start, element, shape });
        }
        Ok(())
    }
}

/// The header of a safetensors file, whose ranges lie within the file, and where the data begin.
fn read_header(file: &OriginalFile) -> Result<(Metadata, u64)> {
    let mut section = file.open()?;
    let mut length = [0u8; 8];
    section.read_exact(&mut length).context("the file is too short for a safetensors header; download it again")?;
    let header_bytes = u64::from_le_bytes(length);
    ensure!(
        header_bytes <= HEADER_BYTES_MAX && header_bytes <= file.bytes - 8,
        "this is not a safetensors file: its header claims {header_bytes} bytes; download it again"
    );
    let mut header = vec![0u8; header_bytes as usize];
    section.read_exact(&mut header).context("cannot read the header")?;
    let metadata: Metadata =
        serde_json::from_slice(&header).context("malformed safetensors header; download it again")?;
    let (found, data) = (file.bytes - 8 - header_bytes, metadata.data_len() as u64);
    ensure!(found == data, "the file has {found} bytes of weights, its header says {data}; download it again");
    Ok((metadata, 8 + header_bytes))
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
