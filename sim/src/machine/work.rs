//! Work for the virtual trainer: taken up in order; gradients and replay take their virtual time.
//!
//! Where replay costs nothing, work is taken up at once, also while a gradient is measured. Where it costs time, the
//! trainer does one thing after another, as `node`'s does, and divides its time by the same rule.

use anyhow::Result;
use peer::{Input, Work};
use protocol::replica::{LedgerRange, OwnByte};

use super::Machine;
use crate::{
    event::Event,
    event_log::Kind,
    queue::Micros,
    swarm::{Sabotage, Swarm},
};

/// Samples beyond its goal that [`Sabotage::Overdo`] makes.
const OVERDONE: u64 = 5;

impl Machine {
    /// The peer hands out work.
    pub(super) fn work(&mut self, work: Work, swarm: &mut Swarm) -> Result<()> {
        if let Some(trainer) = self.running.as_mut().and_then(|running| running.trainer.as_mut()) {
            trainer.works.push_back(work);
        }
        self.take_up(swarm)
    }

    /// Takes up what there is and may be taken up now.
    fn take_up(&mut self, swarm: &mut Swarm) -> Result<()> {
        while let Some(running) = &mut self.running
            && let Some(trainer) = &mut running.trainer
        {
            let takes_time = self.replay_us > 0.0;
            let is_replay = matches!(trainer.works.front(), Some(Work::ReplayLedgers(_)));
            // Whoever looks at the weights, or turns to another machine, has told of the gradient that is under way.
            let comes_after = matches!(
                trainer.works.front(),
                Some(Work::Adopt(..) | Work::Evaluate | Work::Checkpoint | Work::Digest(_))
            );
            let waits = trainer.measuring.is_some() && (takes_time || comes_after) || trainer.sweeping.is_some();
            // Until it is seen: a machine that makes nothing would keep the swarm from its end.
            let starves =
                swarm.sabotage == Some(Sabotage::Starve) && self.number == 1 && swarm.truth.starved.is_empty();
            if waits || is_replay && trainer.is_own_turn() && !starves {
                break;
            }
            let Some(work) = trainer.works.pop_front() else { break };
            running.inputs.push_back(Input::Took);
            let answer = match work {
                Work::Adopt(machine, next_sample) => Some(trainer.adopt(machine, next_sample)),
                Work::SwarmStep(step) => {
                    trainer.learner.set_swarm_step(step);
                    None
                }
                Work::Train { until_sample } => {
                    trainer.until_sample = until_sample;
                    trainer.note_wish(swarm.queue.now());
                    if !takes_time {
                        self.measure(swarm)?;
                    }
                    None
                }
                Work::Replay(entries) => {
                    let number = entries.len() as u64;
                    trainer.learner.replay(entries)?;
                    Some(Input::Replayed { entries: number, took_us: 0 })
                }
                Work::ReplayLedgers(ranges) => self.replay(ranges, swarm)?,
                Work::Evaluate => Some(trainer.evaluate()?),
                Work::Checkpoint => Some(trainer.checkpoint()?),
                Work::Digest(root) => Some(trainer.digest(root)?),
            };
            answer.into_iter().for_each(|answer| self.push(answer));
        }
        self.measure(swarm)
    }

    /// Brings samples of ledgers into the weights, or out. If that takes time, the answer comes after it.
    fn replay(&mut self, ranges: Vec<LedgerRange>, swarm: &mut Swarm) -> Result<Option<Input>> {
        let mut entries = 0;
        for range in ranges {
            entries += range.samples();
            self.replay_range(range, swarm)?;
        }
        self.look_at_edge(swarm)?;
        let took_us = (self.replay_us * entries as f64) as Micros;
        let Some(trainer) = self.running.as_mut().and_then(|running| running.trainer.as_mut()) else { return Ok(None) };
        if took_us == 0 {
            return Ok(Some(Input::Replayed { entries, took_us }));
        }
        trainer.sweeping = Some((entries, took_us));
        let swept = Event::Swept { machine: self.number, session: self.session };
        swarm.queue.schedule(swarm.queue.now() + took_us, swept);
        Ok(None)
    }

    /// Samples of ledgers are in the weights, and their time has passed.
    pub fn swept(&mut self, swarm: &mut Swarm) -> Result<()> {
        let Some(trainer) = self.running.as_mut().and_then(|running| running.trainer.as_mut()) else { return Ok(()) };
        let Some((entries, took_us)) = trainer.sweeping.take() else { return Ok(()) };
        if trainer.wants_own() {
            trainer.share.replayed(took_us);
        }
        self.push(Input::Replayed { entries, took_us });
        self.take_up(swarm)?;
        self.drain(swarm)
    }

    fn replay_range(&mut self, range: LedgerRange, swarm: &mut Swarm) -> Result<()> {
        let Some(running) = &mut self.running else { return Ok(()) };
        let (Some(trainer), Some(replica)) = (&mut running.trainer, running.peer.replica()) else { return Ok(()) };
        let now = swarm.queue.now();
        let kind = if range.removed { Kind::Withdrawn } else { Kind::Replayed };
        swarm.note(kind, self.number, range.samples() as u32, range.to)?;
        match swarm.sabotage {
            Some(Sabotage::SkipReplay) if self.number == 1 && range.from > 0 => return Ok(()),
            Some(Sabotage::KeepRevoked) if range.removed => return Ok(()),
            _ => {}
        }
        trainer.learner.replay_ledger(replica, range)?;
        if !range.removed {
            let is_honest = self.adversary.is_none() && !swarm.truth.adversaries.contains(&range.machine.key);
            if let Some(joined_ms) = running.joined_ms.filter(|_| is_honest) {
                swarm.metrics.delivered(&swarm.truth, &range, joined_ms, now / 1000);
            }
        }
        Ok(())
    }

    /// While a weight is near its edge no gradients are made; replay may bring it back.
    fn look_at_edge(&mut self, swarm: &mut Swarm) -> Result<()> {
        let Some(running) = &mut self.running else { return Ok(()) };
        let Some(trainer) = running.trainer.as_mut().filter(|trainer| trainer.is_near_edge) else { return Ok(()) };
        if !trainer.learner.near_edge() {
            trainer.is_near_edge = false;
            trainer.note_wish(swarm.queue.now());
            running.inputs.push_back(Input::NearEdge(false));
            self.measure(swarm)?;
        }
        Ok(())
    }

    /// Begins to measure gradients, if any are wanted and nothing else is under way. They take their time.
    fn measure(&mut self, swarm: &mut Swarm) -> Result<()> {
        let overdone = if swarm.sabotage == Some(Sabotage::Overdo) && self.number == 1 { OVERDONE } else { 0 };
        let Some(running) = &mut self.running else { return Ok(()) };
        let (Some(trainer), Some(replica)) = (&mut running.trainer, running.peer.replica()) else { return Ok(()) };
        let until_sample = match trainer.until_sample {
            0 => 0,
            until_sample => until_sample + overdone,
        };
        let (machine, next_sample) = trainer.learner.position();
        if trainer.measuring.is_some() || trainer.sweeping.is_some() || next_sample >= until_sample {
            return Ok(());
        }
        if trainer.learner.near_edge() != trainer.is_near_edge {
            trainer.is_near_edge = !trainer.is_near_edge;
            running.inputs.push_back(Input::NearEdge(trainer.is_near_edge));
        }
        if trainer.is_near_edge {
            return Ok(());
        }
        if self.adversary.is_none() {
            let held = replica.swarm_step() + replica.own_waiting();
            swarm.metrics.began(swarm.truth.made.saturating_sub(held));
            if trainer.allowed.is_some_and(|allowed| next_sample >= allowed) {
                swarm.truth.overdone.push((self.number, machine, next_sample));
            }
        }
        let own = trainer.learner.step(until_sample)?;
        trainer.measuring_us = (own.len() as f64 * self.step_us) as Micros;
        let at = swarm.queue.now() + trainer.measuring_us;
        trainer.measuring = Some(own);
        swarm.queue.schedule(at, Event::Measured { machine: self.number, session: self.session });
        Ok(())
    }

    /// Gradients are there.
    pub fn measured(&mut self, swarm: &mut Swarm) -> Result<()> {
        let Some(trainer) = self.running.as_mut().and_then(|running| running.trainer.as_mut()) else { return Ok(()) };
        let Some(mut own) = trainer.measuring.take() else { return Ok(()) };
        trainer.share.measured(trainer.measuring_us);
        trainer.note_wish(swarm.queue.now());
        if let Some(adversary) = &self.adversary {
            own.iter_mut().for_each(|own| own.byte = adversary.byte(own.byte));
        }
        self.contribute(own, swarm)?;
        self.take_up(swarm)?;
        self.drain(swarm)
    }

    /// Tells the peer of own gradients.
    pub(super) fn contribute(&mut self, own: Vec<OwnByte>, swarm: &mut Swarm) -> Result<()> {
        let now_ms = swarm.queue.now() / 1000;
        for own in &own {
            swarm.truth.made_at(self.number, own, now_ms, self.adversary.is_none());
            swarm.note(Kind::Stepped, self.number, u32::from(own.byte as u8), own.sample)?;
        }
        self.tell(Input::Stepped(own), swarm)
    }

    /// Once a machine has made as many gradients as its goal asks, the checkers look at what it knows of its earlier
    /// incarnations, and what is left.
    pub(super) fn look_at_goal(&mut self, swarm: &Swarm) {
        if self.adversary.is_some() || swarm.truth.made_by(self.number) < self.goal {
            return;
        }
        let goal = self.goal;
        let Some(running) = &mut self.running else { return };
        let (Some(trainer), Some(replica)) = (&mut running.trainer, running.peer.replica()) else { return };
        trainer.allowed = Some(goal.saturating_sub(replica.own_samples_elsewhere()));
    }
}
