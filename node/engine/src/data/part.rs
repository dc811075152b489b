//! The rows of one part of the data.

use anyhow::Result;
use std::{
    collections::{HashMap, HashSet},
    ops::Range,
};

use super::{choices::Question, pack::Pack, prompts::Prompt, window::Window};

/// Tokens of a text that are enough to go on from.
const PROMPT_TOKENS: u32 = 24;

/// Rows of one form.
#[derive(Debug)]
pub enum Rows {
    Windows(Vec<Window>),
    Questions(Vec<Question>),
    Prompts(Vec<Prompt>),
}

impl Default for Rows {
    fn default() -> Self {
        Self::Windows(Vec::new())
    }
}

impl Rows {
    pub fn len(&self) -> usize {
        match self {
            Self::Windows(windows) => windows.len(),
            Self::Questions(questions) => questions.len(),
            Self::Prompts(prompts) => prompts.len(),
        }
    }

    /// Tokens that a forward of row `index` sees, or that a look at it counts for.
    pub fn cost(&self, index: usize, sequence_length: usize) -> usize {
        match self {
            Self::Windows(windows) => windows[index].cost(),
            Self::Questions(questions) => questions[index].cost(),
            Self::Prompts(prompts) => prompts[index].cost(sequence_length),
        }
    }

    /// Tokens that a look at row `index` begins with: what is given, of a text its beginning.
    pub fn prompt(&self, index: usize) -> Range<usize> {
        match self {
            Self::Windows(windows) => {
                let Window { start, tokens, given } = windows[index];
                let beginning = if given > 1 { given } else { (tokens / 2).clamp(1, PROMPT_TOKENS) };
                start..start + beginning as usize
            }
            Self::Questions(questions) => {
                questions[index].start..questions[index].start + questions[index].prompt as usize
            }
            Self::Prompts(prompts) => prompts[index].start..prompts[index].start + prompts[index].tokens as usize,
        }
    }

    /// Adds row `index`, whose completion, if it asks for one, draws with the seed `draw`.
    pub fn pack(&self, index: usize, draw: u64, pack: &mut Pack<'_>) -> Result<()> {
        match self {
            Self::Windows(windows) => windows[index].pack(pack),
            Self::Questions(questions) => questions[index].pack(pack),
            Self::Prompts(prompts) => prompts[index].pack(draw, pack),
        }
    }

    /// Appends `other`, of the same form.
    pub fn append(&mut self, other: Self) {
        match (&mut *self, other) {
            (Self::Windows(windows), Self::Windows(others)) => windows.extend(others),
            (Self::Questions(questions), Self::Questions(others)) => questions.extend(others),
            (Self::Prompts(prompts), Self::Prompts(others)) => prompts.extend(others),
            (rows, other) if rows.len() == 0 => *rows = other,
            _ => {}
        }
    }

    /// Those with an index in `ranges`.
    fn select(&self, ranges: &[Range<usize>]) -> Self {
        match self {
            Self::Windows(all) => Self::Windows(selected(all, ranges)),
            Self::Questions(all) => Self::Questions(selected(all, ranges)),
            Self::Prompts(all) => Self::Prompts(selected(all, ranges)),
        }
    }
}

fn selected<T: Clone>(all: &[T], ranges: &[Range<usize>]) -> Vec<T> {
    ranges.iter().flat_map(|range| all[range.clone()].iter().cloned()).collect()
}

/// Rows and size of one part of the data.
#[derive(Default, Debug)]
pub struct Part {
    pub rows: Rows,
    /// Tokens that are predicted, or of the whole text.
    pub tokens: u64,
    /// Bytes of the same.
    pub bytes: u64,
}

impl Part {
    pub fn append(&mut self, other: Self) {
        self.rows.append(other.rows);
        self.tokens += other.tokens;
        self.bytes += other.bytes;
    }
}

/// Documents in the order in which they were read, each with rows of its own.
#[derive(Default)]
pub struct Documents {
    all: Part,
    marks: Vec<Mark>,
}

struct Mark {
    /// Rows up to the end of this document.
    rows: usize,
    tokens: u64,
    bytes: u64,
    /// Of its tokens: equal for equal documents.
    digest: u64,
}

impl Documents {
    pub fn len(&self) -> usize {
        self.marks.len()
    }

    pub fn rows(&self) -> &Rows {
        &self.all.rows
    }

    pub fn push(&mut self, part: Part, digest: u64) {
        let (tokens, bytes) = (part.tokens, part.bytes);
        self.all.append(part);
        self.marks.push(Mark { rows: self.all.rows.len(), tokens, bytes, digest });
    }

    /// What is trained on, and the last `held_out` of the documents; equal documents stay together on either side.
    /// Where that leaves nothing to hold out, all being equal, the last ones are, in spite of it.
    pub fn split(self, held_out: f64) -> Split {
        let (count, wanted) = (self.marks.len(), (self.marks.len() as f64 * held_out).floor() as usize);
        if wanted == 0 {
            return Split { train: self.all, ..Split::default() };
        }
        let mut copies: HashMap<u64, usize> = HashMap::new();
        self.marks.iter().for_each(|mark| *copies.entry(mark.digest).or_default() += 1);
        let (mut held, mut chosen) = (0, HashSet::new());
        for mark in self.marks.iter().rev() {
            let own = copies[&mark.digest];
            if held + own <= wanted && chosen.insert(mark.digest) {
                held += own;
            }
        }
        let all_equal = held == 0;
        let is_held = |(index, mark): (usize, &Mark)| match all_equal {
            true => index >= count - wanted,
            false => chosen.contains(&mark.digest),
        };
        let (mut ranges, mut parts, mut first) = ([Vec::new(), Vec::new()], [Part::default(), Part::default()], 0);
        for (index, mark) in self.marks.iter().enumerate() {
            let side = usize::from(is_held((index, mark)));
            ranges[side].push(first..mark.rows);
            parts[side].tokens += mark.tokens;
            parts[side].bytes += mark.bytes;
            first = mark.rows;
        }
        let [mut train, mut eval] = parts;
        let held = ranges[1].len() as u64;
        train.rows = self.all.rows.select(&ranges[0]);
        eval.rows = self.all.rows.select(&ranges[1]);
        Split { train, eval, held, all_equal }
    }
}

/// Documents in two parts.
#[derive(Default)]
pub struct Split {
    pub train: Part,
    pub eval: Part,
    /// Documents that are held out.
    pub held: u64,
    /// Whether they are trained on as well, since all are equal.
    pub all_equal: bool,
}
