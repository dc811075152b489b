//! A virtual disk: writes take time, and what was not yet synced is lost in a crash.
//!
//! It stands for the state directory of `node`: a transactional database, so that of a torn write nothing remains, and a
//! checkpoint file that replaces the one before. Records are kept decoded; their encoding is tested where it is written.

use engine::estimator::Normalizer;
use peer::Run;
use protocol::{
    machine::MachineId,
    replica::{Contained, Record},
    revocation::Revocation,
    segment::{Chunk, Digest},
};
use std::{
    collections::{BTreeMap, HashMap, hash_map::Entry},
    rc::Rc,
};

use crate::event::Number;

/// Weights as they were, and what they contain.
#[derive(Clone)]
pub struct Checkpoint {
    /// The learner's own encoding, shared with copies of the disk.
    pub weights: Rc<Vec<u8>>,
    /// The scale of own gradients.
    pub normalizer: Normalizer,
    /// What the weights contain.
    pub contents: Vec<Contained>,
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
    /// Chunks by machine and first sample.
    pub chunks: BTreeMap<(MachineId, u64), Rc<Chunk>>,
    /// Revocations by machine.
    pub revocations: BTreeMap<MachineId, Revocation>,
    /// The newest checkpoint.
    pub checkpoint: Option<Checkpoint>,
    /// The incarnation under which own samples are made.
    pub incarnation: u64,
    /// Machines of the run that it was connected with.
    pub known: Vec<Number>,
    /// The run that it belongs to.
    pub run: Option<Run>,
    /// The base model.
    pub base: StoredBase,
}

impl Contents {
    fn store(&mut self, record: Shared) {
        match record {
            Shared::Chunk(chunk) => {
                let (machine, first, end) = (chunk.machine, chunk.first, chunk.end());
                let replaced: Vec<u64> =
                    self.chunks.range((machine, first)..(machine, end.max(first))).map(|((_, at), _)| *at).collect();
                for at in replaced {
                    self.chunks.remove(&(machine, at));
                }
                self.chunks.insert((machine, first), chunk);
            }
            Shared::Revocation(revocation) => {
                self.revocations.insert(revocation.machine(), revocation);
            }
        }
    }
}

/// A record, shared by all the disks that it is on.
#[derive(Clone)]
pub enum Shared {
    /// A chunk.
    Chunk(Rc<Chunk>),
    /// A revocation.
    Revocation(Revocation),
}

/// Chunks that are on disks, by signature and first sample.
#[derive(Default)]
pub struct Shelf(HashMap<([u8; 64], u64), Rc<Chunk>>);

impl Shelf {
    /// The record as it is shared.
    pub fn share(&mut self, record: Record) -> Shared {
        match record {
            Record::Chunk(chunk) => {
                let known = self.0.entry((chunk.signature.0, chunk.first));
                let chunk = match known {
                    Entry::Occupied(known) if **known.get() == chunk => known.get().clone(),
                    // A sealed chunk bears the signature of its last part.
                    Entry::Occupied(_) => Rc::new(chunk),
                    Entry::Vacant(place) => place.insert(Rc::new(chunk)).clone(),
                };
                Shared::Chunk(chunk)
            }
            Record::Revocation(revocation) => Shared::Revocation(revocation),
        }
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
        Shared::Chunk(Rc::new(Chunk::sign(&RunId([0; 32]), machine, segment, [0; 32], &signer).0))
    }

    #[test]
    fn a_crash_loses_what_was_not_synced() {
        let mut disk = Disk::default();
        assert!(disk.submit(vec![chunk(0, &[1, 2])], 1), "a transaction begins");
        assert!(!disk.submit(vec![chunk(2, &[3])], 2), "the second waits for the first");
        let outcome = disk.complete();
        assert_eq!((outcome.stored, outcome.goes_on), (Some(1), true));
        assert_eq!(disk.crash().chunks.len(), 1);
    }

    #[test]
    fn a_sealed_chunk_takes_the_place_of_its_parts() {
        let mut disk = Disk::default();
        for (write, record) in [chunk(0, &[1]), chunk(1, &[2]), chunk(0, &[1, 2])].into_iter().enumerate() {
            disk.submit(vec![record], write as u64);
            disk.complete();
        }
        disk.complete();
        assert_eq!(disk.contents().chunks.len(), 1);
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
        assert!(disk.crash().chunks.is_empty());
    }
}
