//! Windows of tokens: what a batch is made of.

/// Consecutive tokens, at most `sequence_length`, at least two.
#[derive(Clone, Copy, Debug)]
pub struct Window {
    pub start: usize,
    pub tokens: u32,
    /// Leading tokens that are given, not predicted; at least one.
    pub given: u32,
}

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

/// Windows and size of one part of the data.
#[derive(Default)]
pub struct Part {
    pub windows: Vec<Window>,
    pub tokens: u64,
    pub bytes: u64,
}

/// Whole windows of the stream from token `from` to `to`; what is left over at the end is not used.
pub fn stream_windows(from: usize, to: usize, sequence_length: usize) -> Vec<Window> {
    let starts = (from..to).step_by(sequence_length).filter(|start| start + sequence_length <= to);
    starts.map(|start| Window { start, tokens: sequence_length as u32, given: 1 }).collect()
}

/// The windows of one document of `tokens` tokens at `start`, the last one shorter. One token alone predicts nothing.
pub fn document_windows(start: usize, tokens: usize, sequence_length: usize) -> impl Iterator<Item = Window> {
    (start..start + tokens).step_by(sequence_length).filter_map(move |from| {
        let tokens = sequence_length.min(start + tokens - from);
        (tokens >= 2).then_some(Window { start: from, tokens: tokens as u32, given: 1 })
    })
}
