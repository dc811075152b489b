//! What really happened, which no machine knows: for the checkers.

use peer::leave::Departure;
use protocol::{machine::MachineId, replica::OwnByte, segment::Chunk};
use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::{event::Number, queue::Micros};

/// What machines make is counted in windows of so long, ms.
pub const WINDOW_MS: u64 = 20_000;

/// Penalties that are remembered.
const PENALTIES_MAX: usize = 10_000;

/// A segment that a neighbour lost, or could not use before another, is fetched within this time, ms.
pub const TELLING_MS: u64 = 1_000;

/// A machine that left of its own accord.
#[derive(Clone, Copy, Debug)]
pub struct Leaver {
    pub number: Number,
    /// Its last incarnation.
    pub machine: MachineId,
    /// Own gradients that it had made under that.
    pub made: u64,
    /// Those of them that had been on its disk, and so on their way to others, for [`TELLING_MS`].
    pub told: u64,
    /// Whether it said that all of them are stored and told.
    pub is_clean: bool,
    /// Whether everyone could hear it: no partition was on.
    pub was_heard: bool,
}

/// A sample for which a machine signed another byte than before, after its disk had lost what it acknowledged.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SignedAgain {
    pub number: Number,
    /// Under which incarnation.
    pub machine: MachineId,
    pub sample: u64,
}

/// See the module's documentation.
#[derive(Default)]
pub struct Truth {
    /// Gradients that honest machines made.
    pub made: u64,
    /// When the last of them was made, virtual milliseconds.
    pub last_made_ms: u64,
    /// When each gradient was made, virtual milliseconds.
    births: HashMap<MachineId, Vec<u32>>,
    /// Whose incarnation is whose.
    pub owners: BTreeMap<MachineId, Number>,
    /// What honest machines' disks acknowledged.
    pub acknowledged: BTreeMap<MachineId, Vec<u8>>,
    /// When that was, virtual milliseconds: each time with the height of the ledger.
    acknowledged_at: HashMap<MachineId, Vec<(u64, u64)>>,
    /// Samples for which an honest machine signed two different bytes, though its disk had kept what it acknowledged.
    pub signed_twice: Vec<(MachineId, u64)>,
    /// The same, after its disk had lost what it acknowledged.
    pub signed_twice_after_loss: Vec<SignedAgain>,
    /// Those of them that all neighbours knew better.
    pub signed_against_better_knowledge: Vec<SignedAgain>,
    /// Of those after a loss, the first that nobody has looked into yet.
    pub unjudged: usize,
    /// Who left, and what it had made.
    pub leavers: Vec<Leaver>,
    /// Gradients begun beyond the goal: whose, under which incarnation, which sample.
    pub overdone: Vec<(Number, MachineId, u64)>,
    /// Gradients made, by machine.
    made_by: Vec<u64>,
    /// The same in each window of [`WINDOW_MS`].
    pub made_in: BTreeMap<Number, Vec<u64>>,
    /// Who made nothing for long though it was asked to: since when, and when that was seen, microseconds.
    pub starved: Vec<(Number, Micros, Micros)>,
    /// Keys of who breaks the rules on purpose.
    pub adversaries: BTreeSet<[u8; 32]>,
    /// Keys that the authority admitted.
    pub admitted: BTreeSet<[u8; 32]>,
    /// Keys that it withdrew, and the samples of each incarnation that stay.
    pub withdrawn: BTreeMap<[u8; 32], BTreeMap<u64, u64>>,
    /// Who was without a connection for longest though it could have had one, and how long.
    pub cut_off: Option<(Number, Micros)>,
    /// Who held what against whom.
    pub penalties: Vec<(Number, Number, String)>,
}

impl Truth {
    /// A gradient was made.
    pub fn made_at(&mut self, by: Number, own: &OwnByte, now_ms: u64, is_honest: bool) {
        let by = by as usize;
        if by >= self.made_by.len() {
            self.made_by.resize(by + 1, 0);
        }
        self.made_by[by] += 1;
        let (windows, window) = (self.made_in.entry(by as Number).or_default(), (now_ms / WINDOW_MS) as usize);
        windows.resize(windows.len().max(window + 1), 0);
        windows[window] += 1;
        let births = self.births.entry(own.machine).or_default();
        let index = own.sample as usize;
        if index == births.len() {
            births.push(now_ms as u32);
        } else if let Some(birth) = births.get_mut(index) {
            // Made again after a crash.
            *birth = now_ms as u32;
        }
        if is_honest {
            self.made += 1;
            self.last_made_ms = now_ms;
        }
    }

    /// Gradients that a machine made, those included that were lost since.
    pub fn made_by(&self, number: Number) -> u64 {
        self.made_by.get(number as usize).copied().unwrap_or_default()
    }

    /// A machine left of its own accord.
    pub fn left(&mut self, number: Number, machine: MachineId, departure: Departure, was_heard: bool, now_ms: u64) {
        let made = self.births.get(&machine).map_or(0, |births| births.len() as u64);
        let acknowledged = self.acknowledged_at.get(&machine).map_or(&[][..], Vec::as_slice);
        let told = acknowledged.iter().rev().find(|(at_ms, _)| at_ms + TELLING_MS <= now_ms);
        let (told, is_clean) = (told.map_or(0, |(_, height)| *height), departure == Departure::Clean);
        self.leavers.push(Leaver { number, machine, made, told, is_clean, was_heard });
    }

    /// When the samples `from..to` were made, as far as it is known.
    pub fn births(&self, machine: &MachineId, from: u64, to: u64) -> &[u32] {
        let births = self.births.get(machine).map_or(&[][..], |births| births);
        let end = births.len().min(to as usize);
        births.get((from as usize).min(end)..end).unwrap_or_default()
    }

    /// A disk acknowledged a segment of its machine's own ledger.
    pub fn acknowledged(&mut self, number: Number, chunk: &Chunk, lost_before: bool, now_ms: u64) {
        self.acknowledged_at.entry(chunk.machine).or_default().push((now_ms, chunk.end()));
        let known = self.acknowledged.entry(chunk.machine).or_default();
        for (sample, byte) in (chunk.first..).zip(&chunk.bytes) {
            match known.get_mut(sample as usize) {
                None => known.push(*byte),
                Some(before) if before != byte => {
                    *before = *byte;
                    let machine = chunk.machine;
                    match lost_before {
                        true => self.signed_twice_after_loss.push(SignedAgain { number, machine, sample }),
                        false => self.signed_twice.push((machine, sample)),
                    }
                }
                Some(_) => {}
            }
        }
    }

    /// A machine held something against another.
    pub fn penalized(&mut self, by: Number, whom: Number, reason: &str) {
        if self.penalties.len() < PENALTIES_MAX {
            self.penalties.push((by, whom, reason.to_owned()));
        }
    }
}
