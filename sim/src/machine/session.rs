//! From what the disk holds to a running peer.

use anyhow::Result;
use peer::{Config, GoalSettings, Input, Peer, config::CONNECTIONS_TARGET};
use protocol::{
    machine::MachineId,
    replica::{Record, Settings},
    signature::Signer as _,
};
use rand_xoshiro::rand_core::Rng;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::{Discovery, Machine, Neighbours, Running, Trainer, identity::node_id};
use crate::{
    disk::{Contents, Disk},
    event::Event,
    event_log::Kind,
    mesh::{FIRST_HEARTBEAT_MS, Mesh},
    objective::Resumed,
    random::uniform,
    swarm::{Sabotage, Swarm},
};

impl Machine {
    /// Starts with what the disk holds, or on an empty disk as a joiner. Machine 0 starts the run.
    pub fn boot(&mut self, swarm: &mut Swarm) -> Result<()> {
        let Some(mut contents) = self.resting_disk.take().filter(|_| !self.has_left) else { return Ok(()) };
        self.session += 1;
        let is_new_incarnation = contents.incarnation == 0;
        if is_new_incarnation {
            contents.incarnation = self.random.next_u64().max(1);
        }
        if self.number == 0 && contents.known.is_empty() {
            contents.run = Some(swarm.run.clone());
            contents.base.is_complete = true;
        }
        let config = self.config(&contents, is_new_incarnation, swarm);
        let machine = MachineId { key: config.key, incarnation: config.incarnation };
        swarm.truth.owners.insert(machine, self.number);
        let peer = Peer::sharing(config, Box::new(swarm.verifier.clone()), swarm.commons.clone());
        #[cfg(feature = "planted")]
        let peer = {
            let mut peer = peer;
            swarm.planted.into_iter().for_each(|fault| peer.plant(fault));
            peer
        };
        self.running = Some(self.running(peer, contents, swarm));
        swarm.note(Kind::Up, self.number, self.session, 0)?;
        self.begin(swarm)
    }

    fn config(&self, contents: &Contents, is_new_incarnation: bool, swarm: &Swarm) -> Config {
        let settings = &swarm.scenario.replica;
        Config {
            key: self.signer.key(),
            incarnation: contents.incarnation,
            is_new_incarnation,
            seed: swarm.seed ^ u64::from(self.number) << 32 ^ u64::from(self.session),
            // People name the run along with an address: a joiner may be given another than its bootstrap machine's.
            run: Some(swarm.run.id),
            bootstrap: Some(self.bootstrap).filter(|other| *other != self.number).map(node_id).into_iter().collect(),
            knows_others: !contents.known.is_empty(),
            connections_target: CONNECTIONS_TARGET,
            replica: Settings {
                flush_samples: settings.flush_samples,
                staleness_ms_max: settings.staleness_ms_max,
                anti_entropy_interval_ms: settings.anti_entropy_interval_ms,
                ..Settings::default()
            },
        }
    }

    fn running(&self, peer: Peer, contents: Contents, swarm: &Swarm) -> Running {
        let now = swarm.queue.now();
        Running {
            peer,
            mesh: Mesh::new(),
            trainer: None,
            disk: Disk::with(contents),
            neighbours: Neighbours::default(),
            joined_ms: None,
            is_leaving: false,
            stuck: swarm.sabotage == Some(Sabotage::Hoard) && self.number == 1,
            inputs: VecDeque::new(),
            began: now,
            clock_offset_ms: 0,
            questions: BTreeMap::new(),
            requests: Vec::new(),
            next_request: 0,
            chunk: None,
            unacknowledged: VecDeque::new(),
            discovery: Discovery::new(now, swarm.reach()),
            banned: BTreeSet::new(),
            reads: true,
            unread: VecDeque::new(),
            validated_at: now,
            known: 0,
        }
    }

    /// The first inputs, and the clocks. Machines do not tick in step.
    fn begin(&mut self, swarm: &mut Swarm) -> Result<()> {
        if let Some(running) = &mut self.running {
            let contents = running.disk.contents();
            running.inputs.extend(contents.known.iter().map(|other| Input::Recalled(node_id(*other))));
            if let Some(run) = contents.run.clone() {
                running.inputs.push_back(Input::Run(run));
                match contents.base.is_complete {
                    true => self.restore(swarm)?,
                    false => running.fetch_base(),
                }
            }
        }
        self.drain(swarm)?;
        let (machine, session, now) = (self.number, self.session, swarm.queue.now());
        let phase = (uniform(&mut self.random) * (1000 * peer::TICK_MS) as f64) as u64;
        swarm.queue.schedule(now + phase, Event::Tick { machine, session });
        swarm.queue.schedule(now + 1000 * FIRST_HEARTBEAT_MS, Event::Heartbeat { machine, session });
        swarm.queue.schedule(now, Event::Upkeep { machine, session });
        Ok(())
    }

    /// The base is there: all else that the disk holds follows.
    pub(super) fn restore(&mut self, swarm: &mut Swarm) -> Result<()> {
        let Some(running) = &mut self.running else { return Ok(()) };
        let contents = running.disk.contents();
        running.inputs.push_back(Input::BaseReady);
        let statements = contents.statements.values().map(|statement| Record::Statement(statement.clone()));
        let chunks = contents.chunks.iter().map(|chunk| Record::Chunk(chunk.clone()));
        running.inputs.extend(statements.chain(chunks).map(Input::Restored));
        match &contents.checkpoint {
            Some(checkpoint) => {
                running.inputs.push_back(Input::Checkpoint(checkpoint.claims()));
                Ok(())
            }
            None => self.make_ready(false, swarm),
        }
    }

    /// The weights are those of the checkpoint, or of the base; the peer starts.
    pub(super) fn make_ready(&mut self, resumes: bool, swarm: &mut Swarm) -> Result<()> {
        let Some(running) = &mut self.running else { return Ok(()) };
        let checkpoint = running.disk.contents().checkpoint.as_ref().filter(|_| resumes);
        let resumed =
            checkpoint.map(|checkpoint| Resumed { weights: &checkpoint.weights, normalizer: checkpoint.normalizer });
        running.trainer = Some(Trainer::new(swarm.objective.learner(self.data, &self.sender, resumed)?));
        running.inputs.push_back(Input::Curve(running.disk.contents().curve.clone()));
        running.inputs.push_back(Input::Start(GoalSettings {
            samples: Some(self.goal),
            exit_when_idle_ms: None,
            can_train: true,
            batch_samples: swarm.objective.batch_samples(&self.sender)?,
            waits_to_sign: swarm.scenario.projects(&self.sender),
            evaluates: swarm.scenario.stop_when_flat,
            stops_when_flat: swarm.scenario.stop_when_flat,
            checkpoint_interval_ms: (swarm.scenario.disk.checkpoint_seconds * 1000.0) as u64,
        }));
        swarm.note(Kind::Started, self.number, self.session, 0)
    }
}

impl Running {
    /// Asks for what the disk lacks of the base.
    pub(super) fn fetch_base(&mut self) {
        let base = &self.disk.contents().base;
        let (digests, missing) = (base.digests.clone(), base.missing());
        self.inputs.push_back(Input::FetchBase { digests, missing });
    }
}
