//! Work that waits for the trainer.

use protocol::replica::LedgerRange;
use std::collections::VecDeque;

use crate::Work;

/// Works that the trainer may hold.
pub const WORKS_MAX: usize = 64;
/// Entries are handed out in works of about this size.
const ENTRIES_PER_WORK: u64 = 8_192;

/// First in, first out. Ranges of ledgers are spelled out only when the trainer takes them up: taking out a ledger of a
/// billion samples costs time, not memory.
#[derive(Default)]
pub struct Backlog {
    works: VecDeque<Work>,
    /// Handed out, not taken up yet.
    handed_out: usize,
    /// Entries in `works`.
    entries: u64,
}

fn entries_of(work: &Work) -> u64 {
    match work {
        Work::Replay(entries) => entries.len() as u64,
        Work::ReplayLedgers(ranges) => ranges.iter().map(LedgerRange::samples).sum(),
        _ => 0,
    }
}

impl Backlog {
    /// Appends.
    pub fn push(&mut self, work: Work) {
        self.entries = self.entries.saturating_add(entries_of(&work));
        self.works.push_back(work);
    }

    /// Appends samples of a ledger.
    pub fn push_range(&mut self, range: LedgerRange) {
        self.entries = self.entries.saturating_add(range.samples());
        match self.works.back_mut() {
            Some(Work::ReplayLedgers(ranges)) => ranges.push(range),
            _ => self.works.push_back(Work::ReplayLedgers(vec![range])),
        }
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
        self.handed_out = self.handed_out.saturating_sub(1);
    }

    /// The next work, if there is one and the trainer has room.
    pub fn hand_out(&mut self) -> Option<Work> {
        if self.handed_out >= WORKS_MAX {
            return None;
        }
        let mut work = self.works.pop_front()?;
        if let Work::ReplayLedgers(ranges) = &mut work
            && let Some(rest) = split_off(ranges)
        {
            self.works.push_front(Work::ReplayLedgers(rest));
        }
        self.entries = self.entries.saturating_sub(entries_of(&work));
        self.handed_out += 1;
        Some(work)
    }

    /// Whether nothing waits here.
    pub fn is_empty(&self) -> bool {
        self.works.is_empty()
    }

    /// Entries that wait here.
    pub fn entries(&self) -> u64 {
        self.entries
    }
}

/// Shortens `ranges` to one work's entries; returns what is beyond.
fn split_off(ranges: &mut Vec<LedgerRange>) -> Option<Vec<LedgerRange>> {
    let mut room = ENTRIES_PER_WORK;
    for index in 0..ranges.len() {
        let samples = ranges[index].samples();
        if samples > room {
            let mut rest = ranges.split_off(index);
            let first = rest[0].take_first(room);
            if first.samples() > 0 {
                ranges.push(first);
            }
            return Some(rest);
        }
        room -= samples;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::machine::MachineId;

    fn range(from: u64, to: u64) -> LedgerRange {
        LedgerRange { machine: MachineId { key: [1; 32], incarnation: 1 }, from, to, removed: false }
    }

    fn drain(backlog: &mut Backlog) -> Vec<Work> {
        std::iter::from_fn(|| {
            let work = backlog.hand_out();
            backlog.took();
            work
        })
        .collect()
    }

    #[test]
    fn ranges_go_out_in_order_and_in_parts_of_bounded_size() {
        let mut backlog = Backlog::default();
        backlog.push_range(range(0, 10));
        backlog.push_range(range(0, 20_000));
        backlog.push(Work::SwarmStep(3));
        backlog.push_range(range(10, 11));
        assert_eq!(backlog.entries(), 20_011);
        let works = drain(&mut backlog);
        let sizes: Vec<u64> = works.iter().map(entries_of).collect();
        assert_eq!(sizes, [8_192, 8_192, 3_626, 0, 1]);
        assert_eq!(works[0], Work::ReplayLedgers(vec![range(0, 10), range(0, 8_182)]));
        assert_eq!(works[3], Work::SwarmStep(3));
        assert_eq!((backlog.entries(), backlog.is_empty()), (0, true));
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
}
