//! Own bytes: from the trainer to a signed, durable, published segment; and whether this machine's head may be trusted.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use super::{
    accounts::Account,
    interface::{IncarnationCause, Output, OwnByte, OwnHead, Record, Report},
    own::Signing,
    state::Replica,
};
use crate::{
    machine::MachineId,
    message::{Gossip, Push},
    replay::{self, Contribution},
    seed::EntrySeeds,
    segment::{
        CHUNK_SAMPLES_MAX, Chunk, PENDING_SAMPLES_MAX, Segment, UNSTORED_SEGMENTS_MAX, VerifiedChunk, head_message,
    },
    signature::Signature,
};

/// A strong answer is waited on this long for a peer that knows more.
const SETTLE_MS: u64 = 2_000;
/// Without a strong answer, the own ledger is given up for a new incarnation after this long.
const ANSWER_MS_MAX: u64 = 30_000;
/// The same, if peers did answer but none of them held this machine's head.
const WEAK_ANSWER_MS_MAX: u64 = 10_000;
/// A machine that is not slow waits so much longer for every machine of the run: 20 messages a second come to each node
/// then, of whatever size the swarm is.
const PATIENCE_MS_PER_MACHINE: u64 = 50;
/// Who makes fewer bytes than this within that time is slow.
const WORTH_WAITING_BYTES: f64 = 64.0;

impl Replica {
    /// The machine that own bytes belong to.
    pub fn own_machine(&self) -> MachineId {
        self.own.machine
    }

    /// The sample that the trainer takes next.
    pub fn own_next_sample(&self) -> u64 {
        self.own.next.0 + self.own.pending.len() as u64
    }

    /// Samples of the own key's other incarnations that count.
    pub fn own_samples_elsewhere(&self) -> u64 {
        let own = self.own.machine;
        let others = self.accounts.of_key(own.key).filter(|account| *account.machine() != own);
        others.map(Account::effective_height).sum()
    }

    /// The own key's other incarnations, and the swarm step of the last byte of each.
    pub fn own_key_elsewhere(&self) -> impl Iterator<Item = (MachineId, u64)> {
        let own = self.own.machine;
        let others = self.accounts.of_key(own.key).filter(move |account| *account.machine() != own);
        others.map(|account| (*account.machine(), account.ledger().swarm_step()))
    }

    /// Own samples below this stay in the weights: those that count, of those that there are.
    pub fn own_kept(&self) -> u64 {
        self.own_next_sample().min(self.floor(&self.own.machine))
    }

    /// Whether own samples of `machine` below `next_sample`, some of which were measured, come into no ledger any more:
    /// the own one began anew, or did not take them.
    pub fn refused(&self, machine: &MachineId, next_sample: u64) -> bool {
        *machine != self.own.machine || next_sample > self.own_next_sample()
    }

    /// Whether what is on its way to the disk stays in the weights: no segment of an incarnation given up, and no own
    /// sample that does not count.
    pub fn own_is_settled(&self) -> bool {
        let is_kept = self.own_kept() == self.own_next_sample() || self.own_waiting() == 0;
        is_kept && self.own.unstored.iter().all(|(_, chunk)| chunk.machine == self.own.machine)
    }

    /// Swarm step of the last own byte that is signed.
    pub fn own_swarm_step(&self) -> u64 {
        self.accounts.get(&self.own.machine).map_or(0, |account| account.ledger().swarm_step())
    }

    /// Own bytes that are not durable yet.
    pub fn own_waiting(&self) -> u64 {
        let durable = self.accounts.get(&self.own.machine).map_or(0, |account| account.ledger().height());
        self.own_next_sample().saturating_sub(durable)
    }

    /// Whether the trainer may go on measuring.
    pub fn may_probe(&self) -> bool {
        self.own.pending.len() < PENDING_SAMPLES_MAX && !matches!(self.own.signing, Signing::Renewing)
    }

    /// Own samples below this may count, as far as membership goes: none unless the own key is a member of the run.
    pub fn own_allowed(&self) -> u64 {
        self.accounts.allowed(&self.own.machine)
    }

    /// Whether own bytes are being signed.
    pub fn signs(&self) -> bool {
        matches!(self.own.signing, Signing::Sure)
    }

    /// Begins: to be called once, after the restore.
    pub fn start(&mut self, head: OwnHead, now_ms: u64) {
        if let Some(account) = self.accounts.get(&self.own.machine) {
            self.own.next = (account.ledger().height(), account.ledger().head());
        }
        let revoked = self.revocation(&self.own.machine).map(IncarnationCause::of);
        self.own.signing = match head {
            OwnHead::Sure => Signing::Sure,
            // Nothing more of it will ever be signed, so nobody needs to vouch for it.
            OwnHead::Unconfirmed if self.own_allowed() <= self.own.next.0 => Signing::Sure,
            OwnHead::Unconfirmed => {
                Signing::Asking { since_ms: now_ms, strong_since_ms: None, weak: false, asked: BTreeMap::new() }
            }
        };
        self.settle_all();
        if let Some(cause) = revoked {
            self.renew(cause);
        }
        self.tick(now_ms);
    }

    /// Names the own machine anew. Before the start only: afterwards see [`Replica::adopt`].
    pub fn set_own_machine(&mut self, machine: MachineId) {
        self.own.machine = machine;
    }

    /// Goes on under a new incarnation of the own key. Bytes that were never signed leave the weights.
    pub fn adopt(&mut self, machine: MachineId, now_ms: u64) {
        self.withdraw_unsigned();
        self.own.machine = machine;
        self.own.next = (0, [0; 32]);
        self.own.signing = Signing::Sure;
        self.tick(now_ms);
    }

    /// Takes bytes that the own trainer measured together. One that belongs to an incarnation given up meanwhile, does
    /// not follow, or has no room in the ledger, leaves the weights again.
    pub fn own_bytes(&mut self, bytes: &[OwnByte], now_ms: u64) {
        if let Some(last_ms) = self.own.last_byte_ms.replace(now_ms) {
            let interval = now_ms.saturating_sub(last_ms) as f64;
            let follow = |mean: &mut f64, value: f64| {
                *mean = if mean.is_finite() { *mean + (value - *mean) / 8.0 } else { value }
            };
            follow(&mut self.own.interval_ms, interval);
            follow(&mut self.own.byte_interval_ms, interval / bytes.len().max(1) as f64);
        }
        for own in bytes {
            let has_room = own.sample < self.manifest.ledger_samples_max.min(self.own_allowed());
            if own.machine != self.own.machine || own.sample != self.own_next_sample() || !has_room {
                let entry = std::iter::once((own.sample, own.byte, own.swarm_step));
                let undo = self.spell_out(&own.machine, entry, true);
                self.outputs.push_back(Output::Replay(undo));
                continue;
            }
            if self.own.pending.is_empty() {
                self.own.pending_since_ms = now_ms;
            }
            self.own.pending.push_back((own.byte, own.swarm_step));
        }
        self.flush_if_due(now_ms);
    }

    /// The own key's signature for the output with `token`. One that is not awaited any more is ignored.
    pub fn signed(&mut self, token: u64, signature: Signature, now_ms: u64) {
        if self.own.unsigned.front().is_none_or(|(awaited, _)| *awaited != token) {
            return;
        }
        let Some((token, chunk)) = self.own.unsigned.pop_front() else { return };
        let chunk = Arc::new(Chunk { signature, ..chunk });
        self.outputs.push_back(Output::Persist(vec![Record::Chunk(chunk.clone())], Some(token)));
        self.own.unstored.push_back((token, chunk));
        self.flush_if_due(now_ms);
    }

    /// The disk has everything up to the persist output with `token`.
    pub fn persisted(&mut self, token: u64, now_ms: u64) {
        while self.own.unstored.front().is_some_and(|(stored, _)| *stored <= token) {
            let Some((_, chunk)) = self.own.unstored.pop_front() else { break };
            self.append_own(chunk);
        }
        self.flush_if_due(now_ms);
    }

    /// Has all waiting own bytes signed now, whatever the flush policy says. For leaving.
    pub fn flush(&mut self) {
        while self.has_room_for_segment() && self.sign_next() {}
    }

    pub(super) fn flush_if_due(&mut self, now_ms: u64) {
        while self.has_room_for_segment() && self.flush_is_due(now_ms) && self.sign_next() {}
    }

    fn has_room_for_segment(&self) -> bool {
        self.own.unsigned.len() + self.own.unstored.len() < UNSTORED_SEGMENTS_MAX
    }

    /// Enough bytes, or the oldest is at the cap, or will be before the next bytes come.
    fn flush_is_due(&self, now_ms: u64) -> bool {
        let own = &self.own;
        let age = now_ms.saturating_sub(own.pending_since_ms) as f64;
        !own.pending.is_empty()
            && (own.pending.len() >= self.settings.flush_samples || age + own.interval_ms >= self.patience_ms() as f64)
    }

    /// How long own bytes wait for company.
    fn patience_ms(&self) -> u64 {
        let short = self.settings.staleness_ms.min(self.settings.staleness_ms_max);
        let crowd = PATIENCE_MS_PER_MACHINE.saturating_mul(self.vector().machines() as u64);
        let long = crowd.min(self.settings.staleness_ms_max);
        let is_slow = WORTH_WAITING_BYTES * self.own.byte_interval_ms > long as f64;
        if is_slow { short } else { long.max(short) }
    }

    /// Asks for a signature over the longest run of pending bytes that share a swarm step. False if there is nothing to
    /// sign, or no right to.
    fn sign_next(&mut self) -> bool {
        if !self.signs() {
            return false;
        }
        let Some((_, swarm_step)) = self.own.pending.front().copied() else { return false };
        let room = self.manifest.ledger_samples_max.saturating_sub(self.own.next.0);
        let most = CHUNK_SAMPLES_MAX.min(usize::try_from(room).unwrap_or(usize::MAX));
        let samples = self.own.pending.iter().take(most).take_while(|(_, step)| *step == swarm_step).count();
        if samples == 0 {
            return false;
        }
        let bytes: Vec<u8> = self.own.pending.drain(..samples).map(|(byte, _)| byte as u8).collect();
        let (first, previous) = self.own.next;
        let segment = Segment { first, swarm_step, bytes: &bytes };
        let (chunk, digest) = Chunk::unsigned(&self.run, self.own.machine, segment, previous);
        self.own.next = (chunk.end(), digest);
        self.own.next_token += 1;
        let token = self.own.next_token;
        self.outputs.push_back(Output::Sign { token, message: head_message(&digest) });
        self.own.unsigned.push_back((token, chunk));
        true
    }

    /// A durable own segment enters the ledger and goes out. The weights already contain it.
    fn append_own(&mut self, chunk: Arc<Chunk>) {
        let (machine, first) = (chunk.machine, chunk.first);
        let push = Push::of(&chunk);
        let digests = chunk.digests(&self.run);
        let undo = self.chunk_contributions(&chunk, true);
        let Ok(sealed) = self.append(VerifiedChunk::trusted(chunk, digests)) else {
            // Another process went on with this ledger meanwhile: peers hold its samples, the weights must not hold
            // ours.
            return self.outputs.push_back(Output::Replay(undo));
        };
        if let Some(sealed) = sealed {
            self.outputs.push_back(Output::Persist(vec![Record::Chunk(sealed)], None));
        }
        if let Some(account) = self.accounts.get_mut(&machine) {
            let floor = account.floor();
            if first >= floor {
                // What was there before has left the weights already.
                return self.outputs.push_back(Output::Replay(undo));
            }
            account.applied = account.ledger().height();
            if floor < u64::MAX {
                self.settle(&machine);
            }
        }
        self.outputs.push_back(Output::Publish(Gossip::Segment(push)));
    }

    /// (sample, byte, swarm step) of entries of `machine`, as what brings them into the weights, or out.
    fn spell_out(
        &self,
        machine: &MachineId,
        entries: impl Iterator<Item = (u64, i8, u64)>,
        removed: bool,
    ) -> Vec<Contribution> {
        let mut seeds = EntrySeeds::new(&self.run, machine, &self.manifest.groups);
        let contribution = |(sample, byte, step)| Contribution {
            removed,
            ..replay::contribution(seeds.of(sample), byte, step, &self.manifest.schedule)
        };
        entries.map(contribution).collect()
    }

    fn chunk_contributions(&self, chunk: &Chunk, removed: bool) -> Vec<Contribution> {
        let entries = chunk.segments().flat_map(|segment| {
            (segment.first..).zip(segment.bytes).map(move |(sample, byte)| (sample, *byte as i8, segment.swarm_step))
        });
        self.spell_out(&chunk.machine, entries, removed)
    }

    /// Takes pending bytes of the current incarnation out of the weights.
    fn withdraw_unsigned(&mut self) {
        let (first, _) = self.own.next;
        let pending = std::mem::take(&mut self.own.pending);
        let machine = self.own.machine;
        let entries = (first..).zip(pending).map(|(sample, (byte, step))| (sample, byte, step));
        let undo = self.spell_out(&machine, entries, true);
        if !undo.is_empty() {
            self.outputs.push_back(Output::Replay(undo));
        }
    }

    /// The own incarnation is of no more use: everything of it that the weights hold beyond the ledger goes.
    pub(super) fn renew(&mut self, cause: IncarnationCause) {
        if matches!(self.own.signing, Signing::Renewing) {
            return;
        }
        // A segment that was never signed is nowhere else.
        let unsigned = std::mem::take(&mut self.own.unsigned);
        let mut unstored = VecDeque::new();
        if matches!(cause, IncarnationCause::Forked | IncarnationCause::Revoked) {
            std::mem::swap(&mut unstored, &mut self.own.unstored);
        }
        let given_up = unsigned.iter().map(|(_, chunk)| chunk).chain(unstored.iter().map(|(_, chunk)| &**chunk));
        let undo: Vec<Contribution> = given_up.flat_map(|chunk| self.chunk_contributions(chunk, true)).collect();
        if !undo.is_empty() {
            self.outputs.push_back(Output::Replay(undo));
        }
        self.own.signing = Signing::Renewing;
        self.outputs.push_back(Output::NewIncarnation(cause));
    }

    /// A peer answered for this machine's head: `holds_head` if it proved that it knows the ledger up to there.
    pub(super) fn own_head_answered(&mut self, holds_head: bool, now_ms: u64) {
        if let Signing::Asking { strong_since_ms, weak, .. } = &mut self.own.signing {
            if holds_head {
                strong_since_ms.get_or_insert(now_ms);
            } else {
                *weak = true;
            }
        }
    }

    /// Ends the asking once it has lasted long enough.
    pub(super) fn judge_own_head(&mut self, now_ms: u64) {
        let Signing::Asking { since_ms, strong_since_ms, weak, .. } = &self.own.signing else { return };
        let waited = now_ms.saturating_sub(*since_ms);
        let settled = strong_since_ms.is_some_and(|strong| now_ms.saturating_sub(strong) >= SETTLE_MS);
        if settled {
            self.own.signing = Signing::Sure;
            self.outputs.push_back(Output::Report(Report::HeadConfirmed));
        } else if strong_since_ms.is_none() && (waited >= ANSWER_MS_MAX || *weak && waited >= WEAK_ANSWER_MS_MAX) {
            self.renew(IncarnationCause::Unanswered);
        }
    }
}
