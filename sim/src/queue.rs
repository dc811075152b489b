//! The event queue: by virtual time, and among equal times first come, first served.

use std::{cmp::Ordering, collections::BinaryHeap};

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

/// Events to come.
pub struct Queue<E> {
    heap: BinaryHeap<Scheduled<E>>,
    now: Micros,
    numbered: u64,
}

impl<E> Default for Queue<E> {
    fn default() -> Self {
        Self { heap: BinaryHeap::new(), now: 0, numbered: 0 }
    }
}

impl<E> Queue<E> {
    /// The time of the last event that was taken.
    pub fn now(&self) -> Micros {
        self.now
    }

    /// Events taken or waiting so far.
    pub fn numbered(&self) -> u64 {
        self.numbered
    }

    /// Events that wait.
    pub fn len(&self) -> usize {
        self.heap.len()
    }

    /// Whether nothing will happen any more.
    pub fn is_empty(&self) -> bool {
        self.heap.is_empty()
    }

    /// Lets `event` happen at `at`, or now if that is past.
    pub fn schedule(&mut self, at: Micros, event: E) {
        let number = self.numbered;
        self.numbered += 1;
        self.heap.push(Scheduled { at: at.max(self.now), number, event });
    }

    /// The next event; the clock goes to its time.
    pub fn take(&mut self) -> Option<E> {
        let Scheduled { at, event, .. } = self.heap.pop()?;
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
    fn nothing_happens_in_the_past() {
        let mut queue = Queue::default();
        queue.schedule(10, 'a');
        queue.take();
        queue.schedule(3, 'b');
        assert_eq!((queue.take(), queue.now()), (Some('b'), 10));
    }
}
