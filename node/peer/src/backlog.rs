//! Work that waits for the trainer.
//!
//! What goals ask for goes first, in its order. Samples of ledgers wait in a queue for each key, and the queues take
//! turns: whoever makes more than its share waits behind itself. A queue keeps its order, so that of every ledger the
//! weights hold a beginning, and what they hold of others can be told at any time ([`Backlog::held`]).

use protocol::{machine::MachineId, replica::LedgerRange};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::{
    Work,
    planted::{Fault, Planted},
};

/// Works that the trainer may hold.
pub const WORKS_MAX: usize = 64;
/// Samples of ledgers are handed out in works of at most this size, and none while so many wait with the trainer: what
/// goals ask for waits no longer than that.
const ENTRIES_PER_WORK: u64 = 8_192;
/// Samples of one key in a turn.
const ENTRIES_PER_TURN: u64 = 256;
/// All keys together may have about so many samples waiting, each the same part of them, and at least so many.
const ENTRIES_MAX: u64 = 1 << 20;
const ENTRIES_PER_KEY_MIN: u64 = 1 << 12;

type Key = [u8; 32];

/// Samples of one key's ledgers, in the order in which they came.
#[derive(Default)]
struct Queue {
    ranges: VecDeque<LedgerRange>,
    entries: u64,
}

impl Queue {
    fn push(&mut self, range: LedgerRange) {
        self.entries = self.entries.saturating_add(range.samples());
        match self.ranges.back_mut() {
            Some(last) if continues(last, &range) => last.to = range.to,
            _ => self.ranges.push_back(range),
        }
    }

    /// The next samples, at most `room`.
    fn take(&mut self, room: u64) -> Option<LedgerRange> {
        let next = self.ranges.front_mut()?;
        let taken = next.take_next(room);
        if next.samples() == 0 {
            self.ranges.pop_front();
        }
        self.entries = self.entries.saturating_sub(taken.samples());
        Some(taken)
    }
}

/// Whether `next` goes on where `last` ends, into the weights.
fn continues(last: &LedgerRange, next: &LedgerRange) -> bool {
    !last.removed && !next.removed && last.machine == next.machine && last.to == next.from
}

/// See the module's documentation. Samples are spelled out only when the trainer takes them up: taking out a ledger of
/// a billion samples costs time, not memory.
#[derive(Default)]
pub struct Backlog {
    works: VecDeque<Work>,
    queues: BTreeMap<Key, Queue>,
    /// Keys whose samples wait, in the order of their turns.
    turns: VecDeque<Key>,
    /// Keys of which no more should come.
    full: BTreeSet<Key>,
    /// Samples in `queues`.
    entries: u64,
    /// Samples of each work that was handed out and not taken up yet, and their sum.
    handed_out: VecDeque<u64>,
    ahead: u64,
    planted: Planted,
}

impl Backlog {
    /// Breaks a rule.
    pub fn plant(&mut self, planted: Planted) {
        self.planted = planted;
    }

    /// Appends.
    pub fn push(&mut self, work: Work) {
        self.works.push_back(work);
    }

    /// Appends samples of a ledger to those of its key.
    pub fn push_range(&mut self, range: LedgerRange) {
        self.entries = self.entries.saturating_add(range.samples());
        let key = self.key_of(&range.machine);
        let queue = self.queues.entry(key).or_insert_with(|| {
            self.turns.push_back(key);
            Queue::default()
        });
        queue.push(range);
    }

    /// The trainer is to make no more own gradients, before it does anything else that waits here.
    pub fn rest(&mut self) {
        self.works.retain(|work| !matches!(work, Work::Train { .. }));
        self.works.push_front(Work::Train { until_sample: 0 });
    }

    /// Takes back the wish for a checkpoint. False if the trainer has it already, or there is none.
    pub fn take_back_checkpoint(&mut self) -> bool {
        let before = self.works.len();
        self.works.retain(|work| *work != Work::Checkpoint);
        self.works.len() < before
    }

    /// The trainer took up a work.
    pub fn took(&mut self) {
        self.ahead = self.ahead.saturating_sub(self.handed_out.pop_front().unwrap_or_default());
    }

    /// The next work, if there is one and the trainer has room.
    pub fn hand_out(&mut self) -> Option<Work> {
        if self.handed_out.len() >= WORKS_MAX {
            return None;
        }
        let (work, entries) = match self.works.pop_front() {
            Some(work) => (work, 0),
            None if self.ahead < ENTRIES_PER_WORK => self.take_turns()?,
            None => return None,
        };
        self.handed_out.push_back(entries);
        self.ahead += entries;
        Some(work)
    }

    /// Samples of ledgers for one work, and how many they are.
    fn take_turns(&mut self) -> Option<(Work, u64)> {
        let (mut ranges, mut taken) = (Vec::<LedgerRange>::new(), 0);
        while taken < ENTRIES_PER_WORK
            && let Some(key) = self.turns.pop_front()
            && let Some(queue) = self.queues.get_mut(&key)
        {
            let end = ENTRIES_PER_WORK.min(taken + ENTRIES_PER_TURN);
            while taken < end
                && let Some(range) = queue.take(end - taken)
            {
                taken += range.samples();
                match ranges.last_mut() {
                    Some(last) if continues(last, &range) => last.to = range.to,
                    _ => ranges.push(range),
                }
            }
            match queue.ranges.is_empty() {
                true => drop(self.queues.remove(&key)),
                false => self.turns.push_back(key),
            }
        }
        self.entries = self.entries.saturating_sub(taken);
        (taken > 0).then_some((Work::ReplayLedgers(ranges), taken))
    }

    /// How many samples of the machine the trainer has been told of, if any wait here to go in or out.
    pub fn held(&self, machine: &MachineId) -> Option<u64> {
        let queue = self.queues.get(&self.key_of(machine))?;
        queue.ranges.iter().find(|range| range.machine == *machine).map(LedgerRange::held_before)
    }

    fn key_of(&self, machine: &MachineId) -> Key {
        if self.planted.has(Fault::TakesNoTurns) { Key::default() } else { machine.key }
    }

    /// Keys of which so much waits that no more should come, if they are others than before: those with more than an
    /// equal part of what may wait in all, until they have less than half of one.
    pub fn newly_full(&mut self) -> Option<&BTreeSet<Key>> {
        if self.entries < ENTRIES_PER_KEY_MIN && self.full.is_empty() {
            return None;
        }
        let most = (ENTRIES_MAX / self.queues.len().max(1) as u64).max(ENTRIES_PER_KEY_MIN);
        let is_full = |key: &Key, queue: &Queue| queue.entries > if self.full.contains(key) { most / 2 } else { most };
        let full = self.queues.iter().filter(|(key, queue)| is_full(key, queue)).map(|(key, _)| *key).collect();
        (full != self.full).then(|| {
            self.full = full;
            &self.full
        })
    }

    /// Whether nothing waits here.
    pub fn is_empty(&self) -> bool {
        self.works.is_empty() && self.turns.is_empty()
    }

    /// Samples of ledgers that wait here.
    pub fn entries(&self) -> u64 {
        self.entries
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(key: u8) -> MachineId {
        MachineId { key: [key; 32], incarnation: 1 }
    }

    fn range(key: u8, from: u64, to: u64) -> LedgerRange {
        LedgerRange { machine: machine(key), from, to, removed: false }
    }

    /// Hands out all that waits, to a trainer that takes it up at once.
    fn drain(backlog: &mut Backlog) -> Vec<Work> {
        std::iter::from_fn(|| {
            let work = backlog.hand_out();
            backlog.took();
            work
        })
        .collect()
    }

    fn samples(works: &[Work]) -> Vec<u64> {
        let of = |work: &Work| match work {
            Work::ReplayLedgers(ranges) => ranges.iter().map(LedgerRange::samples).sum(),
            _ => 0,
        };
        works.iter().map(of).collect()
    }

    #[test]
    fn ledgers_go_out_in_parts_of_bounded_size_behind_what_goals_ask_for() {
        let mut backlog = Backlog::default();
        backlog.push_range(range(1, 0, 10));
        backlog.push_range(range(1, 10, 20_000));
        backlog.push(Work::SwarmStep(3));
        backlog.push(Work::Checkpoint);
        assert_eq!((backlog.entries(), backlog.held(&machine(1)), backlog.held(&machine(2))), (20_000, Some(0), None));
        let works = drain(&mut backlog);
        assert_eq!(samples(&works), [0, 0, 8_192, 8_192, 3_616]);
        assert_eq!(works[..3], [Work::SwarmStep(3), Work::Checkpoint, Work::ReplayLedgers(vec![range(1, 0, 8_192)])]);
        assert_eq!((backlog.entries(), backlog.is_empty(), backlog.held(&machine(1))), (0, true, None));
    }

    #[test]
    fn a_machine_that_made_much_waits_behind_itself() {
        let mut backlog = Backlog::default();
        backlog.push_range(range(1, 0, 1_000_000));
        (0..3).for_each(|part| backlog.push_range(range(2, 100 * part, 100 * part + 100)));
        backlog.push_range(range(3, 0, 5_000));
        let Some(Work::ReplayLedgers(ranges)) = backlog.hand_out() else { panic!("there is work") };
        assert_eq!(ranges[..3], [range(1, 0, 256), range(2, 0, 256), range(3, 0, 256)]);
        let of = |key: u8| ranges.iter().filter(|range| range.machine == machine(key)).map(LedgerRange::samples).sum();
        let (one, two, three): (u64, u64, u64) = (of(1), of(2), of(3));
        assert_eq!((one + two + three, two), (ENTRIES_PER_WORK, 300), "of the second there is no more");
        assert!(one.abs_diff(three) <= ENTRIES_PER_TURN, "{one} {three}");
        assert_eq!(backlog.held(&machine(1)), Some(one));
    }

    #[test]
    fn what_goes_out_goes_from_the_top_so_that_a_beginning_is_held() {
        let mut backlog = Backlog::default();
        backlog.push_range(range(1, 5, 20_000));
        backlog.push_range(LedgerRange { removed: true, ..range(1, 100, 20_000) });
        let mut held = 5;
        let mut went_down = 0;
        while let Some(Work::ReplayLedgers(ranges)) = backlog.hand_out() {
            backlog.took();
            for range in ranges {
                assert_eq!(range.held_before(), held, "{range:?}");
                held = if range.removed { range.from } else { range.to };
                went_down += u32::from(range.removed);
            }
            assert_eq!(backlog.held(&machine(1)).unwrap_or(held), held);
        }
        assert!(held == 100 && went_down > 1);
    }

    #[test]
    fn a_key_with_more_than_its_part_is_full_until_it_has_less_than_half_of_one() {
        let mut backlog = Backlog::default();
        backlog.push_range(range(1, 0, ENTRIES_MAX / 2 + 1));
        assert_eq!(backlog.newly_full(), None, "alone it may have all");
        backlog.push_range(range(2, 0, 1_000_000));
        let both = BTreeSet::from([[1; 32], [2; 32]]);
        assert_eq!(backlog.newly_full(), Some(&both));
        assert_eq!(backlog.newly_full(), None, "nothing has changed");
        let mut works = 0;
        while backlog.newly_full() != Some(&BTreeSet::from([[2; 32]])) {
            assert!(backlog.hand_out().is_some());
            backlog.took();
            works += 1;
        }
        assert!(works > 32, "{works} works of 8,192 samples, half of them of each");
        while backlog.newly_full() != Some(&BTreeSet::new()) {
            assert!(backlog.hand_out().is_some());
            backlog.took();
        }
        assert!(backlog.entries() > 0);
    }

    #[test]
    fn the_trainer_holds_no_more_than_it_has_room_for() {
        let mut backlog = Backlog::default();
        (0..100).for_each(|step| backlog.push(Work::SwarmStep(step)));
        assert_eq!(std::iter::from_fn(|| backlog.hand_out()).count(), WORKS_MAX);
        backlog.took();
        assert_eq!(backlog.hand_out(), Some(Work::SwarmStep(WORKS_MAX as u64)));
        assert_eq!(backlog.hand_out(), None);
    }

    #[test]
    fn what_goals_ask_for_overtakes_ledgers_that_wait_and_waits_behind_few() {
        let mut backlog = Backlog::default();
        backlog.push_range(range(1, 0, 100_000));
        assert!(backlog.hand_out().is_some());
        assert_eq!(backlog.hand_out(), None, "one work of this size is enough");
        backlog.push(Work::Train { until_sample: 5 });
        assert_eq!(backlog.hand_out(), Some(Work::Train { until_sample: 5 }));
        backlog.took();
        assert!(matches!(backlog.hand_out(), Some(Work::ReplayLedgers(_))));
    }
}
