//! The header of a safetensors file. It may come from a peer.

use anyhow::{Context, Result, ensure};
use safetensors::tensor::Metadata;
use std::io::Read;

use super::files::OriginalFile;

/// Largest header, bytes: some fifty thousand tensors.
const HEADER_BYTES_MAX: u64 = 8 << 20;

/// The header of a safetensors file, whose ranges lie within the file, and where the data begin.
pub fn read_header(file: &OriginalFile) -> Result<(Metadata, u64)> {
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
