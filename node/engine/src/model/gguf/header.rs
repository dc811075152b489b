//! What a GGUF file says of itself. candle's reader reads it, once it was gone through and found to be bounded: sizes,
//! numbers of values, types, and that every tensor lies within the file.

use anyhow::{Context, Result, bail, ensure};
use candle_core::quantized::{
    GgmlDType,
    gguf_file::{Content, Value},
};
use std::{
    collections::{BTreeMap, HashMap},
    io::{BufReader, Cursor, Read, Seek, SeekFrom},
};

use super::super::OriginalFile;

/// Longest header, bytes: a vocabulary of a quarter of a million tokens takes some 15 million.
const HEADER_BYTES_MAX: u64 = 64 << 20;
/// Most values, those of lists counted one by one; each takes up to 32 bytes of memory, and its text.
const VALUES_MAX: u64 = 1 << 23;
/// Most tensors, as of any base.
const TENSORS_MAX: u64 = 1 << 16;
/// Longest name.
const NAME_BYTES_MAX: u64 = 255;
/// Most elements of a tensor.
const ELEMENTS_MAX: u64 = 1 << 44;

/// Metadata, and where the tensors are.
pub struct Header {
    pub metadata: HashMap<String, Value>,
    pub tensors: BTreeMap<String, Stored>,
}

/// Where a tensor is, and in what form.
#[derive(Clone, Debug)]
pub struct Stored {
    /// First byte in the file.
    pub start: u64,
    /// Row-major: rows first.
    pub shape: Vec<usize>,
    pub kind: GgmlDType,
}

impl Header {
    /// Errors say what is out of bounds.
    pub fn read(file: &OriginalFile) -> Result<Self> {
        let mut start = [0; 8];
        // A shorter file is refused as what ends early.
        let _ = file.open()?.read_exact(&mut start);
        check_form(start)?;
        let walk = Walk { inner: BufReader::new(file.open()?.take(HEADER_BYTES_MAX)), read: 0, values: 0, other: None };
        let (length, other) = walk.header().context("this is not a GGUF file that can be read; download it again")?;
        if let Some((name, kind)) = other {
            bail!(
                "tensor {name} is stored as {}; supported are F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0 and the K-quants \
                 (Q2_K to Q6_K). Take a file of one of those, for example Q4_K_M or Q8_0",
                kind_name(kind)
            );
        }
        let mut bytes = vec![0; length as usize];
        file.open()?.read_exact(&mut bytes).context("cannot read the header")?;
        let content = Content::read(&mut Cursor::new(bytes)).context("malformed GGUF header; download it again")?;
        let mut tensors = BTreeMap::new();
        for (name, info) in content.tensor_infos {
            let shape = info.shape.into_dims();
            let (elements, block) = (shape.iter().product::<usize>(), info.ggml_dtype.block_size());
            let row = shape.last().copied().unwrap_or(1);
            ensure!(
                row.is_multiple_of(block),
                "tensor {name} has rows of {row} elements, in blocks of {block}; download the file again"
            );
            let bytes = (elements / block * info.ggml_dtype.type_size()) as u64;
            let start = content.tensor_data_offset.checked_add(info.offset);
            let end = start.and_then(|start| start.checked_add(bytes));
            ensure!(
                end.is_some_and(|end| end <= file.bytes),
                "tensor {name} ends behind the file's {} bytes: the download is incomplete",
                file.bytes
            );
            tensors.insert(name, Stored { start: start.unwrap_or_default(), shape, kind: info.ggml_dtype });
        }
        Ok(Self { metadata: content.metadata, tensors })
    }

    /// The values of a small f32 tensor; None if there is none of that name.
    pub fn vector(&self, file: &OriginalFile, name: &str) -> Result<Option<Vec<f32>>> {
        const VALUES_MAX: usize = 1 << 16;
        let Some(stored) = self.tensors.get(name) else { return Ok(None) };
        let count = stored.shape.iter().product::<usize>();
        ensure!(stored.kind == GgmlDType::F32 && count <= VALUES_MAX, "tensor {name} is {:?} of {count}", stored.kind);
        let mut section = file.open()?;
        section.seek(SeekFrom::Start(stored.start))?;
        let mut bytes = vec![0; 4 * count];
        section.read_exact(&mut bytes).with_context(|| format!("cannot read tensor {name}"))?;
        Ok(Some(bytes.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()))
    }
}

/// Errors if a file that begins so is sound, and of a form that cannot be read.
fn check_form(start: [u8; 8]) -> Result<()> {
    const CONVERT: &str = "convert the model anew with llama.cpp's convert_hf_to_gguf.py, or take a newer file of it";
    let [magic, version] = start.as_chunks::<4>().0 else { return Ok(()) };
    match magic {
        b"GGUF" => {}
        b"lmgg" | b"fmgg" | b"tjgg" => bail!("it is a GGML file, which is what came before GGUF: {CONVERT}"),
        _ => return Ok(()),
    }
    match (u32::from_le_bytes(*version), u32::from_be_bytes(*version)) {
        (_, 1..=3) => bail!(
            "it is big-endian, and this node reads little-endian files: turn a copy of it with llama.cpp's \
             gguf-convert-endian FILE little (pip install gguf), or take the usual file of the model"
        ),
        (1, _) => bail!("it is of version 1 of GGUF, supported are 2 and 3: {CONVERT}"),
        (version @ 4..0x100, _) => bail!(
            "it is of version {version} of GGUF, supported are 2 and 3: take a newer release of this program, or an older file \
             of the model"
        ),
        _ => Ok(()),
    }
}

/// Goes through a header without keeping anything.
struct Walk<R> {
    inner: R,
    read: u64,
    /// Values so far.
    values: u64,
    /// The first tensor that is stored in a way that is not supported, and how.
    other: Option<(String, u32)>,
}

impl<R: Read> Walk<R> {
    /// Bytes of the header, and the tensor that cannot be read. Errors if anything is out of bounds.
    fn header(mut self) -> Result<(u64, Option<(String, u32)>)> {
        ensure!(&self.bytes::<4>()? == b"GGUF", "it does not begin with GGUF");
        let version = self.u32()?;
        ensure!((2..=3).contains(&version), "it is of version {version}, supported are 2 and 3");
        let (tensors, entries) = (self.u64()?, self.u64()?);
        ensure!(tensors <= TENSORS_MAX, "it has {tensors} tensors, supported are {TENSORS_MAX}");
        for _ in 0..entries {
            let key = self.name()?;
            let kind = self.u32()?;
            if key == "general.alignment" {
                let alignment = self.alignment(kind)?;
                ensure!(alignment.is_power_of_two(), "general.alignment is {alignment}, it must be a power of two");
                continue;
            }
            self.value(kind, true).with_context(|| format!("metadata {key:?}"))?;
        }
        for _ in 0..tensors {
            self.tensor()?;
        }
        Ok((self.read, self.other))
    }

    /// It is a u32.
    fn alignment(&mut self, kind: u32) -> Result<u32> {
        ensure!(kind == 4, "general.alignment is no u32");
        self.u32()
    }

    fn value(&mut self, kind: u32, may_be_list: bool) -> Result<()> {
        self.values += 1;
        ensure!(self.values <= VALUES_MAX, "it has more than {VALUES_MAX} values of metadata");
        match kind {
            0 | 1 => self.skip(1),
            7 => match self.bytes::<1>()?[0] {
                0 | 1 => Ok(()),
                other => bail!("a truth value is {other}"),
            },
            2 | 3 => self.skip(2),
            4..=6 => self.skip(4),
            10..=12 => self.skip(8),
            8 => {
                let length = self.u64()?;
                self.skip(length)
            }
            9 if may_be_list => {
                let (kind, count) = (self.u32()?, self.u64()?);
                (0..count).try_for_each(|_| self.value(kind, false))
            }
            9 => bail!("it is a list of lists"),
            other => bail!("it is of unknown type {other}"),
        }
    }

    fn tensor(&mut self) -> Result<()> {
        let name = self.name()?;
        let dimensions = self.u32()?;
        ensure!((1..=4).contains(&dimensions), "tensor {name} has {dimensions} dimensions");
        let mut elements = Some(1u64);
        for _ in 0..dimensions {
            let dimension = self.u64()?;
            elements = elements.and_then(|elements| elements.checked_mul(dimension));
        }
        ensure!(
            elements.is_some_and(|elements| (1..=ELEMENTS_MAX).contains(&elements)),
            "tensor {name} has a shape out of bounds"
        );
        let kind = self.u32()?;
        if !matches!(kind, 0..=3 | 6..=8 | 10..=15 | 30) {
            self.other.get_or_insert((name, kind));
        }
        self.skip(8)
    }

    fn name(&mut self) -> Result<String> {
        let length = self.u64()?;
        ensure!(length <= NAME_BYTES_MAX, "a name has {length} bytes");
        let mut bytes = vec![0; length as usize];
        self.fill(&mut bytes)?;
        String::from_utf8(bytes).context("a name is not UTF-8")
    }

    fn u32(&mut self) -> Result<u32> {
        Ok(u32::from_le_bytes(self.bytes()?))
    }

    fn u64(&mut self) -> Result<u64> {
        Ok(u64::from_le_bytes(self.bytes()?))
    }

    fn bytes<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut bytes = [0; N];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }

    fn fill(&mut self, bytes: &mut [u8]) -> Result<()> {
        self.inner.read_exact(bytes).context("its header ends early, or is too long")?;
        self.read += bytes.len() as u64;
        Ok(())
    }

    fn skip(&mut self, count: u64) -> Result<()> {
        let skipped = std::io::copy(&mut self.inner.by_ref().take(count), &mut std::io::sink())?;
        ensure!(skipped == count, "its header ends early, or is too long");
        self.read += count;
        Ok(())
    }
}

/// As llama.cpp calls the types that are not supported.
fn kind_name(kind: u32) -> String {
    let name = match kind {
        9 => "Q8_1",
        16 => "IQ2_XXS",
        17 => "IQ2_XS",
        18 => "IQ3_XXS",
        19 => "IQ1_S",
        20 => "IQ4_NL",
        21 => "IQ3_S",
        22 => "IQ2_S",
        23 => "IQ4_XS",
        24 => "I8",
        25 => "I16",
        26 => "I32",
        27 => "I64",
        28 => "F64",
        29 => "IQ1_M",
        34 => "TQ1_0",
        35 => "TQ2_0",
        39 => "MXFP4",
        other => return format!("type {other}"),
    };
    name.to_owned()
}
