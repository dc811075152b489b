//! The one state machine: what a node knows and decides, without IO, clocks or threads.
//!
//! The driving contract: give one input (a method call), then drain [`Replica::poll_output`] until it is `None`, then
//! wait for the next input. Time is an argument, in milliseconds of any monotonic clock. Given equal inputs, two replicas
//! make equal outputs.
//!
//! - `own`: own bytes, signing, the own head's confirmation after a start;
//! - `absorb`: chunks and revocations of others on their way in;
//! - `sync`: anti-entropy with each connected peer;
//! - `accounts`: what is known of each machine, and the version vector;
//! - `commons`: what replicas of one process share.

use rand_xoshiro::{Xoshiro256PlusPlus, rand_core::SeedableRng};
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
};

use crate::{
    ledger::Ledger,
    machine::MachineId,
    manifest::{Manifest, RunId},
    message::{Gossip, Question},
    replay::{self, Contribution},
    revocation::Revocation,
    seed::EntrySeed,
    segment::{Chunk, Digest},
    signature::Verifier,
};

mod absorb;
mod accounts;
mod commons;
mod own;
mod sync;

pub use accounts::VersionVector;
use accounts::{Account, Accounts};
pub use commons::Commons;
use own::Own;
pub use own::{OwnByte, OwnHead};
use sync::PeerState;

/// Another node, numbered by whoever drives the replica: equal numbers, same node.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct NodeId(pub u64);

/// What a machine chooses for itself.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Settings {
    /// Own bytes that are signed and sent together. More is cheaper on the wire (105 bytes of envelope and signature are
    /// shared), fewer is fresher. 1 to 4,096.
    pub flush_samples: usize,
    /// Own bytes wait no longer than this for company in a small swarm. A model slower than this never waits.
    pub staleness_ms: u64,
    /// The same in a large swarm, where every message costs everyone: see `own`. Equal to `staleness_ms`, or less, it fixes the wait.
    pub staleness_ms_max: u64,
    /// Pause between anti-entropy rounds, each with one neighbour. Push makes it fast, this makes it certain.
    pub anti_entropy_interval_ms: u64,
    /// Most machines to keep ledgers of. Beyond, the node says that it is incomplete.
    pub machines_max: usize,
    /// Most memory for ledgers, bytes. Beyond, the node says that it is incomplete.
    pub ledger_bytes_max: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            flush_samples: 256,
            staleness_ms: 1_000,
            staleness_ms_max: 4_000,
            anti_entropy_interval_ms: 10_000,
            machines_max: 65_536,
            ledger_bytes_max: 4 << 30,
        }
    }
}

/// What goes to disk. Storing a chunk replaces the stored chunks of that machine that begin within it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Record {
    /// New segments, or a sealed chunk that takes the place of its parts.
    #[serde(with = "pointed")]
    Chunk(Arc<Chunk>),
    /// A revocation.
    Revocation(Revocation),
}

/// A chunk behind a pointer is written as the chunk.
mod pointed {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};
    use std::sync::Arc;

    use crate::segment::Chunk;

    pub fn serialize<S: Serializer>(chunk: &Arc<Chunk>, serializer: S) -> Result<S::Ok, S::Error> {
        Chunk::serialize(chunk, serializer)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Arc<Chunk>, D::Error> {
        Chunk::deserialize(deserializer).map(Arc::new)
    }
}

/// What a peer did that an honest one does not.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub enum Offence {
    /// Bytes that are no message.
    Malformed(String),
    /// A message that breaks a rule of the protocol.
    Invalid(String),
    /// An answer to another question.
    Unasked,
}

/// What people should hear of.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub enum Report {
    /// Peers know the own ledger as it is on this disk: signing begins.
    HeadConfirmed,
    /// A machine is forked; `was` samples left the weights.
    Forked {
        /// Which.
        machine: MachineId,
        /// How many samples counted before.
        was: u64,
    },
    /// The authority withdrew samples.
    Revoked {
        /// Whose.
        machine: MachineId,
        /// From which on.
        from: u64,
    },
    /// A limit of this node keeps it from holding all of the run.
    Incomplete(&'static str),
}

/// Why the own ledger begins anew.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub enum IncarnationCause {
    /// A peer holds samples of the own ledger that this disk does not.
    Behind,
    /// No peer could answer for the own head.
    Unanswered,
    /// The own key signed two histories: another process uses it, or this disk was rolled back.
    Forked,
}

/// What the driver is to do.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub enum Output {
    /// Send the question to the peer; its answer, or its failure, comes back as an input.
    Ask(NodeId, Question),
    /// Put on the run's topic.
    Publish(Gossip),
    /// Sign the message with the own key; the signature comes back with [`Replica::signed`], in the order of the tokens.
    Sign {
        /// Names the answer.
        token: u64,
        /// See [`crate::segment::head_message`].
        message: Vec<u8>,
    },
    /// Make durable, in order; if there is a token, say so with [`Replica::persisted`].
    Persist(Vec<Record>, Option<u64>),
    /// Move the weights by own bytes that no ledger holds.
    Replay(Vec<Contribution>),
    /// Move the weights by samples of a ledger; [`Replica::contributions`] spells them out, a part at a time.
    ReplayLedger(LedgerRange),
    /// Draw a random incarnation, make it durable, then call [`Replica::adopt`].
    NewIncarnation(IncarnationCause),
    /// Count it against the peer.
    Penalize(NodeId, Offence),
    /// Tell people.
    Report(Report),
}

/// Samples of one ledger on their way into the weights, or out of them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub struct LedgerRange {
    /// Whose.
    pub machine: MachineId,
    /// First sample.
    pub from: u64,
    /// First sample after.
    pub to: u64,
    /// Out of the weights.
    pub removed: bool,
}

impl LedgerRange {
    /// Cuts off the first `samples`, or all if there are no more.
    pub fn take_first(&mut self, samples: u64) -> Self {
        let end = self.to.min(self.from.saturating_add(samples));
        let first = Self { to: end, ..*self };
        self.from = end;
        first
    }

    /// Number of samples.
    pub fn samples(&self) -> u64 {
        self.to.saturating_sub(self.from)
    }
}

/// What to do with a gossip message.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub enum Verdict {
    /// Pass it on.
    Accept,
    /// Not now, or not news: no fault of the sender.
    Ignore,
    /// The sender should have known.
    Reject,
}

/// A checkpoint's claim: the weights contain this machine's samples below `height`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Contained {
    /// Whose.
    pub machine: MachineId,
    /// Number of samples.
    pub height: u64,
    /// Digest of the segment that holds sample `height − 1`.
    pub digest: Digest,
}

/// See the module's documentation.
pub struct Replica {
    run: RunId,
    manifest: Arc<Manifest>,
    settings: Settings,
    verifier: Box<dyn Verifier>,
    accounts: Accounts,
    ledger_bytes: u64,
    own: Own,
    peers: BTreeMap<NodeId, PeerState>,
    /// Ledgers that are being fetched, from whom and since when (ms): nobody is asked for what another is sending.
    fetching: BTreeMap<MachineId, (NodeId, u64)>,
    next_round_ms: u64,
    random: Xoshiro256PlusPlus,
    outputs: VecDeque<Output>,
    incomplete: BTreeSet<&'static str>,
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
        let accounts = Accounts::new(verifier.commons());
        Self {
            run,
            manifest,
            settings,
            verifier,
            accounts,
            ledger_bytes: 0,
            own: Own::new(machine),
            peers: BTreeMap::new(),
            fetching: BTreeMap::new(),
            next_round_ms: 0,
            random: Xoshiro256PlusPlus::seed_from_u64(seed),
            outputs: VecDeque::new(),
            incomplete: BTreeSet::new(),
        }
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

    /// Why this node does not hold all of the run; empty if it does.
    pub fn incomplete(&self) -> impl Iterator<Item = &'static str> {
        self.incomplete.iter().copied()
    }

    /// Samples of all ledgers that count: the swarm step.
    pub fn swarm_step(&self) -> u64 {
        self.vector().samples()
    }

    /// What the weights contain once all outputs so far are carried out, without the current own ledger.
    pub fn contents_of_others(&self) -> Vec<Contained> {
        let own = self.own.machine;
        let others = self.accounts.iter().filter(|account| *account.machine() != own && account.applied > 0);
        others.map(|account| self.contained(account, account.applied)).collect()
    }

    /// The claim for the own ledger at `height`, if that much of it is durable.
    pub fn contents_of_own(&self, machine: &MachineId, height: u64) -> Option<Contained> {
        let account = self.accounts.get(machine)?;
        (account.ledger().height() >= height && !account.is_forked()).then(|| self.contained(account, height))
    }

    fn contained(&self, account: &Account, height: u64) -> Contained {
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
    fn settle(&mut self, machine: &MachineId) {
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
        let entry = |(sample, byte, step)| {
            let seed = EntrySeed::derive(&self.run, &range.machine, sample);
            Contribution { removed: range.removed, ..replay::contribution(seed, byte, step, &self.manifest.schedule) }
        };
        account.ledger().entries(range.from, range.to).map(entry).collect()
    }
}

#[cfg(test)]
mod tests;
