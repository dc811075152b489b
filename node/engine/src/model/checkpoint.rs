//! Reading a checkpoint directory in the Hugging Face layout.

use anyhow::{Context, Result, bail, ensure};
use candle_core::Tensor;
use half::{bf16, f16};
use safetensors::{Dtype, tensor::Metadata};
use serde::Deserialize;
use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io::{Read, Seek, SeekFrom},
    path::{Component, Path, PathBuf},
};

use super::{Architecture, architecture};
use crate::device;

/// Largest header of a safetensors file, bytes (the format's own limit).
const HEADER_BYTES_MAX: u64 = 100_000_000;
/// Bytes that are read and converted at a time.
const READ_BYTES: usize = 1 << 20;

/// A base model: the two files that describe it, and its weights.
#[derive(Clone)]
pub struct Checkpoint {
    /// Where it came from, for people.
    pub source: String,
    /// config.json.
    pub config: Vec<u8>,
    /// tokenizer.json.
    pub tokenizer: Vec<u8>,
    /// Weights by Hugging Face name: f32, contiguous, exactly those of [`Architecture::tensors`].
    pub tensors: BTreeMap<String, Tensor>,
}

#[derive(Deserialize)]
struct ShardIndex {
    weight_map: BTreeMap<String, String>,
}

impl Checkpoint {
    /// Reads `config.json`, `tokenizer.json` and `model.safetensors` or the shards of `model.safetensors.index.json`.
    ///
    /// Weights on disk may be f32, f16 or bf16. Tables of constants and copies of
    /// tied weights are skipped. Errors name the file, the tensor and what to do.
    pub fn load(directory: &Path) -> Result<Self> {
        ensure!(
            directory.is_dir(),
            "model directory {} does not exist; give a directory with config.json, tokenizer.json and model.safetensors",
            directory.display()
        );
        let read = |name: &str| {
            let path = directory.join(name);
            fs::read(&path).with_context(|| {
                format!(
                    "cannot read {}; a Hugging Face checkpoint directory has one, download it again",
                    path.display()
                )
            })
        };
        let config_bytes = read("config.json")?;
        let architecture =
            architecture(&config_bytes).with_context(|| format!("in {}", directory.join("config.json").display()))?;
        let tokenizer = read("tokenizer.json")?;
        let mut wanted: BTreeMap<String, Vec<usize>> = architecture.tensors().into_iter().collect();
        let mut tensors = BTreeMap::new();
        for path in weight_files(directory)? {
            read_file(&path, &*architecture, &mut wanted, &mut tensors)
                .with_context(|| format!("in {}", path.display()))?;
        }
        if let Some(name) = wanted.keys().next() {
            bail!(
                "{} lacks {} of the weights that its config.json describes, first {name}; the download is incomplete, or config.json is another model's",
                directory.display(),
                wanted.len()
            );
        }
        Ok(Self { source: directory.display().to_string(), config: config_bytes, tokenizer, tensors })
    }

    /// The same from bytes in memory: one safetensors file.
    pub fn from_bytes(source: &str, config: &[u8], tokenizer: &[u8], weights: &[u8]) -> Result<Self> {
        let architecture = architecture(config).with_context(|| format!("in {source}"))?;
        let mut wanted: BTreeMap<String, Vec<usize>> = architecture.tensors().into_iter().collect();
        let mut tensors = BTreeMap::new();
        let mut cursor = std::io::Cursor::new(weights);
        read_tensors(&mut cursor, weights.len() as u64, &*architecture, &mut wanted, &mut tensors)
            .with_context(|| format!("in {source}"))?;
        ensure!(wanted.is_empty(), "{source} lacks {} weights", wanted.len());
        Ok(Self { source: source.to_owned(), config: config.to_vec(), tokenizer: tokenizer.to_vec(), tensors })
    }

    /// The model that the config describes.
    pub fn architecture(&self) -> Result<Box<dyn Architecture>> {
        architecture(&self.config)
    }
}

/// `model.safetensors`, or the distinct shards of the index.
fn weight_files(directory: &Path) -> Result<Vec<PathBuf>> {
    let single = directory.join("model.safetensors");
    let index_path = directory.join("model.safetensors.index.json");
    if single.is_file() {
        return Ok(vec![single]);
    }
    ensure!(
        index_path.is_file(),
        "{} has neither model.safetensors nor model.safetensors.index.json; convert the weights to safetensors",
        directory.display()
    );
    let bytes = fs::read(&index_path).with_context(|| format!("cannot read {}", index_path.display()))?;
    let index: ShardIndex = serde_json::from_slice(&bytes)
        .with_context(|| format!("{} is not a valid shard index; download it again", index_path.display()))?;
    let shards: BTreeSet<String> = index.weight_map.into_values().collect();
    shards
        .into_iter()
        .map(|shard| {
            let mut parts = Path::new(&shard).components();
            let plain = matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None));
            ensure!(plain, "{} names a shard {shard:?} that is not a plain file name", index_path.display());
            let path = directory.join(&shard);
            ensure!(path.is_file(), "shard {} is missing; download it again", path.display());
            Ok(path)
        })
        .collect()
}

fn read_file(
    path: &Path,
    architecture: &dyn Architecture,
    wanted: &mut BTreeMap<String, Vec<usize>>,
    tensors: &mut BTreeMap<String, Tensor>,
) -> Result<()> {
    let mut file = File::open(path).context("cannot open the file")?;
    let bytes = file.metadata().context("cannot read the file's size")?.len();
    read_tensors(&mut file, bytes, architecture, wanted, tensors)
}

/// Moves what one safetensors source has from `wanted` to `tensors`, one tensor in memory at a time.
fn read_tensors(
    source: &mut (impl Read + Seek),
    bytes: u64,
    architecture: &dyn Architecture,
    wanted: &mut BTreeMap<String, Vec<usize>>,
    tensors: &mut BTreeMap<String, Tensor>,
) -> Result<()> {
    let mut length = [0u8; 8];
    source.read_exact(&mut length).context("the file is too short for a safetensors header; download it again")?;
    let header_bytes = u64::from_le_bytes(length);
    ensure!(
        header_bytes <= HEADER_BYTES_MAX && header_bytes <= bytes - 8,
        "this is not a safetensors file: its header claims {header_bytes} bytes; download it again"
    );
    let mut header = vec![0u8; header_bytes as usize];
    source.read_exact(&mut header).context("cannot read the header")?;
    let metadata: Metadata =
        serde_json::from_slice(&header).context("malformed safetensors header; download it again")?;
    let data = metadata.data_len() as u64;
    let found = bytes - 8 - header_bytes;
    ensure!(found == data, "the file has {found} bytes of weights, its header says {data}; download it again");
    for (name, info) in metadata.tensors() {
        if architecture.is_redundant(&name) {
            continue;
        }
        let Some(shape) = wanted.remove(&name) else {
            let repeated = if tensors.contains_key(&name) { "is there twice" } else { "is not part of the model" };
            bail!("tensor {name} {repeated} that config.json describes; config.json may be another model's");
        };
        ensure!(
            shape == info.shape,
            "tensor {name} has shape {:?}, config.json asks for {shape:?}; config.json may be another model's",
            info.shape
        );
        source.seek(SeekFrom::Start(8 + header_bytes + info.data_offsets.0 as u64)).context("cannot seek")?;
        let values = read_values(source, info.dtype, shape.iter().product())
            .with_context(|| format!("cannot read tensor {name}"))?;
        tensors.insert(name, device::tensor(values, shape)?);
    }
    Ok(())
}

fn read_values(source: &mut impl Read, dtype: Dtype, elements: usize) -> Result<Vec<f32>> {
    let (width, convert): (usize, fn(&[u8]) -> f32) = match dtype {
        Dtype::F32 => (4, |b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])),
        Dtype::F16 => (2, |b| f16::from_le_bytes([b[0], b[1]]).to_f32()),
        Dtype::BF16 => (2, |b| bf16::from_le_bytes([b[0], b[1]]).to_f32()),
        other => bail!("it is stored as {other:?}; supported are F32, F16 and BF16, convert the checkpoint"),
    };
    let mut values = Vec::with_capacity(elements);
    let mut buffer = vec![0u8; READ_BYTES.min(elements * width)];
    while values.len() < elements {
        let bytes = ((elements - values.len()) * width).min(buffer.len());
        source.read_exact(&mut buffer[..bytes])?;
        values.extend(buffer[..bytes].chunks_exact(width).map(convert));
    }
    match values.iter().position(|v| !v.is_finite()) {
        Some(at) => bail!("element {at} is {}; the checkpoint is damaged or its training diverged", values[at]),
        None => Ok(values),
    }
}
