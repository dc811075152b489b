//! Zstandard: one frame behind the other.

use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder, errors::FrameDecoderError};
use std::io::{BufRead, Error, Read, Result};

/// Largest window, bytes: `zstd --long=31` is refused, every usual level is not.
const WINDOW_BYTES_MAX: u64 = 128 << 20;

/// Decompresses all frames of `R`.
pub struct ZstdReader<R> {
    source: R,
    decoder: FrameDecoder,
    is_open: bool,
}

impl<R: BufRead> ZstdReader<R> {
    pub fn new(source: R) -> Self {
        let mut decoder = FrameDecoder::new();
        decoder.set_max_window_size(WINDOW_BYTES_MAX);
        Self { source, decoder, is_open: false }
    }

    /// Begins the next frame; false if there is none.
    fn next_frame(&mut self) -> Result<bool> {
        loop {
            if self.source.fill_buf()?.is_empty() {
                return Ok(false);
            }
            match self.decoder.reset(&mut self.source) {
                Ok(()) => return Ok(true),
                Err(FrameDecoderError::ReadFrameHeaderError(
                    ruzstd::decoding::errors::ReadFrameHeaderError::SkipFrame { length, .. },
                )) => {
                    let skipped = std::io::copy(&mut self.source.by_ref().take(length.into()), &mut std::io::sink())?;
                    if skipped < length.into() {
                        return Err(Error::other("a frame is cut off"));
                    }
                }
                Err(error) => return Err(Error::other(error)),
            }
        }
    }
}

impl<R: BufRead> Read for ZstdReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
        loop {
            if self.is_open {
                while self.decoder.can_collect() == 0 && !self.decoder.is_finished() {
                    let one = BlockDecodingStrategy::UptoBlocks(1);
                    self.decoder.decode_blocks(&mut self.source, one).map_err(Error::other)?;
                }
                let read = self.decoder.read(buffer)?;
                if read > 0 || buffer.is_empty() {
                    return Ok(read);
                }
            }
            self.is_open = self.next_frame()?;
            if !self.is_open {
                return Ok(0);
            }
        }
    }
}
