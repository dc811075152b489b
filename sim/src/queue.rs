//! The event queue: by virtual time, and among equal times first come, first served.

use std::{
    cmp::Ordering,
    collections::{BTreeMap, BinaryHeap},
};

/// Virtual time since the run began, microseconds.
pub type Micros = u64;

struct Scheduled<E> {
    at: Micros,
    number: u64,
    event: E,
}

impl<E> PartialEq for Scheduled<E> {
    fn eq(&self, other: &Self) -> bool {
        self.number == other.number
    }
}

impl<E> Eq for Scheduled<E> {}

impl<E> PartialOrd for Scheduled<E> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<E> Ord for Scheduled<E> {
    /// The heap's largest is the earliest.
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at, other.number).cmp(&(self.at, self.number))
    }
}

/// Width of a bucket, as a power of two of microseconds.
const BUCKET_LOG2: u32 = 8;

/// Events in one block of a bucket.
const BLOCK: usize = 32;

/// Events to come: those of the next quarter of a millisecond in a heap, the others unsorted by the quarter they are
/// in. With a million events waiting, one large heap would miss the cache at every step. Buckets are made of equal
/// blocks, which are used again: no memory is lost to buckets that once were large.
pub struct Queue<E> {
    current: BinaryHeap<Scheduled<E>>,
    /// Events at or after this bucket are in `later`.
    bucket: u64,
    later: BTreeMap<u64, Vec<Vec<Scheduled<E>>>>,
    /// Emptied blocks.
    spare: Vec<Vec<Scheduled<E>>>,
    now: Micros,
    numbered: u64,
}

impl<E> Default for Queue<E> {
    fn default() -> Self {
        let (current, later, spare) = (BinaryHeap::new(), BTreeMap::new(), Vec::new());
        Self { current, bucket: 0, later, spare, now: 0, numbered: 0 }
    }
}

impl<E> Queue<E> {
    /// The time of the last event that was taken.
    pub fn now(&self) -> Micros {
        self.now
    }

    /// Lets `event` happen at `at`, or now if that is past.
    pub fn schedule(&mut self, at: Micros, event: E) {
        let at = at.max(self.now);
        let scheduled = Scheduled { at, number: self.numbered, event };
        self.numbered += 1;
        let bucket = at >> BUCKET_LOG2;
        if bucket < self.bucket {
            self.current.push(scheduled);
        } else {
            let blocks = self.later.entry(bucket).or_default();
            match blocks.last_mut().filter(|block| block.len() < BLOCK) {
                Some(block) => block.push(scheduled),
                None => {
                    let mut block = self.spare.pop().unwrap_or_else(|| Vec::with_capacity(BLOCK));
                    block.push(scheduled);
                    blocks.push(block);
                }
            }
        }
    }

    /// The next event; the clock goes to its time.
    pub fn take(&mut self) -> Option<E> {
        if self.current.is_empty() {
            let (bucket, blocks) = self.later.pop_first()?;
            self.bucket = bucket + 1;
            for mut block in blocks {
                self.current.extend(block.drain(..));
                self.spare.push(block);
            }
        }
        let Scheduled { at, event, .. } = self.current.pop()?;
        self.now = at;
        Some(event)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_come_in_order_of_time_and_then_of_scheduling() {
        let mut queue = Queue::default();
        for (at, event) in [(5, 'c'), (1, 'a'), (5, 'd'), (2, 'b')] {
            queue.schedule(at, event);
        }
        let order: Vec<char> = std::iter::from_fn(|| queue.take()).collect();
        assert_eq!(order, ['a', 'b', 'c', 'd']);
        assert_eq!(queue.now(), 5);
    }

    #[test]
    fn buckets_change_nothing() {
        let mut queue = Queue::default();
        let mut expected: Vec<(Micros, usize)> = Vec::new();
        for index in 0..2_000usize {
            let at = (index * 7919 % 5_000) as Micros;
            queue.schedule(at, index);
            expected.push((at, index));
        }
        expected.sort_unstable();
        for (at, index) in expected {
            assert_eq!((queue.take(), queue.now()), (Some(index), at));
        }
        assert_eq!(queue.take(), None);
    }

    #[test]
    fn nothing_happens_in_the_past() {
        let mut queue = Queue::default();
        queue.schedule(10, 'a');
        queue.take();
        queue.schedule(3, 'b');
        assert_eq!((queue.take(), queue.now()), (Some('b'), 10));
    }
}
