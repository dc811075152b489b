//! Chunks of others on their way into the ledgers.

use super::{
    accounts::{Account, Growth},
    commons::Step,
    interface::{IncarnationCause, NodeId, Offence, Output, Record, Report, Verdict},
    state::Replica,
};
use crate::{
    error::InvalidChunk,
    ledger::{Ledger, Placement},
    machine::MachineId,
    message::{Author, Gossip, Push},
    revocation::{ForkProof, Revocation},
    segment::{Chunk, Part, VerifiedChunk},
};
use std::{collections::BTreeSet, sync::Arc};

/// What became of a chunk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Absorbed {
    /// The ledger grew.
    Grown,
    /// Nothing new.
    Known,
    /// Samples before it are missing.
    Gap,
    /// A limit of this node is reached.
    Full,
    /// It proved a fork.
    Forked,
    /// It is sound, and its key is not admitted yet: nothing of it is kept.
    Unadmitted,
}

impl Replica {
    /// A gossip message. The verdict is for the mesh; penalties come as outputs.
    pub fn gossip(&mut self, from: NodeId, bytes: &[u8], now_ms: u64) -> Verdict {
        let result = match Gossip::decode(bytes) {
            Err(error) => {
                self.outputs.push_back(Output::Penalize(from, Offence::Malformed(error.to_string())));
                return Verdict::Reject;
            }
            Ok(Gossip::Segment(push)) => self.pushed(from, push, now_ms),
            Ok(Gossip::Statement(statement)) => self.stated(from, statement, now_ms),
        };
        result.unwrap_or_else(|error| {
            self.outputs.push_back(Output::Penalize(from, Offence::Invalid(error.to_string())));
            Verdict::Reject
        })
    }

    fn pushed(&mut self, from: NodeId, push: Push, now_ms: u64) -> Result<Verdict, InvalidChunk> {
        if self.peers.get(&from).is_some_and(|state| state.is_unsound(now_ms)) {
            return Ok(Verdict::Ignore);
        }
        let machine = match push.author {
            Author::Introduced(machine) => machine,
            Author::Known(handle) => match self.accounts.by_handle(&handle) {
                Some(account) => *account.machine(),
                // Someone whose beginning we missed.
                None => {
                    self.summarize_soon(from, now_ms);
                    return Ok(Verdict::Ignore);
                }
            },
        };
        if push.first > 0 && self.accounts.awaits_admission(&machine.key) {
            self.ask_for_admission(from, machine.key, now_ms);
            return Ok(Verdict::Ignore);
        }
        let known = self.accounts.get(&machine);
        let previous = match known {
            Some(account) => {
                if account.is_forked() || push.first >= account.floor() {
                    return Ok(Verdict::Ignore);
                }
                account.ledger().digest_at(&self.run, push.first)
            }
            None => (push.first == 0).then_some([0; 32]),
        };
        let first = push.first;
        if let Some(previous) = previous.filter(|previous| previous[..4] == push.previous_hint) {
            let samples = push.bytes.len();
            let chunk = push
                .into_chunk(machine, previous)
                .ok_or(InvalidChunk::Samples { declared: samples, carried: samples })?;
            match self.absorb(chunk) {
                Ok(Absorbed::Grown | Absorbed::Forked) => return Ok(Verdict::Accept),
                Ok(Absorbed::Known | Absorbed::Gap | Absorbed::Full) => return Ok(Verdict::Ignore),
                Ok(Absorbed::Unadmitted) => {
                    self.ask_for_admission(from, machine.key, now_ms);
                    return Ok(Verdict::Ignore);
                }
                // A forker can make four bytes of two branches match, to have honest neighbours penalize each other:
                // the signature may be right for a predecessor that only the sender knows.
                Err(InvalidChunk::Signature(_)) if first > 0 => {
                    if let Some(state) = self.peers.get_mut(&from) {
                        state.count_unsound(now_ms);
                    }
                }
                Err(error) => return Err(error),
            }
        }
        // A gap, or a branch that its sender can show in full.
        let height = self.accounts.get(&machine).map_or(0, |account| account.ledger().height());
        self.fetch_soon(from, machine, first.min(height));
        self.pump(from, now_ms);
        Ok(Verdict::Ignore)
    }

    /// Checks a chunk and takes what is new of it.
    pub(super) fn absorb(&mut self, chunk: Chunk) -> Result<Absorbed, InvalidChunk> {
        let machine = chunk.machine;
        if !self.manifest.admits(&machine) {
            return Err(InvalidChunk::NotAdmitted(machine));
        }
        if self.accounts.awaits_admission(&machine.key) {
            chunk.verify(&self.run, self.manifest.ledger_samples_max, self.verifier.as_ref())?;
            return Ok(Absorbed::Unadmitted);
        }
        if self.held_back.contains(&machine.key) {
            return Ok(Absorbed::Full);
        }
        if chunk.first >= self.floor(&machine) || self.accounts.get(&machine).is_some_and(Account::is_forked) {
            return Ok(Absorbed::Known);
        }
        if let Some(step) = self.accounts.known_step(&chunk).filter(|_| machine != self.own.machine) {
            return Ok(self.absorb_step(step));
        }
        let chunk = chunk.verify(&self.run, self.manifest.ledger_samples_max, self.verifier.as_ref())?;
        let placement = match self.accounts.get(&machine) {
            Some(account) => account.ledger().place(&self.run, &chunk),
            None => Ledger::default().place(&self.run, &chunk),
        };
        match placement {
            Placement::Known => Ok(Absorbed::Known),
            Placement::Gap if machine == self.own.machine => Ok(self.absorb_own_ahead()),
            Placement::Gap => Ok(Absorbed::Gap),
            Placement::Extends(_) if machine == self.own.machine => Ok(self.absorb_own_ahead()),
            Placement::Extends(news) => self.absorb_news(chunk.into_chunk(), *news),
            Placement::Contradicts => {
                let ledger = self.accounts.get(&machine).map(Account::ledger);
                let proof = ledger.and_then(|ledger| ForkProof::find(&self.run, ledger, &chunk));
                let proof = proof.ok_or(InvalidChunk::NoContradiction)?;
                self.revoke(Revocation::Fork(Box::new(proof)));
                Ok(Absorbed::Forked)
            }
        }
    }

    /// Somebody holds own samples that this disk does not: never sign after them.
    fn absorb_own_ahead(&mut self) -> Absorbed {
        self.renew(IncarnationCause::Behind);
        Absorbed::Known
    }

    /// Takes what is new of a verified chunk, `came`.
    fn absorb_news(&mut self, came: Arc<Chunk>, news: VerifiedChunk) -> Result<Absorbed, InvalidChunk> {
        let machine = came.machine;
        if !self.has_room_for(&machine) {
            return Ok(Absorbed::Full);
        }
        let growth = self.accounts.append(&self.run, came, news)?;
        self.absorbed(&machine, growth);
        Ok(Absorbed::Grown)
    }

    /// The same, as another replica did it.
    fn absorb_step(&mut self, step: Step) -> Absorbed {
        let machine = step.came.machine;
        if !self.has_room_for(&machine) {
            return Absorbed::Full;
        }
        let growth = self.accounts.take_step(&self.run, step);
        self.absorbed(&machine, growth);
        Absorbed::Grown
    }

    /// Takes no more samples of these keys, until told otherwise: those that it has wait for the weights. Neither they
    /// nor whoever sends them is at fault, and nobody is asked for what they made. The own key is never one of them.
    pub fn hold_back(&mut self, keys: BTreeSet<[u8; 32]>) {
        if self.held_back.iter().any(|key| !keys.contains(key)) {
            // Some may come again: whoever has what was left out is soon found.
            self.next_round_ms = 0;
        }
        self.held_back = keys;
    }

    fn has_room_for(&mut self, machine: &MachineId) -> bool {
        if self.accounts.len() >= self.settings.machines_max && self.accounts.get(machine).is_none() {
            self.report_incomplete("the limit of machines is reached");
            return false;
        }
        if self.ledger_bytes >= self.settings.ledger_bytes_max {
            self.report_incomplete("the memory limit for ledgers is reached");
            return false;
        }
        true
    }

    fn absorbed(&mut self, machine: &MachineId, growth: Growth) {
        self.count(&growth);
        let records = growth.sealed.into_iter().chain([growth.news]).map(Record::Chunk).collect();
        self.outputs.push_back(Output::Persist(records, None));
        self.settle(machine);
    }

    /// Adds the memory that a ledger took.
    fn count(&mut self, growth: &Growth) {
        let (samples, segments) = (growth.news.bytes.len(), growth.news.parts.len());
        self.ledger_bytes += (samples + segments * size_of::<Part>() + growth.new_chunks * size_of::<Chunk>()) as u64;
    }

    /// Appends to the ledger. Returns the chunk that was sealed by it, if one was.
    pub(super) fn append(&mut self, chunk: VerifiedChunk) -> Result<Option<Arc<Chunk>>, InvalidChunk> {
        let growth = self.accounts.append(&self.run, chunk.chunk().clone(), chunk)?;
        self.count(&growth);
        Ok(growth.sealed)
    }

    pub(super) fn report_incomplete(&mut self, reason: &'static str) {
        if self.incomplete.insert(reason) {
            self.outputs.push_back(Output::Report(Report::Incomplete(reason)));
        }
    }

    /// Restores a chunk from the own disk: checked like a peer's, neither stored nor replayed again (see
    /// [`Replica::settle_all`]).
    pub fn restore_chunk(&mut self, chunk: Chunk) -> Result<(), InvalidChunk> {
        let machine = chunk.machine;
        let first = chunk.first;
        if let Some(step) = self.accounts.known_step(&chunk) {
            let growth = self.accounts.take_step(&self.run, step);
            self.count(&growth);
            return Ok(());
        }
        let chunk = chunk.verify(&self.run, self.manifest.ledger_samples_max, self.verifier.as_ref())?;
        let empty = Ledger::default();
        let ledger = self.accounts.get(&machine).map_or(&empty, Account::ledger);
        let height = ledger.height();
        match ledger.place(&self.run, &chunk) {
            Placement::Known => Ok(()),
            Placement::Extends(news) => {
                let growth = self.accounts.append(&self.run, chunk.into_chunk(), *news)?;
                self.count(&growth);
                Ok(())
            }
            Placement::Gap | Placement::Contradicts => Err(InvalidChunk::NotNext { first, height }),
        }
    }
}
