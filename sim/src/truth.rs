//! What really happened, which no machine knows: for the checkers.

use protocol::{machine::MachineId, segment::Chunk};
use std::collections::{BTreeMap, HashMap};

use crate::event::Number;

/// Penalties that are remembered.
const PENALTIES_MAX: usize = 10_000;

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
    /// Samples for which an honest machine signed two different bytes, though its disk had kept what it acknowledged.
    pub signed_twice: Vec<(MachineId, u64)>,
    /// The same, after its disk had lost what it acknowledged.
    pub signed_twice_after_loss: Vec<(MachineId, u64)>,
    /// Who held what against whom.
    pub penalties: Vec<(Number, Number, String)>,
}

impl Truth {
    /// A gradient was made.
    pub fn made_at(&mut self, machine: MachineId, sample: u64, now_ms: u64, is_honest: bool) {
        let births = self.births.entry(machine).or_default();
        let index = sample as usize;
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

    /// When the samples `from..to` were made, as far as it is known.
    pub fn births(&self, machine: &MachineId, from: u64, to: u64) -> &[u32] {
        let births = self.births.get(machine).map_or(&[][..], |births| births);
        let end = births.len().min(to as usize);
        births.get((from as usize).min(end)..end).unwrap_or_default()
    }

    /// A disk acknowledged a segment of its machine's own ledger.
    pub fn acknowledged(&mut self, chunk: &Chunk, lost_before: bool) {
        let known = self.acknowledged.entry(chunk.machine).or_default();
        for (sample, byte) in (chunk.first..).zip(&chunk.bytes) {
            match known.get_mut(sample as usize) {
                None => known.push(*byte),
                Some(before) if before != byte => {
                    *before = *byte;
                    let list = if lost_before { &mut self.signed_twice_after_loss } else { &mut self.signed_twice };
                    list.push((chunk.machine, sample));
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
