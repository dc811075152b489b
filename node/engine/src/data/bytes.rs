//! From a file's bytes to text: what they are is told by the bytes, not by the name.

use anyhow::Result;
use std::io::{BufReader, Cursor, Read};

use super::{
    compressed::{compression, decompressed},
    utf16::{Utf16Reader, byte_order},
};

/// So much of a file is looked at before it is read.
const HEAD_BYTES: usize = 64 * 1024;
/// Bytes that are read at a time.
const BUFFER_BYTES: usize = 256 * 1024;
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";
/// Compressions, one inside the other, that are taken off.
const LAYERS_MAX: usize = 3;

/// Bytes that can be read once, from the beginning.
pub type Bytes = BufReader<Box<dyn Read + Send>>;

/// What a file holds.
pub enum Content {
    /// Text, to be UTF-8.
    Text(Opened),
    /// Parquet, which is read from its end.
    Parquet(Opened),
    /// Nothing at all.
    Empty,
    /// Something else: what it is, and the remedy.
    Other(String),
}

/// A file's bytes, their beginning, and how they were wrapped.
pub struct Opened {
    /// The beginning, or all of a short file.
    pub head: Vec<u8>,
    /// Whether `head` is all.
    pub is_whole: bool,
    /// All of it.
    pub bytes: Bytes,
    /// Bytes of the marks that were taken off its beginning.
    pub marks: u64,
    /// What was taken off: `gzip`, `UTF-16LE`.
    pub wrapping: Vec<&'static str>,
}

/// Looks what `raw` is. Errors if it cannot be read.
pub fn content(raw: Box<dyn Read + Send>) -> Result<Content> {
    let (mut head, mut bytes) = peek(raw)?;
    let mut wrapping = Vec::new();
    while let Some(name) = compression(&head) {
        if wrapping.len() == LAYERS_MAX {
            return Ok(Content::Other(format!("compressed more than {LAYERS_MAX} times over; decompress it")));
        }
        (head, bytes) = peek(decompressed(name, bytes)?)?;
        wrapping.push(name);
    }
    if head.is_empty() {
        return Ok(Content::Empty);
    }
    if head.starts_with(b"PAR1") {
        return Ok(Content::Parquet(Opened { head, is_whole: false, bytes, marks: 0, wrapping }));
    }
    if let Some(other) = other(&head) {
        return Ok(Content::Other(other));
    }
    if let Some(order) = byte_order(&head) {
        wrapping.push(order.name());
        (head, bytes) = peek(Box::new(Utf16Reader::new(bytes, order)))?;
    }
    let is_whole = head.len() < HEAD_BYTES;
    let mut marks = 0;
    // Files that were put together have a mark each.
    while head.starts_with(BYTE_ORDER_MARK) {
        bytes.read_exact(&mut [0; BYTE_ORDER_MARK.len()])?;
        head.drain(..BYTE_ORDER_MARK.len());
        marks += BYTE_ORDER_MARK.len() as u64;
    }
    if head.is_empty() && is_whole {
        return Ok(Content::Empty);
    }
    Ok(Content::Text(Opened { head, is_whole, bytes, marks, wrapping }))
}

/// The beginning, and everything.
fn peek(mut bytes: Box<dyn Read + Send>) -> Result<(Vec<u8>, Bytes)> {
    let mut head = Vec::new();
    bytes.by_ref().take(HEAD_BYTES as u64).read_to_end(&mut head)?;
    let all: Box<dyn Read + Send> = Box::new(Cursor::new(head.clone()).chain(bytes));
    Ok((head, BufReader::with_capacity(BUFFER_BYTES, all)))
}

/// What is not text, by its first bytes: (where, bytes, name, remedy).
const OTHERS: [(usize, &[u8], &str, &str); 24] = [
    (0, b"\x89PNG", "a PNG image", ""),
    (0, b"\xff\xd8\xff", "a JPEG image", ""),
    (0, b"GIF8", "a GIF image", ""),
    (8, b"WEBP", "a WebP image", ""),
    (0, b"%PDF-", "a PDF document", "save its text (pdftotext makes it)"),
    (0, b"PK\x03\x04", "a ZIP archive, or a document of an office program", "unpack it, or save it as text or CSV"),
    (0, b"\xd0\xcf\x11\xe0", "a document of an older office program", "save it as text or CSV"),
    (0, b"{\\rtf", "an RTF document", "save it as plain text"),
    (0, b"BZh", "a bzip2 file", "decompress it, or pipe it in: --data <(bzcat FILE)"),
    (0, b"\xfd7zXZ", "an xz file", "decompress it, or pipe it in: --data <(xzcat FILE)"),
    (0, b"\x04\"M\x18", "an lz4 file", "decompress it, or pipe it in: --data <(lz4cat FILE)"),
    (0, b"7z\xbc\xaf", "a 7-Zip archive", "unpack it"),
    (0, b"Rar!\x1a", "a RAR archive", "unpack it"),
    (257, b"ustar", "a tar archive", "unpack it, and name the directory"),
    (0, b"\x7fELF", "a program", ""),
    (0, b"MZ\x90\x00", "a program", ""),
    (0, b"GGUF", "a model (GGUF)", "--model takes models"),
    (0, b"SQLite format 3", "an SQLite database", "export its rows as CSV"),
    (0, b"ARROW1", "an Arrow file", "save it as Parquet or JSON Lines (datasets: to_json)"),
    (0, b"Obj\x01", "an Avro file", "save it as JSON Lines"),
    (0, b"\x93NUMPY", "a NumPy array", ""),
    (0, b"ID3\x03", "an audio file", ""),
    (4, b"ftyp", "a video", ""),
    (0, b"version https://git-lfs", "a Git LFS pointer, and not the file itself", "fetch it: git lfs pull"),
];

fn other(head: &[u8]) -> Option<String> {
    let known = OTHERS.iter().find(|(at, magic, ..)| head.get(*at..).is_some_and(|head| head.starts_with(magic)));
    let (name, remedy) = match known {
        Some((_, _, name, remedy)) => (*name, *remedy),
        // A mark, then four bytes of a length below 16 MiB.
        None if head.starts_with(&[0xff; 4]) && head.get(7) == Some(&0) => {
            ("an Arrow stream", "save it as Parquet or JSON Lines (datasets: to_json)")
        }
        // Eight bytes of a length, then a header of JSON.
        None if head.len() > 9 && head[5..10] == *b"\0\0\0{\"" => ("a model (safetensors)", "--model takes models"),
        None if is_utf32(head) => ("UTF-32 text", "save it as UTF-8 (iconv -f UTF-32 -t UTF-8)"),
        None => return None,
    };
    Some(if remedy.is_empty() { name.to_owned() } else { format!("{name}; {remedy}") })
}

/// Whether it is UTF-32: by its mark, or because every unit is a character below 2^21 in the same byte order.
fn is_utf32(head: &[u8]) -> bool {
    let units = head.as_chunks::<4>().0;
    let is = |unit: fn([u8; 4]) -> u32| {
        let is_text = |number: u32| matches!(number, 9 | 10 | 13 | 32..0x11_0000);
        units.len() >= 2 && units.iter().all(|bytes| is_text(unit(*bytes)))
    };
    is(u32::from_le_bytes) || is(u32::from_be_bytes)
}
