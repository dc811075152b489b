//! A virtual disk: writes take time, and what was not yet synced is lost in a crash.
//!
//! It stands for the state directory of `node`: a transactional database, so that of a torn write nothing remains, and
//! a checkpoint file that replaces the one before. Records are kept decoded; their encoding is tested where it is
//! written.

use engine::estimator::Normalizer;
use peer::{CurvePoint, Run};
use protocol::{
    machine::MachineId,
    replica::{Contained, Record},
    segment::{Chunk, Digest},
    statement::Statement,
};
use std::{
    cell::RefCell,
    collections::{BTreeMap, HashMap},
    rc::{Rc, Weak},
    sync::Arc,
};

use crate::event::Number;

/// Weights as they were, and what they contain.
#[derive(Clone)]
pub struct Checkpoint {
    /// The learner's own encoding, shared with copies of the disk.
    pub weights: Rc<Vec<u8>>,
    /// The scale of own gradients.
    pub normalizer: Normalizer,
    /// What the weights contain, each claim shared by all checkpoints that make it.
    pub contents: Vec<Rc<Contained>>,
}

impl Checkpoint {
    /// What the weights contain, as a replica takes it.
    pub fn claims(&self) -> Vec<Contained> {
        self.contents.iter().map(|claim| (**claim).clone()).collect()
    }
}

/// The base model, as far as a joiner has it: a digest for each of its chunks.
#[derive(Clone, Default)]
pub struct StoredBase {
    /// What the chunks should have, once a peer has told it.
    pub digests: Vec<Digest>,
    /// What those have that are here.
    pub chunks: BTreeMap<u64, Digest>,
    /// Whether it is the run's base now.
    pub is_complete: bool,
}

impl StoredBase {
    /// Chunks that are not here.
    pub fn missing(&self) -> Vec<u64> {
        (0..self.digests.len() as u64).filter(|index| !self.chunks.contains_key(index)).collect()
    }
}

/// What a crash leaves.
#[derive(Clone, Default)]
pub struct Contents {
    pub chunks: Chunks,
    /// Statements by name.
    pub statements: BTreeMap<Vec<u8>, Statement>,
    /// The newest checkpoint.
    pub checkpoint: Option<Checkpoint>,
    /// Held-out losses that were noted down.
    pub curve: Vec<CurvePoint>,
    /// The incarnation under which own samples are made.
    pub incarnation: u64,
    /// Machines of the run that it was connected with.
    pub known: Vec<Number>,
    /// The run that it belongs to.
    pub run: Option<Run>,
    pub base: StoredBase,
}

impl Contents {
    fn store(&mut self, record: Shared) {
        match record {
            Shared::Chunk(stored) => self.chunks.store(&stored),
            Shared::Statement(statement) => {
                self.statements.insert(statement.name(), statement);
            }
        }
    }
}

/// A chunk that is on disks.
pub struct Stored {
    /// Number of the machine.
    machine: usize,
    chunk: Arc<Chunk>,
    /// The ledgers, as they are on some disk, that end with it.
    ends: RefCell<Vec<Weak<StoredLedger>>>,
}

/// One ledger as it is on disks: its last chunk, and what is before. Disks with equal ledgers point at one.
struct StoredLedger {
    before: Option<Rc<StoredLedger>>,
    last: Rc<Stored>,
}

impl StoredLedger {
    fn of(before: Option<Rc<Self>>, last: &Rc<Stored>) -> Rc<Self> {
        let mut ends = last.ends.borrow_mut();
        ends.retain(|run| run.strong_count() > 0);
        let address = |run: &Option<Rc<Self>>| run.as_ref().map(Rc::as_ptr);
        let known = ends.iter().filter_map(Weak::upgrade).find(|run| address(&run.before) == address(&before));
        known.unwrap_or_else(|| {
            let run = Rc::new(Self { before, last: last.clone() });
            ends.push(Rc::downgrade(&run));
            run
        })
    }
}

/// The chunks on one disk, at most one for each machine and first sample: a pointer for each machine.
#[derive(Clone, Default)]
pub struct Chunks(Vec<Option<Rc<StoredLedger>>>);

impl Chunks {
    /// Takes the place of the machine's chunks that begin within it.
    fn store(&mut self, stored: &Rc<Stored>) {
        if stored.machine >= self.0.len() {
            self.0.resize_with(stored.machine + 1, || None);
        }
        let place = &mut self.0[stored.machine];
        let (first, end) = (stored.chunk.first, stored.chunk.end());
        let (mut run, mut later) = (place.take(), Vec::new());
        while let Some(last) = run.take_if(|run| run.last.chunk.first >= first) {
            if last.last.chunk.first >= end {
                later.push(last.last.clone());
            }
            run = last.before.clone();
        }
        run = Some(StoredLedger::of(run, stored));
        for last in later.iter().rev() {
            run = Some(StoredLedger::of(run, last));
        }
        *place = run;
    }

    /// All, those of one machine in order.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Chunk>> {
        self.0.iter().flat_map(chunks_of)
    }

    /// Those of one machine, in order.
    pub fn of(&self, machine: &MachineId, shelf: &Shelf) -> impl Iterator<Item = &Arc<Chunk>> {
        let number = shelf.machines.get(machine);
        number.and_then(|number| self.0.get(*number)).into_iter().flat_map(chunks_of)
    }

    /// Loses them all.
    pub fn clear(&mut self) {
        self.0.clear();
    }
}

fn chunks_of(run: &Option<Rc<StoredLedger>>) -> impl Iterator<Item = &Arc<Chunk>> {
    let backwards: Vec<&Rc<StoredLedger>> = std::iter::successors(run.as_ref(), |run| run.before.as_ref()).collect();
    backwards.into_iter().rev().map(|run| &run.last.chunk)
}

/// A record, shared by all the disks that it is on.
#[derive(Clone)]
pub enum Shared {
    Chunk(Rc<Stored>),
    Statement(Statement),
}

/// What is on disks, each once.
#[derive(Default)]
pub struct Shelf {
    /// By address, which stays that of the chunk as long as it is here.
    chunks: HashMap<usize, Rc<Stored>>,
    machines: HashMap<MachineId, usize>,
    /// By the first bytes of the digest, and the height.
    claims: HashMap<(u64, u64), Vec<Rc<Contained>>>,
}

impl Shelf {
    /// The record as it is shared.
    pub fn share(&mut self, record: Record) -> Shared {
        match record {
            Record::Chunk(chunk) => {
                let machines = &mut self.machines;
                let stored = self.chunks.entry(Arc::as_ptr(&chunk).addr()).or_insert_with(|| {
                    let next = machines.len();
                    let machine = *machines.entry(chunk.machine).or_insert(next);
                    Rc::new(Stored { machine, chunk, ends: RefCell::default() })
                });
                Shared::Chunk(stored.clone())
            }
            Record::Statement(statement) => Shared::Statement(statement),
        }
    }

    /// A checkpoint's claims as they are shared.
    pub fn claims(&mut self, claims: Vec<Contained>) -> Vec<Rc<Contained>> {
        let share = |claim: Contained| {
            let name = u64::from_le_bytes(std::array::from_fn(|index| claim.digest[index]));
            let alike = self.claims.entry((name, claim.height)).or_default();
            if let Some(known) = alike.iter().find(|known| ***known == claim) {
                return known.clone();
            }
            alike.push(Rc::new(claim));
            alike[alike.len() - 1].clone()
        };
        claims.into_iter().map(share).collect()
    }
}

/// Something on its way to the disk.
enum Write {
    Records(Vec<Shared>, u64),
    Checkpoint(Checkpoint),
}

/// What became of a transaction.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Outcome {
    /// The disk refused it; it is tried again, with what came meanwhile behind it.
    pub is_refused: bool,
    /// The last write of records that is durable now.
    pub stored: Option<u64>,
    /// Whether a checkpoint is.
    pub has_checkpoint: bool,
    /// Whether another transaction is under way.
    pub goes_on: bool,
}

/// See the module's documentation.
#[derive(Default)]
pub struct Disk {
    /// What is synced.
    durable: Contents,
    /// Being written in one transaction.
    in_flight: Vec<Write>,
    /// Waits for the next transaction.
    waiting: Vec<Write>,
    /// Records in flight or waiting.
    backlog: usize,
    /// Fails every write until told otherwise.
    is_full: bool,
    /// What a disk that lies about syncing will be found to hold after a crash.
    truly_durable: Option<Contents>,
}

impl Disk {
    /// With these contents.
    pub fn with(contents: Contents) -> Self {
        Self { durable: contents, ..Self::default() }
    }

    /// What is synced.
    pub fn contents(&self) -> &Contents {
        &self.durable
    }

    /// Changes what is synced at once, as small values are (incarnation, peers).
    pub fn contents_mut(&mut self) -> &mut Contents {
        &mut self.durable
    }

    /// Hands over records. True if a transaction begins now, which ends with [`Disk::complete`].
    pub fn submit(&mut self, records: Vec<Shared>, write: u64) -> bool {
        self.backlog += records.len();
        self.waiting.push(Write::Records(records, write));
        self.begin()
    }

    /// Hands over a checkpoint; the records before it are durable before it is.
    pub fn submit_checkpoint(&mut self, checkpoint: Checkpoint) -> bool {
        self.waiting.push(Write::Checkpoint(checkpoint));
        self.begin()
    }

    fn begin(&mut self) -> bool {
        if !self.in_flight.is_empty() || self.waiting.is_empty() {
            return false;
        }
        self.in_flight = std::mem::take(&mut self.waiting);
        true
    }

    /// The transaction is synced, or fails if the disk is full.
    pub fn complete(&mut self) -> Outcome {
        let mut outcome = Outcome { is_refused: self.is_full && !self.in_flight.is_empty(), ..Outcome::default() };
        if self.is_full {
            outcome.goes_on = outcome.is_refused;
            return outcome;
        }
        for write in std::mem::take(&mut self.in_flight) {
            match write {
                Write::Records(records, write) => {
                    self.backlog -= records.len();
                    records.into_iter().for_each(|record| self.durable.store(record));
                    outcome.stored = Some(write);
                }
                Write::Checkpoint(checkpoint) => {
                    self.durable.checkpoint = Some(checkpoint);
                    outcome.has_checkpoint = true;
                }
            }
        }
        outcome.goes_on = self.begin();
        outcome
    }

    /// Records that are not durable yet.
    pub fn backlog(&self) -> usize {
        self.backlog
    }

    /// Lets every write fail, or work again.
    pub fn set_full(&mut self, is_full: bool) {
        self.is_full = is_full;
    }

    /// From now on nothing is really synced, though the disk says so.
    pub fn lie(&mut self) {
        self.truly_durable.get_or_insert_with(|| self.durable.clone());
    }

    /// The power fails. Returns what is left.
    pub fn crash(self) -> Contents {
        self.truly_durable.unwrap_or(self.durable)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::{
        manifest::RunId,
        segment::Segment,
        signature::{Ed25519Signer, Signer},
    };

    fn chunk(first: u64, bytes: &[u8]) -> Shared {
        let signer = Ed25519Signer::from_seed(&[1; 32]);
        let machine = MachineId { key: signer.key(), incarnation: 1 };
        let segment = Segment { first, swarm_step: 0, bytes };
        let chunk = Chunk::sign(&RunId([0; 32]), machine, segment, [0; 32], &signer).0;
        Shelf::default().share(Record::Chunk(Arc::new(chunk)))
    }

    #[test]
    fn a_crash_loses_what_was_not_synced() {
        let mut disk = Disk::default();
        assert!(disk.submit(vec![chunk(0, &[1, 2])], 1), "a transaction begins");
        assert!(!disk.submit(vec![chunk(2, &[3])], 2), "the second waits for the first");
        let outcome = disk.complete();
        assert_eq!((outcome.stored, outcome.goes_on), (Some(1), true));
        assert_eq!(disk.crash().chunks.iter().count(), 1);
    }

    #[test]
    fn a_sealed_chunk_takes_the_place_of_its_parts() {
        let mut disk = Disk::default();
        for (write, record) in [chunk(0, &[1]), chunk(1, &[2]), chunk(0, &[1, 2])].into_iter().enumerate() {
            disk.submit(vec![record], write as u64);
            disk.complete();
        }
        disk.complete();
        assert_eq!(disk.contents().chunks.iter().count(), 1);
    }

    #[test]
    fn a_full_disk_keeps_what_waits_and_goes_on_when_there_is_room() {
        let mut disk = Disk::default();
        disk.set_full(true);
        disk.submit(vec![chunk(0, &[1])], 1);
        assert_eq!(disk.complete(), Outcome { is_refused: true, goes_on: true, ..Outcome::default() });
        disk.set_full(false);
        assert_eq!(disk.complete(), Outcome { stored: Some(1), ..Outcome::default() });
    }

    #[test]
    fn a_disk_that_lies_is_found_out_by_a_crash() {
        let mut disk = Disk::default();
        disk.lie();
        disk.submit(vec![chunk(0, &[1])], 1);
        assert_eq!(disk.complete(), Outcome { stored: Some(1), ..Outcome::default() });
        assert_eq!(disk.crash().chunks.iter().count(), 0);
    }
}
