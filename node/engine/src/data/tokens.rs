//! All token ids of a dataset, one after the other.

/// Token ids, two bytes each where the vocabulary allows it.
pub enum Tokens {
    Narrow(Vec<u16>),
    Wide(Vec<u32>),
}

impl Tokens {
    pub fn for_vocabulary(vocabulary: usize) -> Self {
        if vocabulary <= 1 << 16 { Self::Narrow(Vec::new()) } else { Self::Wide(Vec::new()) }
    }

    pub fn len(&self) -> usize {
        match self {
            Self::Narrow(ids) => ids.len(),
            Self::Wide(ids) => ids.len(),
        }
    }

    pub fn extend(&mut self, ids: &[u32]) {
        match self {
            // The tokenizer checked that ids are within the vocabulary.
            Self::Narrow(narrow) => narrow.extend(ids.iter().map(|id| *id as u16)),
            Self::Wide(wide) => wide.extend(ids),
        }
    }

    pub fn get(&self, index: usize) -> u32 {
        match self {
            Self::Narrow(ids) => u32::from(ids[index]),
            Self::Wide(ids) => ids[index],
        }
    }
}
