//! What the peer wants done: the simulator's half of the driving contract.

use anyhow::{Result, bail};
use peer::{CurvePoint, Input, NodeId, Notice, Output, Run, leave::Departure};
use protocol::{
    machine::MachineId,
    replica::{Contained, Record, Replica, Verdict},
    segment::Chunk,
    signature::Signer as _,
};
use rand_xoshiro::rand_core::Rng;
use std::rc::Rc;

use super::Machine;
use crate::{
    disk::Checkpoint,
    event::{Event, Number},
    event_log::Kind,
    queue::Micros,
    swarm::{Sabotage, Swarm},
};

/// A disk without room is tried again after this long, as `node` does.
const DISK_RETRY: Micros = 500_000;

pub(super) fn number(node: NodeId) -> Number {
    node.0 as Number
}

impl Machine {
    pub(super) fn carry_out(&mut self, output: Output, swarm: &mut Swarm) -> Result<()> {
        match output {
            Output::Dial(node) => self.call(number(node), true, swarm),
            Output::Ban(node) => self.ban(number(node), swarm),
            Output::Pardon(node) => {
                if let Some(running) = &mut self.running {
                    running.banned.remove(&number(node));
                }
            }
            Output::HangUp(node) => swarm.to_disconnect.push((self.number, number(node))),
            // Numbers and addresses of machines are for ever.
            Output::Forget(_) => {}
            Output::Ask { node, question, bytes } => return self.ask(number(node), question, bytes, swarm),
            Output::Respond { request, bytes } => return self.respond(request, bytes, swarm),
            Output::Serve { request, piece } => return self.serve(request, piece, swarm),
            Output::Drop { request } => return self.refuse(request, swarm),
            Output::Publish(bytes) => return self.publish(bytes, swarm),
            Output::Validate { message, verdict, .. } => self.validate(message, verdict, swarm),
            Output::Reading(reads) => self.set_reading(reads, swarm),
            Output::Sign { token, message } => {
                let signature = self.signer.sign(&message);
                self.push(Input::Signed { token, signature });
            }
            Output::Persist { records, write } => self.persist(records, write, swarm),
            Output::Commit { contents } => self.commit(contents, swarm),
            Output::Discard => {
                if let Some(trainer) = self.running.as_mut().and_then(|running| running.trainer.as_mut()) {
                    trainer.take_snapshot();
                }
            }
            Output::NewIncarnation => return self.renew(swarm),
            Output::Work(work) => return self.work(work, swarm),
            Output::Notice(notice) => return self.hear(&notice, swarm),
            Output::Left(departure) => return self.left(departure, swarm),
            Output::Resume(fits) => return self.make_ready(fits, swarm),
            Output::Damaged { machine, first, reason } => {
                bail!("on a virtual disk, the record of {machine} at sample {first} breaks a rule: {reason}")
            }
            Output::StoreRun(run) => return self.store_run(run, swarm),
            Output::StoreDigests(_) | Output::StoreChunk { .. } | Output::FinishBase => {
                return self.store_base(output, swarm);
            }
        }
        Ok(())
    }

    /// An immediate answer to an output.
    pub(super) fn push(&mut self, input: Input) {
        if let Some(running) = &mut self.running {
            running.inputs.push_back(input);
        }
    }

    fn store_run(&mut self, run: Run, swarm: &mut Swarm) -> Result<()> {
        let Some(running) = &mut self.running else { return Ok(()) };
        let contents = running.disk.contents_mut();
        contents.run = Some(run);
        if swarm.objective.base().is_some() {
            running.fetch_base();
            return Ok(());
        }
        contents.base.is_complete = true;
        self.restore(swarm)
    }

    /// A piece of the base; the peer has checked it.
    fn store_base(&mut self, output: Output, swarm: &mut Swarm) -> Result<()> {
        let Some(running) = &mut self.running else { return Ok(()) };
        let base = &mut running.disk.contents_mut().base;
        match output {
            Output::StoreDigests(digests) => {
                base.digests = digests;
                let missing = base.missing();
                running.inputs.push_back(Input::DigestsStored { missing });
            }
            Output::StoreChunk { question, index } => {
                if let Some((_, mut digest)) = running.chunk.take().filter(|(brought_by, _)| *brought_by == question) {
                    if swarm.sabotage == Some(Sabotage::SpoilBase) && self.number == 1 {
                        digest[0] ^= 1;
                    }
                    base.chunks.insert(index, digest);
                    running.inputs.push_back(Input::ChunkStored { index });
                }
            }
            _ => {
                base.is_complete = true;
                return self.restore(swarm);
            }
        }
        Ok(())
    }

    fn persist(&mut self, records: Vec<Record>, write: u64, swarm: &mut Swarm) {
        let Some(running) = &mut self.running else { return };
        if let Some(Record::Chunk(chunk)) = records.first()
            && chunk.machine == running.peer.own_machine()
        {
            running.unacknowledged.push_back((write, Chunk::clone(chunk)));
        }
        let records = records.into_iter().map(|record| swarm.shelf.share(record)).collect();
        if running.disk.submit(records, write) {
            self.sync_later(swarm);
        }
    }

    fn commit(&mut self, contents: Vec<Contained>, swarm: &mut Swarm) {
        let Some(running) = &mut self.running else { return };
        let Some(snapshot) = running.trainer.as_mut().and_then(|trainer| trainer.take_snapshot()) else { return };
        let contents = swarm.shelf.claims(contents);
        let checkpoint = Checkpoint { weights: Rc::new(snapshot.weights), normalizer: snapshot.normalizer, contents };
        if running.disk.submit_checkpoint(checkpoint) {
            self.sync_later(swarm);
        }
    }

    fn sync_later(&self, swarm: &mut Swarm) {
        let at = swarm.queue.now() + (swarm.scenario.disk.sync_ms * 1000.0) as u64;
        swarm.queue.schedule(at, Event::Synced { machine: self.number, session: self.session });
    }

    /// A disk transaction ends.
    pub fn synced(&mut self, swarm: &mut Swarm) -> Result<()> {
        let now = swarm.queue.now();
        let Some(running) = self.running.as_mut().filter(|running| !running.stuck) else { return Ok(()) };
        let outcome = running.disk.complete();
        if outcome.goes_on {
            let pause = if outcome.is_refused { DISK_RETRY } else { (swarm.scenario.disk.sync_ms * 1000.0) as Micros };
            swarm.queue.schedule(now + pause, Event::Synced { machine: self.number, session: self.session });
        }
        if outcome.is_refused {
            running.inputs.push_back(Input::StoreFailed);
        }
        if let Some(write) = outcome.stored {
            running.inputs.push_back(Input::Stored { write });
            swarm.note(Kind::Stored, self.number, 0, write)?;
            self.acknowledge(write, swarm);
        }
        if outcome.has_checkpoint {
            self.push(Input::Committed);
        }
        self.drain(swarm)
    }

    /// Own segments up to this write are durable: the checkers remember them.
    fn acknowledge(&mut self, write: u64, swarm: &mut Swarm) {
        let now_ms = swarm.queue.now() / 1000;
        let Some(running) = &mut self.running else { return };
        while running.unacknowledged.front().is_some_and(|(stored, _)| *stored <= write) {
            let Some((_, mut chunk)) = running.unacknowledged.pop_front() else { break };
            if self.adversary.is_some() {
                continue;
            }
            let saboteur = swarm.sabotage.filter(|_| self.number == 1);
            if saboteur == Some(Sabotage::Forge) {
                chunk.bytes.iter_mut().for_each(|byte| *byte ^= 1);
            }
            swarm.truth.acknowledged(self.number, &chunk, self.disk_history.lost_acknowledged, now_ms);
            let again = saboteur.filter(|sabotage| matches!(sabotage, Sabotage::SignTwice | Sabotage::SignAgain));
            if let Some(again) = again {
                chunk.bytes.iter_mut().for_each(|byte| *byte ^= 1);
                if again == Sabotage::SignAgain {
                    chunk.first = 0;
                }
                swarm.truth.acknowledged(self.number, &chunk, again == Sabotage::SignAgain, now_ms);
            }
        }
    }

    /// Draws a new incarnation.
    fn renew(&mut self, swarm: &mut Swarm) -> Result<()> {
        let incarnation = self.random.next_u64().max(1);
        let Some(running) = &mut self.running else { return Ok(()) };
        running.disk.contents_mut().incarnation = incarnation;
        let machine = MachineId { incarnation, ..running.peer.own_machine() };
        swarm.truth.owners.insert(machine, self.number);
        running.inputs.push_back(Input::Incarnation(incarnation));
        swarm.note(Kind::Incarnated, self.number, self.session, incarnation)
    }

    /// What people would hear. Held-out looks are noted down; the checkers want to know only what one machine holds
    /// against another.
    fn hear(&mut self, notice: &Notice, swarm: &mut Swarm) -> Result<()> {
        if let (Notice::Point(point), Some(running)) = (notice, &mut self.running) {
            let point = CurvePoint { gradients: point.gradients, loss: point.loss };
            running.disk.contents_mut().curve.push(point);
        }
        self.said_behind += u32::from(matches!(notice, Notice::Behind(_)));
        let Notice::Fault { node, reason, .. } = notice else { return Ok(()) };
        if self.adversary.is_none() {
            swarm.truth.penalized(self.number, number(*node), reason);
        }
        swarm.note(Kind::Penalized, self.number, number(*node), 0)
    }

    /// Connections end, and there are no new ones.
    fn ban(&mut self, other: Number, swarm: &mut Swarm) {
        if let Some(running) = &mut self.running {
            running.banned.insert(other);
            swarm.to_disconnect.push((self.number, other));
        }
    }

    fn validate(&mut self, message: u64, verdict: Verdict, swarm: &mut Swarm) {
        let Some(running) = &mut self.running else { return };
        // One at a time, behind those that came before.
        running.validated_at =
            running.validated_at.max(swarm.queue.now()) + (swarm.scenario.speed.validation_us) as Micros;
        let (machine, session, message) = (self.number, self.session, message as crate::mesh::Message);
        swarm.queue.schedule(running.validated_at, Event::Validated { machine, session, message, verdict });
    }

    fn set_reading(&mut self, reads: bool, swarm: &mut Swarm) {
        let Some(running) = &mut self.running else { return };
        running.reads = reads || running.stuck;
        if running.reads && !running.unread.is_empty() {
            let read_on = Event::ReadOn { machine: self.number, session: self.session };
            swarm.queue.schedule(swarm.queue.now(), read_on);
        }
    }

    /// It is gone: frames that are on their way arrive, then its connections close.
    pub(crate) fn left(&mut self, departure: Departure, swarm: &mut Swarm) -> Result<()> {
        let now = swarm.queue.now();
        let Some(running) = &self.running else { return Ok(()) };
        // What may not be signed was never acknowledged.
        if self.adversary.is_none() && running.peer.replica().is_some_and(Replica::signs) {
            swarm.truth.left(self.number, running.peer.own_machine(), departure, swarm.parts.is_empty(), now / 1000);
        }
        for (machine, last_arrival) in running.neighbours.last_arrivals() {
            swarm.queue.schedule(last_arrival.max(now), Event::Closed { machine, by: self.number });
        }
        self.has_left = true;
        swarm.to_remove.push(self.number);
        self.stop(swarm, false)
    }
}
