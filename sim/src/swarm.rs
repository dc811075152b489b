//! What all machines share: clock, network, log, measurements.

use anyhow::Result;
use peer::{Run, liveness::Silence, reach::Reach};
use protocol::replica::Commons;
use rand_xoshiro::{Xoshiro256PlusPlus, rand_core::SeedableRng};

use crate::{
    disk::Shelf,
    event::{Event, Number},
    event_log::{EventLog, Kind},
    lines::Lines,
    messages::Messages,
    metrics::Metrics,
    objective::Objective,
    queue::{Micros, Queue},
    random::{chance, uniform},
    scenario::Scenario,
    truth::Truth,
    verifier::RememberingVerifier,
};

/// A fault of the program itself, deliberately made, one for each checker: tests show that it is caught.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sabotage {
    /// Machine 1 forgets to bring some ledger entries into its weights.
    SkipReplay,
    /// Nobody takes the entries of a revoked machine out.
    KeepRevoked,
    /// Of machines that crash no ledger is left, and nobody knows that disks failed.
    LoseRecords,
    /// Machine 1 signs every one of its segments a second time, with another byte.
    SignTwice,
    /// Machine 1 never hears anything again.
    Deafen,
    /// Machine 1's disk never finishes, and nobody slows down.
    Hoard,
    /// Machine 1 spoils what it answers.
    Spoil,
    /// Machine 1 has another byte in its ledger than was signed.
    Forge,
    /// Machine 1 makes more gradients than it is told.
    Overdo,
    /// Machines that are told to leave are gone at once, and say that they left well.
    LeaveAtOnce,
    /// Machine 1 stores another base model than it was sent.
    SpoilBase,
    /// Machine 1 measures nothing while anything of others waits.
    Starve,
    /// Machine 1 signs its first samples again and again, as after a loss, though everyone knows them.
    SignAgain,
}

/// When [`Sabotage::Deafen`] begins.
const DEAF_FROM: Micros = 3_000_000;

/// See the module's documentation.
pub struct Swarm {
    /// Everything random follows from it.
    pub seed: u64,
    pub scenario: Scenario,
    pub objective: Box<dyn Objective>,
    /// The run, as every disk has it.
    pub run: Run,
    /// Public keys, by machine.
    pub keys: Vec<[u8; 32]>,
    /// Events to come, and the clock.
    pub queue: Queue<Event>,
    /// Events past.
    pub log: EventLog,
    pub messages: Messages,
    /// Chunks on disks.
    pub shelf: Shelf,
    /// Checks signatures.
    pub verifier: RememberingVerifier,
    /// What the machines' replicas share.
    pub commons: Commons,
    pub metrics: Metrics,
    /// For the checkers.
    pub truth: Truth,
    /// The network's dice.
    pub random: Xoshiro256PlusPlus,
    /// Machines that are up, in order of number: what discovery can find.
    pub up: Vec<Number>,
    /// Which part of a partition each machine is in; empty: all are one.
    pub parts: Vec<u8>,
    /// Links that are down, machines that sleep, connections that are dead.
    pub lines: Lines,
    /// Connections to be closed by whoever holds the machines.
    pub to_disconnect: Vec<(Number, Number)>,
    /// Machines that have just gone of their own accord.
    pub to_remove: Vec<Number>,
    /// Whether the honest have finished, and adversaries should rest.
    pub is_over: bool,
    /// For tests.
    pub sabotage: Option<Sabotage>,
    /// A fault in the rules of every peer. For tests.
    #[cfg(feature = "planted")]
    pub planted: Option<peer::planted::Fault>,
}

impl Swarm {
    /// Before anything has happened.
    pub fn new(scenario: Scenario, objective: Box<dyn Objective>, seed: u64, log: EventLog) -> Result<Self> {
        let manifest = objective.manifest().clone();
        let run = Run { id: objective.run(), bytes: manifest.encode()?.into(), manifest };
        Ok(Self {
            seed,
            scenario,
            objective,
            run,
            keys: Vec::new(),
            queue: Queue::default(),
            log,
            messages: Messages::default(),
            shelf: Shelf::default(),
            verifier: RememberingVerifier::default(),
            commons: Commons::shared(),
            metrics: Metrics::default(),
            truth: Truth::default(),
            random: Xoshiro256PlusPlus::seed_from_u64(seed ^ 0x006e_6574),
            up: Vec::new(),
            parts: Vec::new(),
            lines: Lines::default(),
            to_disconnect: Vec::new(),
            to_remove: Vec::new(),
            is_over: false,
            sabotage: None,
            #[cfg(feature = "planted")]
            planted: None,
        })
    }

    /// Appends to the event log.
    pub fn note(&mut self, kind: Kind, machine: Number, other: Number, value: u64) -> Result<()> {
        Ok(self.log.record(self.queue.now(), kind, machine, other, value)?)
    }

    /// True with this probability, by the network's dice.
    pub fn draws(&mut self, probability: f64) -> bool {
        chance(&mut self.random, probability)
    }

    /// Whether a frame is lost on its way over a connection, through `relay` if there is one.
    pub fn loses(&mut self, from: Number, to: Number, relay: Option<Number>) -> bool {
        let loss = self.scenario.link.loss;
        self.is_silent(from, to, relay) || self.draws(loss)
    }

    /// Whether nothing comes over the connection between two machines, through `relay` if there is one.
    pub fn is_silent(&self, a: Number, b: Number, relay: Option<Number>) -> bool {
        let silent = |a, b| self.is_cut(a, b) || self.lines.is_dead(a, b);
        silent(a, b) || relay.is_some_and(|relay| silent(a, relay) || silent(relay, b))
    }

    /// Whether nothing passes between two machines.
    pub fn is_cut(&self, a: Number, b: Number) -> bool {
        let part = |machine: Number| self.parts.get(machine as usize).copied().unwrap_or_default();
        self.sabotage == Some(Sabotage::Deafen) && (a == 1 || b == 1) && self.queue.now() > DEAF_FROM
            || !self.parts.is_empty() && part(a) != part(b)
            || self.lines.is_off(a)
            || self.lines.is_off(b)
    }

    /// One way between two machines, milliseconds: the scenario's, times something between a half and one and a half
    /// that belongs to the pair.
    pub fn latency_ms(&self, a: Number, b: Number) -> f64 {
        let pair = u64::from(a.min(b)) << 32 | u64::from(a.max(b));
        let mut random = Xoshiro256PlusPlus::seed_from_u64(self.seed ^ pair);
        self.scenario.link.latency_ms * (0.5 + uniform(&mut random))
    }

    /// How ends of new connections bear silence.
    #[cfg(feature = "planted")]
    pub fn silence(&self) -> Silence {
        Silence::with(self.planted)
    }

    /// How ends of new connections bear silence.
    #[cfg(not(feature = "planted"))]
    pub fn silence(&self) -> Silence {
        Silence::default()
    }

    /// Where calls of a machine's discovery may go.
    #[cfg(feature = "planted")]
    pub fn reach(&self) -> Reach {
        Reach::with(self.planted)
    }

    /// Where calls of a machine's discovery may go.
    #[cfg(not(feature = "planted"))]
    pub fn reach(&self) -> Reach {
        Reach::default()
    }
}
