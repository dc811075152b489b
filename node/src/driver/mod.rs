//! The driver: one task that owns the replica and the network, and carries out what the replica decides.
//!
//! ```text
//!            events                     outputs
//!   network ───────►┐                 ┌─────────► network
//!   trainer ───────►│     replica     │─────────► trainer (a thread)
//!   storage ───────►│                 │─────────► storage (a thread)
//!   clock   ───────►┘                 └─────────► people
//! ```

use anyhow::{Context, Result};
use protocol::{
    machine::MachineId,
    message::{Gossip, Question, Request},
    replica::{Contained, LedgerRange, NodeId, Output, OwnHead, Record, Replica},
    signature::{Ed25519Signer, Signer as _},
};
use std::{
    collections::{HashMap, VecDeque},
    sync::mpsc::TrySendError,
    time::{Duration, Instant},
};

use crate::{
    interrupt::Interrupt,
    network::{Multiaddr, Network, PeerId, RequestId},
    storage::{BaseReader, StateDir, StorageHandle, StorageState, checkpoint::WrittenCheckpoint},
    trainer::{Command, TrainerHandle},
};

mod goals;
mod leave;
mod network_events;
mod observer;
mod status;
mod trainer_events;

pub use goals::{CATCH_UP_MAX, CATCH_UP_PATIENCE, CHECKPOINT_INTERVAL_MIN, Goals, SWARM_STEP_INTERVAL};
pub use observer::Observer;
pub use status::{Display, Status, hex};

/// Replica ticks, and looks at goals, this often.
pub const TICK: Duration = Duration::from_millis(50);
/// Peers' addresses go to the disk this often if they changed: a node that is killed must find its swarm again.
const REMEMBER_INTERVAL: Duration = Duration::from_secs(5);
/// With this many entries waiting for the trainer, the network is not read.
const BACKLOG_ENTRIES_MAX: u64 = 1 << 18;
/// Entries are handed to the trainer in commands of about this size.
const COMMAND_ENTRIES: u64 = 8_192;

/// A checkpoint file that waits for the ledger that it contains to be durable.
struct PendingCheckpoint {
    written: WrittenCheckpoint,
    others: Vec<Contained>,
    machine: MachineId,
    next_sample: u64,
    spsa: Vec<u8>,
}

/// See the module's documentation.
pub struct Driver {
    replica: Replica,
    manifest_bytes: Vec<u8>,
    state: StateDir,
    base: BaseReader,
    network: Network,
    storage: StorageHandle,
    storage_state: StorageState,
    trainer: TrainerHandle,
    goals: Goals,
    status: Status,
    observer: Observer,
    begun: Instant,
    peers: HashMap<PeerId, NodeId>,
    peer_ids: HashMap<NodeId, PeerId>,
    next_peer: u64,
    asked: HashMap<RequestId, Asked>,
    /// Work that the trainer has no room for yet.
    backlog: VecDeque<Work>,
    /// Adoptions that the trainer has not confirmed: until then own samples of the old machine may be on their way.
    adopting: usize,
    /// The addresses of peers that the disk has, and when they were last looked at.
    remembered: Vec<(PeerId, Multiaddr)>,
    remembered_at: Instant,
    /// The swarm step that own bytes are measured at.
    swarm_step: u64,
    /// Gossip that found no neighbour.
    unpublished: VecDeque<Gossip>,
    /// What the weights contained when the checkpoint that is being written was asked for.
    checkpoint_others: Option<Vec<Contained>>,
    pending_checkpoint: Option<PendingCheckpoint>,
}

/// What waits for the trainer.
enum Work {
    Command(Command),
    /// Spelled out only when the trainer has room.
    Replay(LedgerRange),
}

/// Who was asked what, outside of anti-entropy or within.
enum Asked {
    /// The replica's question.
    Replica(NodeId),
    /// The manifest of a peer of another run, to tell people what differs.
    StrangersManifest(PeerId),
}

/// The parts that a driver is made of.
pub struct Parts {
    /// Restored, not started.
    pub replica: Replica,
    /// As it goes to joiners.
    pub manifest_bytes: Vec<u8>,
    /// Locked.
    pub state: StateDir,
    /// For joiners.
    pub base: BaseReader,
    /// Listening.
    pub network: Network,
    /// Running.
    pub storage: StorageHandle,
    /// Running, resting.
    pub trainer: TrainerHandle,
    /// When to train, when to leave.
    pub goals: Goals,
    /// Where people look.
    pub status: Status,
    /// Who looks for them.
    pub observer: Observer,
}

impl Driver {
    /// Puts the parts together.
    pub fn new(parts: Parts) -> Self {
        Self {
            replica: parts.replica,
            manifest_bytes: parts.manifest_bytes,
            state: parts.state,
            base: parts.base,
            network: parts.network,
            storage: parts.storage,
            storage_state: StorageState::default(),
            trainer: parts.trainer,
            goals: parts.goals,
            status: parts.status,
            observer: parts.observer,
            begun: Instant::now(),
            peers: HashMap::new(),
            peer_ids: HashMap::new(),
            next_peer: 0,
            asked: HashMap::new(),
            backlog: VecDeque::new(),
            adopting: 0,
            remembered: Vec::new(),
            remembered_at: Instant::now(),
            swarm_step: 0,
            unpublished: VecDeque::new(),
            checkpoint_others: None,
            pending_checkpoint: None,
        }
    }

    /// Milliseconds since this driver began: the replica's clock.
    fn now_ms(&self) -> u64 {
        self.begun.elapsed().as_millis() as u64
    }

    /// Runs until the goals are reached or Ctrl-C; leaves cleanly either way. `sure`: see [`Replica::start`].
    pub async fn run(mut self, sure: bool, mut interrupt: Interrupt) -> Result<()> {
        let now_ms = self.now_ms();
        self.replica.start(if sure { OwnHead::Sure } else { OwnHead::Unconfirmed }, now_ms);
        self.adopt_own();
        let mut ticker = tokio::time::interval(TICK);
        ticker.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        interrupt.take_over();
        loop {
            self.carry_out()?;
            self.command_trainer();
            if self.is_done() {
                self.agree_with_neighbours(&mut interrupt).await?;
                break;
            }
            let congested = self.backlog_entries() > BACKLOG_ENTRIES_MAX || self.storage.is_congested();
            tokio::select! {
                () = interrupt.wait() => {
                    self.status.say("leaving: signing and storing what is left");
                    break;
                }
                Ok(()) = self.storage.state.changed() => self.on_storage(),
                Some(event) = self.trainer.events.recv() => self.on_trainer(event)?,
                event = self.network.next(), if !congested => self.on_network(event),
                _ = ticker.tick() => self.on_tick()?,
            }
        }
        self.leave().await
    }

    fn on_tick(&mut self) -> Result<()> {
        let now_ms = self.now_ms();
        self.replica.tick(now_ms);
        // A checkpoint's claims must not run ahead of what the trainer was told.
        self.carry_out()?;
        self.pursue_goals();
        self.commit_checkpoint();
        self.retry_publishing();
        if self.remembered_at.elapsed() >= REMEMBER_INTERVAL {
            self.remembered_at = Instant::now();
            self.remember_peers();
        }
        self.storage.pump();
        self.status.announce();
        self.status.refresh(&mut self.replica, &self.network);
        self.observe();
        Ok(())
    }

    /// Drains the replica's outputs.
    fn carry_out(&mut self) -> Result<()> {
        while let Some(output) = self.replica.poll_output() {
            match output {
                Output::Ask(peer, question) => self.ask(peer, question),
                Output::Publish(gossip) => self.publish(gossip),
                Output::Sign { token, message } => {
                    let signature = Ed25519Signer::from_seed(&self.state.secret_key()).sign(&message);
                    let now_ms = self.now_ms();
                    self.replica.signed(token, signature, now_ms);
                }
                Output::Persist(records, token) => self.persist(&records, token)?,
                Output::Replay(entries) => {
                    self.status.replay_enqueued(entries.len());
                    self.command(Command::Replay(entries));
                }
                Output::ReplayLedger(range) => {
                    self.status.replay_enqueued(range.samples() as usize);
                    self.observer.arrived(&range);
                    self.backlog.push_back(Work::Replay(range));
                }
                Output::NewIncarnation(cause) => {
                    let incarnation = self.state.new_incarnation().context("opening a new incarnation")?;
                    let machine = MachineId { incarnation, ..self.replica.own_machine() };
                    self.status.new_incarnation(cause, &machine);
                    let now_ms = self.now_ms();
                    self.replica.adopt(machine, now_ms);
                    self.adopt_own();
                }
                Output::Penalize(peer, offence) => self.penalize(peer, &offence),
                Output::Report(report) => {
                    self.status.report(&report);
                    self.observer.reported(&report);
                }
            }
        }
        Ok(())
    }

    /// Tells the trainer whose samples come next.
    fn adopt_own(&mut self) {
        let (machine, next_sample) = (self.replica.own_machine(), self.replica.own_next_sample());
        self.goals.adopted();
        self.adopting += 1;
        self.command(Command::Adopt(machine, next_sample));
        self.advance_swarm_step();
    }

    fn command(&mut self, command: Command) {
        self.backlog.push_back(Work::Command(command));
    }

    /// Own bytes use the learning rate of the swarm's present step. Steps never fall within a ledger, so neither does this
    /// one, whatever is revoked.
    fn advance_swarm_step(&mut self) {
        let step = self.replica.swarm_step().max(self.replica.own_swarm_step());
        if step > self.swarm_step {
            self.swarm_step = step;
            self.command(Command::SwarmStep(step));
        }
    }

    fn ask(&mut self, peer: NodeId, question: Question) {
        let request = Request { run: *self.replica.run(), question };
        match (self.peer_ids.get(&peer), request.encode()) {
            (Some(peer_id), Ok(bytes)) => {
                let id = self.network.request(*peer_id, bytes);
                self.asked.insert(id, Asked::Replica(peer));
            }
            _ => self.replica.no_answer(peer),
        }
    }

    fn publish(&mut self, gossip: Gossip) {
        let Ok(bytes) = gossip.encode() else { return };
        if self.network.publish(bytes).is_err() && self.unpublished.len() < 64 {
            // Nobody is listening yet. Anti-entropy would carry it, too; this is faster.
            self.unpublished.push_back(gossip);
        }
    }

    fn retry_publishing(&mut self) {
        if !self.peers.is_empty()
            && let Some(gossip) = self.unpublished.pop_front()
        {
            self.publish(gossip);
        }
    }

    fn persist(&mut self, records: &[Record], token: Option<u64>) -> Result<()> {
        let records = records.iter().map(crate::records::to_storage).collect::<Result<Vec<_>>>()?;
        self.storage.submit(records, token);
        Ok(())
    }

    fn on_storage(&mut self) {
        let state = self.storage.state.borrow_and_update().clone();
        let before = std::mem::replace(&mut self.storage_state, state.clone());
        if state.stored > before.stored {
            let now_ms = self.now_ms();
            self.replica.persisted(state.stored, now_ms);
        }
        if state.checkpoints > before.checkpoints {
            self.goals.checkpointed();
        }
        match (&before.error, &state.error) {
            (None, Some(error)) => self.status.storage_failed(error),
            (Some(_), None) => self.status.say("the state directory takes writes again"),
            _ => {}
        }
    }

    fn backlog_entries(&self) -> u64 {
        let entries = |work: &Work| match work {
            Work::Replay(range) => range.samples(),
            Work::Command(Command::Replay(entries)) => entries.len() as u64,
            Work::Command(_) => 0,
        };
        self.backlog.iter().map(entries).sum()
    }

    /// Hands waiting work to the trainer as far as it has room.
    fn command_trainer(&mut self) {
        while let Some(work) = self.backlog.pop_front() {
            let command = match work {
                Work::Command(command) => command,
                Work::Replay(range) => self.spell_out(range),
            };
            // A trainer that is gone has said why in its last event.
            if let Err(TrySendError::Full(command)) = self.trainer.commands.try_send(command) {
                self.backlog.push_front(Work::Command(command));
                return;
            }
        }
    }

    /// One command's worth of `range` and of the ranges that wait behind it; what is left of them waits on.
    fn spell_out(&mut self, range: LedgerRange) -> Command {
        let (mut range, mut entries) = (range, Vec::new());
        loop {
            let room = COMMAND_ENTRIES - entries.len() as u64;
            entries.extend(self.replica.contributions(&range.take_first(room)));
            if range.samples() > 0 {
                self.backlog.push_front(Work::Replay(range));
                break;
            }
            match self.backlog.pop_front() {
                Some(Work::Replay(next)) if (entries.len() as u64) < COMMAND_ENTRIES => range = next,
                Some(other) => {
                    self.backlog.push_front(other);
                    break;
                }
                None => break,
            }
        }
        Command::Replay(entries)
    }
}
