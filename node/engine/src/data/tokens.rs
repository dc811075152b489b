//! All token ids of a dataset, one after the other, and which of them are only given.

/// Token ids, two bytes each where the vocabulary allows it.
pub struct Tokens {
    ids: Ids,
    /// A bit for each: set if it is never predicted. None for those at the end that all are.
    given: Vec<u64>,
}

enum Ids {
    Narrow(Vec<u16>),
    Wide(Vec<u32>),
}

impl Tokens {
    pub fn for_vocabulary(vocabulary: usize) -> Self {
        let ids = if vocabulary <= 1 << 16 { Ids::Narrow(Vec::new()) } else { Ids::Wide(Vec::new()) };
        Self { ids, given: Vec::new() }
    }

    pub fn len(&self) -> usize {
        match &self.ids {
            Ids::Narrow(ids) => ids.len(),
            Ids::Wide(ids) => ids.len(),
        }
    }

    pub fn extend(&mut self, ids: &[u32]) {
        match &mut self.ids {
            // The tokenizer checked that ids are within the vocabulary.
            Ids::Narrow(narrow) => narrow.extend(ids.iter().map(|id| *id as u16)),
            Ids::Wide(wide) => wide.extend(ids),
        }
    }

    /// Appends `ids`, of which those are to be learned that are marked so.
    pub fn extend_marked(&mut self, ids: &[u32], learned: &[bool]) {
        let first = self.len();
        self.extend(ids);
        self.given.resize(self.len().div_ceil(64), 0);
        for (at, _) in (first..).zip(learned).filter(|(_, learned)| !**learned) {
            self.given[at / 64] |= 1 << (at % 64);
        }
    }

    pub fn get(&self, index: usize) -> u32 {
        match &self.ids {
            Ids::Narrow(ids) => u32::from(ids[index]),
            Ids::Wide(ids) => ids[index],
        }
    }

    /// Whether token `index` is never predicted.
    pub fn is_given(&self, index: usize) -> bool {
        self.given.get(index / 64).is_some_and(|bits| bits >> (index % 64) & 1 == 1)
    }
}
