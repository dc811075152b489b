//! What a node's journal says about its log: when samples came, which revocations were known, what the weights' digest
//! was.

use anyhow::Result;
use protocol::{machine::MachineId, replica::Replica};
use std::{collections::HashMap, path::Path};

use crate::watch::journal::{self, FullNames, Heights, Line, Point};

/// Over which time a machine's present rate is taken.
const RATE_MS: u64 = 60_000;

/// A journal that was read.
#[derive(Default, Debug)]
pub struct Journal {
    /// Per machine: (number of the look, height), in order.
    grown: HashMap<String, Vec<(usize, u64)>>,
    /// When the node looked at its ledgers, Unix ms, in order.
    looks: Vec<u64>,
    /// Machine, Unix ms, the first sample that counted no longer from then on.
    revoked: Vec<(String, u64, u64)>,
    /// Unix ms, weights' digest (hexadecimal), what they held.
    weights: Vec<(u64, String, Heights)>,
    points: Vec<Point>,
    /// Lines that could not be read: what a crash cut off.
    pub unreadable: usize,
}

impl Journal {
    /// The journal in the directory `state`, of a run whose ledgers `replica` holds; None if there is none.
    pub fn read(state: &Path, replica: &Replica) -> Result<Option<Self>> {
        Self::with_names(state, &FullNames::of(replica))
    }

    /// Likewise, with what `names` says of the machines that older journals name.
    pub fn with_names(state: &Path, names: &FullNames) -> Result<Option<Self>> {
        let mut journal = Self::default();
        let mut times = Vec::new();
        let unreadable = journal::visit(state, names, |mut line| {
            // The line's number, until all times are known.
            times.push(std::mem::replace(line.at_ms_mut(), times.len() as u64));
            match line {
                Line::Heights { at_ms, heights } => {
                    let look = journal.looks.len();
                    journal.looks.push(at_ms);
                    for (machine, height) in heights {
                        journal.grown.entry(machine).or_default().push((look, height));
                    }
                }
                Line::Revoked { at_ms, machine, from, .. } => journal.revoked.push((machine, at_ms, from)),
                Line::Weights { at_ms, weights, heights } => journal.weights.push((at_ms, weights, heights)),
                Line::Point(point) => {
                    journal.weights.push((point.at_ms, point.weights.clone(), point.heights.clone()));
                    journal.points.push(point);
                }
            }
        })?;
        let times = in_order(&times);
        journal.each_time(|time| *time = times[*time as usize]);
        Ok(unreadable.map(|unreadable| Self { unreadable, ..journal }))
    }

    fn each_time(&mut self, change: impl FnMut(&mut u64)) {
        let revoked = self.revoked.iter_mut().map(|(_, at, _)| at);
        let weights = self.weights.iter_mut().map(|(at, ..)| at);
        let points = self.points.iter_mut().map(|point| &mut point.at_ms);
        self.looks.iter_mut().chain(revoked).chain(weights).chain(points).for_each(change);
    }

    /// When the node first looked, Unix ms.
    pub fn begun(&self) -> Option<u64> {
        self.looks.first().copied()
    }

    /// Per machine, by its name: (Unix ms, height), in order.
    pub fn curves(&self) -> impl Iterator<Item = (&str, Vec<(u64, u64)>)> {
        self.grown.iter().map(move |(machine, grown)| (machine.as_str(), self.timed(grown).collect()))
    }

    /// (Unix ms, height) of the machine, in order.
    fn of(&self, machine: &MachineId) -> impl DoubleEndedIterator<Item = (u64, u64)> {
        self.timed(self.grown.get(&format!("{machine:#}")).map(Vec::as_slice).unwrap_or_default())
    }

    fn timed<'a>(&'a self, grown: &'a [(usize, u64)]) -> impl DoubleEndedIterator<Item = (u64, u64)> + 'a {
        grown.iter().map(move |(look, height)| (self.looks[*look], *height))
    }

    /// When this node had `sample`, Unix ms: (the last time it had not yet, the first time it had).
    pub fn came(&self, machine: &MachineId, sample: u64) -> Option<(Option<u64>, u64)> {
        let (by, _) = self.of(machine).find(|(_, height)| *height > sample)?;
        let before = self.looks.iter().rev().find(|look| **look < by);
        Some((before.copied(), by))
    }

    /// When the machine's ledger last grew here, Unix ms.
    pub fn last_seen(&self, machine: &MachineId) -> Option<u64> {
        self.of(machine).next_back().map(|(at, _)| at)
    }

    /// Gradients a second over the machine's last minute; None if the journal is too short to say.
    pub fn rate(&self, machine: &MachineId) -> Option<f64> {
        let (end, height) = self.of(machine).next_back()?;
        let (begin, from) = self.of(machine).find(|(at, _)| at + RATE_MS >= end)?;
        (end > begin).then(|| height.saturating_sub(from) as f64 * 1e3 / (end - begin) as f64)
    }

    /// The first sample of the machine that did not count as far as this node knew at `at_ms`; `u64::MAX` if all did.
    pub fn floor(&self, machine: &MachineId, at_ms: u64) -> u64 {
        let name = format!("{machine:#}");
        let known = self.revoked.iter().filter(|(revoked, at, _)| *revoked == name && *at <= at_ms);
        known.map(|(.., from)| *from).min().unwrap_or(u64::MAX)
    }

    /// When this node first had the first `heights` of every machine, Unix ms.
    pub fn reached(&self, heights: &[(MachineId, u64)]) -> Option<u64> {
        let when = |(machine, height): &(MachineId, u64)| match height {
            0 => Some(0),
            height => self.came(machine, height - 1).map(|(_, at)| at),
        };
        heights.iter().map(when).try_fold(0, |latest, at| Some(latest.max(at?)))
    }

    /// What the node held when it last looked before it held more than so many gradients.
    fn held_at_most(&self, gradients: u64) -> Option<Heights> {
        self.held_while(|_, heights| sum(heights) <= gradients)
    }

    /// The most that is written down and is no more than so many gradients: of what the ledgers held at a look, and of
    /// what weights held whose digest is known.
    pub fn recorded_at_most(&self, gradients: u64) -> Option<Heights> {
        let weights = self.weights.iter().map(|(.., heights)| heights).filter(|heights| sum(heights) <= gradients);
        weights.cloned().chain(self.held_at_most(gradients)).max_by_key(sum)
    }

    /// The least that is written down and is more than so many gradients.
    pub fn recorded_above(&self, gradients: u64) -> Option<u64> {
        let grown = self.by_look();
        let mut held: HashMap<&String, u64> = HashMap::new();
        let looks = grown.chunk_by(|one, other| one.0 == other.0).map(|look| {
            held.extend(look.iter().map(|(_, machine, height)| (*machine, *height)));
            held.values().sum::<u64>()
        });
        let weights = self.weights.iter().map(|(.., heights)| sum(heights));
        looks.chain(weights).filter(|recorded| *recorded > gradients).min()
    }

    /// What the node held when it last looked by then, Unix ms.
    pub fn held_by(&self, at_ms: u64) -> Option<Heights> {
        self.held_while(|at, _| at <= at_ms)
    }

    /// (number of the look, machine, height), in order.
    fn by_look(&self) -> Vec<(usize, &String, u64)> {
        let mut grown: Vec<(usize, &String, u64)> = Vec::new();
        for (machine, heights) in &self.grown {
            grown.extend(heights.iter().map(|(look, height)| (*look, machine, *height)));
        }
        grown.sort_unstable();
        grown
    }

    /// What it held at the last of its looks up to which `holds` is so.
    fn held_while(&self, holds: impl Fn(u64, &Heights) -> bool) -> Option<Heights> {
        let grown = self.by_look();
        let came = |look: usize| grown.partition_point(|(at, ..)| *at <= look);
        let named = |(_, machine, height): &(usize, &String, u64)| ((*machine).clone(), *height);
        let (mut held, mut known, mut last) = (Heights::default(), 0, None);
        for (look, at_ms) in self.looks.iter().enumerate() {
            held.extend(grown[known..came(look)].iter().map(named));
            known = came(look);
            if !holds(*at_ms, &held) {
                break;
            }
            last = Some(look);
        }
        last.map(|last| grown[..came(last)].iter().map(named).collect())
    }

    /// (Unix ms, weights' digest, what they held), in order.
    pub fn weights(&self) -> &[(u64, String, Heights)] {
        &self.weights
    }

    /// Looks at the held-out text, in order.
    pub fn points(&self) -> &[Point] {
        &self.points
    }
}

fn sum(heights: &Heights) -> u64 {
    heights.values().sum()
}

/// Times of lines that were written one after the other, by a clock that may have been set meanwhile. Those in the
/// longest part that never falls are taken for right, whether the clock was ahead or behind in the rest, of which each
/// gets the time before it.
fn in_order(times: &[u64]) -> Vec<u64> {
    // Of the parts of each length, the number of the last line of the one that ends earliest; for each line, the one
    // before it in the longest part that ends with it.
    let (mut ends, mut before): (Vec<usize>, Vec<Option<usize>>) = (Vec::new(), Vec::new());
    for (number, time) in times.iter().enumerate() {
        let length = ends.partition_point(|end| times[*end] <= *time);
        before.push(length.checked_sub(1).map(|shorter| ends[shorter]));
        match ends.get_mut(length) {
            Some(end) => *end = number,
            None => ends.push(number),
        }
    }
    let mut is_right = vec![false; times.len()];
    let mut now_ms = 0;
    for number in std::iter::successors(ends.last().copied(), |number| before[*number]) {
        (is_right[number], now_ms) = (true, times[number]);
    }
    // From here on `now_ms` goes forth, from the first that is right.
    let ordered = times.iter().zip(is_right).map(|(time, is_right)| {
        if is_right {
            now_ms = *time;
        }
        now_ms
    });
    ordered.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_was_wrong_for_a_while_spoils_only_the_times_of_that_while() {
        assert_eq!(in_order(&[10, 20, 20, 30]), [10, 20, 20, 30]);
        assert_eq!(in_order(&[10, 20, 900, 910, 30, 40, 50]), [10, 20, 20, 20, 30, 40, 50], "it was ahead");
        assert_eq!(in_order(&[10, 20, 25, 1, 2, 30]), [10, 20, 25, 25, 25, 30], "it was behind");
        assert_eq!(in_order(&[900, 1, 2, 3]), [1, 1, 2, 3], "it was ahead at first");
        assert_eq!(in_order(&[]), [0; 0]);
    }

    #[test]
    fn what_was_withdrawn_counts_from_when_it_was_known_and_as_far_as_it_was() {
        let machine = MachineId { key: [7; 32], incarnation: 1 };
        let revoked =
            vec![(format!("{machine:#}"), 20, 120), ("another".into(), 25, 0), (format!("{machine:#}"), 30, 50)];
        let journal = Journal { revoked, ..Journal::default() };
        let floors = [19, 20, 29, 30, 99].map(|at| journal.floor(&machine, at));
        assert_eq!(floors, [u64::MAX, 120, 120, 50, 50]);
        assert_eq!(journal.floor(&MachineId { incarnation: 2 << 48, ..machine }, 99), u64::MAX);
    }

    #[test]
    fn what_a_node_held_is_found_by_gradients_and_by_time() {
        let grown = HashMap::from([("a".to_owned(), vec![(1, 3), (3, 9)]), ("b".to_owned(), vec![(2, 4), (3, 5)])]);
        let journal = Journal { grown, looks: vec![0, 10, 20, 30], ..Journal::default() };
        let heights = |a: u64, b: u64| {
            let both = [("a".to_owned(), a), ("b".to_owned(), b)];
            Some(both.into_iter().filter(|(_, height)| *height > 0).collect::<Heights>())
        };
        assert_eq!(journal.held_at_most(0), heights(0, 0));
        assert_eq!(journal.held_at_most(6), heights(3, 0));
        assert_eq!(journal.held_at_most(7), heights(3, 4));
        assert_eq!(journal.held_at_most(13), heights(3, 4), "nine and four it never held at once");
        assert_eq!(journal.held_at_most(100), heights(9, 5));
        // A joiner's look at the held-out text, at weights that had less than had come.
        let weights = vec![(25, "digest".to_owned(), heights(2, 0).unwrap())];
        let journal = Journal { weights, ..journal };
        let recorded = [1, 2, 6, 13, 100].map(|gradients| journal.recorded_at_most(gradients));
        assert_eq!(recorded, [heights(0, 0), heights(2, 0), heights(3, 0), heights(3, 4), heights(9, 5)]);
        let above = [0, 2, 7, 13, 14].map(|gradients| journal.recorded_above(gradients));
        assert_eq!(above, [Some(2), Some(3), Some(14), Some(14), None]);
        assert_eq!(journal.held_by(29), heights(3, 4));
        assert_eq!(journal.held_by(1_000), heights(9, 5));
        assert_eq!(Journal { looks: vec![5], ..Journal::default() }.held_by(4), None);
        // While the clock is wrong, all looks get one time.
        let journal = Journal { looks: vec![10; 4], ..journal };
        assert_eq!((journal.held_at_most(7), journal.held_by(10)), (heights(3, 4), heights(9, 5)));
    }
}
