//! One tensor in a base's original files: where it lies, and how its elements are stored.

use anyhow::{Context, Result, bail};
use candle_core::{
    Device,
    quantized::{GgmlDType, QStorage, QTensor},
};
use half::{bf16, f16};
use safetensors::Dtype;
use std::{
    borrow::Cow,
    io::{Read as _, Seek as _, SeekFrom},
};

use super::{files::OriginalFile, gguf};
use crate::device;

/// Bytes that are read and converted at a time.
const READ_BYTES: usize = 1 << 20;

/// Where one tensor is.
#[derive(Clone)]
pub struct StoredTensor {
    /// Index in the list of files.
    pub file: usize,
    /// First byte in that file.
    pub start: u64,
    pub element: Element,
    pub shape: Vec<usize>,
    /// In what it differs from transformers'.
    pub layout: gguf::Layout,
}

impl StoredTensor {
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    pub fn bytes(&self) -> usize {
        let (block, bytes) = self.element.block();
        self.elements() / block * bytes
    }

    /// Hands out its bytes as `files` have them, piece by piece, each a whole number of blocks. `name` is for errors.
    pub fn for_each_bytes(
        &self,
        name: &str,
        files: &[OriginalFile],
        mut f: impl FnMut(&[u8]) -> Result<()>,
    ) -> Result<()> {
        let file = &files[self.file];
        let unreadable = || format!("cannot read tensor {name} of {}", file.describe());
        let mut section = file.open()?;
        section.seek(SeekFrom::Start(self.start)).with_context(unreadable)?;
        let mut left = self.bytes();
        let (_, block) = self.element.block();
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

    /// BLAKE3 of its values as f32.
    pub fn digest(&self, name: &str, files: &[OriginalFile]) -> Result<[u8; 32]> {
        let mut values = Vec::new();
        let mut hasher = blake3::Hasher::new();
        self.for_each_bytes(name, files, |piece| {
            values.clear();
            self.element.read(piece, &mut values)?;
            for value in &values {
                hasher.update(&value.to_le_bytes());
            }
            Ok(())
        })?;
        Ok(*hasher.finalize().as_bytes())
    }
}

/// An element type that a model can be built of.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Element {
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
    pub fn read(self, bytes: &[u8], values: &mut Vec<f32>) -> Result<()> {
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

    pub fn of_gguf(kind: GgmlDType) -> Self {
        match kind {
            GgmlDType::F32 => Self::F32,
            GgmlDType::F16 => Self::F16,
            GgmlDType::BF16 => Self::Bf16,
            other => Self::Block(other),
        }
    }

    pub fn of_safetensors(dtype: Dtype) -> Result<Self> {
        match dtype {
            Dtype::F32 => Ok(Self::F32),
            Dtype::F16 => Ok(Self::F16),
            Dtype::BF16 => Ok(Self::Bf16),
            other => bail!(
                "it is stored as {other:?}; supported are F32, F16 and BF16. Convert the checkpoint: in transformers, load \
                 it with from_pretrained(..., dtype=torch.bfloat16), call dequantize() if it is quantised, then \
                 save_pretrained(...)"
            ),
        }
    }
}
