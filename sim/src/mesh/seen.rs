//! Which messages were seen, for a while.

use peer::mesh::DUPLICATES_KNOWN;
use std::collections::VecDeque;

use super::frame::Message;

/// Duplicates are known for so long, ms.
const DUPLICATES_MS: u64 = DUPLICATES_KNOWN.as_millis() as u64;
/// They are forgotten together in slices of this, ms (a choice of this model: it saves memory).
const SLICE_MS: u64 = 250;

/// A set of message numbers, a bit each.
#[derive(Default)]
pub(super) struct Bits(Vec<u64>);

impl Bits {
    pub fn contains(&self, message: Message) -> bool {
        self.0.get(message as usize / 64).is_some_and(|word| word >> (message % 64) & 1 == 1)
    }

    pub fn insert(&mut self, message: Message) {
        let word = message as usize / 64;
        if word >= self.0.len() {
            self.0.resize(word + 1, 0);
        }
        self.0[word] |= 1 << (message % 64);
    }

    pub fn remove(&mut self, message: Message) {
        if let Some(word) = self.0.get_mut(message as usize / 64) {
            *word &= !(1 << (message % 64));
        }
    }
}

/// The duplicate cache.
#[derive(Default)]
pub(super) struct Seen {
    bits: Bits,
    /// In order of arrival.
    messages: VecDeque<Message>,
    /// When those are forgotten (ms), and how many, in order of time.
    slices: VecDeque<(u64, usize)>,
}

impl Seen {
    pub fn contains(&self, message: Message) -> bool {
        self.bits.contains(message)
    }

    pub fn insert(&mut self, message: Message, now_ms: u64) {
        self.bits.insert(message);
        self.messages.push_back(message);
        match self.slices.back_mut() {
            Some((forgotten_ms, count)) if now_ms + DUPLICATES_MS <= *forgotten_ms => *count += 1,
            _ => self.slices.push_back((now_ms + DUPLICATES_MS + SLICE_MS, 1)),
        }
    }

    pub fn forget(&mut self, now_ms: u64) {
        while let Some((_, count)) = self.slices.front().copied().filter(|(forgotten_ms, _)| *forgotten_ms <= now_ms) {
            self.slices.pop_front();
            for message in self.messages.drain(..count) {
                self.bits.remove(message);
            }
        }
    }
}
