//! What the replica wants done: the simulator's half of the driving contract.

use anyhow::Result;
use node::network::{ANSWER_MAX, Severity, framing};
use protocol::signature::{Ed25519Signer, Signer as _};
use protocol::{
    machine::MachineId,
    message::{Gossip, Question, Request},
    replica::{LedgerRange, NodeId, Offence, Output, Record},
    segment::Chunk,
};
use rand_xoshiro::rand_core::Rng;
use std::rc::Rc;

use super::Machine;
use crate::{
    event::{Event, Frame, Letter, Number},
    event_log::Kind,
    swarm::{Sabotage, Swarm},
};

/// Gossip that found no neighbour and waits, as in `node::driver`.
const UNPUBLISHED_MAX: usize = 64;

impl Machine {
    /// Drains the replica's outputs.
    pub(crate) fn carry_out(&mut self, swarm: &mut Swarm) -> Result<()> {
        while let Some(output) = self.running.as_mut().and_then(|running| running.replica.poll_output()) {
            match output {
                Output::Ask(peer, question) => self.ask(peer, question, swarm)?,
                Output::Publish(gossip) => self.publish(gossip, swarm)?,
                Output::Sign { token, message } => {
                    let signature = Ed25519Signer::from_seed(&self.secret).sign(&message);
                    if let Some(running) = &mut self.running {
                        let now_ms = running.now_ms(swarm.queue.now());
                        running.replica.signed(token, signature, now_ms);
                    }
                }
                Output::Persist(records, token) => self.persist(records, token, swarm),
                Output::Replay(entries) => {
                    if let Some(running) = &mut self.running {
                        running.learner.replay(entries)?;
                    }
                }
                Output::ReplayLedger(range) => self.replay(range, swarm)?,
                Output::NewIncarnation(_) => self.incarnate(swarm)?,
                Output::Penalize(peer, offence) => self.penalize(peer.0 as Number, &offence, swarm)?,
                Output::Report(_) => {}
            }
        }
        Ok(())
    }

    fn ask(&mut self, peer: NodeId, question: Question, swarm: &mut Swarm) -> Result<()> {
        let Some(running) = &mut self.running else { return Ok(()) };
        let request = Request { run: *running.replica.run(), question };
        let Ok(bytes) = request.encode() else {
            running.replica.no_answer(peer);
            return Ok(());
        };
        let question = self.send_question(peer.0 as Number, false, bytes, swarm)?;
        if let Some(running) = &mut self.running {
            running.questions.insert(question, peer.0 as Number);
        }
        Ok(())
    }

    /// Sends an encoded request; returns the question's number.
    pub(super) fn send_question(
        &mut self,
        to: Number,
        joins: bool,
        content: Vec<u8>,
        swarm: &mut Swarm,
    ) -> Result<u64> {
        let Some(running) = &mut self.running else { return Ok(0) };
        let question = running.next_question;
        running.next_question += 1;
        swarm.note(Kind::Asked, self.number, to, content.len() as u64)?;
        let timeout = swarm.queue.now() + ANSWER_MAX.as_micros() as u64;
        swarm.queue.schedule(timeout, Event::NoAnswer { machine: self.number, life: self.life, question });
        let size = framing::exchange(content.len());
        self.send(to, Frame::Question(Rc::new(Letter { question, joins, content })), size, swarm)?;
        Ok(question)
    }

    /// Puts on the run's topic, or keeps it until somebody listens.
    pub(super) fn publish(&mut self, gossip: Gossip, swarm: &mut Swarm) -> Result<()> {
        let Ok(bytes) = gossip.encode() else { return Ok(()) };
        let samples = if let Gossip::Segment(push) = &gossip { push.bytes.len() as u64 } else { 0 };
        let message = swarm.messages.intern(bytes, samples);
        let Some(running) = &mut self.running else { return Ok(()) };
        let now_ms = swarm.queue.now() / 1000;
        let mut out = Vec::new();
        if running.mesh.publish(message, now_ms, &mut self.random, &mut out) {
            swarm.note(Kind::Published, self.number, samples as u32, u64::from(message))?;
        } else if running.unpublished.len() < UNPUBLISHED_MAX {
            running.unpublished.push_back(gossip);
        }
        self.send_all(out, swarm)
    }

    /// One of those that found no neighbour.
    pub(super) fn retry_publishing(&mut self, swarm: &mut Swarm) -> Result<()> {
        let Some(running) = self.running.as_mut().filter(|running| !running.neighbours.is_empty()) else {
            return Ok(());
        };
        match running.unpublished.pop_front() {
            Some(gossip) => self.publish(gossip, swarm),
            None => Ok(()),
        }
    }

    fn persist(&mut self, records: Vec<Record>, token: Option<u64>, swarm: &mut Swarm) {
        let Some(running) = &mut self.running else { return };
        if let (Some(token), Some(Record::Chunk(chunk))) = (token, records.first()) {
            running.unacknowledged.push_back((token, Chunk::clone(chunk)));
        }
        let records = records.into_iter().map(|record| swarm.shelf.share(record)).collect();
        if running.disk.submit(records, token) {
            self.sync_later(swarm);
        }
    }

    pub(super) fn sync_later(&self, swarm: &mut Swarm) {
        let at = swarm.queue.now() + (swarm.scenario.disk.sync_ms * 1000.0) as u64;
        swarm.queue.schedule(at, Event::Synced { machine: self.number, life: self.life });
    }

    fn replay(&mut self, range: LedgerRange, swarm: &mut Swarm) -> Result<()> {
        let Some(running) = &mut self.running else { return Ok(()) };
        let kind = if range.removed { Kind::Withdrawn } else { Kind::Replayed };
        swarm.log.record(swarm.queue.now(), kind, self.number, range.samples() as u32, range.to)?;
        match swarm.sabotage {
            Some(Sabotage::SkipReplay) if self.number == 1 && range.from > 0 => return Ok(()),
            Some(Sabotage::KeepRevoked) if range.removed => return Ok(()),
            _ => {}
        }
        running.learner.replay_ledger(&running.replica, range)?;
        running.unpaid_replays += range.samples();
        if !range.removed {
            running.fresh += range.samples();
            if running.joined && self.hostility.is_none() {
                swarm.metrics.delivered(&swarm.truth, &range, running.joined_ms, swarm.queue.now() / 1000);
            }
        }
        Ok(())
    }

    fn incarnate(&mut self, swarm: &mut Swarm) -> Result<()> {
        let incarnation = self.random.next_u64().max(1);
        let Some(running) = &mut self.running else { return Ok(()) };
        running.disk.contents_mut().incarnation = incarnation;
        let machine = MachineId { incarnation, ..running.replica.own_machine() };
        swarm.truth.owners.insert(machine, self.number);
        let now_ms = running.now_ms(swarm.queue.now());
        running.replica.adopt(machine, now_ms);
        swarm.note(Kind::Incarnated, self.number, self.life, incarnation)?;
        self.adopt_own();
        Ok(())
    }

    fn penalize(&mut self, peer: Number, offence: &Offence, swarm: &mut Swarm) -> Result<()> {
        let reason = match offence {
            Offence::Malformed(reason) | Offence::Invalid(reason) => reason.clone(),
            Offence::Unasked => "an answer to another question".into(),
        };
        self.hold_against(peer, Severity::Fault, &reason, swarm)
    }

    /// Counts a fault; enough of them end the connection.
    pub(super) fn hold_against(
        &mut self,
        peer: Number,
        severity: Severity,
        reason: &str,
        swarm: &mut Swarm,
    ) -> Result<()> {
        let Some(running) = &mut self.running else { return Ok(()) };
        let now_ms = running.now_ms(swarm.queue.now());
        let conduct = running.conduct.entry(peer).or_insert_with(|| node::network::conduct::Conduct::new(now_ms));
        if conduct.penalize(severity, now_ms) {
            swarm.to_disconnect.push((self.number, peer));
        }
        if self.hostility.is_none() {
            swarm.truth.penalized(self.number, peer, reason);
        }
        swarm.note(Kind::Penalized, self.number, peer, 0)
    }
}
