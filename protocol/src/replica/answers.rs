//! Anti-entropy, the other side: what a peer that asks is answered. Work is bounded by what an answer may carry.

use std::collections::BTreeSet;

use super::{interface::NodeId, peers::PeerState, state::Replica};
use crate::{
    anti_entropy::Want,
    encoding::encode,
    message::{CHUNKS_BYTES_TARGET, Cursor, ENTRIES_MAX, GOSSIP_BYTES_MAX, Question, Response, WANTS_MAX},
    segment::Chunk,
    statement::Statement,
    version_vector::Entry,
};

/// With no more entries than this, they are sent without asking for buckets first.
const LISTED_AT_ONCE_MAX: usize = 256;
/// Revocations in one answer: each may carry two chunks.
const REVOCATIONS_MAX: usize = 16;
/// What hashing one segment for an answer counts for, bytes.
const HASH_BYTES: usize = 256;

impl Replica {
    /// Answers a peer's question about ledgers; None for questions that are not the replica's.
    pub fn answer(&mut self, peer: NodeId, question: &Question, now_ms: u64) -> Option<Response> {
        if let Some(state) = self.peers.get_mut(&peer) {
            state.is_mute = false;
        }
        match question {
            Question::Summary { root } => {
                let revision = self.vector().revision();
                if *root == self.vector().root() {
                    if let Some(state) = self.peers.get_mut(&peer) {
                        state.agreed = Some(revision);
                    }
                    return Some(Response::Same);
                }
                // They may have what we lack, too; but two who differ all the time must not answer each other for ever.
                let rest_ms = self.settings.anti_entropy_interval_ms / 2;
                let rested =
                    |state: &PeerState| state.last_summary_ms.is_none_or(|last| now_ms.saturating_sub(last) >= rest_ms);
                if self.peers.get(&peer).is_some_and(rested) {
                    self.summarize_soon(peer, now_ms);
                }
                if self.vector().entries() <= LISTED_AT_ONCE_MAX {
                    return Some(self.listing([0xff; 32], Cursor::default()));
                }
                Some(Response::Buckets(self.vector().bucket_hashes()))
            }
            Question::Entries { buckets, cursor } => Some(self.listing(*buckets, *cursor)),
            Question::Fetch { wants } => Some(self.found(wants)),
            Question::Manifest | Question::BaseDigests { .. } | Question::BaseChunk { .. } => None,
        }
    }

    fn listing(&self, buckets: [u8; 32], cursor: Cursor) -> Response {
        let mut entries: Vec<Entry> = Vec::new();
        for bucket in cursor.bucket..=u8::MAX {
            if buckets[usize::from(bucket / 8)] >> (bucket % 8) & 1 == 0 {
                continue;
            }
            let after = cursor.after.filter(|_| bucket == cursor.bucket);
            let mut is_full = false;
            self.accounts.visit_bucket(bucket, |entry| {
                if after.is_some_and(|after| entry.subject() <= after) {
                    return true;
                }
                is_full = entries.len() == ENTRIES_MAX;
                if !is_full {
                    entries.push(entry);
                }
                !is_full
            });
            if is_full {
                let after = entries.last().map(Entry::subject);
                let bucket = after.map_or(bucket, |subject| subject.bucket());
                return Response::Entries { entries, more: Some(Cursor { bucket, after }) };
            }
        }
        Response::Entries { entries, more: None }
    }

    fn found(&self, wants: &[Want]) -> Response {
        let (mut chunks, mut statements, mut revocations, mut bytes) = (Vec::new(), Vec::new(), 0, 0usize);
        let mut served = BTreeSet::new();
        for want in wants.iter().take(WANTS_MAX) {
            match want {
                Want::Revocation { machine } if revocations < REVOCATIONS_MAX => {
                    let revocation = self.accounts.get(machine).and_then(|account| account.revocation().cloned());
                    revocations += usize::from(revocation.is_some());
                    statements.extend(revocation.map(Statement::Revocation));
                }
                Want::Revocation { .. } => {}
                Want::Member { key } if bytes < CHUNKS_BYTES_TARGET => {
                    let statement = self.accounts.member(key).map(Statement::of_member);
                    bytes += encode::<_, GOSSIP_BYTES_MAX>(&statement).map_or(0, |bytes| bytes.len());
                    statements.extend(statement);
                }
                Want::Member { .. } => {}
                Want::Samples { machine, from } => {
                    let account = self.accounts.get(machine).filter(|account| !account.is_forked());
                    let Some(account) = account.filter(|_| served.insert(*machine)) else { continue };
                    let mut from = *from;
                    while bytes < CHUNKS_BYTES_TARGET
                        && let Some((chunk, hashed)) = account.ledger().serve(&self.run, from)
                    {
                        // Work counts like bytes: a question must not cost more than its answer.
                        bytes += hashed * HASH_BYTES + size_of::<Chunk>() + chunk.bytes.len() + 12 * chunk.parts.len();
                        from = chunk.end();
                        chunks.push(chunk);
                    }
                }
            }
        }
        Response::Found { chunks, statements }
    }
}
