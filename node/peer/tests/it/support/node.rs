//! One node of the laboratory, and what must hold of every output of its peer.

use peer::{CurvePoint, GoalSettings, Notice, Output, Peer, Point, leave::Departure, record::Recorder};
use protocol::{
    machine::MachineId,
    message::{Author, Gossip, Response},
    replica::{Contained, LedgerRange, Record},
    segment::{Chunk, Digest, SWARM_STEP_LAG_MAX},
};
use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet, VecDeque},
    io,
    rc::Rc,
};

use super::{
    disk::Disk,
    lab::{Channel, Frame, Item},
    trainer::{Trainer, Weights, digest_of},
};

/// A file that the test can read while it is written.
#[derive(Clone, Default)]
pub struct SharedFile(pub Rc<RefCell<Vec<u8>>>);

impl io::Write for SharedFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.borrow_mut().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

pub struct Node {
    pub number: usize,
    /// None while it is down, and for a puppet.
    pub peer: Option<Peer>,
    /// A puppet hears, and does what the test wants.
    pub is_puppet: bool,
    pub heard: Vec<(usize, Frame)>,
    pub life: u64,
    pub disk: Disk,
    pub trainer: Trainer,
    pub goals: GoalSettings,
    /// Held-out loss by the number of gradients in the weights.
    pub loss: fn(u64) -> f64,
    pub bootstrap: Vec<usize>,
    pub wished: Option<protocol::manifest::RunId>,
    pub replica_settings: protocol::replica::Settings,
    pub clock_offset_ms: i64,
    pub notices: Vec<Notice>,
    pub outputs: Vec<Output>,
    pub left: Option<Departure>,
    pub damaged: Option<String>,
    /// Answers of these kinds wait until they are released.
    pub held: BTreeMap<Channel, VecDeque<Item>>,
    pub last_on: BTreeMap<Channel, u64>,
    pub reads: bool,
    pub unread: VecDeque<Item>,
    /// Questions under way: whom they were put to.
    pub open: BTreeMap<u64, usize>,
    pub requests: BTreeMap<u64, (usize, u64, u64)>,
    pub messages: BTreeMap<u64, Vec<u8>>,
    pub seen: BTreeSet<Digest>,
    pub last_number: u64,
    pub chunk: Option<(u64, Vec<u8>)>,
    pub banned: BTreeSet<usize>,
    pub recording: Option<(Recorder<SharedFile>, SharedFile)>,
    /// Own samples that are durable, under which segment. Survives everything.
    pub signed: BTreeMap<(MachineId, u64), Digest>,
    /// Whether the disk was rolled back: then it cannot know what it signed.
    pub has_lost: bool,
    pub last_write: u64,
    pub most_unstored: u64,
}

impl Node {
    pub fn new(number: usize) -> Self {
        Self {
            number,
            peer: None,
            is_puppet: false,
            heard: Vec::new(),
            life: 0,
            disk: Disk::default(),
            trainer: Trainer::new(Weights::new()),
            goals: GoalSettings::default(),
            loss: |_| 1.0,
            bootstrap: Vec::new(),
            wished: None,
            replica_settings: protocol::replica::Settings { flush_samples: 8, ..Default::default() },
            clock_offset_ms: 0,
            notices: Vec::new(),
            outputs: Vec::new(),
            left: None,
            damaged: None,
            held: BTreeMap::new(),
            last_on: BTreeMap::new(),
            reads: true,
            unread: VecDeque::new(),
            open: BTreeMap::new(),
            requests: BTreeMap::new(),
            messages: BTreeMap::new(),
            seen: BTreeSet::new(),
            last_number: 0,
            chunk: None,
            banned: BTreeSet::new(),
            recording: None,
            signed: BTreeMap::new(),
            has_lost: false,
            last_write: 0,
            most_unstored: 0,
        }
    }

    pub fn peer(&self) -> &Peer {
        self.peer.as_ref().expect("the node is up")
    }

    pub fn own(&self) -> MachineId {
        self.peer().own_machine()
    }

    /// Samples of a machine that count here.
    pub fn height(&self, machine: &MachineId) -> u64 {
        let replica = self.peer().replica().expect("the peer has its base");
        replica.effective_ranges().find(|range| range.machine == *machine).map_or(0, |range| range.to)
    }

    pub fn root(&self) -> Digest {
        self.peer().replica().expect("the peer has its base").root()
    }

    pub fn said(&self, wanted: impl Fn(&Notice) -> bool) -> usize {
        self.notices.iter().filter(|notice| wanted(notice)).count()
    }

    pub fn did(&self, wanted: impl Fn(&Output) -> bool) -> usize {
        self.outputs.iter().filter(|output| wanted(output)).count()
    }

    pub fn is_up(&self) -> bool {
        self.peer.is_some() && self.left.is_none() && self.damaged.is_none()
    }

    /// What the ledgers say that the weights are to hold.
    pub fn effective(&self) -> Weights {
        let replica = self.peer().replica().expect("the peer has its base");
        let all = replica.effective_ranges().flat_map(|range| replica.contributions(&range));
        all.map(|entry| (entry.seed.bytes, entry.byte)).collect()
    }

    /// What must hold of every output, whatever happens.
    pub fn check(&mut self, output: &Output, neighbours: &BTreeSet<usize>) {
        assert!(self.left.is_none() && self.damaged.is_none(), "{output:?} comes after the end");
        match output {
            Output::Persist { records, write } => {
                assert_eq!(*write, self.last_write + 1, "writes are numbered one by one");
                self.last_write = *write;
                records.iter().for_each(|record| {
                    self.check_signed_once(record);
                    self.check_timely(record);
                });
            }
            Output::Publish(bytes) => {
                if let Ok(Gossip::Segment(push)) = Gossip::decode(bytes) {
                    self.check_durable(&push.author, push.first, &push.bytes);
                }
            }
            Output::Respond { bytes, .. } => {
                if let Ok(Response::Found { chunks, .. }) = Response::decode(bytes) {
                    chunks.iter().for_each(|chunk| {
                        self.check_durable(&Author::Introduced(chunk.machine), chunk.first, &chunk.bytes);
                    });
                }
            }
            Output::Commit { contents } => self.check_claims(contents),
            Output::Notice(Notice::Point(point)) => self.check_point(point),
            Output::Forget(node) => assert!(!neighbours.contains(&(node.0 as usize)), "it is still connected"),
            Output::Dial(node) => assert!(!neighbours.contains(&(node.0 as usize)), "it is connected already"),
            Output::Ask { node, question, .. } => {
                assert!(neighbours.contains(&(node.0 as usize)), "a question to who is not connected");
                assert!(!self.open.contains_key(question), "a number that is taken");
            }
            _ => {}
        }
        let unstored = self.peer().facts().unstored;
        self.most_unstored = self.most_unstored.max(unstored);
        assert!(unstored < 1_200, "{unstored} writes wait for the disk");
        assert!(self.trainer.tasks.len() <= peer::backlog::WORKS_MAX, "the trainer has no room");
    }

    fn own_key(&self) -> [u8; 32] {
        super::machine(self.number, 0).key
    }

    /// No sample of one's own is signed under two bodies, unless a disk has forgotten the first.
    fn check_signed_once(&self, record: &Record) {
        let Record::Chunk(chunk) = record else { return };
        if chunk.machine.key != self.own_key() || self.has_lost {
            return;
        }
        for (sample, digest) in samples_of(chunk) {
            let known = self.signed.get(&(chunk.machine, sample));
            assert!(known.is_none_or(|known| *known == digest), "sample {sample} is signed under two bodies");
        }
    }

    /// Others accept the swarm steps that own samples were measured at.
    fn check_timely(&self, record: &Record) {
        let Record::Chunk(chunk) = record else { return };
        for segment in chunk.segments().filter(|_| chunk.machine.key == self.own_key()) {
            let (first, step) = (segment.first, segment.swarm_step);
            assert!(first <= step + SWARM_STEP_LAG_MAX, "sample {first} was measured at step {step}");
        }
    }

    /// What is told of the own ledger is on the disk.
    fn check_durable(&self, author: &Author, first: u64, bytes: &[u8]) {
        let machine = match author {
            Author::Introduced(machine) => Some(*machine),
            Author::Known(handle) => self.signed.keys().map(|(machine, _)| *machine).find(|m| m.handle() == *handle),
        };
        let Some(machine) = machine.filter(|machine| machine.key == self.own_key() && !self.has_lost) else { return };
        for (sample, byte) in (first..).zip(bytes) {
            assert_eq!(self.disk.byte(&machine, sample), Some(*byte), "sample {sample} is told before it is durable");
        }
    }

    /// A checkpoint claims exactly what its weights hold.
    fn check_claims(&self, contents: &[Contained]) {
        let claimed = self.spell_out(contents);
        let written = self.trainer.written.as_ref().expect("a file was written");
        assert!(claimed == *written, "a checkpoint claims {} entries and holds {}", claimed.len(), written.len());
    }

    /// A point is of weights that the ledgers give at its heights, and those are on the disk.
    fn check_point(&mut self, point: &Point) {
        assert_eq!(digest_of(&self.spell_out(&point.contents)), point.digest, "a point is not what was measured");
        let own = point.contents.iter().filter(|part| part.machine.key == self.own_key() && !self.has_lost);
        own.for_each(|part| assert!(self.disk.height(&part.machine) >= part.height, "a point holds unsigned bytes"));
        self.disk.curve.push(CurvePoint { gradients: point.gradients, loss: point.loss });
    }

    fn spell_out(&self, contents: &[Contained]) -> Weights {
        let replica = self.peer().replica().expect("the peer has its base");
        let claimed = contents.iter().flat_map(|claim| {
            let range = LedgerRange { machine: claim.machine, from: 0, to: claim.height, removed: false };
            replica.contributions(&range)
        });
        claimed.map(|entry| (entry.seed.bytes, entry.byte)).collect()
    }

    /// A write ended: what it holds of the own ledger is signed for good.
    pub fn note_durable(&mut self, records: &[Record]) {
        let key = self.own_key();
        for record in records {
            if let Record::Chunk(chunk) = record
                && chunk.machine.key == key
            {
                self.signed.extend(samples_of(chunk).map(|(sample, digest)| ((chunk.machine, sample), digest)));
            }
        }
    }
}

/// Each sample of a chunk, and the digest of its segment.
fn samples_of(chunk: &Chunk) -> impl Iterator<Item = (u64, Digest)> {
    let digests = chunk.digests(&super::run().id);
    let segments = chunk.segments().map(|segment| segment.first..segment.end()).collect::<Vec<_>>();
    segments.into_iter().zip(digests).flat_map(|(samples, digest)| samples.map(move |sample| (sample, digest)))
}
