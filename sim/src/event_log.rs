//! Everything that happened, in order: hashed always, written to a file if asked for.
//!
//! One record is 32 bytes, little-endian: virtual time (u64, microseconds), kind (u8), three zero bytes, machine (u32),
//! other (u32: the peer, or what it says with [`Kind`]), value (u64), zero (u32).

use std::io::{self, Write};

use crate::queue::Micros;

const RECORD_BYTES: usize = 32;
const BUFFER_BYTES: usize = RECORD_BYTES * 2048;

/// What happened. The numbers are part of the log's format.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Kind {
    /// A frame arrived at `machine` from `other`; `value`: its bytes.
    Arrived = 1,
    /// A frame from `machine` to `other` was lost.
    Lost = 2,
    /// `machine` and `other` are connected.
    Connected = 3,
    /// They are no longer.
    Disconnected = 4,
    /// `machine` measured a gradient; `value`: sample and byte.
    Stepped = 5,
    /// The disk of `machine` has everything up to token `value`.
    Stored = 6,
    /// `machine` published message `value`.
    Published = 7,
    /// Ledger entries went into the weights of `machine`; `other`: how many, `value`: up to which sample.
    Replayed = 8,
    /// Ledger entries left them.
    Withdrawn = 9,
    /// `machine` asked `other`; `value`: bytes.
    Asked = 10,
    /// `machine` holds a fault against `other`.
    Penalized = 11,
    /// `machine` came up.
    Up = 12,
    /// `machine` went down; `value`: 0 it left or was stopped, 1 it crashed.
    Down = 13,
    /// `machine` began incarnation `value`.
    Incarnated = 14,
    /// `machine` learnt of a revocation.
    Revoked = 15,
    /// Fault number `value` of the schedule was injected.
    Injected = 16,
    /// The swarm was looked at; `value`: the first 8 bytes of the weights digest of `machine`.
    Observed = 17,
    /// `machine` has manifest and base model, and starts.
    Started = 18,
}

/// See the module's documentation.
pub struct EventLog {
    hasher: blake3::Hasher,
    buffer: Vec<u8>,
    file: Option<Box<dyn Write>>,
    records: u64,
}

impl EventLog {
    /// Writes the records to `file`, too, if there is one.
    pub fn new(file: Option<Box<dyn Write>>) -> Self {
        Self { hasher: blake3::Hasher::new(), buffer: Vec::with_capacity(BUFFER_BYTES), file, records: 0 }
    }

    pub fn record(&mut self, at: Micros, kind: Kind, machine: u32, other: u32, value: u64) -> io::Result<()> {
        let mut record = [0u8; RECORD_BYTES];
        record[..8].copy_from_slice(&at.to_le_bytes());
        record[8] = kind as u8;
        record[12..16].copy_from_slice(&machine.to_le_bytes());
        record[16..20].copy_from_slice(&other.to_le_bytes());
        record[20..28].copy_from_slice(&value.to_le_bytes());
        self.buffer.extend_from_slice(&record);
        self.records += 1;
        if self.buffer.len() >= BUFFER_BYTES { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.hasher.update(&self.buffer);
        if let Some(file) = &mut self.file {
            file.write_all(&self.buffer)?;
        }
        self.buffer.clear();
        Ok(())
    }

    pub fn records(&self) -> u64 {
        self.records
    }

    /// The BLAKE3 of all records, hexadecimal.
    pub fn finish(mut self) -> io::Result<String> {
        self.flush()?;
        if let Some(file) = &mut self.file {
            file.flush()?;
        }
        Ok(self.hasher.finalize().to_hex().to_string())
    }
}
