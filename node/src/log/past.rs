//! The weights as they were: the base and the first so many samples of each ledger.

use anyhow::{Context, Result, bail, ensure};
use engine::weights::Weights;
use protocol::{ledger::Ledger, machine::MachineId, replica::LedgerRange};

use super::{Journal, Log};
use crate::{storage::opened::sweep, system::clock, watch::journal::Heights};

/// A place in a run's history: how many samples of each machine count.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Cut {
    /// Machine, its number of samples.
    pub heights: Vec<(MachineId, u64)>,
    /// Of these, what revocations leave.
    pub counted: Vec<(MachineId, u64)>,
    /// When the node whose log this is had reached these heights, Unix ms; None if no journal says so.
    pub at_ms: Option<u64>,
}

impl Cut {
    /// Where `until` is in the history of `log`: `machine:height,...` (machines that are not named count with nothing),
    /// a fraction of every height, 0 to 1, a number of gradients of the swarm, or a time, `2026-11-29 19:20`. The last
    /// two are looked up in the node's journal: what it held then, or the most that is there of no more gradients.
    ///
    /// What was withdrawn counts as far as was known at that time, or when the heights were reached, as the node's
    /// journal has it. Without a journal, and at the fraction 1, which is now, all of it does.
    pub fn find(log: &Log, until: &str) -> Result<Self> {
        let (mut moment, mut is_now) = (None, false);
        let heights = match until.parse::<f64>() {
            Ok(number) if number > 1.0 => {
                let gradients: u64 = until.parse().ok().with_context(|| {
                    format!("--until {until}: a fraction must be from 0 to 1, a number of gradients whole")
                })?;
                let held = held(log, until, |journal| journal.recorded_at_most(gradients))?;
                let heights = log.replica.machines().map(|(_, ledger, _)| ledger.height());
                let known = heights.fold(0, u64::saturating_add);
                if gradients > known {
                    tracing::warn!("--until {until}: {} has only {known} gradients: all of them are meant", log.origin);
                }
                say_what_is_taken(log, gradients.min(known), &held);
                held
            }
            Ok(fraction) => {
                ensure!((0.0..=1.0).contains(&fraction), "--until {until}: a fraction must be from 0 to 1");
                is_now = fraction == 1.0;
                let part = |height: u64| (height as f64 * fraction).round() as u64;
                log.replica.machines().map(|(machine, ledger, _)| (*machine, part(ledger.height()))).collect()
            }
            Err(_) => match clock::parse(until) {
                Some(at_ms) => {
                    moment = Some(at_ms);
                    held(log, until, |journal| journal.held_by(at_ms))?
                }
                None => until.split(',').map(|part| named(log, part)).collect::<Result<Vec<_>>>()?,
            },
        };
        let journal = log.journal.as_ref();
        let at_ms = journal.and_then(|journal| journal.reached(&heights));
        let then = journal.zip(moment.or(at_ms)).filter(|_| !is_now);
        let floor = |machine: &MachineId| match then {
            Some((journal, at_ms)) => journal.floor(machine, at_ms),
            None => log.replica.floor(machine),
        };
        let counted = heights.iter().map(|(machine, height)| (*machine, floor(machine).min(*height))).collect();
        Ok(Self { heights, counted, at_ms })
    }

    /// Gradients that count.
    pub fn gradients(&self) -> u64 {
        self.counted.iter().map(|(_, height)| height).sum()
    }

    /// Brings `weights` from the base to here, with a progress bar if there is a terminal to show it on.
    pub fn replay(&self, log: &Log, weights: &mut Weights) -> Result<()> {
        let range = |(machine, height): &(MachineId, u64)| {
            let known = log.replica.ledger(machine).map_or(0, Ledger::height);
            ensure!(known >= *height, "{machine}: {height} gradients of it count, and {known} are here");
            Ok(LedgerRange { machine: *machine, from: 0, to: *height, removed: false })
        };
        sweep(&log.replica, self.counted.iter().map(range).collect::<Result<_>>()?, weights)
    }
}

/// Says which number of gradients takes the place of the one that was asked for, if that is nowhere written down.
fn say_what_is_taken(log: &Log, gradients: u64, held: &[(MachineId, u64)]) {
    let taken: u64 = held.iter().map(|(_, height)| height).sum();
    let next = log.journal.as_ref().and_then(|journal| journal.recorded_above(gradients));
    if let Some(next) = next.filter(|_| taken != gradients) {
        tracing::warn!(
            "--until {gradients}: {} wrote down that it held {taken} gradients, and next {next}; in which order those between came is \
             not known here, so the first {taken} are taken. machine:height,… names any others",
            log.origin
        );
    }
}

/// What the node of this log held at a look of its own.
fn held(log: &Log, until: &str, find: impl Fn(&Journal) -> Option<Heights>) -> Result<Vec<(MachineId, u64)>> {
    let journal = log.journal.as_ref().with_context(|| {
        format!(
            "--until {until}: {} has no journal that tells when what was there; give a fraction or machine:height",
            log.origin
        )
    })?;
    let heights = find(journal).with_context(|| format!("--until {until}: the node looked at nothing before that"))?;
    let machines = log.replica.machines().filter_map(|(machine, ledger, _)| {
        let height = heights.get(&format!("{machine:#}"))?;
        Some((*machine, (*height).min(ledger.height())))
    });
    Ok(machines.collect())
}

/// `machine:height`.
fn named(log: &Log, part: &str) -> Result<(MachineId, u64)> {
    let Some((name, height)) = part.trim().rsplit_once(':') else {
        bail!(
            "--until {part}: none of a fraction, a number of gradients, a time and machine:height, as in 0.5, 5000, 2026-11-29T19:20 or \
             8f1c22ab0d9e.51f0:384"
        )
    };
    let machine = log.find(name)?;
    let height: u64 = height.parse().ok().with_context(|| format!("--until {part}: {height} is no height"))?;
    let known = log.replica.ledger(&machine).map_or(0, |ledger| ledger.height());
    ensure!(height <= known, "--until {part}: {name} has {known} samples here");
    Ok((machine, height))
}
