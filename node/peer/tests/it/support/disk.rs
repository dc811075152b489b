//! A virtual disk: writes end one after another, and a crash loses those that have not.

use peer::{CurvePoint, Run};
use protocol::{
    machine::MachineId,
    replica::{Contained, Record},
    segment::{Chunk, Digest},
    statement::Statement,
};
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
};

use super::trainer::Weights;

/// What waits for the disk.
#[derive(Clone)]
pub enum Write {
    Records(u64, Vec<Record>),
    Checkpoint(Weights, Vec<Contained>),
}

/// What is durable, and what waits.
#[derive(Clone, Default)]
pub struct Disk {
    pub run: Option<Run>,
    pub digests: Vec<Digest>,
    pub base_chunks: BTreeSet<u64>,
    pub has_base: bool,
    pub incarnation: u64,
    pub knows_others: bool,
    pub chunks: BTreeMap<(MachineId, u64), Arc<Chunk>>,
    pub statements: BTreeMap<Vec<u8>, Statement>,
    pub checkpoint: Option<(Weights, Vec<Contained>)>,
    /// Held-out losses that were noted down.
    pub curve: Vec<CurvePoint>,
    pub waiting: VecDeque<Write>,
    /// Refuses all writes.
    pub is_full: bool,
}

impl Disk {
    /// Makes a record durable as `node`'s database does: a chunk replaces those that begin within it.
    pub fn store(&mut self, record: Record) {
        match record {
            Record::Chunk(chunk) => {
                let (machine, first, end) = (chunk.machine, chunk.first, chunk.end());
                self.chunks.retain(|(of, at), _| *of != machine || !(first..end).contains(at));
                self.chunks.insert((machine, first), chunk);
            }
            Record::Statement(statement) => {
                self.statements.insert(statement.name(), statement);
            }
        }
    }

    /// Everything that a start is given.
    pub fn records(&self) -> Vec<Record> {
        let statements = self.statements.values().cloned().map(Record::Statement);
        statements.chain(self.chunks.values().cloned().map(Record::Chunk)).collect()
    }

    /// The byte of a sample, if it is durable.
    pub fn byte(&self, machine: &MachineId, sample: u64) -> Option<u8> {
        let (_, chunk) = self.chunks.range((*machine, 0)..=(*machine, sample)).next_back()?;
        chunk.bytes.get(usize::try_from(sample - chunk.first).unwrap()).copied()
    }

    /// Durable samples of a machine.
    pub fn height(&self, machine: &MachineId) -> u64 {
        self.chunks.range((*machine, 0)..=(*machine, u64::MAX)).map(|(_, chunk)| chunk.end()).max().unwrap_or(0)
    }
}
