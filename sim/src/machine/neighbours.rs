//! The machines that one is connected with.

use crate::{event::Number, queue::Micros};

/// Connected machines, in order of their numbers, each with the time when the last frame to it arrives: a stream keeps
/// its order.
#[derive(Default)]
pub struct Neighbours(Vec<(Number, Micros)>);

impl Neighbours {
    fn place(&self, number: Number) -> Result<usize, usize> {
        self.0.binary_search_by_key(&number, |(number, _)| *number)
    }

    /// Whether it is connected.
    pub fn contains(&self, number: Number) -> bool {
        self.place(number).is_ok()
    }

    /// Their numbers.
    pub fn numbers(&self) -> impl Iterator<Item = Number> {
        self.0.iter().map(|(number, _)| *number)
    }

    /// Each with the time when the last frame to it arrives.
    pub fn last_arrivals(&self) -> impl Iterator<Item = (Number, Micros)> {
        self.0.iter().copied()
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn insert(&mut self, number: Number) {
        if let Err(place) = self.place(number) {
            self.0.insert(place, (number, 0));
        }
    }

    /// False if there was none.
    pub(super) fn remove(&mut self, number: Number) -> bool {
        let place = self.place(number);
        place.is_ok_and(|place| {
            self.0.remove(place);
            true
        })
    }

    pub(super) fn last_arrival_mut(&mut self, number: Number) -> Option<&mut Micros> {
        let place = self.place(number).ok()?;
        self.0.get_mut(place).map(|(_, last_arrival)| last_arrival)
    }
}
