//! What the swarm has come to: looked at while it runs, told when it is over.

use anyhow::{Result, ensure};
use std::collections::BTreeSet;

use crate::{
    checks,
    event_log::Kind,
    machine::Machine,
    process,
    queue::Micros,
    summary::{CurvePoint, SenderSummary, SpreadPoint, Summary},
    world::{Label, World},
};

impl World {
    /// Looks whether all is done. True ends the run.
    pub(crate) fn watch(&mut self) -> Result<bool> {
        let now = self.swarm.queue.now();
        self.judge_starving();
        if self.settled.is_none() {
            let is_leaving = |machine: &Machine| machine.running.as_ref().is_some_and(|running| running.is_leaving);
            let is_quiet = self.schedule.is_over() && self.starting == 0;
            if is_quiet && self.honest_up().all(|machine| machine.is_done() && !is_leaving(machine)) {
                self.settled = Some(now);
                self.swarm.is_over = true;
            }
            return Ok(false);
        }
        if self.are_equal() {
            self.converged = Some(now);
            return Ok(true);
        }
        let limit = (1e6 * self.swarm.scenario.converge_seconds_max) as Micros;
        Ok(self.settled.is_some_and(|settled| now > settled + limit))
    }

    /// Whether all honest machines that are up have one version vector, and nothing of their own to add.
    pub fn are_equal(&self) -> bool {
        let mut roots = BTreeSet::new();
        for machine in self.honest_up() {
            let Some(replica) = machine.replica() else { return false };
            roots.insert(replica.root());
            if roots.len() > 1 || !machine.is_done() || !machine.owes_nothing() || replica.incomplete().next().is_some()
            {
                return false;
            }
        }
        true
    }

    /// Measures loss and spread.
    pub(crate) fn observe(&mut self) -> Result<()> {
        let seconds = self.swarm.queue.now() as f64 / 1e6;
        let held = |machine: &Machine| machine.replica().map(|replica| replica.swarm_step() + replica.own_waiting());
        let joined = self.honest_up().filter(|machine| machine.has_joined());
        let mut heights: Vec<u64> = joined.filter_map(held).collect();
        heights.sort_unstable();
        if let (Some(least), Some(most)) = (heights.first(), heights.last()) {
            let (made, median) = (self.swarm.truth.made, heights[heights.len() / 2]);
            let machines = self.swarm.up.len();
            self.swarm.metrics.spread.push(SpreadPoint { seconds, made, least: *least, median, most: *most, machines });
        }
        let queued = self.machines.iter().filter_map(|m| m.running.as_ref()).map(|r| r.queued()).max();
        self.swarm.metrics.queued_max = self.swarm.metrics.queued_max.max(queued.unwrap_or_default());
        let received: u64 = self.machines.iter().map(|machine| machine.bytes_in).sum();
        let bytes = received as f64 / self.machines.len().max(1) as f64;
        let looked_at = self.machines.iter_mut().find(|machine| machine.is_honest() && machine.has_joined());
        let Some(machine) = looked_at else { return Ok(()) };
        let (number, gradients) = (machine.number, held(machine).unwrap_or_default());
        let trainer = machine.running.as_mut().and_then(|running| running.trainer.as_mut());
        let Some(trainer) = trainer else { return Ok(()) };
        let loss = trainer.learner.loss()?;
        let digest = trainer.learner.digest()?;
        self.swarm.metrics.curve.push(CurvePoint { seconds, gradients, bytes, loss });
        let first = u64::from_le_bytes(std::array::from_fn(|index| digest[index]));
        self.swarm.note(Kind::Observed, number, 0, first)
    }

    /// The run's numbers, once it is over.
    pub(crate) fn summarize(mut self, label: &Label) -> Result<Summary> {
        let checks = checks::results(&mut self)?;
        let converged = self.converged.is_some();
        let settle = |settled: Micros| self.converged.map(|at| at.saturating_sub(settled) as f64 / 1e6);
        let seconds_to_converge = self.settled.and_then(settle);
        let senders = self.machines.iter().filter(|machine| machine.is_honest()).map(|machine| SenderSummary {
            machine: machine.number,
            gradients: self.swarm.truth.made_by(machine.number),
            backlog_max: machine.backlog_max,
            said_behind: machine.said_behind,
        });
        let senders = senders.collect();
        let (swarm, machines) = (self.swarm, self.machines.len());
        ensure!(swarm.log.records() > 0, "nothing happened");
        Ok(Summary {
            scenario: label.scenario.clone(),
            purpose: swarm.scenario.purpose.clone(),
            seed: swarm.seed,
            reproduce: label.reproduce.clone(),
            events: swarm.log.records(),
            event_log_hash: swarm.log.finish()?,
            converged,
            machines,
            machines_at_end: swarm.up.len(),
            gradients: swarm.truth.made,
            senders,
            virtual_seconds: swarm.truth.last_made_ms as f64 / 1e3,
            seconds_to_converge,
            wall_seconds: self.begun.elapsed().as_secs_f64(),
            peak_memory_bytes: process::peak_memory_bytes(),
            loss_unit: swarm.objective.loss_unit(),
            delay_ms: swarm.metrics.delay_ms.quantiles(),
            staleness_gradients: swarm.metrics.staleness.quantiles(),
            bytes: swarm.metrics.bytes,
            deliveries: swarm.metrics.deliveries,
            curve: swarm.metrics.curve,
            spread: swarm.metrics.spread,
            marks: swarm.metrics.marks,
            signed_after_loss: swarm.truth.signed_twice_after_loss.len(),
            checks,
        })
    }
}
