//! Ticks, gradients, the disk, checkpoints.

use anyhow::Result;
use node::driver::{CATCH_UP_MAX, CATCH_UP_PATIENCE, SWARM_STEP_INTERVAL};
use protocol::{
    segment::{Chunk, Segment},
    signature::Ed25519Signer,
};
use std::rc::Rc;

use super::{Machine, PendingCheckpoint};
use crate::{
    disk::Checkpoint,
    event::Event,
    event_log::Kind,
    mesh::HEARTBEAT_MS,
    queue::Micros,
    swarm::{Sabotage, Swarm},
    wire,
};

/// A node that leaves gives its own bytes this long to become durable and go out, as `node` does.
const LEAVE_MAX: Micros = 700_000;
/// A disk without room is tried again after this long, as `node` does.
const DISK_RETRY: Micros = 500_000;

impl Machine {
    /// The replica's clock ticks; what a node does now and then, it does here.
    pub fn tick(&mut self, swarm: &mut Swarm) -> Result<()> {
        let now = swarm.queue.now();
        match self.running.as_ref().is_some_and(|running| running.download.is_some()) {
            true => self.download(swarm)?,
            false => self.act(swarm)?,
        }
        if self.leave_when_ready(swarm)? {
            return Ok(());
        }
        let (machine, life) = (self.number, self.life);
        swarm.queue.schedule(now + node::driver::TICK.as_micros() as u64, Event::Tick { machine, life });
        Ok(())
    }

    fn act(&mut self, swarm: &mut Swarm) -> Result<()> {
        let now = swarm.queue.now();
        let Some(running) = &mut self.running else { return Ok(()) };
        let now_ms = running.now_ms(now);
        running.replica.tick(now_ms);
        self.carry_out(swarm)?;
        self.judge_joined(swarm);
        if let Some(running) = &mut self.running
            && now_ms >= running.swarm_step_ms + SWARM_STEP_INTERVAL.as_millis() as u64
        {
            running.swarm_step_ms = now_ms;
            self.advance_swarm_step();
        }
        self.checkpoint_now_and_then(swarm)?;
        self.retry_publishing(swarm)?;
        if self.hostility.is_some() {
            self.harm(swarm)?;
        }
        self.measure(swarm)
    }

    /// The gossip mesh looks after itself.
    pub fn heartbeat(&mut self, swarm: &mut Swarm) -> Result<()> {
        let now = swarm.queue.now();
        let Some(running) = &mut self.running else { return Ok(()) };
        let mut out = Vec::new();
        running.mesh.heartbeat(now / 1000, &mut self.random, &mut out);
        self.send_all(out, swarm)?;
        let (machine, life) = (self.number, self.life);
        swarm.queue.schedule(now + HEARTBEAT_MS * 1000, Event::Heartbeat { machine, life });
        Ok(())
    }

    /// Connections are looked after; what keeps them alive is counted.
    pub fn upkeep(&mut self, swarm: &mut Swarm) -> Result<()> {
        self.look_after_connections(swarm)?;
        let interval = node::network::UPKEEP.as_micros() as u64;
        if let Some(running) = &self.running {
            let seconds = interval as f64 / 1e6;
            let rate = match running.neighbours.len() < node::network::CONNECTIONS_TARGET {
                true => wire::SEARCHING_BYTES_PER_SECOND,
                false => wire::IDLE_BYTES_PER_SECOND,
            };
            let bytes = rate * seconds * running.neighbours.len() as f64;
            self.bytes_in += bytes as u64;
            swarm.metrics.bytes.upkeep += bytes as u64;
        }
        let (machine, life) = (self.number, self.life);
        swarm.queue.schedule(swarm.queue.now() + interval, Event::Upkeep { machine, life });
        Ok(())
    }

    fn judge_joined(&mut self, swarm: &Swarm) {
        let now = swarm.queue.now();
        let Some(running) = &mut self.running else { return };
        if running.joined {
            return;
        }
        let waited_ms = u128::from(running.now_ms(now).saturating_sub(running.started_ms));
        let patient = waited_ms < CATCH_UP_PATIENCE.as_millis()
            || !running.neighbours.is_empty() && waited_ms < CATCH_UP_MAX.as_millis();
        if !running.joins || running.replica.is_caught_up() || !patient {
            running.joined = true;
            running.joined_ms = now / 1000;
            self.advance_swarm_step();
        }
    }

    /// Own bytes use the learning rate of the swarm's present step, which never falls within a ledger.
    pub(super) fn advance_swarm_step(&mut self) {
        let Some(running) = &mut self.running else { return };
        let step = running.replica.swarm_step().max(running.replica.own_swarm_step());
        if step > running.swarm_step {
            running.swarm_step = step;
            running.learner.set_swarm_step(step);
        }
    }

    /// Whether all own gradients are made: those of this incarnation, and those of earlier ones that still count.
    fn has_made_all(&self) -> bool {
        let Some(running) = &self.running else { return true };
        let next_sample = running.replica.own_next_sample();
        next_sample >= self.goal || next_sample + running.replica.own_samples_elsewhere() >= self.goal
    }

    /// Whether its own gradients are all made and durable.
    pub fn is_done(&self) -> bool {
        self.running.as_ref().is_none_or(|running| {
            running.joined && running.measuring.is_none() && running.replica.own_waiting() == 0 && self.has_made_all()
        })
    }

    /// Begins to measure a gradient, if there is one to make and nothing under way. It takes its time, and the time of
    /// replaying what came in since the last.
    pub(super) fn measure(&mut self, swarm: &mut Swarm) -> Result<()> {
        let rests = self.running.as_ref().is_none_or(|r| r.measuring.is_some() || !r.joined || r.leaving.is_some());
        if rests || self.has_made_all() {
            return Ok(());
        }
        let Some(running) = &mut self.running else { return Ok(()) };
        if !running.replica.may_probe() || running.learner.near_edge() {
            return Ok(());
        }
        if self.hostility.is_none() {
            let held = running.replica.swarm_step() + running.replica.own_waiting();
            swarm.metrics.began(swarm.truth.made.saturating_sub(held));
        }
        let until_sample = self.goal.saturating_sub(running.replica.own_samples_elsewhere());
        let step = running.learner.step(until_sample)?;
        let gradients = step.own.len();
        running.measuring = Some(step);
        let replays_us = swarm.scenario.speed.replay_us * std::mem::take(&mut running.unpaid_replays) as f64;
        let at = swarm.queue.now() + (gradients as f64 * self.step_us + replays_us) as Micros;
        swarm.queue.schedule(at, Event::Measured { machine: self.number, life: self.life });
        Ok(())
    }

    /// Gradients are there.
    pub fn measured(&mut self, swarm: &mut Swarm) -> Result<()> {
        let now = swarm.queue.now();
        let Some(running) = &mut self.running else { return Ok(()) };
        let Some(mut step) = running.measuring.take() else { return Ok(()) };
        if let Some(hostility) = &self.hostility {
            step.own.iter_mut().for_each(|own| own.byte = hostility.byte(own.byte));
        }
        let now_ms = running.now_ms(now);
        running.replica.own_bytes(&step.own, now_ms);
        for own in &step.own {
            swarm.truth.made_at(own.machine, own.sample, now / 1000, self.hostility.is_none());
            swarm.note(Kind::Stepped, self.number, u32::from(own.byte as u8), own.sample)?;
        }
        self.carry_out(swarm)?;
        self.measure(swarm)
    }

    /// A disk transaction ends.
    pub fn synced(&mut self, swarm: &mut Swarm) -> Result<()> {
        let now = swarm.queue.now();
        let Some(running) = &mut self.running else { return Ok(()) };
        if running.stuck {
            return Ok(());
        }
        let (token, goes_on) = running.disk.complete();
        if goes_on {
            let pause = if token.is_none() { DISK_RETRY } else { (swarm.scenario.disk.sync_ms * 1000.0) as Micros };
            swarm.queue.schedule(now + pause, Event::Synced { machine: self.number, life: self.life });
        }
        let Some(token) = token else { return Ok(()) };
        swarm.note(Kind::Stored, self.number, 0, token)?;
        while running.unacknowledged.front().is_some_and(|(stored, _)| *stored <= token) {
            let Some((_, mut chunk)) = running.unacknowledged.pop_front() else { break };
            if swarm.sabotage == Some(Sabotage::Forge) && self.number == 1 {
                chunk.bytes.iter_mut().for_each(|byte| *byte ^= 1);
            }
            if self.hostility.is_none() {
                swarm.truth.acknowledged(&chunk, self.disk_history.lost_acknowledged);
            }
            if swarm.sabotage == Some(Sabotage::SignTwice) && self.number == 1 {
                let bytes: Vec<u8> = chunk.bytes.iter().map(|byte| byte ^ 1).collect();
                let segment = Segment { first: chunk.first, swarm_step: 0, bytes: &bytes };
                let signer = Ed25519Signer::from_seed(&self.secret);
                let (second, _) = Chunk::sign(&swarm.objective.run(), chunk.machine, segment, chunk.previous, &signer);
                swarm.truth.acknowledged(&second, self.disk_history.lost_acknowledged);
            }
        }
        let now_ms = running.now_ms(now);
        running.replica.persisted(token, now_ms);
        self.carry_out(swarm)
    }

    fn checkpoint_now_and_then(&mut self, swarm: &mut Swarm) -> Result<()> {
        let now = swarm.queue.now();
        let Some(running) = &mut self.running else { return Ok(()) };
        if let Some(pending) = &running.checkpoint {
            if pending.machine != running.replica.own_machine() {
                running.checkpoint = None;
                return Ok(());
            }
            let own = match pending.next_sample {
                0 => None,
                height => match running.replica.contents_of_own(&pending.machine, height) {
                    Some(own) => Some(own),
                    None => {
                        running.replica.flush();
                        return self.carry_out(swarm);
                    }
                },
            };
            let Some(pending) = running.checkpoint.take() else { return Ok(()) };
            let contents = [pending.others, swarm.shelf.claims(own.into_iter().collect())].concat();
            let checkpoint = Checkpoint { weights: Rc::new(pending.weights), spsa: pending.spsa, contents };
            if running.disk.submit_checkpoint(checkpoint) {
                self.sync_later(swarm);
            }
            return Ok(());
        }
        let (last_ms, last_root) = running.last_checkpoint;
        let now_ms = running.now_ms(now);
        let due_ms = last_ms + (swarm.scenario.disk.checkpoint_seconds * 1000.0) as u64;
        if now_ms < due_ms || !running.replica.signs() || !running.replica.own_is_settled() {
            return Ok(());
        }
        let root = running.replica.root();
        running.last_checkpoint = (now_ms, root);
        if root != last_root {
            let (machine, next_sample) = running.learner.position();
            let others = swarm.shelf.claims(running.replica.contents_of_others());
            let (weights, spsa) = (running.learner.snapshot()?, running.learner.spsa());
            running.checkpoint = Some(PendingCheckpoint { weights, spsa, others, machine, next_sample });
        }
        Ok(())
    }

    /// Signs, stores and sends what is left, then goes. True once it has gone.
    fn leave_when_ready(&mut self, swarm: &mut Swarm) -> Result<bool> {
        let now = swarm.queue.now();
        let Some(running) = &mut self.running else { return Ok(true) };
        let Some(since) = running.leaving else { return Ok(false) };
        running.replica.flush();
        self.carry_out(swarm)?;
        let waits = self.running.as_ref().is_some_and(|r| r.replica.signs() && r.replica.own_waiting() > 0);
        if waits && now < since + LEAVE_MAX {
            return Ok(false);
        }
        self.has_left = true;
        self.fall(swarm, false)?;
        swarm.to_bury.push(self.number);
        Ok(true)
    }

    /// A machine that loses what it acknowledged without a fault of its own (see `Sabotage`).
    pub fn sabotage_disk(&mut self, swarm: &Swarm) {
        if let (Some(Sabotage::LoseRecords), Some(contents)) = (&swarm.sabotage, &mut self.left_behind) {
            contents.chunks.clear();
            contents.checkpoint = None;
        }
    }
}
