//! Coming up from what the disk holds, and going down.

use anyhow::{Context, Result};
use node::network::conduct::Allowance;
use protocol::{
    machine::MachineId,
    replica::{OwnHead, Replica, Settings},
    segment::Chunk,
    signature::{Ed25519Signer, Signer as _},
};
use rand_xoshiro::rand_core::Rng;
use std::collections::{BTreeMap, VecDeque};

use super::{Download, Machine, Neighbours, Running};
use crate::{
    disk::{Contents, Disk},
    event::{Event, Number},
    event_log::Kind,
    mesh::{FIRST_HEARTBEAT_MS, Mesh},
    objective::Resumed,
    random::uniform,
    swarm::{Sabotage, Swarm},
};

/// BLAKE3 derive-key context of a simulated machine's Ed25519 seed.
pub const SECRET_CONTEXT: &str = "onebyte simulator machine";

/// Everything random follows from the seed, keys too.
pub(super) fn secret(seed: u64, number: Number) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new_derive_key(SECRET_CONTEXT);
    hasher.update(&seed.to_le_bytes());
    hasher.update(&number.to_le_bytes());
    *hasher.finalize().as_bytes()
}

impl Machine {
    /// Comes up as `node` does: records from the disk, each signature checked; the checkpoint, if it fits; then the start.
    pub fn rise(&mut self, swarm: &mut Swarm) -> Result<()> {
        let Some(mut contents) = self.left_behind.take().filter(|_| !self.has_left) else { return Ok(()) };
        let now = swarm.queue.now();
        self.life += 1;
        let fresh = contents.incarnation == 0;
        if fresh {
            contents.incarnation = self.random.next_u64().max(1);
        }
        let mut replica = self.restored(&contents, swarm)?;
        let own_is_empty = |replica: &Replica| replica.ledger(&replica.own_machine()).is_none_or(|l| l.height() == 0);
        if own_is_empty(&replica) && !fresh {
            contents.incarnation = self.random.next_u64().max(1);
            replica = self.restored(&contents, swarm)?;
        }
        // A checkpoint that does not fit costs a replay from the base and nothing else.
        let checkpoint = contents.checkpoint.clone().filter(|checkpoint| replica.resume(&checkpoint.claims()));
        let resumed = checkpoint.as_ref().map(|c| Resumed { weights: &c.weights, spsa: c.spsa });
        let learner = swarm.objective.learner(self.data, resumed)?;
        let starts_the_run = self.number == 0 && !contents.knows_peers;
        let own_key = replica.own_machine().key;
        let others = replica.machines().any(|(machine, ..)| machine.key != own_key);
        let sure = starts_the_run && !others || own_is_empty(&replica);
        contents.has_base |= starts_the_run;
        let download = (!contents.has_base).then(|| Download::new(sure, &*swarm.objective));
        swarm.truth.owners.insert(replica.own_machine(), self.number);
        self.running = Some(Running {
            replica,
            mesh: Mesh::new(),
            learner,
            disk: Disk::with(contents),
            neighbours: Neighbours::default(),
            joined: false,
            joined_ms: 0,
            leaving: None,
            stuck: swarm.sabotage == Some(Sabotage::Hoard) && self.number == 1,
            begun: now,
            clock_offset_ms: 0,
            joins: !starts_the_run,
            download,
            started_ms: 0,
            measuring: None,
            unpaid_replays: 0,
            questions: BTreeMap::new(),
            next_question: u64::from(self.life) << 32,
            unpublished: VecDeque::new(),
            unacknowledged: VecDeque::new(),
            conduct: BTreeMap::new(),
            forwarding: Allowance::of_forwarding(0),
            bootstrap_call: (now, 1_000_000),
            next_call: now + 1_000_000,
            next_walk: now + 60_000_000,
            validated_at: now,
            swarm_step: 0,
            swarm_step_ms: 0,
            checkpoint: None,
            last_checkpoint: (0, [0; 32]),
            fresh: 0,
        });
        swarm.note(Kind::Up, self.number, self.life, 0)?;
        self.begin(sure, swarm)
    }

    /// The first inputs, and the clocks. Machines do not beat in step.
    fn begin(&mut self, sure: bool, swarm: &mut Swarm) -> Result<()> {
        let (machine, life) = (self.number, self.life);
        if let Some(running) = self.running.as_mut().filter(|running| running.download.is_none()) {
            running.replica.start(if sure { OwnHead::Sure } else { OwnHead::Unconfirmed }, 0);
            self.adopt_own();
            self.carry_out(swarm)?;
        }
        let now = swarm.queue.now();
        let mut later = |interval_us: u64, event| {
            let phase = (uniform(&mut self.random) * interval_us as f64) as u64;
            swarm.queue.schedule(now + phase, event);
        };
        later(node::driver::TICK.as_micros() as u64, Event::Tick { machine, life });
        let beat = now + 1000 * FIRST_HEARTBEAT_MS;
        swarm.queue.schedule(beat, Event::Heartbeat { machine, life });
        swarm.queue.schedule(now, Event::Upkeep { machine, life });
        Ok(())
    }

    /// A replica of what the disk holds.
    fn restored(&self, contents: &Contents, swarm: &Swarm) -> Result<Replica> {
        let signer = Ed25519Signer::from_seed(&self.secret);
        let machine = MachineId { key: signer.key(), incarnation: contents.incarnation };
        let settings = &swarm.scenario.replica;
        let settings = Settings {
            flush_samples: settings.flush_samples,
            staleness_ms_max: settings.staleness_ms_max,
            anti_entropy_interval_ms: settings.anti_entropy_interval_ms,
            ..Settings::default()
        };
        let (run, manifest) = (swarm.objective.run(), swarm.objective.manifest().clone());
        let verifier = Box::new(swarm.verifier.clone());
        let seed = swarm.seed ^ u64::from(self.number) << 32 ^ u64::from(self.life);
        let mut replica = Replica::new(run, manifest, settings, machine, verifier, seed);
        for revocation in contents.revocations.values() {
            replica.restore_revocation(revocation.clone()).context("a revocation on a virtual disk")?;
        }
        for chunk in contents.chunks.iter() {
            replica.restore_chunk(Chunk::clone(chunk)).context("a chunk on a virtual disk")?;
        }
        Ok(replica)
    }

    /// Tells the learner whose samples come next.
    pub(super) fn adopt_own(&mut self) {
        let Some(running) = &mut self.running else { return };
        let (machine, next_sample) = (running.replica.own_machine(), running.replica.own_next_sample());
        running.learner.adopt(machine, next_sample);
        self.advance_swarm_step();
    }

    /// Goes down at once. The disk keeps what was synced.
    pub fn fall(&mut self, swarm: &mut Swarm, crashed: bool) -> Result<()> {
        let Some(running) = self.running.take() else { return Ok(()) };
        let mut contents = running.disk.crash();
        contents.knows_peers |= !running.neighbours.is_empty();
        self.left_behind = Some(contents);
        swarm.note(Kind::Down, self.number, self.life, u64::from(crashed))
    }
}
