//! The machines that one is connected with.

use peer::liveness::Silence;

use crate::{event::Number, queue::Micros};

struct Neighbour {
    number: Number,
    /// The machine that relays all frames, if one does.
    relay: Option<Number>,
    /// When the last frame to it arrives: a stream keeps its order.
    last_arrival: Micros,
    silence: Silence,
}

/// Connected machines, in order of their numbers.
#[derive(Default)]
pub struct Neighbours(Vec<Neighbour>);

impl Neighbours {
    fn place(&self, number: Number) -> Result<usize, usize> {
        self.0.binary_search_by_key(&number, |neighbour| neighbour.number)
    }

    /// Whether it is connected.
    pub fn contains(&self, number: Number) -> bool {
        self.place(number).is_ok()
    }

    pub fn numbers(&self) -> impl Iterator<Item = Number> {
        self.0.iter().map(|neighbour| neighbour.number)
    }

    /// Each with the machine that relays for it, if one does.
    pub fn ways(&self) -> impl Iterator<Item = (Number, Option<Number>)> {
        self.0.iter().map(|neighbour| (neighbour.number, neighbour.relay))
    }

    /// Each with the time when the last frame to it arrives.
    pub fn last_arrivals(&self) -> impl Iterator<Item = (Number, Micros)> {
        self.0.iter().map(|neighbour| (neighbour.number, neighbour.last_arrival))
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn insert(&mut self, number: Number, relay: Option<Number>, silence: Silence) {
        if let Err(place) = self.place(number) {
            self.0.insert(place, Neighbour { number, relay, last_arrival: 0, silence });
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

    fn of(&mut self, number: Number) -> Option<&mut Neighbour> {
        let place = self.place(number).ok()?;
        self.0.get_mut(place)
    }

    /// The relay to a neighbour, if one is on the way, and when the last frame arrives there.
    pub(super) fn way_mut(&mut self, number: Number) -> Option<(Option<Number>, &mut Micros)> {
        self.of(number).map(|neighbour| (neighbour.relay, &mut neighbour.last_arrival))
    }

    /// Looks at a connection, over which something came since the last look, or not. True if its other end is gone.
    pub fn look(&mut self, number: Number, is_heard: bool) -> bool {
        self.of(number).is_some_and(|neighbour| match is_heard {
            true => {
                neighbour.silence.heard();
                false
            }
            false => neighbour.silence.look(),
        })
    }

    /// The machine slept.
    pub fn woke(&mut self) {
        self.0.iter_mut().for_each(|neighbour| neighbour.silence.woke());
    }
}
