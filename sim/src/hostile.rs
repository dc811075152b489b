//! Machines that mean harm. Each keeps an honest replica beside its malice, and speaks with real signatures.

use anyhow::Result;
use protocol::{
    anti_entropy::Want,
    codec::VOID,
    ledger::Ledger,
    machine::MachineId,
    message::{Gossip, Push, Question, Response},
    perturbation::{BlockSigns, sign},
    replica::OwnByte,
    seed::EntrySeed,
    segment::{Chunk, Segment},
    signature::{Ed25519Signer, Ed25519Verifier, Signer as _},
    version_vector::Standing,
};
use rand_xoshiro::{
    Xoshiro256PlusPlus,
    rand_core::{Rng, SeedableRng},
};
use std::collections::VecDeque;

use crate::{
    event::{Frame, Number},
    machine::Machine,
    mesh,
    queue::Micros,
    random::{below, chance},
    scenario::Malice,
    swarm::Swarm,
};

/// The incarnation under which forks are signed; the honest replica beside has another.
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

/// See the module's documentation.
pub struct Hostility {
    malice: Malice,
    random: Xoshiro256PlusPlus,
    branches: [Ledger; 2],
    next: Micros,
    heard: VecDeque<mesh::Message>,
    is_silent: bool,
}

impl Hostility {
    /// Everything random follows from the seed.
    pub fn new(malice: Malice, seed: u64, number: Number) -> Self {
        let random = Xoshiro256PlusPlus::seed_from_u64(seed ^ u64::from(number) << 40 ^ 0xbad);
        Self { malice, random, branches: Default::default(), next: 0, heard: VecDeque::new(), is_silent: false }
    }

    /// How.
    pub fn malice(&self) -> Malice {
        self.malice
    }

    /// Whether it makes no gradients of its own.
    pub fn is_idle(&self) -> bool {
        matches!(self.malice, Malice::ForkOverlap | Malice::ForkWithheld | Malice::ForkSilent | Malice::PushWeight)
    }

    /// What becomes of an own byte.
    pub fn byte(&self, byte: i8) -> i8 {
        match self.malice {
            _ if byte == VOID => byte,
            Malice::FlippedSigns => -byte,
            Malice::LargestBytes => 127 * byte.signum(),
            _ => byte,
        }
    }

    /// A message came by.
    pub fn heard(&mut self, message: mesh::Message) {
        if self.malice == Malice::Replayer {
            self.heard.push_back(message);
            self.heard.truncate(REMEMBERED_MAX);
        }
    }
}

fn branch_of(neighbour: Number) -> usize {
    (neighbour % 2) as usize
}

impl Machine {
    /// What it does of its own accord, once a tick.
    pub(crate) fn harm(&mut self, swarm: &mut Swarm) -> Result<()> {
        if swarm.is_over {
            return Ok(());
        }
        let Some(malice) = self.hostility.as_ref().map(Hostility::malice) else { return Ok(()) };
        match malice {
            Malice::ForkOverlap | Malice::ForkWithheld | Malice::ForkSilent => self.fork(swarm),
            Malice::PushWeight => self.push_weight(swarm),
            Malice::Garbage => self.send_garbage(1, 40, swarm),
            Malice::Flood => self.send_garbage(FLOOD_PER_TICK, 1, swarm),
            Malice::Replayer => self.replay_old(swarm),
            Malice::LargestBytes | Malice::FlippedSigns | Malice::Liar | Malice::HeadHider => Ok(()),
        }
    }

    fn neighbour_numbers(&self) -> Vec<Number> {
        self.running.as_ref().map_or_else(Vec::new, |running| running.neighbours.numbers().collect())
    }

    /// Shows a message to one neighbour, past the mesh.
    fn show(&mut self, to: Number, bytes: Vec<u8>, samples: u64, swarm: &mut Swarm) -> Result<()> {
        let size = bytes.len();
        let message = swarm.messages.intern(bytes, samples);
        let frame = mesh::Frame::Publish(message);
        let bytes = mesh::frame_bytes(&frame, &|_| size);
        self.send(to, Frame::Gossip(frame), bytes, swarm)
    }

    fn fork(&mut self, swarm: &mut Swarm) -> Result<()> {
        let now = swarm.queue.now();
        let neighbours = self.neighbour_numbers();
        let signer = Ed25519Signer::from_seed(&self.secret);
        let run = swarm.objective.run();
        let machine = MachineId { key: signer.key(), incarnation: FORKED_INCARNATION };
        let Some(hostility) = &mut self.hostility else { return Ok(()) };
        if now < hostility.next || hostility.is_silent || neighbours.len() < 2 {
            return Ok(());
        }
        hostility.next = now + FORK_INTERVAL;
        let turn = hostility.branches[0].height() / FORK_SAMPLES as u64;
        if turn >= FORK_SEGMENTS {
            hostility.is_silent = hostility.malice == Malice::ForkSilent;
            return Ok(());
        }
        let mut pushes = Vec::new();
        for (branch, ledger) in hostility.branches.iter_mut().enumerate() {
            // The first segment is everyone's, so that both branches follow something real.
            let differs = turn > 0;
            let bytes: Vec<u8> = (0..FORK_SAMPLES)
                .map(|index| if differs { (branch * 40 + index + 3) as u8 } else { index as u8 + 1 })
                .collect();
            let segment = Segment { first: ledger.height(), swarm_step: 0, bytes: &bytes };
            let (chunk, _) = Chunk::sign(&run, machine, segment, ledger.head(), &signer);
            let gossip = Gossip::Segment(Push::of(&chunk)).encode()?;
            ledger.append(chunk.verify(&run, u64::from(u32::MAX), &Ed25519Verifier)?)?;
            pushes.push(gossip);
        }
        let withheld = hostility.malice == Malice::ForkWithheld && turn == 1;
        for to in neighbours {
            let branch = branch_of(to);
            if withheld && branch == 1 {
                continue;
            }
            self.show(to, pushes[branch].clone(), FORK_SAMPLES as u64, swarm)?;
        }
        Ok(())
    }

    /// Bytes whose directions move element 0 of the first tensor upwards, every one.
    fn push_weight(&mut self, swarm: &mut Swarm) -> Result<()> {
        let run = swarm.objective.run();
        for _ in 0..PUSHES_PER_TICK {
            let Some(running) = &mut self.running else { return Ok(()) };
            if !running.replica.signs() || !running.replica.may_probe() {
                return Ok(());
            }
            let (machine, sample) = (running.replica.own_machine(), running.replica.own_next_sample());
            let key = EntrySeed::derive(&run, &machine, sample).tensor_key(0);
            let upwards = sign(&BlockSigns::new(&key, 0).next_step(), 0);
            let byte = if upwards > 0 { -127 } else { 127 };
            let now_ms = swarm.queue.now() / 1000;
            let swarm_step = running.replica.own_swarm_step();
            running.replica.own_bytes(&[OwnByte { machine, sample, byte, swarm_step }], now_ms);
            swarm.truth.made_at(machine, sample, now_ms, false);
        }
        self.carry_out(swarm)
    }

    /// Bytes that are no messages, or messages of machines that nobody knows, to one neighbour.
    fn send_garbage(&mut self, messages: usize, one_in: usize, swarm: &mut Swarm) -> Result<()> {
        let neighbours = self.neighbour_numbers();
        let Some(hostility) = &mut self.hostility else { return Ok(()) };
        if neighbours.is_empty() || below(&mut hostility.random, one_in) != 0 {
            return Ok(());
        }
        let to = neighbours[below(&mut hostility.random, neighbours.len())];
        for _ in 0..messages {
            let Some(hostility) = &mut self.hostility else { return Ok(()) };
            let length = 1 + below(&mut hostility.random, 200);
            let bytes: Vec<u8> = (0..length).map(|_| hostility.random.next_u64() as u8).collect();
            self.show(to, bytes, 0, swarm)?;
        }
        Ok(())
    }

    fn replay_old(&mut self, swarm: &mut Swarm) -> Result<()> {
        let neighbours = self.neighbour_numbers();
        let Some(hostility) = &mut self.hostility else { return Ok(()) };
        if neighbours.is_empty() || hostility.heard.is_empty() {
            return Ok(());
        }
        let to = neighbours[below(&mut hostility.random, neighbours.len())];
        let message = hostility.heard[below(&mut hostility.random, hostility.heard.len())];
        let bytes = swarm.messages.content(message).to_vec();
        self.show(to, bytes, swarm.messages.samples(message), swarm)
    }

    /// What it answers in place of the truth; None: nothing.
    pub(crate) fn hostile_answer(
        &mut self,
        asker: Number,
        question: &Question,
        truth: Response,
        swarm: &Swarm,
    ) -> Option<Vec<u8>> {
        let own_key = Ed25519Signer::from_seed(&self.secret).key();
        let hostility = self.hostility.as_mut()?;
        let answer = match (hostility.malice, question, truth) {
            (Malice::ForkOverlap | Malice::ForkWithheld | Malice::ForkSilent, Question::Fetch { wants }, truth) => {
                let machine = MachineId { key: own_key, incarnation: FORKED_INCARNATION };
                let ledger = &hostility.branches[branch_of(asker)];
                with_branch(truth, wants, machine, ledger, swarm)
            }
            (Malice::Garbage, _, truth) => {
                if chance(&mut hostility.random, 0.3) {
                    return Some((0..100).map(|_| hostility.random.next_u64() as u8).collect());
                }
                truth
            }
            (Malice::Liar, _, Response::Entries { mut entries, more }) => {
                for (_, standing) in entries.iter_mut().step_by(3) {
                    if let Standing::Live { height, head } = standing {
                        *height += 1_000;
                        head[0] ^= 0xff;
                    }
                }
                Response::Entries { entries, more }
            }
            (Malice::HeadHider, Question::Fetch { wants }, truth) => {
                let keys: Vec<[u8; 32]> =
                    swarm.truth.owners.iter().filter(|o| *o.1 == asker).map(|o| o.0.key).collect();
                let asks_own = wants.iter().any(|want| match want {
                    Want::Samples { machine, .. } | Want::Revocation { machine } => keys.contains(&machine.key),
                });
                if asks_own { Response::Found { chunks: Vec::new(), revocations: Vec::new() } } else { truth }
            }
            (_, _, truth) => truth,
        };
        answer.encode().ok()
    }
}

/// The honest answer, with what the asker's branch of the forked ledger has to add.
fn with_branch(truth: Response, wants: &[Want], machine: MachineId, ledger: &Ledger, swarm: &Swarm) -> Response {
    let Response::Found { mut chunks, revocations } = truth else { return truth };
    for want in wants {
        if let Want::Samples { machine: wanted, from } = want
            && *wanted == machine
            && let Some((chunk, _)) = ledger.serve(&swarm.objective.run(), *from)
        {
            chunks.retain(|chunk| chunk.machine != machine);
            chunks.push(chunk);
        }
    }
    Response::Found { chunks, revocations }
}
