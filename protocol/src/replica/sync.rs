//! Anti-entropy: with each connected peer one question at a time, until the version vectors agree.
//!
//! Summary (roots) → the entries of the buckets that differ → the chunks and statements that are missing.

use rand_xoshiro::rand_core::Rng;
use std::collections::{BTreeSet, VecDeque};

use super::{
    absorb::Absorbed,
    accounts::Account,
    interface::{NodeId, Offence, Output},
    own::Signing,
    peers::{Asked, PeerState},
    state::Replica,
};
use crate::{
    anti_entropy::{Want, want, want_member},
    error::InvalidChunk,
    machine::MachineId,
    member::Member,
    message::{Cursor, ENTRIES_MAX, Question, Response, WANTS_MAX},
    segment::Chunk,
    statement::Statement,
    version_vector::{BUCKETS, Entry},
};

/// Two summaries to one peer are at least this far apart.
const SUMMARY_PAUSE_MS: u64 = 500;
/// Things that one peer may make us want at a time; the next round finds the rest.
const QUEUED_WANTS_MAX: usize = 65_536;

/// A peer is asked again for this machine's head after this long.
const OWN_HEAD_PAUSE_MS: u64 = 2_000;
/// A peer that sends a ledger has it to itself for this long; after that others are asked for it, too.
const FETCH_ALONE_MS: u64 = 5_000;

impl Replica {
    /// A connection stands.
    pub fn peer_connected(&mut self, peer: NodeId, now_ms: u64) {
        let state = self.peers.entry(peer).or_default();
        state.summary_due_ms = Some(now_ms);
        self.pump(peer, now_ms);
    }

    /// The last connection to the peer is gone.
    pub fn peer_gone(&mut self, peer: NodeId) {
        self.peers.remove(&peer);
        self.let_others_fetch(peer);
        if let Signing::Asking { asked, .. } = &mut self.own.signing {
            asked.remove(&peer);
        }
    }

    /// Time passes. Call it often enough for the flush policy, say every 50 ms.
    pub fn tick(&mut self, now_ms: u64) {
        self.flush_if_due(now_ms);
        self.judge_own_head(now_ms);
        if now_ms >= self.next_round_ms {
            self.next_round_ms = now_ms.saturating_add(self.settings.anti_entropy_interval_ms);
            // The neighbour that was asked longest ago; among those never asked, any.
            let mut random = || self.random.next_u64();
            if let Some(state) = self.peers.values_mut().min_by_key(|state| (state.last_summary_ms, random())) {
                state.summary_due_ms.get_or_insert(now_ms);
            }
        }
        let is_asking = matches!(self.own.signing, Signing::Asking { .. });
        let may_ask = |state: &PeerState| state.waiting.is_none() && (is_asking || state.has_something_to_ask());
        let peers: Vec<NodeId> = self.peers.iter().filter(|(_, state)| may_ask(state)).map(|(peer, _)| *peer).collect();
        for peer in peers {
            self.pump(peer, now_ms);
        }
    }

    /// Compares with every neighbour now. For leaving, and for those who will not wait.
    pub fn compare_with_all(&mut self, now_ms: u64) {
        for state in self.peers.values_mut() {
            state.summary_due_ms = Some(now_ms);
            state.last_summary_ms = None;
        }
        self.tick(now_ms);
    }

    /// How many connected peers, the mute ones aside, are not known to hold all that was here when the version vector
    /// stood at `revision`.
    pub fn lacking(&self, revision: u64) -> usize {
        let lacks = |state: &&PeerState| !state.is_mute && state.agreed.is_none_or(|agreed| agreed < revision);
        self.peers.values().filter(lacks).count()
    }

    /// How many connected peers did not answer the last question, or could not: relays, among others.
    pub fn mute(&self) -> usize {
        self.peers.values().filter(|state| state.is_mute).count()
    }

    /// Whether a neighbour has told its standings in full, and nothing that anyone told of is still to be fetched.
    pub fn is_caught_up(&self) -> bool {
        self.peers.values().any(|state| state.compared)
            && self.peers.values().filter(|state| !state.is_fruitless).all(|state| {
                state.wants.is_empty()
                    && state.listing.is_none()
                    && matches!(state.waiting, None | Some(Asked::Summary(_) | Asked::OwnHead(_)))
            })
    }

    fn let_others_fetch(&mut self, peer: NodeId) {
        self.fetching.retain(|_, (from, _)| *from != peer);
    }

    pub(super) fn summarize_soon(&mut self, peer: NodeId, now_ms: u64) {
        if let Some(state) = self.peers.get_mut(&peer) {
            state.summary_due_ms.get_or_insert(now_ms);
        }
        self.pump(peer, now_ms);
    }

    pub(super) fn fetch_soon(&mut self, peer: NodeId, machine: MachineId, from: u64) {
        let Some(state) = self.peers.get_mut(&peer) else { return };
        if self.held_back.contains(&machine.key) {
            return;
        }
        let queued = state.wants.iter().any(|want| matches!(want, Want::Samples { machine: m, .. } if *m == machine));
        if !queued && state.wants.len() < QUEUED_WANTS_MAX {
            state.wants.push_back(Want::Samples { machine, from });
        }
    }

    /// Asks the peer the next thing there is to ask, unless it still owes an answer.
    pub(super) fn pump(&mut self, peer: NodeId, now_ms: u64) {
        if self.peers.get(&peer).is_none_or(|state| state.waiting.is_some()) {
            return;
        }
        let Some((asked, question)) = self.next_question(peer, now_ms) else { return };
        if let Some(state) = self.peers.get_mut(&peer) {
            state.waiting = Some(asked);
            self.outputs.push_back(Output::Ask(peer, question));
        }
    }

    fn next_question(&mut self, peer: NodeId, now_ms: u64) -> Option<(Asked, Question)> {
        let own = self.own.machine;
        if let Signing::Asking { asked, .. } = &mut self.own.signing
            && asked.get(&peer).is_none_or(|last| now_ms.saturating_sub(*last) >= OWN_HEAD_PAUSE_MS)
        {
            asked.insert(peer, now_ms);
            let from = self.own.next_segment_sample().saturating_sub(1);
            let wants = vec![Want::Samples { machine: own, from }];
            return Some((Asked::OwnHead(own), Question::Fetch { wants }));
        }
        let state = self.peers.get_mut(&peer)?;
        let mut wants = Vec::new();
        while let Some(want) = if wants.len() < WANTS_MAX { state.wants.pop_front() } else { None } {
            if let Want::Samples { machine, .. } = want {
                if self.held_back.contains(&machine.key) {
                    continue;
                }
                let alone =
                    |(from, since): &(NodeId, u64)| *from != peer && now_ms.saturating_sub(*since) < FETCH_ALONE_MS;
                if self.fetching.get(&machine).is_some_and(alone) {
                    // If the other one lets us down, this peer tells again what it has.
                    state.summary_due_ms.get_or_insert(now_ms.saturating_add(FETCH_ALONE_MS));
                    continue;
                }
                if !state.is_fruitless {
                    self.fetching.insert(machine, (peer, now_ms));
                }
            }
            wants.push(want);
        }
        if state.wants.is_empty() {
            // After a joiner's first listings they take no room any more.
            state.wants = VecDeque::new();
        }
        if !wants.is_empty() {
            return Some((Asked::Fetch(wants.clone()), Question::Fetch { wants }));
        }
        if let Some((buckets, cursor)) = state.listing.take() {
            return Some((Asked::Entries { buckets }, Question::Entries { buckets, cursor }));
        }
        let rested = state.last_summary_ms.is_none_or(|last| now_ms.saturating_sub(last) >= SUMMARY_PAUSE_MS);
        if state.summary_due_ms.is_some_and(|due| now_ms >= due) && rested {
            state.summary_due_ms = None;
            state.last_summary_ms = Some(now_ms);
            state.listed = 0;
            let (root, revision) = (self.vector().root(), self.vector().revision());
            return Some((Asked::Summary(revision), Question::Summary { root }));
        }
        None
    }

    /// The peer failed to answer, or answered that it cannot.
    pub fn no_answer(&mut self, peer: NodeId) {
        let Some(state) = self.peers.get_mut(&peer) else { return };
        state.is_mute = true;
        match state.waiting.take() {
            Some(Asked::Fetch(_)) => {
                state.is_fruitless = true;
                self.let_others_fetch(peer);
            }
            Some(Asked::Summary(_) | Asked::Entries { .. } | Asked::OwnHead(_)) | None => {}
        }
    }

    /// The peer's answer to the question it was asked last.
    pub fn answered(&mut self, peer: NodeId, response: Response, now_ms: u64) {
        let Some(state) = self.peers.get_mut(&peer) else { return };
        let Some(asked) = state.waiting.take() else {
            return self.outputs.push_back(Output::Penalize(peer, Offence::Unasked));
        };
        state.is_mute = matches!(response, Response::Unavailable);
        let result = match (asked, response) {
            (Asked::Summary(revision), Response::Same) => {
                state.agreed = Some(revision);
                state.compared = true;
                // Whoever has the same version vector has this machine's head.
                self.own_head_answered(true, now_ms);
                Ok(())
            }
            (Asked::Summary(_), Response::Buckets(theirs)) => self.compare_buckets(peer, &theirs),
            (Asked::Summary(_), Response::Entries { entries, more }) => {
                self.compare_entries(peer, [0xff; 32], &entries, more)
            }
            (Asked::Entries { buckets }, Response::Entries { entries, more }) => {
                self.compare_entries(peer, buckets, &entries, more)
            }
            (Asked::Fetch(wants), Response::Found { chunks, statements }) => {
                self.take(peer, &wants, Found { chunks, statements }, now_ms)
            }
            (Asked::OwnHead(own), Response::Found { chunks, statements }) => {
                self.take_own_head(own, Found { chunks, statements }, now_ms)
            }
            (Asked::Fetch(_), Response::Unavailable) => {
                self.let_others_fetch(peer);
                Ok(())
            }
            (_, Response::Unavailable) => Ok(()),
            _ => Err(Offence::Unasked),
        };
        if let Err(offence) = result {
            self.let_others_fetch(peer);
            self.outputs.push_back(Output::Penalize(peer, offence));
        }
        self.pump(peer, now_ms);
    }

    fn compare_buckets(&mut self, peer: NodeId, theirs: &[[u8; 32]]) -> Result<(), Offence> {
        if theirs.len() != BUCKETS {
            return Err(Offence::Invalid(format!("{} bucket hashes instead of {BUCKETS}", theirs.len())));
        }
        let mut buckets = [0u8; 32];
        for (index, (ours, theirs)) in self.vector().bucket_hashes().iter().zip(theirs).enumerate() {
            if ours != theirs {
                buckets[index / 8] |= 1 << (index % 8);
            }
        }
        if let Some(state) = self.peers.get_mut(&peer) {
            state.listing = (buckets != [0; 32]).then_some((buckets, Cursor::default()));
        }
        Ok(())
    }

    fn compare_entries(
        &mut self,
        peer: NodeId,
        buckets: [u8; 32],
        entries: &[Entry],
        more: Option<Cursor>,
    ) -> Result<(), Offence> {
        if entries.len() > ENTRIES_MAX || more.is_some() && entries.is_empty() {
            return Err(Offence::Invalid(format!("{} entries in one listing", entries.len())));
        }
        if let Some(state) = self.peers.get_mut(&peer) {
            state.listed += entries.len();
            // Each machine may have a key of its own, of which the authority spoke.
            if state.listed > self.settings.machines_max.saturating_mul(2) {
                return Err(Offence::Invalid(format!("{} entries are listed, and no end", state.listed)));
            }
        }
        let mut missing: Vec<Want> = entries.iter().filter_map(|entry| self.want_member(entry)).collect();
        let ledgers = entries.iter().filter_map(|entry| match entry {
            Entry::Ledger(machine, standing) => Some((machine, standing)),
            Entry::Member(..) => None,
        });
        let mut standings = ledgers.clone().map(|(_, standing)| standing);
        self.accounts.look_up(ledgers.map(|(machine, _)| machine), |machine, account| {
            let Some(theirs) = standings.next() else { return };
            let allowed = self.accounts.allowed(machine);
            if allowed > 0 {
                let ours = account.and_then(Account::standing);
                let height = account.map_or(0, |account| account.ledger().height());
                let floor = account.map_or(allowed, Account::floor);
                let is_held_back = self.held_back.contains(&machine.key);
                let is_welcome = |want: &Want| !(is_held_back && matches!(want, Want::Samples { .. }));
                missing.extend(want(*machine, ours.as_ref(), height, floor, theirs).filter(is_welcome));
            }
        });
        if let Some(state) = self.peers.get_mut(&peer) {
            missing.truncate(QUEUED_WANTS_MAX.saturating_sub(state.wants.len()));
            state.wants.extend(missing);
        }
        if let Some(state) = self.peers.get_mut(&peer) {
            state.compared |= more.is_none();
            state.listing = more.map(|cursor| (buckets, cursor));
        }
        Ok(())
    }

    fn want_member(&self, entry: &Entry) -> Option<Want> {
        let Entry::Member(key, theirs) = entry else { return None };
        want_member(*key, self.accounts.member(key).map(Member::standing).as_ref(), theirs)
    }

    /// What was learnt of members may make more of what the peer has worth fetching.
    pub(super) fn compare_anew(&mut self, peer: NodeId, now_ms: u64) {
        if let Some(state) = self.peers.get_mut(&peer) {
            (state.compared, state.summary_due_ms) = (false, Some(now_ms));
        }
    }

    /// What was fetched. A ledger that grew is asked for again, from where it stands now; what the answer had no room
    /// for, as it was. An answer with nothing ends that: the peer has no more of it.
    fn take(&mut self, peer: NodeId, wants: &[Want], found: Found, now_ms: u64) -> Result<(), Offence> {
        let (mut wanted, mut members) = (BTreeSet::new(), BTreeSet::new());
        for want in wants {
            match want {
                Want::Samples { machine, .. } | Want::Revocation { machine } => drop(wanted.insert(*machine)),
                Want::Member { key } => drop(members.insert(*key)),
            }
        }
        self.let_others_fetch(peer);
        self.want_untouched(peer, wants, &found);
        for statement in found.statements {
            let (is_asked, is_membership) = match &statement {
                Statement::Revocation(revocation) => (wanted.contains(&revocation.machine()), false),
                Statement::Admission(_) | Statement::Withdrawal(_) => (members.contains(&statement.key()), true),
            };
            if !is_asked {
                return Err(Offence::Unasked);
            }
            if self.absorb_statement(statement).map_err(invalid)? && is_membership {
                self.compare_anew(peer, now_ms);
            }
        }
        let mut grown = BTreeSet::new();
        for chunk in found.chunks {
            let machine = chunk.machine;
            if !wanted.contains(&machine) {
                return Err(Offence::Unasked);
            }
            if self.absorb(chunk).map_err(invalid)? == Absorbed::Grown {
                grown.insert(machine);
            }
        }
        for machine in grown {
            let height = self.accounts.get(&machine).map_or(0, |account| account.ledger().height());
            self.fetch_soon(peer, machine, height);
        }
        Ok(())
    }

    /// What an answer had no room for is wanted still, before all else, if it had anything.
    fn want_untouched(&mut self, peer: NodeId, wants: &[Want], found: &Found) {
        let Some(state) = self.peers.get_mut(&peer) else { return };
        let sends = !found.is_empty();
        // Whoever has sent all that it has is asked once more.
        state.is_fruitless = !sends && !state.has_sent;
        state.has_sent = sends;
        if sends {
            let untouched = wants.iter().filter(|want| !found.touches(want));
            let room = QUEUED_WANTS_MAX.saturating_sub(state.wants.len());
            let untouched: Vec<Want> = untouched.take(room).copied().collect();
            untouched.into_iter().rev().for_each(|want| state.wants.push_front(want));
        }
    }

    /// The answer for this machine's head: a chunk that ends at it proves that the peer knows it, one beyond it that
    /// this disk is behind.
    fn take_own_head(&mut self, own: MachineId, found: Found, now_ms: u64) -> Result<(), Offence> {
        for statement in found.statements {
            self.absorb_statement(statement).map_err(invalid)?;
        }
        let height = self.accounts.get(&own).map_or(0, |account| account.ledger().height());
        let mut holds_head = false;
        for chunk in found.chunks {
            if chunk.machine != own {
                return Err(Offence::Unasked);
            }
            let end = chunk.end();
            let absorbed = self.absorb(chunk).map_err(invalid)?;
            holds_head |= absorbed == Absorbed::Known && end == height;
        }
        if own == self.own.machine {
            self.own_head_answered(holds_head, now_ms);
            self.judge_own_head(now_ms);
        }
        Ok(())
    }
}

/// What a peer sent for what was wanted.
struct Found {
    chunks: Vec<Chunk>,
    statements: Vec<Statement>,
}

impl Found {
    fn is_empty(&self) -> bool {
        self.chunks.is_empty() && self.statements.is_empty()
    }

    /// Whether something of `want` is there.
    fn touches(&self, want: &Want) -> bool {
        match want {
            Want::Samples { machine, .. } => self.chunks.iter().any(|chunk| chunk.machine == *machine),
            Want::Revocation { machine } => self.statements.iter().any(
                |statement| matches!(statement, Statement::Revocation(revocation) if revocation.machine() == *machine),
            ),
            Want::Member { key } => self.statements.iter().any(|statement| statement.key() == *key),
        }
    }
}

fn invalid(error: InvalidChunk) -> Offence {
    Offence::Invalid(error.to_string())
}
