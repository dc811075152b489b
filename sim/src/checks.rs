//! The invariants, checked after every run.
//!
//! Blind spots: losses and the quality of gradients are not judged; time spent computing is not either. Memory is checked as queue
//! lengths, not bytes. Ledgers of hostile machines are compared between machines, never with an intention. A machine whose disk lost
//! what it had acknowledged may sign a sample twice when nobody it can reach knew better: such forks are withdrawn
//! everywhere, which is checked, and counted, but not held against the protocol. That the shared memories of the simulator (signatures, sums
//! of ledgers) change nothing is checked for the sums only.

use anyhow::Result;
use std::collections::BTreeMap;

use crate::{
    disk::{Contents, Shelf},
    record::Verdict,
    world::World,
};

/// Machines whose weights are computed anew from the base.
const RECOMPUTED: usize = 3;
/// What may wait in one machine's queues: what its disk may be behind, and some questions.
const QUEUED_MAX: usize = 5_000;

/// One verdict for each invariant.
pub fn verdicts(world: &mut World) -> Result<BTreeMap<&'static str, Verdict>> {
    let (digests, recomputed) = digests(world)?;
    let revoked = world.honest_up().any(|machine| {
        machine.running.as_ref().is_some_and(|r| r.replica.machines().any(|(.., revocation)| revocation.is_some()))
    });
    Ok(BTreeMap::from([
        ("equal sets of entries give equal digests", digests),
        ("digests follow from the base by the reference arithmetic", recomputed.clone()),
        ("revoked machines leave no trace", if revoked { recomputed } else { Verdict::NotTried }),
        ("no acknowledged byte is lost", acknowledged(world)),
        ("no honest machine signs a sample twice", signed_twice(world)),
        ("ledgers hold what was signed", ledgers(world)),
        ("all machines become equal", converged(world)),
        ("queues stay within bounds", queues(world)),
        ("honest machines hold nothing against each other", penalties(world)),
    ]))
}

fn failed_if(failure: Option<String>) -> Verdict {
    failure.map_or(Verdict::Passed, Verdict::Failed)
}

/// Equal roots, equal digests; and some of them computed anew.
fn digests(world: &mut World) -> Result<(Verdict, Verdict)> {
    let (mut by_root, mut split, mut wrong) = (BTreeMap::new(), None, None);
    let mut recomputed = 0;
    for machine in world.machines.iter_mut().filter(|machine| machine.is_honest()) {
        let number = machine.number;
        let done = machine.is_done();
        let Some(running) = machine.running.as_mut().filter(|_| done) else { continue };
        let (root, digest) = (running.replica.root(), running.learner.digest()?);
        let (first, known) = *by_root.entry(root).or_insert((number, digest));
        if known != digest {
            split.get_or_insert(format!("machines {first} and {number} hold the same entries and differ in weights"));
        }
        if recomputed < RECOMPUTED {
            recomputed += 1;
            if world.swarm.objective.digest_from_base(&running.replica)? != digest {
                wrong.get_or_insert(format!("machine {number} has weights that its ledgers do not give"));
            }
        }
    }
    let recomputed = if recomputed == 0 { Verdict::NotTried } else { failed_if(wrong) };
    Ok((failed_if(split), recomputed))
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
fn acknowledged(world: &World) -> Verdict {
    let mut tried = false;
    for (machine, bytes) in &world.swarm.truth.acknowledged {
        let owner = world.swarm.truth.owners.get(machine).map(|number| &world.machines[*number as usize]);
        let Some(owner) = owner.filter(|owner| !owner.disk_history.lost_acknowledged) else { continue };
        let Some(contents) = owner.disk() else { continue };
        tried = true;
        let kept = on_disk(contents, &world.swarm.shelf, machine);
        if kept.len() < bytes.len() || kept[..bytes.len()] != bytes[..] {
            return Verdict::Failed(format!(
                "machine {} acknowledged {} bytes of {machine} and kept {}",
                owner.number,
                bytes.len(),
                kept.len()
            ));
        }
    }
    if tried { Verdict::Passed } else { Verdict::NotTried }
}

fn signed_twice(world: &World) -> Verdict {
    failed_if(world.swarm.truth.signed_twice.first().map(|(machine, sample)| format!("{machine} at sample {sample}")))
}

/// What the honest signed is what ledgers hold, on one machine for each root.
fn ledgers(world: &World) -> Verdict {
    let Some(running) = world.honest_up().find_map(|machine| machine.running.as_ref()) else {
        return Verdict::NotTried;
    };
    for (machine, ledger, _) in running.replica.machines() {
        let Some(signed) = world.swarm.truth.acknowledged.get(machine) else { continue };
        let twice = &world.swarm.truth.signed_twice_after_loss;
        if twice.iter().any(|(forked, _)| forked == machine) {
            continue;
        }
        let same = ledger
            .entries(0, ledger.height())
            .all(|(sample, byte, _)| signed.get(sample as usize).is_none_or(|signed| *signed == byte as u8));
        if !same {
            return Verdict::Failed(format!("a ledger of {machine} holds another byte than it signed"));
        }
    }
    Verdict::Passed
}

fn converged(world: &mut World) -> Verdict {
    if world.are_equal() {
        return Verdict::Passed;
    }
    let mut groups: BTreeMap<[u8; 32], Vec<u32>> = BTreeMap::new();
    let mut busy = Vec::new();
    for machine in world.machines.iter_mut().filter(|machine| machine.is_honest()) {
        let (number, done) = (machine.number, machine.is_done());
        let Some(running) = &mut machine.running else { continue };
        groups.entry(running.replica.root()).or_default().push(number);
        if !done {
            busy.push(number);
        }
    }
    let mut sizes: Vec<&Vec<u32>> = groups.values().collect();
    sizes.sort_by_key(|group| std::cmp::Reverse(group.len()));
    let few: Vec<u32> = sizes.iter().skip(1).flat_map(|group| group.iter().copied()).take(5).collect();
    busy.truncate(5);
    Verdict::Failed(format!(
        "{} version vectors among {} machines; apart: {few:?}; unfinished: {busy:?}",
        groups.len(),
        groups.values().map(Vec::len).sum::<usize>()
    ))
}

fn queues(world: &World) -> Verdict {
    let most = world.swarm.metrics.queued_max;
    failed_if((most > QUEUED_MAX).then(|| format!("{most} things waited in one machine, more than {QUEUED_MAX}")))
}

fn penalties(world: &World) -> Verdict {
    let honest = |number: u32| world.machines.get(number as usize).is_some_and(|machine| machine.is_honest());
    let unjust = world.swarm.truth.penalties.iter().find(|(by, whom, _)| honest(*by) && honest(*whom));
    failed_if(unjust.map(|(by, whom, reason)| format!("machine {by} against machine {whom}: {reason}")))
}
