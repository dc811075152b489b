//! One machine: a `Replica` with a virtual disk, a virtual network and a learner, driven as `node::driver` drives the real ones.
//!
//! - `life`: coming up from the disk, going down;
//! - `join`: manifest and base model, from neighbours;
//! - `outputs`: what the replica wants done;
//! - `traffic`: frames in and out;
//! - `work`: ticks, gradients, checkpoints.

use node::network::conduct::{Allowance, Conduct};
use protocol::{
    machine::MachineId,
    message::Gossip,
    replica::{Contained, Replica},
    segment::Chunk,
};
use rand_xoshiro::{Xoshiro256PlusPlus, rand_core::SeedableRng};
use std::{
    collections::{BTreeMap, VecDeque},
    rc::Rc,
};

use crate::{
    disk::{Contents, Disk},
    event::Number,
    hostile::Hostility,
    mesh::Mesh,
    objective::Learner,
    queue::Micros,
};

mod join;
mod life;
mod outputs;
mod traffic;
mod work;

use join::Download;
pub use life::SECRET_CONTEXT;

/// What a fault has done to a machine's disk, beyond what a node can know.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct DiskHistory {
    /// What was acknowledged may be gone.
    pub lost_acknowledged: bool,
}

/// See the module's documentation.
pub struct Machine {
    /// Its number.
    pub number: Number,
    /// Its Ed25519 seed.
    pub secret: [u8; 32],
    /// Its data; a copy of a machine has other data than the original.
    pub data: u32,
    /// How it means harm, if it does.
    pub hostility: Option<Hostility>,
    /// Own gradients in all.
    pub goal: u64,
    /// Time of one gradient, microseconds.
    pub step_us: f64,
    /// How often it came up.
    pub life: u32,
    /// Whether it will never come up again.
    pub has_left: bool,
    /// Its disk while it is down.
    pub left_behind: Option<Contents>,
    /// What its disk went through.
    pub disk_history: DiskHistory,
    /// The machine that it calls for ever.
    pub bootstrap: Number,
    /// Its disk as it was when the scenario wanted it remembered.
    pub remembered: Option<Contents>,
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

/// Connected machines, in order of their numbers, each with the time when the last frame to it arrives: a stream keeps its
/// order.
#[derive(Default)]
pub struct Neighbours(Vec<(Number, Micros)>);

impl Neighbours {
    fn place(&self, number: Number) -> Result<usize, usize> {
        self.0.binary_search_by_key(&number, |(number, _)| *number)
    }

    /// Whether it is connected.
    pub fn contains(&self, number: Number) -> bool {
        self.place(number).is_ok()
    }

    /// Their numbers.
    pub fn numbers(&self) -> impl Iterator<Item = Number> {
        self.0.iter().map(|(number, _)| *number)
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn insert(&mut self, number: Number) {
        if let Err(place) = self.place(number) {
            self.0.insert(place, (number, 0));
        }
    }

    /// False if there was none.
    fn remove(&mut self, number: Number) -> bool {
        let place = self.place(number);
        place.is_ok_and(|place| {
            self.0.remove(place);
            true
        })
    }

    fn last_arrival(&mut self, number: Number) -> Option<&mut Micros> {
        let place = self.place(number).ok()?;
        self.0.get_mut(place).map(|(_, last_arrival)| last_arrival)
    }
}

/// A machine that is up.
pub struct Running {
    /// Its state machine.
    pub replica: Replica,
    /// Its part of the gossip mesh.
    pub mesh: Mesh,
    /// Its weights.
    pub learner: Box<dyn Learner>,
    /// Its disk.
    pub disk: Disk,
    /// Connected machines.
    pub neighbours: Neighbours,
    /// Whether it has what others had when it came.
    pub joined: bool,
    /// When that was, virtual milliseconds.
    pub joined_ms: u64,
    /// Whether it is about to leave, and since when.
    pub leaving: Option<Micros>,
    /// Whether disk writes that should complete never do (see `Sabotage`).
    pub stuck: bool,
    begun: Micros,
    clock_offset_ms: i64,
    joins: bool,
    /// What has to come before the replica starts.
    download: Option<Download>,
    /// When it started, by the machine's own clock.
    started_ms: u64,
    /// A gradient whose `Measured` event is on its way.
    measuring: Option<node::trainer::Step>,
    /// Gradients of others that wait to be paid for with time.
    unpaid_replays: u64,
    questions: BTreeMap<u64, Number>,
    next_question: u64,
    unpublished: VecDeque<Gossip>,
    /// Own segments on their way to the disk.
    unacknowledged: VecDeque<(u64, Chunk)>,
    conduct: BTreeMap<Number, Conduct>,
    forwarding: Allowance,
    /// Next call to the bootstrap machine, and the pause after it.
    bootstrap_call: (Micros, Micros),
    next_call: Micros,
    next_walk: Micros,
    /// When the last gossip message is looked at.
    validated_at: Micros,
    swarm_step: u64,
    swarm_step_ms: u64,
    checkpoint: Option<PendingCheckpoint>,
    last_checkpoint: (u64, [u8; 32]),
    /// Gradients that were new in the event under way.
    fresh: u64,
}

/// A checkpoint that waits for the ledger that it contains to be durable.
struct PendingCheckpoint {
    weights: Vec<u8>,
    spsa: protocol::spsa::Spsa,
    others: Vec<Rc<Contained>>,
    machine: MachineId,
    next_sample: u64,
}

impl Machine {
    /// Down, with an empty disk.
    pub fn new(number: Number, seed: u64, goal: u64, step_us: f64) -> Self {
        let mut random = Xoshiro256PlusPlus::seed_from_u64(seed ^ u64::from(number).wrapping_mul(0x9E37_79B9));
        let secret = life::secret(seed, number);
        random.jump();
        Self {
            number,
            secret,
            data: number,
            hostility: None,
            goal,
            step_us,
            life: 0,
            has_left: false,
            left_behind: Some(Contents::default()),
            disk_history: DiskHistory::default(),
            bootstrap: 0,
            remembered: None,
            running: None,
            uplink_free: 0,
            downlink_free: 0,
            bytes_in: 0,
            random,
        }
    }

    /// Whether it keeps the rules.
    pub fn is_honest(&self) -> bool {
        self.hostility.is_none()
    }

    /// Whether it is up.
    pub fn is_up(&self) -> bool {
        self.running.is_some()
    }

    /// What its disk holds, up or down.
    pub fn disk(&self) -> Option<&Contents> {
        self.running.as_ref().map(|running| running.disk.contents()).or(self.left_behind.as_ref())
    }
}

impl Running {
    /// Milliseconds since it came up, by its own clock.
    fn now_ms(&self, now: Micros) -> u64 {
        let elapsed = (now.saturating_sub(self.begun) / 1000) as i64;
        elapsed.saturating_add(self.clock_offset_ms).max(0) as u64
    }

    /// Lets its clock jump.
    pub fn jump(&mut self, by_ms: i64) {
        self.clock_offset_ms = self.clock_offset_ms.saturating_add(by_ms);
    }

    /// Messages and questions that wait for something: what must stay bounded.
    pub fn queued(&self) -> usize {
        self.unpublished.len() + self.questions.len() + self.disk.backlog() + self.unacknowledged.len()
    }
}
