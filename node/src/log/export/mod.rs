//! A log as one self-contained file, for archives and for machines that never meet.
//!
//! The file is a row of *sections*. Each ends with a check of its own, so that damage is found and named; the contents
//! tell where every section begins, so that damage in one does not hide the others. Integers are little-endian.
//!
//! ```text
//! check(n, bytes) = BLAKE3.derive_key("onebyte log 1 section", n as u32 ‖ bytes), first 16 bytes
//!                   (n is the section's number)
//!
//! header, section 0, 72 bytes
//!      0   8  "1BYTELOG"
//!      8   2  version of this format: 1
//!     10   2  version of the protocol
//!     12   4  check(0, bytes 0..12), first 4 bytes: holds in every version
//!     16   4  bytes of the manifest
//!     20   4  bytes of the contents
//!     24   4  bytes of the statements
//!     28   4  machines
//!     32   8  chunks
//!     40   8  gradients
//!     48   8  bytes of the whole file
//!     56  16  check(0, bytes 0..56)
//!
//! manifest, section 1:     its encoding, of which the BLAKE3 is the run's id ‖ check
//! contents, section 2:     for each machine that has a ledger, in ascending order:
//!                              key 32 ‖ incarnation u64 ‖ number of chunks u32
//!                              ‖ for each chunk: samples u16 ‖ bytes of its section without the check u16
//!                          ‖ check
//! chunks, sections 3…:     in the order of the contents, each: signature 64 ‖ segments u16
//!                              ‖ column of (samples of each segment)
//!                              ‖ swarm step of the first segment, varint
//!                              ‖ column of (increase to each further segment)
//!                              ‖ one byte per sample ‖ check
//! statements:             each: length u32 ‖ encoding as on the wire; ‖ check
//! end, 64 bytes:           root of the version vector 32 ‖ BLAKE3 of everything before this digest 32
//!
//! varint  = seven bits a byte, low ones first, the top bit says that more follow
//! column  = nothing if there are no values, else: least value, varint ‖ k u8 ‖ codes
//!           k = 255: all values are the least, and there are no codes; else k is 0 to 40, and each value less the
//!           least is a code v: with u = (v >> k) + 1, of b + 1 binary digits: b zeros ‖ u ‖ the low k digits of v
//!           (exponential Golomb code). Codes are packed from the highest bit of each byte down, the last byte is
//!           filled with zeros.
//! ```
//!
//! Digests and first samples are not stored: they follow. A chunk is as the ledger holds it (see `protocol::ledger`),
//! so its signature vouches for all before it.
//!
//! The header of a file with 300 bytes of manifest, one machine, one chunk of three samples, no statements (624 bytes
//! in all):
//!
//! ```text
//! 31 42 59 54 45 4c 4f 47 01 00 01 00 8c 63 98 a2 2c 01 00 00 30 00 00 00 00 00 00 00 01 00 00 00
//! 01 00 00 00 00 00 00 00 03 00 00 00 00 00 00 00 70 02 00 00 00 00 00 00 then its check
//! ```
//!
//! Its chunk, a segment of two samples (1, −1) at swarm step 300 and one of one sample (−128) at step 309:
//!
//! ```text
//! 64 bytes of signature
//! 02 00         two segments
//! 01 00 50      lengths: the least is 1; k = 0; above it 1 and 0: codes 010 and 1, so 0101 0000
//! ac 02         first swarm step: 300
//! 09 ff         increases: the least is 9, and all are that
//! 01 ff 80      bytes
//! 16 bytes of check
//! ```

use protocol::machine::MachineId;
use std::fmt;

mod columns;
mod read;
mod write;

pub use read::read;
pub use write::write;

/// Of the format.
pub const VERSION: u16 = 1;
const MAGIC: [u8; 8] = *b"1BYTELOG";
const CHECK_BYTES: usize = 16;
const HEADER_BYTES: usize = 72;
const END_BYTES: usize = 64;
const CONTEXT: &str = "onebyte log 1 section";

/// What an export holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Totals {
    /// With a ledger.
    pub machines: u64,
    /// Sections of ledgers: as many signatures.
    pub chunks: u64,
    /// Samples of all ledgers.
    pub gradients: u64,
    /// Of the file.
    pub bytes: u64,
}

fn check(number: u32, bytes: &[u8]) -> [u8; CHECK_BYTES] {
    let mut hasher = blake3::Hasher::new_derive_key(CONTEXT);
    hasher.update(&number.to_le_bytes());
    hasher.update(bytes);
    let mut check = [0u8; CHECK_BYTES];
    hasher.finalize_xof().fill(&mut check);
    check
}

/// Sizes, as the header has them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Header {
    manifest_bytes: u32,
    contents_bytes: u32,
    statements_bytes: u32,
    totals: Totals,
}

impl Header {
    fn encode(&self, protocol_version: u16) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        bytes.extend(VERSION.to_le_bytes());
        bytes.extend(protocol_version.to_le_bytes());
        bytes.extend(&check(0, &bytes)[..4]);
        for size in [self.manifest_bytes, self.contents_bytes, self.statements_bytes, self.totals.machines as u32] {
            bytes.extend(size.to_le_bytes());
        }
        for total in [self.totals.chunks, self.totals.gradients, self.totals.bytes] {
            bytes.extend(total.to_le_bytes());
        }
        bytes.extend(check(0, &bytes));
        bytes
    }

    /// Sections in all, with header and end.
    fn sections(&self) -> u64 {
        self.totals.chunks.saturating_add(5)
    }
}

/// A section, for people.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Section {
    Header,
    Manifest,
    Contents,
    Chunk { machine: MachineId, first: u64, end: u64 },
    Statements,
    End,
}

impl fmt::Display for Section {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Header => write!(f, "the header"),
            Self::Manifest => write!(f, "the manifest"),
            Self::Contents => write!(f, "the contents"),
            Self::Chunk { machine, first, end } => write!(f, "machine {machine} samples {first}..{end}"),
            Self::Statements => write!(f, "the statements"),
            Self::End => write!(f, "the end"),
        }
    }
}

#[cfg(test)]
mod tests;
