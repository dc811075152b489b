//! What a replica holds, and what can be read of it.

use rand_xoshiro::{Xoshiro256PlusPlus, rand_core::SeedableRng};
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
};

use super::{
    accounts::{Account, Accounts, VersionVector},
    commons::Commons,
    interface::{Contained, LedgerRange, NodeId, Output, Settings},
    own::Own,
    peers::PeerState,
};
use crate::{
    ledger::Ledger,
    machine::MachineId,
    manifest::{Manifest, RunId},
    member::Member,
    replay::{self, Contribution},
    revocation::Revocation,
    seed::EntrySeeds,
    segment::Digest,
    signature::Verifier,
    statement::Statement,
};

/// See the documentation of [`crate::replica`].
pub struct Replica {
    pub(super) run: RunId,
    pub(super) manifest: Arc<Manifest>,
    pub(super) settings: Settings,
    pub(super) verifier: Box<dyn Verifier>,
    pub(super) accounts: Accounts,
    pub(super) ledger_bytes: u64,
    pub(super) own: Own,
    pub(super) peers: BTreeMap<NodeId, PeerState>,
    /// Ledgers that are being fetched, from whom and since when (ms): nobody is asked for what another is sending.
    pub(super) fetching: BTreeMap<MachineId, (NodeId, u64)>,
    pub(super) next_round_ms: u64,
    pub(super) random: Xoshiro256PlusPlus,
    pub(super) outputs: VecDeque<Output>,
    pub(super) incomplete: BTreeSet<&'static str>,
    /// Keys of which nothing more is taken for now.
    pub(super) held_back: BTreeSet<[u8; 32]>,
}

impl Replica {
    /// An empty replica of `run`. `machine` is this node's; no signature is asked for before [`Replica::start`].
    /// `seed` only decides which neighbours are asked first.
    pub fn new(
        run: RunId,
        manifest: Arc<Manifest>,
        settings: Settings,
        machine: MachineId,
        verifier: Box<dyn Verifier>,
        seed: u64,
    ) -> Self {
        Self {
            run,
            accounts: Accounts::new(Commons::default(), manifest.clone()),
            manifest,
            settings,
            verifier,
            ledger_bytes: 0,
            own: Own::new(machine),
            peers: BTreeMap::new(),
            fetching: BTreeMap::new(),
            next_round_ms: 0,
            random: Xoshiro256PlusPlus::seed_from_u64(seed),
            outputs: VecDeque::new(),
            incomplete: BTreeSet::new(),
            held_back: BTreeSet::new(),
        }
    }

    /// This replica, which holds nothing yet: with others of this process that are given the same `commons` it will
    /// hold equal ledgers once.
    pub fn sharing(self, commons: Commons) -> Self {
        Self { accounts: Accounts::new(commons, self.manifest.clone()), ..self }
    }

    /// What the ledgers take in memory, bytes: a little more than on a disk or in an export.
    pub fn ledger_bytes(&self) -> u64 {
        self.ledger_bytes
    }

    /// The next thing to do, if any.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// The run.
    pub fn run(&self) -> &RunId {
        &self.run
    }

    /// What the run agreed on.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The version vector's hash.
    pub fn root(&self) -> Digest {
        self.vector().root()
    }

    /// The version vector.
    pub fn vector(&self) -> VersionVector<'_> {
        VersionVector(&self.accounts)
    }

    /// A machine's ledger.
    pub fn ledger(&self, machine: &MachineId) -> Option<&Ledger> {
        self.accounts.get(machine).map(Account::ledger)
    }

    /// Machines with their ledgers and revocations.
    pub fn machines(&self) -> impl Iterator<Item = (&MachineId, &Ledger, Option<&Revocation>)> {
        self.accounts.iter().map(|account| (account.machine(), account.ledger(), account.revocation()))
    }

    /// All samples that count, ledger by ledger: what weights contain, besides the base, once everything is settled.
    pub fn effective_ranges(&self) -> impl Iterator<Item = LedgerRange> {
        let range = |account: &Account| LedgerRange {
            machine: *account.machine(),
            from: 0,
            to: account.effective_height(),
            removed: false,
        };
        self.accounts.iter().map(range)
    }

    /// First sample of a machine that does not count, whatever its ledger holds.
    pub fn floor(&self, machine: &MachineId) -> u64 {
        self.accounts.get(machine).map_or_else(|| self.accounts.allowed(machine), Account::floor)
    }

    /// What revoked a machine's samples.
    pub fn revocation(&self, machine: &MachineId) -> Option<&Revocation> {
        self.accounts.get(machine)?.revocation()
    }

    /// What the authority said of a key.
    pub fn member(&self, key: &[u8; 32]) -> Option<&Member> {
        self.accounts.member(key)
    }

    /// All that was said of machines and keys, and is in force.
    pub fn statements(&self) -> impl Iterator<Item = Statement> {
        let members = self.accounts.members().values().map(Statement::of_member);
        let revocations = self.accounts.iter().filter_map(|account| account.revocation().cloned());
        members.chain(revocations.map(Statement::Revocation))
    }

    /// Why this node does not hold all of the run; empty if it does.
    pub fn incomplete(&self) -> impl Iterator<Item = &'static str> {
        self.incomplete.iter().copied()
    }

    /// Samples of all ledgers that count: the swarm step.
    pub fn swarm_step(&self) -> u64 {
        self.vector().samples()
    }

    /// What the weights contain without the current own ledger, once all outputs so far are carried out but those that
    /// wait: of a machine of which any does, `held` says how many samples are in the weights.
    pub fn contents_of_others(&self, held: impl Fn(&MachineId) -> Option<u64>) -> Vec<Contained> {
        let own = self.own.machine;
        let others = self.accounts.iter().filter(|account| *account.machine() != own);
        let heights = others.map(|account| (account, held(account.machine()).unwrap_or(account.applied)));
        heights.filter(|(_, height)| *height > 0).map(|(account, height)| self.contained(account, height)).collect()
    }

    /// The claim for the own ledger at `height`, if that much of it is durable.
    pub fn contents_of_own(&self, machine: &MachineId, height: u64) -> Option<Contained> {
        let account = self.accounts.get(machine)?;
        (account.ledger().height() >= height && !account.is_forked()).then(|| self.contained(account, height))
    }

    pub(super) fn contained(&self, account: &Account, height: u64) -> Contained {
        let digest = account.ledger().digest_at(&self.run, height).unwrap_or_default();
        Contained { machine: *account.machine(), height, digest }
    }

    /// Whether a checkpoint's claims fit the ledgers that were restored, and if so, takes them as applied. Otherwise
    /// nothing changes, and the weights must start from the base.
    pub fn resume(&mut self, contents: &[Contained]) -> bool {
        let fits = contents.iter().all(|claim| {
            let account = self.accounts.get(&claim.machine);
            account.and_then(|a| a.ledger().digest_at(&self.run, claim.height)) == Some(claim.digest)
        });
        if fits {
            for claim in contents {
                if let Some(account) = self.accounts.get_mut(&claim.machine) {
                    account.applied = claim.height;
                }
            }
        }
        fits
    }

    /// Brings every ledger's effective samples into the weights: to be called once after the restore.
    pub fn settle_all(&mut self) {
        let machines: Vec<MachineId> = self.accounts.iter().map(|account| *account.machine()).collect();
        for machine in machines {
            self.settle(&machine);
        }
    }

    /// Emits what brings the weights from `applied` to the effective height of one machine, either way.
    pub(super) fn settle(&mut self, machine: &MachineId) {
        let Some(account) = self.accounts.get_mut(machine) else { return };
        let target = account.effective_height();
        let applied = std::mem::replace(&mut account.applied, target);
        let range = LedgerRange {
            machine: *machine,
            from: applied.min(target),
            to: applied.max(target),
            removed: applied > target,
        };
        if range.samples() > 0 {
            self.outputs.push_back(Output::ReplayLedger(range));
        }
    }

    /// A range's entries. Ledgers never shrink, so a range can be spelled out at any time.
    pub fn contributions(&self, range: &LedgerRange) -> Vec<Contribution> {
        let Some(account) = self.accounts.get(&range.machine) else { return Vec::new() };
        let mut seeds = EntrySeeds::new(&self.run, &range.machine, &self.manifest.groups);
        let entry = |(sample, byte, step)| {
            let seed = seeds.of(sample);
            Contribution { removed: range.removed, ..replay::contribution(seed, byte, step, &self.manifest.schedule) }
        };
        account.ledger().entries(range.from, range.to).map(entry).collect()
    }

    /// The entries of `ranges` in their order, `entries_max` at a time: what is spelled out takes 40 times the memory
    /// of the ledger.
    pub fn batches(
        &self,
        ranges: impl IntoIterator<Item = LedgerRange>,
        entries_max: usize,
    ) -> impl Iterator<Item = Vec<Contribution>> {
        let mut ranges = ranges.into_iter();
        let mut range = ranges.next();
        std::iter::from_fn(move || {
            let mut batch = Vec::new();
            while let Some(current) = range.as_mut().filter(|_| batch.len() < entries_max) {
                batch.extend(self.contributions(&current.take_first((entries_max - batch.len()) as u64)));
                if current.samples() == 0 {
                    range = ranges.next();
                }
            }
            (!batch.is_empty()).then_some(batch)
        })
    }
}
