//! One machine: a `peer::Peer` with a virtual disk, virtual links, a model of the gossip mesh, and a virtual trainer.
//!
//! Everything that a machine decides, its peer does. A machine turns events into inputs, and carries outputs out:
//!
//! - `session`: from the disk to a running peer, and back to the disk;
//! - `outputs`: what the peer wants done;
//! - `link`: frames in and out, connections;
//! - `calls`, `discovery`: whom a machine can find, and calls;
//! - `attack`: the hands of an adversary;
//! - `work`, `trainer`: gradients, replay, checkpoints, and what they take;
//! - `identity`: keys and names;
//! - `neighbours`: who is connected.

use anyhow::Result;
use peer::{Input, Peer};
use protocol::{
    replica::Replica,
    segment::{Chunk, Digest},
    signature::{Ed25519Signer, Signer as _},
};
use rand_xoshiro::{Xoshiro256PlusPlus, rand_core::SeedableRng};
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    rc::Rc,
};

use crate::{
    adversary::Adversary,
    disk::{Contents, Disk},
    event::{Event, Frame, Letter, Number},
    event_log::Kind,
    mesh::{HEARTBEAT_MS, Mesh, Turn},
    queue::Micros,
    router::Router,
    scenario::Sender,
    swarm::Swarm,
};

mod attack;
mod calls;
mod discovery;
mod identity;
mod link;
mod neighbours;
mod outputs;
mod session;
mod trainer;
mod work;

use discovery::Discovery;
pub use identity::SECRET_CONTEXT;
pub use neighbours::Neighbours;
pub use trainer::Trainer;

/// What a fault has done to a machine's disk, beyond what a node can know.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct DiskHistory {
    /// What was acknowledged may be gone.
    pub lost_acknowledged: bool,
}

/// See the module's documentation.
pub struct Machine {
    pub number: Number,
    /// Its Ed25519 seed.
    pub secret: [u8; 32],
    signer: Ed25519Signer,
    /// Its data; a copy of a machine has other data than the original.
    pub data: u32,
    /// What it does against the rules, if it does.
    pub adversary: Option<Adversary>,
    /// Own gradients in all.
    pub goal: u64,
    /// Time of one gradient, microseconds.
    pub step_us: f64,
    /// Time of replaying one gradient, microseconds.
    pub replay_us: f64,
    /// How it measures.
    pub sender: Sender,
    /// What it is behind.
    pub router: Router,
    /// Since when it has no connection that carries anything, though its link is up and somebody could be called.
    pub cut_off_since: Option<Micros>,
    /// The most of others' gradients that its weights lacked.
    pub backlog_max: u64,
    /// How often it said that it falls behind.
    pub said_behind: u32,
    /// How often it started.
    pub session: u32,
    /// Whether it will never start again.
    pub has_left: bool,
    /// Its disk while it is down.
    pub resting_disk: Option<Contents>,
    /// What its disk went through.
    pub disk_history: DiskHistory,
    /// The machine whose address it was given.
    pub bootstrap: Number,
    /// While it is up.
    pub running: Option<Running>,
    /// When what it sends is through.
    pub uplink_free: Micros,
    /// When what it receives is in.
    pub downlink_free: Micros,
    /// Bytes received so far.
    pub bytes_in: u64,
    random: Xoshiro256PlusPlus,
}

/// A machine that is up.
pub struct Running {
    /// All that it decides.
    pub peer: Peer,
    /// Its part of the gossip mesh.
    pub mesh: Mesh,
    /// Its weights, once its disk is restored.
    pub trainer: Option<Trainer>,
    pub disk: Disk,
    /// Connected machines.
    pub neighbours: Neighbours,
    /// When it had what others had when it came, virtual milliseconds.
    pub joined_ms: Option<u64>,
    /// Whether it was told to leave.
    pub is_leaving: bool,
    /// Whether disk writes that should complete never do, and frames are read all the same (see `Sabotage`).
    pub stuck: bool,
    /// What the peer is to be told next.
    inputs: VecDeque<Input>,
    began: Micros,
    clock_offset_ms: i64,
    /// Questions that have no answer yet, and whom they were asked.
    questions: BTreeMap<u64, Number>,
    /// Requests that the peer has not answered yet: few, and mostly none.
    requests: Vec<Request>,
    next_request: u64,
    /// The chunk of the base that the last answer brought: number of the question, digest.
    chunk: Option<(u64, Digest)>,
    /// Own segments on their way to the disk, with the numbers of their writes.
    unacknowledged: VecDeque<(u64, Chunk)>,
    discovery: Discovery,
    /// Machines with which there is to be no connection.
    banned: BTreeSet<Number>,
    reads: bool,
    /// Frames that wait until it reads again.
    unread: VecDeque<(Number, Frame, u32)>,
    /// When the last gossip message is looked at.
    validated_at: Micros,
    /// Gradients that it held before the event under way.
    known: u64,
}

/// A request that came.
struct Request {
    number: u64,
    from: Number,
    letter: Rc<Letter>,
}

impl Machine {
    /// Down, with an empty disk.
    pub fn new(number: Number, seed: u64, goal: u64, step_us: f64) -> Self {
        let mut random = Xoshiro256PlusPlus::seed_from_u64(seed ^ u64::from(number).wrapping_mul(0x9E37_79B9));
        let secret = identity::secret(seed, number);
        random.jump();
        Self {
            number,
            secret,
            signer: Ed25519Signer::from_seed(&secret),
            data: number,
            adversary: None,
            goal,
            step_us,
            replay_us: 0.0,
            sender: Sender::default(),
            router: Router::default(),
            cut_off_since: None,
            backlog_max: 0,
            said_behind: 0,
            session: 0,
            has_left: false,
            resting_disk: Some(Contents::default()),
            disk_history: DiskHistory::default(),
            bootstrap: 0,
            running: None,
            uplink_free: 0,
            downlink_free: 0,
            bytes_in: 0,
            random,
        }
    }

    /// Takes another machine's key, as a copy of its directory has it.
    pub fn take_key(&mut self, secret: [u8; 32]) {
        (self.secret, self.signer) = (secret, Ed25519Signer::from_seed(&secret));
    }

    /// Its public key.
    pub fn key(&self) -> [u8; 32] {
        self.signer.key()
    }

    /// Whether it keeps the rules.
    pub fn is_honest(&self) -> bool {
        self.adversary.is_none()
    }

    /// Whether it is up.
    pub fn is_up(&self) -> bool {
        self.running.is_some()
    }

    /// What its disk holds, up or down.
    pub fn disk(&self) -> Option<&Contents> {
        self.running.as_ref().map(|running| running.disk.contents()).or(self.resting_disk.as_ref())
    }

    /// Its replica, if it is up and past joining.
    pub fn replica(&self) -> Option<&Replica> {
        self.running.as_ref().and_then(|running| running.peer.replica())
    }

    /// Whether it is up and has what others had when it came.
    pub fn has_joined(&self) -> bool {
        self.running.as_ref().is_some_and(|running| running.joined_ms.is_some())
    }

    /// Whether the weights lack nothing that the replica holds; true of one that is down.
    pub fn owes_nothing(&self) -> bool {
        self.running.as_ref().is_none_or(|running| running.peer.facts().owed == 0)
    }

    /// Whether its own gradients are all made and durable; true of one that is down.
    pub fn is_done(&self) -> bool {
        self.running.as_ref().is_none_or(|running| {
            let rests = running.trainer.as_ref().is_some_and(|trainer| !trainer.is_measuring());
            running.joined_ms.is_some() && rests && running.peer.facts().own_is_done
        })
    }

    /// Tells the peer what is the case, and does what it wants done, until there is nothing left to tell.
    pub fn tell(&mut self, input: Input, swarm: &mut Swarm) -> Result<()> {
        self.drain(swarm)?;
        self.step(input, swarm)?;
        self.drain(swarm)
    }

    /// The same with inputs that wait already.
    fn drain(&mut self, swarm: &mut Swarm) -> Result<()> {
        while let Some(input) = self.running.as_mut().and_then(|running| running.inputs.pop_front()) {
            self.step(input, swarm)?;
        }
        Ok(())
    }

    fn step(&mut self, input: Input, swarm: &mut Swarm) -> Result<()> {
        let Some(running) = &mut self.running else { return Ok(()) };
        let now_ms = running.now_ms(swarm.queue.now());
        running.peer.handle(input, now_ms);
        while let Some(output) = self.running.as_mut().and_then(|running| running.peer.poll_output()) {
            self.carry_out(output, swarm)?;
        }
        Ok(())
    }

    /// The peer's clock ticks.
    pub fn tick(&mut self, swarm: &mut Swarm) -> Result<()> {
        self.tell(Input::Tick, swarm)?;
        let now = swarm.queue.now();
        let Some(running) = &mut self.running else { return Ok(()) };
        if running.joined_ms.is_none() && running.peer.facts().has_joined {
            running.joined_ms = Some(now / 1000);
        }
        self.look_at_goal(swarm);
        self.attack(swarm)?;
        swarm.queue.schedule(now + 1000 * peer::TICK_MS, Event::Tick { machine: self.number, session: self.session });
        Ok(())
    }

    /// The gossip mesh looks after itself.
    pub fn heartbeat(&mut self, swarm: &mut Swarm) -> Result<()> {
        let now = swarm.queue.now();
        let Some(running) = &mut self.running else { return Ok(()) };
        let mut out = Vec::new();
        running.mesh.heartbeat(&mut Turn { now_ms: now / 1000, random: &mut self.random, out: &mut out });
        self.send_all(out, swarm)?;
        let (machine, session) = (self.number, self.session);
        swarm.queue.schedule(now + HEARTBEAT_MS * 1000, Event::Heartbeat { machine, session });
        Ok(())
    }

    /// Goes down at once. The disk keeps what was synced.
    pub fn stop(&mut self, swarm: &mut Swarm, crashed: bool) -> Result<()> {
        let Some(running) = self.running.take() else { return Ok(()) };
        self.cut_off_since = None;
        // As a node's database has them: the latest first, and nobody forgotten.
        let mut known: Vec<Number> = running.neighbours.numbers().collect();
        let mut contents = running.disk.crash();
        contents.known.retain(|other| !known.contains(other));
        known.append(&mut contents.known);
        contents.known = known;
        self.resting_disk = Some(contents);
        swarm.note(Kind::Down, self.number, self.session, u64::from(crashed))
    }
}

impl Running {
    /// Milliseconds since it came up, by its own clock.
    pub fn now_ms(&self, now: Micros) -> u64 {
        let elapsed = (now.saturating_sub(self.began) / 1000) as i64;
        elapsed.saturating_add(self.clock_offset_ms).max(0) as u64
    }

    /// Lets its clock jump.
    pub fn jump(&mut self, by_ms: i64) {
        self.clock_offset_ms = self.clock_offset_ms.saturating_add(by_ms);
    }

    /// Things that wait for something: what must stay bounded.
    pub fn queued(&self) -> usize {
        let works = self.trainer.as_ref().map_or(0, Trainer::waiting);
        self.questions.len() + self.requests.len() + self.disk.backlog() + self.unacknowledged.len() + works
    }
}
