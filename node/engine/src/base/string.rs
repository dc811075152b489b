//! The base as one string of bytes: the original files, then the appendix.

use anyhow::{Context, Result, ensure};
use protocol::manifest::{BaseFile, BaseModel};
use std::{
    io::{Read, Write},
    path::Path,
};

use super::{Base, ChunkHasher, chunks_root};
use crate::model::OriginalFile;

/// Bytes that are copied at a time.
const COPY_BYTES: usize = 1 << 18;

/// What [`Base::write_to`] has written.
pub struct Written<W> {
    /// Where to. Not flushed.
    pub out: W,
    /// What a manifest says of it.
    pub base: BaseModel,
    /// BLAKE3 of each chunk.
    pub chunk_digests: Vec<[u8; 32]>,
}

impl Base {
    /// Writes the string, file by file. Errors if a file is not as long as it was when it was found.
    pub fn write_to<W: Write>(&self, out: W) -> Result<Written<W>> {
        let mut string = ChunkHasher::new(out);
        let mut files = Vec::new();
        for file in &self.checkpoint.files {
            files.push(copy(file, &mut string).with_context(|| format!("copying {}", file.describe()))?);
        }
        string.write_all(&self.appendix)?;
        let (out, chunk_digests) = string.finish();
        let base = BaseModel {
            source: self.checkpoint.source.clone(),
            files,
            appendix_bytes: self.appendix.len() as u64,
            appendix_digest: *blake3::hash(&self.appendix).as_bytes(),
            chunks_root: chunks_root(&chunk_digests),
        };
        Ok(Written { out, base, chunk_digests })
    }
}

/// Copies one file, and describes what was copied.
fn copy(file: &OriginalFile, out: &mut impl Write) -> Result<BaseFile> {
    let mut section = file.open()?;
    let (mut hasher, mut bytes, mut buffer) = (blake3::Hasher::new(), 0, Vec::with_capacity(COPY_BYTES));
    // Unlike `read`, this goes on where a signal interrupts it.
    while section.by_ref().take(COPY_BYTES as u64).read_to_end(&mut buffer)? > 0 {
        hasher.update(&buffer);
        out.write_all(&buffer)?;
        bytes += buffer.len() as u64;
        buffer.clear();
    }
    ensure!(bytes == file.bytes, "it had {} bytes, and has {bytes} now", file.bytes);
    Ok(BaseFile { role: file.role, name: file.name.clone(), bytes, digest: *hasher.finalize().as_bytes() })
}

/// The files of a base whose string is the file at `path`.
pub fn files_within(files: &[BaseFile], path: &Path) -> Vec<OriginalFile> {
    let mut start = 0u64;
    let within = |file: &BaseFile| {
        let here = start;
        start = start.saturating_add(file.bytes);
        OriginalFile::within(file.role, &file.name, path.to_owned(), here, file.bytes)
    };
    files.iter().map(within).collect()
}
