//! The base model as it goes to joiners: in chunks, each with its digest.

use protocol::{manifest::BASE_CHUNK_BYTES, message::BASE_DIGESTS_MAX};

/// See the module's documentation.
pub struct Base {
    bytes: Vec<u8>,
    digests: Vec<[u8; 32]>,
}

impl Base {
    /// Of the string of bytes that the manifest describes.
    pub fn new(bytes: Vec<u8>) -> Self {
        let digests = bytes.chunks(BASE_CHUNK_BYTES).map(|chunk| *blake3::hash(chunk).as_bytes()).collect();
        Self { bytes, digests }
    }

    pub fn digests(&self) -> &[[u8; 32]] {
        &self.digests
    }

    /// Digests from this index on, as many as one answer holds.
    pub fn page(&self, from: u64) -> &[[u8; 32]] {
        let from = self.digests.len().min(from as usize);
        let end = self.digests.len().min(from + BASE_DIGESTS_MAX);
        &self.digests[from..end]
    }

    /// One chunk, if there are so many.
    pub fn chunk(&self, index: u64) -> Option<&[u8]> {
        self.bytes.chunks(BASE_CHUNK_BYTES).nth(index as usize)
    }
}
