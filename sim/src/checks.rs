//! The invariants, checked after every run.
//!
//! Blind spots: losses and the quality of gradients are not judged; time spent computing is not either. Memory is
//! checked as queue lengths, not bytes. Ledgers of adversaries are compared between machines, never with an intention.
//! A machine whose disk lost what it had acknowledged may sign a sample twice when nobody it can reach knew better:
//! such forks are withdrawn everywhere, which is checked, and counted, but held against it only if all its neighbours
//! knew better. Goals are judged by what a machine knew of its earlier incarnations, not by what was true. What a
//! machine stored in its last second before it left may be on its disk alone, as all is that it stored in a partition;
//! and who leaves before it may sign is not judged. That the shared memories of the simulator (signatures, sums of
//! ledgers) change nothing is checked for the sums only.

use anyhow::Result;
use peer::pace;
use protocol::{manifest::REPLAY_BUDGET_MAX, revocation::Revocation};
use std::collections::BTreeMap;

use crate::{
    disk::{Contents, Shelf},
    machine::{Machine, Trainer},
    queue::Micros,
    scenario::{Members, Strategy},
    summary::CheckResult,
    truth::{SignedAgain, WINDOW_MS},
    world::World,
};

/// Machines whose weights are computed anew from the base.
const RECOMPUTED: usize = 3;
/// Whoever needs longer than this for what waits is behind, microseconds.
const BEHIND_US: f64 = 180e6;
/// Whoever could call somebody and has no connection that carries anything is cut off for so long at most: until
/// silence is noticed, or until the longest pause between two calls is over, and a look or two.
const CUT_OFF_MAX: Micros = 45_000_000;
/// Gradients that must have come for what they cost to be judged.
const COUNTED_MIN: u64 = 500;
/// What may wait in one machine's queues: what its disk may be behind, and some questions.
const QUEUED_MAX: usize = 5_000;

/// One result for each invariant.
pub fn results(world: &mut World) -> Result<BTreeMap<&'static str, CheckResult>> {
    let (digests, recomputed) = digests(world)?;
    let revoked = world.honest_up().filter_map(Machine::replica).any(|replica| {
        let mut revocations = replica.machines().filter_map(|(.., revocation)| revocation);
        revocations.next().is_some()
    });
    Ok(BTreeMap::from([
        ("equal sets of entries give equal digests", digests),
        ("digests follow from the base by the reference arithmetic", recomputed.clone()),
        ("revoked machines leave no trace", if revoked { recomputed } else { CheckResult::NotTried }),
        ("samples count as the authority has it", members(world)),
        ("no acknowledged byte is lost", acknowledged(world)),
        ("no honest machine signs a sample twice", signed_twice(world)),
        ("ledgers hold what was signed", ledgers(world)),
        ("all machines become equal", converged(world)),
        ("queues stay within bounds", queues(world)),
        ("honest machines hold nothing against each other", penalties(world)),
        ("no machine signs what its neighbours know better", signed_again(world)),
        ("no machine makes more gradients than it should", overdone(world)),
        ("no machine makes more than its share of the replay budget", shares(world)),
        ("no machine starves", starved(world)),
        ("who falls behind says so", behind(world)),
        ("who overspends delays only itself", delays(world)),
        ("who leaves leaves nothing behind", leavers(world)),
        ("joiners store the run's base model", bases(world)),
        ("no machine stays cut off", cut_off(world)),
        ("gradients cost after a restart what they did before", restarted(world)),
    ]))
}

fn failed_if(failure: Option<String>) -> CheckResult {
    failure.map_or(CheckResult::Passed, CheckResult::Failed)
}

/// Equal roots, equal digests; and some of them computed anew.
fn digests(world: &mut World) -> Result<(CheckResult, CheckResult)> {
    let (mut by_root, mut split, mut wrong) = (BTreeMap::new(), None, None);
    let mut recomputed = 0;
    for machine in world.machines.iter_mut().filter(|machine| machine.is_honest()) {
        let number = machine.number;
        let done = machine.is_done() && machine.owes_nothing();
        let Some(running) = machine.running.as_mut().filter(|_| done) else { continue };
        let (Some(replica), Some(trainer)) = (running.peer.replica(), &mut running.trainer) else { continue };
        let (root, digest) = (replica.root(), trainer.learner.digest()?);
        let (first, known) = *by_root.entry(root).or_insert((number, digest));
        if known != digest {
            split.get_or_insert(format!("machines {first} and {number} hold the same entries and differ in weights"));
        }
        if recomputed < RECOMPUTED {
            recomputed += 1;
            if world.swarm.objective.digest_from_base(replica)? != digest {
                wrong.get_or_insert(format!("machine {number} has weights that its ledgers do not give"));
            }
        }
    }
    let recomputed = if recomputed == 0 { CheckResult::NotTried } else { failed_if(wrong) };
    Ok((failed_if(split), recomputed))
}

/// On every machine, only samples of the authority and of whom it admitted count; of whom it withdrew exactly those
/// that it left.
fn members(world: &World) -> CheckResult {
    if world.swarm.scenario.members == Members::Open {
        return CheckResult::NotTried;
    }
    let (truth, authority) = (&world.swarm.truth, world.machines[0].key());
    let mut tried = false;
    for machine in world.honest_up() {
        let (Some(replica), number) = (machine.replica(), machine.number) else { continue };
        for (of, ledger, _) in replica.machines() {
            let floor = match truth.withdrawn.get(&of.key) {
                Some(floors) => floors.get(&of.incarnation).copied().unwrap_or(0),
                None if of.key == authority || truth.admitted.contains(&of.key) => u64::MAX,
                None => 0,
            };
            let is_forked = replica.revocation(of).is_some_and(Revocation::is_fork);
            let (counted, expected) = (replica.floor(of).min(ledger.height()), floor.min(ledger.height()));
            tried = true;
            if counted != expected && !(is_forked && counted == 0) {
                return CheckResult::Failed(format!(
                    "on machine {number} {counted} samples of {of} count, and {expected} should"
                ));
            }
        }
        for key in truth.admitted.iter().filter(|key| !truth.withdrawn.contains_key(*key)) {
            let own = world.machines.iter().find(|machine| machine.key() == *key && machine.is_honest());
            let has_made = own.is_some_and(|own| own.is_up() && truth.made_by(own.number) > 0);
            if has_made && !replica.effective_ranges().any(|range| range.machine.key == *key && range.samples() > 0) {
                return CheckResult::Failed(format!(
                    "on machine {number} nothing counts of a machine that was admitted"
                ));
            }
        }
    }
    if tried { CheckResult::Passed } else { CheckResult::NotTried }
}

/// The bytes of one own ledger on a disk.
fn on_disk(contents: &Contents, shelf: &Shelf, machine: &protocol::machine::MachineId) -> Vec<u8> {
    let mut bytes = Vec::new();
    for chunk in contents.chunks.of(machine, shelf) {
        bytes.truncate(chunk.first as usize);
        bytes.extend_from_slice(&chunk.bytes);
    }
    bytes
}

/// What a disk acknowledged is on it, whether the machine is up, down or gone.
fn acknowledged(world: &World) -> CheckResult {
    let mut tried = false;
    for (machine, bytes) in &world.swarm.truth.acknowledged {
        let owner = world.swarm.truth.owners.get(machine).map(|number| &world.machines[*number as usize]);
        let Some(owner) = owner.filter(|owner| !owner.disk_history.lost_acknowledged) else { continue };
        let Some(contents) = owner.disk() else { continue };
        tried = true;
        let kept = on_disk(contents, &world.swarm.shelf, machine);
        if kept.len() < bytes.len() || kept[..bytes.len()] != bytes[..] {
            return CheckResult::Failed(format!(
                "machine {} acknowledged {} bytes of {machine} and kept {}",
                owner.number,
                bytes.len(),
                kept.len()
            ));
        }
    }
    if tried { CheckResult::Passed } else { CheckResult::NotTried }
}

fn signed_twice(world: &World) -> CheckResult {
    failed_if(world.swarm.truth.signed_twice.first().map(|(machine, sample)| format!("{machine} at sample {sample}")))
}

/// What the honest signed is what ledgers hold, on one machine for each root.
fn ledgers(world: &World) -> CheckResult {
    let Some(replica) = world.honest_up().find_map(Machine::replica) else { return CheckResult::NotTried };
    for (machine, ledger, _) in replica.machines() {
        let Some(signed) = world.swarm.truth.acknowledged.get(machine) else { continue };
        let twice = &world.swarm.truth.signed_twice_after_loss;
        if twice.iter().any(|again| again.machine == *machine) {
            continue;
        }
        let same = ledger
            .entries(0, ledger.height())
            .all(|(sample, byte, _)| signed.get(sample as usize).is_none_or(|signed| *signed == byte as u8));
        if !same {
            return CheckResult::Failed(format!("a ledger of {machine} holds another byte than it signed"));
        }
    }
    CheckResult::Passed
}

fn converged(world: &World) -> CheckResult {
    if world.are_equal() {
        return CheckResult::Passed;
    }
    let mut groups: BTreeMap<[u8; 32], Vec<u32>> = BTreeMap::new();
    let (mut joining, mut busy) = (0, Vec::new());
    for machine in world.honest_up() {
        match machine.replica() {
            Some(replica) => groups.entry(replica.root()).or_default().push(machine.number),
            None => joining += 1,
        }
        if !machine.is_done() {
            busy.push(machine.number);
        }
    }
    let mut sizes: Vec<&Vec<u32>> = groups.values().collect();
    sizes.sort_by_key(|group| std::cmp::Reverse(group.len()));
    let few: Vec<u32> = sizes.iter().skip(1).flat_map(|group| group.iter().copied()).take(5).collect();
    busy.truncate(5);
    CheckResult::Failed(format!(
        "{} version vectors among {} machines, {joining} others not in the run; apart: {few:?}; unfinished: {busy:?}",
        groups.len(),
        groups.values().map(Vec::len).sum::<usize>()
    ))
}

fn queues(world: &World) -> CheckResult {
    let most = world.swarm.metrics.queued_max;
    failed_if((most > QUEUED_MAX).then(|| format!("{most} things waited in one machine, more than {QUEUED_MAX}")))
}

fn penalties(world: &World) -> CheckResult {
    let honest = |number: u32| world.machines.get(number as usize).is_some_and(|machine| machine.is_honest());
    let unjust = world.swarm.truth.penalties.iter().find(|(by, whom, _)| honest(*by) && honest(*whom));
    failed_if(unjust.map(|(by, whom, reason)| format!("machine {by} against machine {whom}: {reason}")))
}

fn signed_again(world: &World) -> CheckResult {
    let truth = &world.swarm.truth;
    if let Some(again) = truth.signed_against_better_knowledge.first() {
        let (number, sample) = (again.number, again.sample);
        return CheckResult::Failed(format!("machine {number} signed sample {sample} of {} again", again.machine));
    }
    let tried = world.machines.iter().any(|machine| machine.is_honest() && machine.disk_history.lost_acknowledged);
    if tried { CheckResult::Passed } else { CheckResult::NotTried }
}

fn overdone(world: &World) -> CheckResult {
    failed_if(world.swarm.truth.overdone.first().map(|(number, machine, sample)| {
        let goal = world.machines.get(*number as usize).map_or(0, |machine| machine.goal);
        format!("machine {number} began sample {sample} of {machine}, beyond its {goal}")
    }))
}

/// Nobody makes more in a window than its share and what a bucket holds. Machines that made something a minute before
/// a window and just before it are live in it, for everyone; with faults on the way, or machines that come late, it is
/// only certain that a machine itself is.
fn shares(world: &World) -> CheckResult {
    let scenario = &world.swarm.scenario;
    if scenario.replay_budget == REPLAY_BUDGET_MAX {
        return CheckResult::NotTried;
    }
    let made_in = &world.swarm.truth.made_in;
    let made =
        |number: u32, window: usize| made_in.get(&number).and_then(|made| made.get(window)).copied().unwrap_or(0);
    let window_seconds = WINDOW_MS as f64 / 1e3;
    let budget = f64::from(scenario.replay_budget);
    for machine in world.machines.iter().filter(|machine| machine.is_honest()) {
        let batch = machine.sender.projections.map_or(16.0, |samples| f64::from(samples.get()));
        for window in 0..made_in.get(&machine.number).map_or(0, Vec::len) {
            let is_live = |number: &&u32| window >= 3 && (window - 3..window).all(|window| made(**number, window) > 0);
            let others = made_in.keys().filter(|number| **number != machine.number).filter(is_live).count();
            let live = if scenario.faults.is_empty() { 1 + others } else { 1 };
            let most = budget * (window_seconds + pace::BURST_SECONDS) / live as f64 + 2.0 * batch;
            let number = machine.number;
            if made(number, window) as f64 > most {
                return CheckResult::Failed(format!(
                    "machine {number} made {} gradients in {window_seconds} s, {live} machines share {budget} a second",
                    made(number, window)
                ));
            }
        }
    }
    CheckResult::Passed
}

/// Whoever could be connected is, soon.
fn cut_off(world: &World) -> CheckResult {
    failed_if(world.swarm.truth.cut_off.filter(|(_, cut_off)| *cut_off > CUT_OFF_MAX).map(|(number, cut_off)| {
        let seconds = cut_off as f64 / 1e6;
        format!("machine {number} had no connection for {seconds:.0} s, though it could have called a machine")
    }))
}

/// A restart leaves nothing behind that others would have to make up for.
fn restarted(world: &World) -> CheckResult {
    let metrics = &world.swarm.metrics;
    let (Some(most), Some(before), Some(from)) =
        (world.swarm.scenario.bytes_after_restart_max, metrics.before_restart, metrics.after_restart)
    else {
        return CheckResult::NotTried;
    };
    let now = metrics.cost();
    let (bytes, deliveries) = (now.bytes - from.bytes, now.deliveries - from.deliveries);
    if deliveries < COUNTED_MIN || before.deliveries < COUNTED_MIN {
        return CheckResult::NotTried;
    }
    let (before, after) = (before.bytes as f64 / before.deliveries as f64, bytes as f64 / deliveries as f64);
    failed_if(
        (after > most * before).then(|| {
            format!("a gradient cost {before:.1} bytes before the first restart, and {after:.1} after the last")
        }),
    )
}

fn starved(world: &World) -> CheckResult {
    if world.swarm.scenario.speed.replay_us == 0.0 {
        return CheckResult::NotTried;
    }
    failed_if(world.swarm.truth.starved.first().map(|(number, since, seen)| {
        let seconds = (seen - since) as f64 / 1e6;
        format!("machine {number} made nothing for {seconds:.1} s, though it was to")
    }))
}

/// What the honest make goes into others' weights soon, however much more somebody else makes.
fn delays(world: &World) -> CheckResult {
    let overspends = |machine: &Machine| {
        machine.adversary.as_ref().is_some_and(|adversary| adversary.strategy() == Strategy::Overspend)
    };
    if !world.machines.iter().any(overspends) {
        return CheckResult::NotTried;
    }
    // A turn comes after what the trainer has taken, of which a slow one has two works, and after a batch of its own.
    let slowest_us = world.machines.iter().map(|machine| machine.replay_us).fold(0.0, f64::max);
    let patience_ms = 20_000.0 * slowest_us / 0.75e3 + 10_000.0;
    let late_ms = world.swarm.metrics.delay_ms.quantiles().p90;
    failed_if(
        (late_ms > patience_ms)
            .then(|| format!("a tenth of what the honest made took {:.0} s to other weights", late_ms / 1e3)),
    )
}

/// Whoever was behind by minutes has said so.
fn behind(world: &World) -> CheckResult {
    if world.swarm.scenario.speed.replay_us == 0.0 {
        return CheckResult::NotTried;
    }
    let is_late = |machine: &&Machine| machine.backlog_max as f64 * machine.replay_us > BEHIND_US;
    let silent = world.machines.iter().filter(|machine| machine.is_honest()).filter(is_late);
    failed_if(
        silent
            .filter(|machine| machine.said_behind == 0)
            .map(|machine| {
                format!("machine {} lacked {} gradients, and did not say so", machine.number, machine.backlog_max)
            })
            .next(),
    )
}

/// What they had made is on their disks, and in the ledgers of those who stayed.
fn leavers(world: &World) -> CheckResult {
    let honest = |number: u32| world.machines.get(number as usize).filter(|machine| machine.is_honest());
    let mut tried = false;
    for leaver in world.swarm.truth.leavers.iter().filter(|leaver| leaver.is_clean) {
        let Some(contents) = honest(leaver.number).and_then(Machine::disk) else { continue };
        tried = true;
        let (number, made) = (leaver.number, leaver.made);
        let kept = on_disk(contents, &world.swarm.shelf, &leaver.machine).len() as u64;
        if kept < made {
            return CheckResult::Failed(format!("machine {number} left with {kept} of {made} gradients on its disk"));
        }
        for stayed in world.honest_up().filter(|_| leaver.was_heard) {
            let known = stayed.replica().and_then(|replica| replica.ledger(&leaver.machine));
            let known = known.map_or(0, |ledger| ledger.height());
            if known < leaver.told {
                let (told, stayed) = (leaver.told, stayed.number);
                return CheckResult::Failed(format!(
                    "machine {number} left after telling {told} gradients, of which machine {stayed} has {known}"
                ));
            }
        }
    }
    if tried { CheckResult::Passed } else { CheckResult::NotTried }
}

/// Chunk by chunk.
fn bases(world: &World) -> CheckResult {
    let Some(base) = world.swarm.objective.base() else { return CheckResult::NotTried };
    let mut tried = false;
    for machine in world.machines.iter().filter(|machine| machine.is_honest()) {
        let Some(stored) = machine.disk().map(|contents| &contents.base) else { continue };
        if stored.is_complete && stored.chunks.is_empty() {
            // It started the run.
            continue;
        }
        for (index, digest) in &stored.chunks {
            tried = true;
            if base.digests().get(*index as usize) != Some(digest) {
                let number = machine.number;
                return CheckResult::Failed(format!("machine {number} stored another chunk {index} than the run's"));
            }
        }
        if stored.is_complete && stored.chunks.len() < base.digests().len() {
            return CheckResult::Failed(format!("machine {} took an unfinished base for the run's", machine.number));
        }
    }
    if tried { CheckResult::Passed } else { CheckResult::NotTried }
}

impl World {
    /// Looks for machines that make nothing though they are to. Own measuring has its turn after three times a batch's
    /// time, two sweeps, and what control takes.
    pub(crate) fn judge_starving(&mut self) {
        let now = self.swarm.queue.now();
        for machine in self.machines.iter_mut().filter(|machine| machine.is_honest()) {
            if let Some(running) = &machine.running {
                machine.backlog_max = machine.backlog_max.max(running.peer.facts().owed);
            }
            let trainer = machine.running.as_ref().and_then(|running| running.trainer.as_ref());
            let Some((since, batch_us)) = trainer.and_then(Trainer::starving_since) else { continue };
            let patience = 5 * batch_us + (20_000.0 * machine.replay_us) as Micros + 5_000_000;
            if now.saturating_sub(since) > patience {
                self.swarm.truth.starved.push((machine.number, since, now));
            }
        }
    }

    /// Looks at samples that were just signed again: whether all honest neighbours had another byte. Then the machine
    /// should have heard of it before.
    pub(crate) fn judge_signed_again(&mut self) {
        let truth = &self.swarm.truth;
        let unjudged = &truth.signed_twice_after_loss[truth.unjudged..];
        if unjudged.is_empty() {
            return;
        }
        let knew = |number: &u32, again: &SignedAgain| {
            let machine = self.machines.get(*number as usize).filter(|machine| machine.is_honest())?;
            let ledger = machine.replica()?.ledger(&again.machine);
            Some(ledger.is_some_and(|ledger| ledger.height() > again.sample))
        };
        let knew_better = |again: &SignedAgain| {
            let running = self.machines.get(again.number as usize).and_then(|machine| machine.running.as_ref());
            let neighbours = running.into_iter().flat_map(|running| running.neighbours.numbers());
            let known: Vec<bool> = neighbours.filter_map(|number| knew(&number, again)).collect();
            !known.is_empty() && known.into_iter().all(|knew| knew)
        };
        let found: Vec<SignedAgain> = unjudged.iter().copied().filter(knew_better).collect();
        let truth = &mut self.swarm.truth;
        truth.unjudged = truth.signed_twice_after_loss.len();
        truth.signed_against_better_knowledge.extend(found);
    }
}
