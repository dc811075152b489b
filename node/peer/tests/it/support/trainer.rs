//! A virtual trainer, whose weights count how often each entry is in them.

use protocol::{
    machine::MachineId,
    manifest::{Groups, RunId},
    replay::Contribution,
    replica::OwnByte,
    seed::EntrySeed,
    segment::Digest,
};
use std::collections::{BTreeSet, VecDeque};

/// Entries that are in the weights, each once: its seed, and the byte.
pub type Weights = BTreeSet<([u8; 32], i8)>;

/// Tells weights apart.
pub fn digest_of(weights: &Weights) -> Digest {
    let mut hasher = blake3::Hasher::new();
    for (seed, byte) in weights {
        hasher.update(seed).update(&[*byte as u8]);
    }
    *hasher.finalize().as_bytes()
}

/// Work with the samples of ledgers spelled out.
pub enum Task {
    Adopt(MachineId, u64),
    SwarmStep(u64),
    Train { until_sample: u64 },
    Replay(Vec<Contribution>),
    Evaluate,
    Checkpoint,
    Digest(Digest),
}

pub struct Trainer {
    pub weights: Weights,
    pub tasks: VecDeque<Task>,
    pub machine: Option<MachineId>,
    pub next_sample: u64,
    pub until_sample: u64,
    pub swarm_step: u64,
    pub is_near_edge: bool,
    /// The weights in the file that was written last.
    pub written: Option<Weights>,
    /// Samples that are measured together.
    pub batch: u64,
    /// Decides the next bytes.
    pub dice: u64,
}

impl Trainer {
    pub fn new(weights: Weights) -> Self {
        Self {
            weights,
            tasks: VecDeque::new(),
            machine: None,
            next_sample: 0,
            until_sample: 0,
            swarm_step: 0,
            is_near_edge: false,
            written: None,
            batch: 4,
            dice: 1,
        }
    }

    /// Moves the weights. An entry that would be in them twice, or less than never, is a fault of the peer.
    pub fn apply(&mut self, entries: &[Contribution]) {
        for entry in entries {
            let key = (entry.seed.bytes, entry.byte);
            match entry.removed {
                false => assert!(self.weights.insert(key), "an entry is in the weights twice"),
                true => assert!(self.weights.remove(&key), "an entry leaves the weights that was not in them"),
            }
        }
    }

    pub fn wants_to_measure(&self) -> bool {
        self.machine.is_some() && self.next_sample < self.until_sample && !self.is_near_edge
    }

    /// Own gradients, which are in the weights at once.
    pub fn measure(&mut self, run: &RunId) -> Vec<OwnByte> {
        let Some(machine) = self.machine else { return Vec::new() };
        let end = self.until_sample.min(self.next_sample + self.batch);
        let own: Vec<OwnByte> = (self.next_sample..end)
            .map(|sample| {
                self.dice = self.dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                OwnByte { machine, sample, byte: (self.dice >> 33) as i8, swarm_step: self.swarm_step }
            })
            .collect();
        for own in &own {
            let seed = EntrySeed::derive(run, &machine, own.sample, &Groups::equal(1));
            let entry = Contribution { seed, byte: own.byte, multiplier: 0, removed: false };
            self.apply(&[entry]);
        }
        self.next_sample = end;
        own
    }
}
