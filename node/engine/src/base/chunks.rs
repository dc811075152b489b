//! The string in chunks, as peers fetch it.

use protocol::manifest::{BASE_CHUNK_BYTES, combine_digests};
use std::io::Write;

/// Passes bytes on to a writer and hashes them, chunk by chunk.
pub struct ChunkHasher<W> {
    inner: W,
    hasher: blake3::Hasher,
    /// Bytes of the current chunk.
    filled: usize,
    digests: Vec<[u8; 32]>,
}

impl<W> ChunkHasher<W> {
    /// Before the first byte.
    pub fn new(inner: W) -> Self {
        Self { inner, hasher: blake3::Hasher::new(), filled: 0, digests: Vec::new() }
    }

    /// The writer, and the BLAKE3 digest of each chunk; the last one may be shorter. Flushes nothing.
    pub fn finish(mut self) -> (W, Vec<[u8; 32]>) {
        if self.filled > 0 {
            self.digests.push(*self.hasher.finalize().as_bytes());
        }
        (self.inner, self.digests)
    }
}

impl<W: Write> Write for ChunkHasher<W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let taken = self.inner.write(&bytes[..bytes.len().min(BASE_CHUNK_BYTES - self.filled)])?;
        self.hasher.update(&bytes[..taken]);
        self.filled += taken;
        if self.filled == BASE_CHUNK_BYTES {
            self.digests.push(*self.hasher.finalize().as_bytes());
            self.hasher.reset();
            self.filled = 0;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.inner.flush()
    }
}

/// BLAKE3 of the concatenated digests, the manifest's `chunks_root`.
pub fn chunks_root(digests: &[[u8; 32]]) -> [u8; 32] {
    combine_digests(digests.iter().copied())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_are_those_of_the_bytes_however_they_come() {
        let bytes: Vec<u8> = (0..2 * BASE_CHUNK_BYTES + 7).map(|i| (i * 31 % 251) as u8).collect();
        let expected: Vec<[u8; 32]> =
            bytes.chunks(BASE_CHUNK_BYTES).map(|chunk| *blake3::hash(chunk).as_bytes()).collect();
        for piece in [1_000, BASE_CHUNK_BYTES, bytes.len()] {
            let mut hasher = ChunkHasher::new(Vec::new());
            bytes.chunks(piece).for_each(|piece| hasher.write_all(piece).unwrap());
            let (written, digests) = hasher.finish();
            assert!(written == bytes && digests == expected, "{piece} bytes at a time");
        }
        assert!(ChunkHasher::new(Vec::<u8>::new()).finish().1.is_empty());
    }
}
