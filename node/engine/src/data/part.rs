//! The rows of one part of the data.

use anyhow::{Result, bail};
use std::{
    collections::{HashMap, HashSet},
    ops::Range,
    path::{Path, PathBuf},
};

use super::{
    choices::Question,
    pack::Pack,
    prompts::Prompt,
    window::{Window, Windows},
};

/// A document whose copies are at most this part of all may be held out where no tenth can be.
const RAREST_PART: usize = 4;
/// Tokens of a text that are enough to go on from.
const PROMPT_TOKENS: u32 = 24;

/// Rows of one form.
pub enum Rows {
    Windows(Windows),
    Questions(Vec<Question>),
    Prompts(Vec<Prompt>),
}

impl Default for Rows {
    fn default() -> Self {
        Self::Windows(Windows::of_stream(0..0, 0))
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

    /// Of each row, tokens that a forward sees, or that a look at it counts for.
    pub fn costs(&self, sequence_length: usize, mut visit: impl FnMut(usize)) -> Result<()> {
        match self {
            Self::Windows(windows) => return windows.for_each(|window| visit(window.cost())),
            Self::Questions(questions) => questions.iter().for_each(|question| visit(question.cost())),
            Self::Prompts(prompts) => prompts.iter().for_each(|prompt| visit(prompt.cost(sequence_length))),
        }
        Ok(())
    }

    /// Tokens that a look at row `index` begins with: what is given, of a text its beginning.
    pub fn prompt(&self, index: usize) -> Result<Range<usize>> {
        let (start, tokens) = match self {
            Self::Windows(windows) => {
                let Window { start, tokens, given } = windows.get(index)?;
                (start, if given > 1 { given } else { (tokens / 2).clamp(1, PROMPT_TOKENS) })
            }
            Self::Questions(questions) => (questions[index].start, questions[index].prompt),
            Self::Prompts(prompts) => (prompts[index].start, prompts[index].tokens),
        };
        Ok(start..start + tokens as usize)
    }

    /// Adds row `index`, whose completion, if it asks for one, draws with the seed `draw`.
    pub fn pack(&self, index: usize, draw: u64, pack: &mut Pack<'_>) -> Result<()> {
        match self {
            Self::Windows(windows) => windows.get(index)?.pack(pack),
            Self::Questions(questions) => questions[index].pack(pack),
            Self::Prompts(prompts) => prompts[index].pack(draw, pack),
        }
    }

    /// Appends the rows of one document. Errors if they are of another form.
    pub fn push(&mut self, document: DocumentRows, scratch: &Path) -> Result<()> {
        if self.len() == 0 {
            match document {
                DocumentRows::Question(_) => *self = Self::Questions(Vec::new()),
                DocumentRows::Prompt(_) => *self = Self::Prompts(Vec::new()),
                DocumentRows::Windows(_) => {}
            }
        }
        match (self, document) {
            (Self::Windows(windows), DocumentRows::Windows(own)) => return windows.extend(&own, scratch),
            (Self::Questions(questions), DocumentRows::Question(own)) => questions.push(own),
            (Self::Prompts(prompts), DocumentRows::Prompt(own)) => prompts.push(own),
            _ => bail!("rows of two forms in one text"),
        }
        Ok(())
    }

    /// Appends those of `all`, which are documents', that have an index in `range`.
    fn extend_from(&mut self, all: &Self, range: Range<usize>, scratch: &Path) -> Result<()> {
        match (&mut *self, all) {
            (Self::Windows(windows), Self::Windows(all)) => return windows.extend_from(all, range, scratch),
            (Self::Questions(questions), Self::Questions(all)) => questions.extend_from_slice(&all[range]),
            (Self::Prompts(prompts), Self::Prompts(all)) => prompts.extend_from_slice(&all[range]),
            // Nothing there yet.
            (_, Self::Questions(all)) => *self = Self::Questions(all[range].to_vec()),
            (_, Self::Prompts(all)) => *self = Self::Prompts(all[range].to_vec()),
            (_, Self::Windows(_)) => bail!("rows of two forms in one text"),
        }
        Ok(())
    }
}

/// Rows of one document.
pub enum DocumentRows {
    Windows(Vec<Window>),
    Question(Question),
    Prompt(Prompt),
}

/// Rows and size of one part of the data.
#[derive(Default)]
pub struct Part {
    pub rows: Rows,
    /// Tokens that are predicted, or of the whole text.
    pub tokens: u64,
    /// Bytes of the same.
    pub bytes: u64,
}

/// Documents in the order in which they were read, each with rows of its own.
pub struct Documents {
    all: Part,
    count: usize,
    /// Of each document, if some are to be held out.
    marks: Option<Vec<Mark>>,
    scratch: PathBuf,
}

struct Mark {
    rows: u32,
    tokens: u32,
    bytes: u32,
    /// Of its tokens: equal for equal documents.
    digest: u64,
}

impl Documents {
    /// `splits`: whether some are to be held out.
    pub fn new(splits: bool, scratch: &Path) -> Self {
        Self { all: Part::default(), count: 0, marks: splits.then(Vec::new), scratch: scratch.to_owned() }
    }

    pub fn len(&self) -> usize {
        self.count
    }

    pub fn rows(&self) -> &Rows {
        &self.all.rows
    }

    /// `tokens` and `bytes`: those that are predicted.
    pub fn push(&mut self, rows: DocumentRows, tokens: u64, bytes: u64, digest: u64) -> Result<()> {
        let before = self.all.rows.len();
        self.all.rows.push(rows, &self.scratch)?;
        let rows = (self.all.rows.len() - before) as u32;
        self.all.tokens += tokens;
        self.all.bytes += bytes;
        self.count += 1;
        // A row is no longer than ROW_BYTES_MAX, and has no more tokens than bytes and a few.
        if let Some(marks) = &mut self.marks {
            marks.push(Mark { rows, tokens: tokens as u32, bytes: bytes as u32, digest });
        }
        Ok(())
    }

    /// What is trained on, behind `train`, and the last `held_out` of the documents, behind `eval`; equal documents
    /// stay together on either side. Where that leaves nothing to hold out, nearly all being equal, the last ones are,
    /// in spite of it.
    pub fn split(self, held_out: f64, [mut train, mut eval]: [Part; 2]) -> Result<Split> {
        let marks = self.marks.unwrap_or_default();
        let (count, wanted) = (marks.len(), (marks.len() as f64 * held_out).floor() as usize);
        if wanted == 0 {
            let rows = self.all.rows.len();
            train.take(&self.all, 0..rows, [self.all.tokens, self.all.bytes], &self.scratch)?;
            return Ok(Split { train, eval, held: 0, all_equal: false });
        }
        let mut copies: HashMap<u64, u32> = HashMap::new();
        marks.iter().for_each(|mark| *copies.entry(mark.digest).or_default() += 1);
        let (mut held, mut chosen) = (0, HashSet::new());
        for mark in marks.iter().rev() {
            let own = copies[&mark.digest] as usize;
            if held + own <= wanted && chosen.insert(mark.digest) {
                held += own;
            }
        }
        // Of few documents, each there again and again, one goes as a whole if it is not too much.
        let rarest = copies.iter().map(|(digest, count)| (*count as usize, *digest)).min();
        if let Some((own, digest)) = rarest.filter(|(own, _)| held == 0 && own * RAREST_PART <= count) {
            (held, _) = (own, chosen.insert(digest));
        }
        drop(copies);
        let all_equal = held == 0;
        let is_held = |index: usize, mark: &Mark| match all_equal {
            true => index >= count - wanted,
            false => chosen.contains(&mark.digest),
        };
        let (mut held, mut first, mut index) = (0, 0, 0);
        while index < count {
            // Neighbours on one side go together.
            let (side, mut last, mut sizes) = (is_held(index, &marks[index]), first, [0, 0]);
            while let Some(mark) = marks.get(index).filter(|mark| is_held(index, mark) == side) {
                held += u64::from(side);
                last += mark.rows as usize;
                sizes = [sizes[0] + u64::from(mark.tokens), sizes[1] + u64::from(mark.bytes)];
                index += 1;
            }
            let side = if side { &mut eval } else { &mut train };
            side.take(&self.all, first..last, sizes, &self.scratch)?;
            first = last;
        }
        Ok(Split { train, eval, held, all_equal })
    }
}

impl Part {
    /// Appends those of the rows of `all` with an index in `range`, and their tokens and bytes.
    fn take(&mut self, all: &Self, range: Range<usize>, [tokens, bytes]: [u64; 2], scratch: &Path) -> Result<()> {
        self.tokens += tokens;
        self.bytes += bytes;
        self.rows.extend_from(&all.rows, range, scratch)
    }
}

/// Documents in two parts.
pub struct Split {
    pub train: Part,
    pub eval: Part,
    /// Documents that are held out.
    pub held: u64,
    /// Whether they are trained on as well, since all are equal.
    pub all_equal: bool,
}
