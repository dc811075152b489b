//! What takes the compression off a file, and says what is wrong with it.

use flate2::bufread::GzDecoder;
use std::io::{BufRead, Error, ErrorKind, Read, Result};
use zstd::stream::read::Decoder as ZstdDecoder;

const MAGIC: [u8; 2] = [0x1f, 0x8b];

/// How bytes that begin like this are compressed.
pub fn compression(head: &[u8]) -> Option<&'static str> {
    let is_skippable = |head: &[u8]| head.len() > 4 && head[0] & 0xf0 == 0x50 && head[1..4] == [0x2a, 0x4d, 0x18];
    match head {
        _ if head.starts_with(&MAGIC) => Some("gzip"),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Some("zstd"),
        _ if is_skippable(head) => Some("zstd"),
        _ => None,
    }
}

/// What `bytes`, compressed as [`compression`] has it, are without that.
pub fn decompressed(name: &'static str, bytes: impl BufRead + Send + 'static) -> Result<Box<dyn Read + Send>> {
    let inner: Box<dyn Read + Send> = match name {
        "gzip" => Box::new(Members(Some(GzDecoder::new(bytes)))),
        _ => Box::new(Frames(Some(frame(bytes)?))),
    };
    Ok(Box::new(Named { inner, name }))
}

/// All members of a gzip file, and zeros between and behind them, as tapes have them.
struct Members<R>(Option<GzDecoder<R>>);

impl<R: BufRead> Read for Members<R> {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
        while let Some(member) = &mut self.0 {
            let count = member.read(buffer)?;
            if count > 0 || buffer.is_empty() {
                return Ok(count);
            }
            let Some(member) = self.0.take() else { break };
            let mut rest = member.into_inner();
            if goes_on(&mut rest)? {
                if rest.fill_buf()?.first() != Some(&MAGIC[0]) {
                    return Err(Error::new(ErrorKind::InvalidData, "what follows its end is no gzip"));
                }
                self.0 = Some(GzDecoder::new(rest));
            }
        }
        Ok(0)
    }
}

/// All frames of a zstd file, and zeros between and behind them, likewise.
struct Frames<R>(Option<ZstdDecoder<'static, R>>);

/// The frame that `bytes` begin with, of a window of up to 128 MiB: `zstd --long=31` is refused, every usual level is
/// not.
fn frame<R: BufRead>(bytes: R) -> Result<ZstdDecoder<'static, R>> {
    Ok(ZstdDecoder::with_buffer(bytes)?.single_frame())
}

impl<R: BufRead> Read for Frames<R> {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
        while let Some(current) = &mut self.0 {
            let count = current.read(buffer)?;
            if count > 0 || buffer.is_empty() {
                return Ok(count);
            }
            let Some(current) = self.0.take() else { break };
            let mut rest = current.into_inner();
            if goes_on(&mut rest)? {
                self.0 = Some(frame(rest)?);
            }
        }
        Ok(0)
    }
}

/// Takes zeros off the beginning of `rest`, and says whether anything follows.
fn goes_on(rest: &mut impl BufRead) -> Result<bool> {
    loop {
        let bytes = rest.fill_buf()?;
        let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
        let (is_end, goes_on) = (bytes.is_empty(), zeros < bytes.len());
        rest.consume(zeros);
        if is_end || goes_on {
            return Ok(goes_on);
        }
    }
}

/// Says what is wrong with a compressed file in words that people know.
struct Named {
    inner: Box<dyn Read + Send>,
    name: &'static str,
}

impl Read for Named {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
        let name = self.name;
        self.inner.read(buffer).map_err(|error| match error.kind() {
            ErrorKind::UnexpectedEof => {
                Error::new(ErrorKind::UnexpectedEof, format!("the {name} file is cut off: download or copy it again"))
            }
            // The disk's, and not the file's.
            _ if error.raw_os_error().is_some() => error,
            kind => Error::new(kind, format!("the {name} file is damaged ({error}): download or copy it again")),
        })
    }
}
