//! Sums of ledgers, shared by all machines of a simulation.
//!
//! What samples 0..h of one ledger add to the weights is the same on every machine, so it is added up once. A machine
//! that takes samples a..b moves its weights by sum(b) − sum(a): in a group, that is what replaying them one by one
//! gives. That this memory is right is checked at the end of every run, from the base and without it.

use protocol::{
    machine::MachineId,
    replay::Contribution,
    replica::{LedgerRange, Replica},
    segment::Digest,
};
use std::{collections::HashMap, rc::Rc};

/// Elements at which the memory is emptied, 4 bytes each.
const ELEMENTS_MAX: usize = 128 << 20;

/// A history: the digest of the segment that holds sample `height − 1` names everything before it.
type Name = (Digest, u64);

struct Prefix {
    parent: Option<Name>,
    quanta: Rc<[i32]>,
}

/// See the module's documentation.
pub struct Prefixes {
    elements: usize,
    zero: Rc<[i32]>,
    known: HashMap<Name, Prefix>,
    /// The newest prefix of each ledger: where the next one starts from.
    latest: HashMap<MachineId, Name>,
}

impl Prefixes {
    /// For weights of so many elements in all.
    pub fn new(elements: usize) -> Self {
        Self { elements, zero: vec![0; elements].into(), known: HashMap::new(), latest: HashMap::new() }
    }

    /// The sums whose difference is what `range` adds: (up to its end, up to its start). `spell_out` adds entries up.
    pub fn ends(
        &mut self,
        replica: &Replica,
        range: &LedgerRange,
        spell_out: &dyn Fn(&[Contribution]) -> Vec<i32>,
    ) -> (Rc<[i32]>, Rc<[i32]>) {
        let Some(to) = self.prefix(replica, range.machine, range.to, spell_out) else {
            return (self.zero.clone(), self.zero.clone());
        };
        let mut name = Some(to);
        while let Some((digest, height)) = name.filter(|(_, height)| *height > range.from) {
            name = self.known.get(&(digest, height)).and_then(|prefix| prefix.parent);
        }
        let from = match name.filter(|(_, height)| *height == range.from) {
            Some(name) => Some(name),
            None => self.prefix(replica, range.machine, range.from, spell_out),
        };
        let quanta = |name: Option<Name>| {
            name.and_then(|name| self.known.get(&name)).map_or_else(|| self.zero.clone(), |p| p.quanta.clone())
        };
        (quanta(Some(to)), quanta(from))
    }

    /// Makes sure that the sum of the first `height` samples is known. None for no samples.
    fn prefix(
        &mut self,
        replica: &Replica,
        machine: MachineId,
        height: u64,
        spell_out: &dyn Fn(&[Contribution]) -> Vec<i32>,
    ) -> Option<Name> {
        let ledger = replica.ledger(&machine)?;
        let digest = ledger.digest_at(replica.run(), height).filter(|_| height > 0)?;
        let name = (digest, height);
        if self.known.contains_key(&name) {
            return Some(name);
        }
        if (self.known.len() + 1) * self.elements > ELEMENTS_MAX {
            self.known.clear();
            self.latest.clear();
        }
        let is_ancestor = |(digest, at): &Name| *at < height && ledger.digest_at(replica.run(), *at) == Some(*digest);
        let parent = self.latest.get(&machine).copied().filter(is_ancestor);
        let from = parent.map_or(0, |(_, at)| at);
        let entries = replica.contributions(&LedgerRange { machine, from, to: height, removed: false });
        let mut quanta = spell_out(&entries);
        if let Some(before) = parent.and_then(|parent| self.known.get(&parent)) {
            quanta.iter_mut().zip(before.quanta.iter()).for_each(|(sum, before)| *sum = sum.wrapping_add(*before));
        }
        self.known.insert(name, Prefix { parent, quanta: quanta.into() });
        self.latest.insert(machine, name);
        Some(name)
    }
}
