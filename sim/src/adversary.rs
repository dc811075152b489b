//! Machines that break the rules on purpose. Each has an honest peer beside, and speaks with real signatures.
//!
//! An adversary sees a [`Scene`] and answers with [`Act`]s; it changes own bytes and answers on their way out. It has
//! no other hold on the simulation.

use anyhow::Result;
use protocol::{
    anti_entropy::Want,
    codec::VOID,
    ledger::Ledger,
    machine::MachineId,
    manifest::RunId,
    message::{Gossip, Push, Question, Response},
    perturbation::{BlockSigns, sign},
    replica::{OwnByte, Replica},
    seed::EntrySeeds,
    segment::{Chunk, Segment},
    signature::{Ed25519Signer, Ed25519Verifier, Signer as _},
    version_vector::{Entry, Standing},
};
use rand_xoshiro::{
    Xoshiro256PlusPlus,
    rand_core::{Rng, SeedableRng},
};

use crate::{
    event::Number,
    queue::Micros,
    random::{below, chance},
    scenario::Strategy,
};

/// The incarnation under which forks are signed; the honest peer beside has another.
const FORKED_INCARNATION: u64 = 0xf04c;
/// Segments on each branch of a fork.
const FORK_SEGMENTS: u64 = 5;
/// Samples in each of them.
const FORK_SAMPLES: usize = 8;
/// A fork goes on this often.
const FORK_INTERVAL: Micros = 1_500_000;
/// Bytes that push a weight, a tick.
const PUSHES_PER_TICK: u64 = 16;
/// Messages of a flood, a tick.
const FLOOD_PER_TICK: usize = 400;
/// Messages that a replayer remembers.
const REMEMBERED_MAX: usize = 64;

/// What an adversary sees.
pub struct Scene<'a> {
    pub now: Micros,
    pub run: &'a RunId,
    /// Connected machines, in order of their numbers.
    pub neighbours: &'a [Number],
    /// What its honest peer holds, once it is past joining.
    pub replica: Option<&'a Replica>,
}

/// Who asks an adversary.
pub struct Asker<'a> {
    pub number: Number,
    pub key: &'a [u8; 32],
}

/// What an adversary does.
pub enum Act {
    /// Shows a gossip message to one neighbour, past the mesh.
    Show {
        to: Number,
        /// Any bytes.
        bytes: Vec<u8>,
    },
    /// Has its honest peer sign and spread these bytes.
    Contribute(Vec<OwnByte>),
}

/// See the module's documentation.
pub struct Adversary {
    strategy: Strategy,
    signer: Ed25519Signer,
    random: Xoshiro256PlusPlus,
    branches: [Ledger; 2],
    next: Micros,
    /// The first messages that came by.
    heard: Vec<Vec<u8>>,
    is_silent: bool,
}

/// The branch of a fork that a neighbour is shown.
fn branch_of(neighbour: Number) -> usize {
    (neighbour % 2) as usize
}

impl Adversary {
    /// Everything random follows from the seed. It signs with the key that `secret` makes.
    pub fn new(strategy: Strategy, secret: &[u8; 32], seed: u64, number: Number) -> Self {
        Self {
            strategy,
            signer: Ed25519Signer::from_seed(secret),
            random: Xoshiro256PlusPlus::seed_from_u64(seed ^ u64::from(number) << 40 ^ 0xbad),
            branches: Default::default(),
            next: 0,
            heard: Vec::new(),
            is_silent: false,
        }
    }

    /// What it is after.
    pub fn strategy(&self) -> Strategy {
        self.strategy
    }

    /// Whether it makes no gradients of its own.
    pub fn is_idle(&self) -> bool {
        matches!(
            self.strategy,
            Strategy::ForkOverlap
                | Strategy::ForkWithheld
                | Strategy::ForkSilent
                | Strategy::PushWeight
                | Strategy::Overspend
        )
    }

    /// What becomes of an own byte.
    pub fn byte(&self, byte: i8) -> i8 {
        match self.strategy {
            _ if byte == VOID => byte,
            Strategy::FlippedSigns => -byte,
            Strategy::LargestBytes => 127 * byte.signum(),
            _ => byte,
        }
    }

    /// A gossip message came by.
    pub fn hear(&mut self, message: &[u8]) {
        if self.strategy == Strategy::Replayer && self.heard.len() < REMEMBERED_MAX {
            self.heard.push(message.to_vec());
        }
    }

    /// What it does of its own accord, once a tick.
    pub fn act(&mut self, scene: &Scene<'_>) -> Result<Vec<Act>> {
        Ok(match self.strategy {
            Strategy::ForkOverlap | Strategy::ForkWithheld | Strategy::ForkSilent => self.fork(scene)?,
            Strategy::PushWeight => push_weight(scene).into_iter().collect(),
            Strategy::Overspend => overspend(scene).into_iter().collect(),
            Strategy::Garbage => self.send_garbage(1, 40, scene),
            Strategy::Flood => self.send_garbage(FLOOD_PER_TICK, 1, scene),
            Strategy::Replayer => self.repeat(scene).into_iter().collect(),
            Strategy::LargestBytes
            | Strategy::FlippedSigns
            | Strategy::Liar
            | Strategy::HeadHider
            | Strategy::WrongBase => Vec::new(),
        })
    }

    fn fork(&mut self, scene: &Scene<'_>) -> Result<Vec<Act>> {
        if scene.now < self.next || self.is_silent || scene.neighbours.len() < 2 {
            return Ok(Vec::new());
        }
        self.next = scene.now + FORK_INTERVAL;
        let turn = self.branches[0].height() / FORK_SAMPLES as u64;
        if turn >= FORK_SEGMENTS {
            self.is_silent = self.strategy == Strategy::ForkSilent;
            return Ok(Vec::new());
        }
        let machine = MachineId { key: self.signer.key(), incarnation: FORKED_INCARNATION };
        let mut pushes = Vec::new();
        for (branch, ledger) in self.branches.iter_mut().enumerate() {
            // The first segment is everyone's, so that both branches follow something real.
            let differs = turn > 0;
            let bytes: Vec<u8> = (0..FORK_SAMPLES)
                .map(|index| if differs { (branch * 40 + index + 3) as u8 } else { index as u8 + 1 })
                .collect();
            let segment = Segment { first: ledger.height(), swarm_step: 0, bytes: &bytes };
            let (chunk, _) = Chunk::sign(scene.run, machine, segment, ledger.head(), &self.signer);
            let gossip = Gossip::Segment(Push::of(&chunk)).encode()?;
            ledger.append(chunk.verify(scene.run, u64::from(u32::MAX), &Ed25519Verifier)?)?;
            pushes.push(gossip);
        }
        let withheld = self.strategy == Strategy::ForkWithheld && turn == 1;
        let shown = scene.neighbours.iter().filter(|to| !(withheld && branch_of(**to) == 1));
        Ok(shown.map(|to| Act::Show { to: *to, bytes: pushes[branch_of(*to)].clone() }).collect())
    }

    /// Bytes that are no messages, or messages of machines that nobody knows, to one neighbour.
    fn send_garbage(&mut self, messages: usize, one_in: usize, scene: &Scene<'_>) -> Vec<Act> {
        if scene.neighbours.is_empty() || below(&mut self.random, one_in) != 0 {
            return Vec::new();
        }
        let to = scene.neighbours[below(&mut self.random, scene.neighbours.len())];
        let mut garbage = || {
            let length = 1 + below(&mut self.random, 200);
            (0..length).map(|_| self.random.next_u64() as u8).collect()
        };
        (0..messages).map(|_| Act::Show { to, bytes: garbage() }).collect()
    }

    /// An old message of others, to one neighbour.
    fn repeat(&mut self, scene: &Scene<'_>) -> Option<Act> {
        if scene.neighbours.is_empty() || self.heard.is_empty() {
            return None;
        }
        let to = scene.neighbours[below(&mut self.random, scene.neighbours.len())];
        let bytes = self.heard[below(&mut self.random, self.heard.len())].clone();
        Some(Act::Show { to, bytes })
    }

    /// What it answers in place of the truth; None: the truth.
    pub fn answer(&mut self, run: &RunId, asker: Asker<'_>, question: &Question, truth: Response) -> Option<Vec<u8>> {
        let answer = match (self.strategy, question, truth) {
            (
                Strategy::ForkOverlap | Strategy::ForkWithheld | Strategy::ForkSilent,
                Question::Fetch { wants },
                truth,
            ) => {
                let machine = MachineId { key: self.signer.key(), incarnation: FORKED_INCARNATION };
                with_branch(truth, wants, machine, &self.branches[branch_of(asker.number)], run)
            }
            (Strategy::Garbage, ..) if chance(&mut self.random, 0.3) => {
                return Some((0..100).map(|_| self.random.next_u64() as u8).collect());
            }
            (Strategy::Liar, _, Response::Entries { mut entries, more }) => {
                for entry in entries.iter_mut().step_by(3) {
                    if let Entry::Ledger(_, Standing::Live { height, head }) = entry {
                        *height += 1_000;
                        head[0] ^= 0xff;
                    }
                }
                Response::Entries { entries, more }
            }
            (Strategy::HeadHider, Question::Fetch { wants }, _) if asks_for(wants, asker.key) => {
                Response::Found { chunks: Vec::new(), statements: Vec::new() }
            }
            (Strategy::WrongBase, _, Response::BaseChunk(mut bytes)) => {
                bytes.iter_mut().take(1).for_each(|byte| *byte ^= 1);
                Response::BaseChunk(bytes)
            }
            _ => return None,
        };
        answer.encode().ok()
    }
}

/// Bytes whose directions move element 0 of the first tensor upwards, every one of its group's rounds.
fn push_weight(scene: &Scene<'_>) -> Option<Act> {
    let replica = scene.replica.filter(|replica| replica.signs() && replica.may_probe())?;
    let (machine, swarm_step) = (replica.own_machine(), replica.own_swarm_step());
    let first = replica.own_next_sample();
    let mut seeds = EntrySeeds::new(scene.run, &machine, &replica.manifest().groups);
    let push = |sample| {
        let key = seeds.of(sample).tensor_key(0);
        let upwards = sign(&BlockSigns::new(&key, 0).next_step(), 0);
        OwnByte { machine, sample, byte: if upwards > 0 { -127 } else { 127 }, swarm_step }
    };
    Some(Act::Contribute((first..first + PUSHES_PER_TICK).map(push).collect()))
}

/// Ten times what the whole swarm should make in a tick, as far as it may wait for its signature.
fn overspend(scene: &Scene<'_>) -> Option<Act> {
    let replica = scene.replica.filter(|replica| replica.signs() && replica.may_probe())?;
    let (machine, swarm_step) = (replica.own_machine(), replica.swarm_step().max(replica.own_swarm_step()));
    let first = replica.own_next_sample();
    let samples = 10 * u64::from(replica.manifest().replay_budget) * peer::TICK_MS / 1_000;
    // Small moves to and fro: what it costs others is their time.
    let byte = |sample| if sample % 2 == 0 { 1 } else { -1 };
    let own = |sample| OwnByte { machine, sample, byte: byte(sample), swarm_step };
    Some(Act::Contribute((first..first + samples.max(1)).map(own).collect()))
}

/// Whether any of the ledger of the machine with this key is asked for.
fn asks_for(wants: &[Want], key: &[u8; 32]) -> bool {
    wants.iter().any(|want| match want {
        Want::Samples { machine, .. } | Want::Revocation { machine } => machine.key == *key,
        Want::Member { .. } => false,
    })
}

/// The honest answer, with what the asker's branch of the forked ledger has to add.
fn with_branch(truth: Response, wants: &[Want], machine: MachineId, ledger: &Ledger, run: &RunId) -> Response {
    let Response::Found { mut chunks, statements } = truth else { return truth };
    for want in wants {
        if let Want::Samples { machine: wanted, from } = want
            && *wanted == machine
            && let Some((chunk, _)) = ledger.serve(run, *from)
        {
            chunks.retain(|chunk| chunk.machine != machine);
            chunks.push(chunk);
        }
    }
    Response::Found { chunks, statements }
}
