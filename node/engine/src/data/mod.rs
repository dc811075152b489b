//! A machine's own data: files → documents → rows of tokens → batches.
//!
//! What a file is, its bytes tell, not its name: gzip, zstd and UTF-16 are taken off, then it is plain text, JSON, JSON
//! Lines or a table. Plain text is one stream of tokens, each file with what the tokenizer's post-processor puts around
//! it, cut into windows of `sequence_length` tokens that do not overlap; a window predicts all its tokens but the
//! first. Rows are documents: a text, cut into windows of which the last is shorter; an answer after what was asked,
//! with the loss on the answer only; choices, one row each, which holds the prompt once; or prompts, which the model
//! completes. A file of windows has no choices, and the other way round. A batch packs its rows one
//! after the other, so that a short one costs what it is long.
//!
//! | file | noun |
//! |---|---|
//! | `source.rs` | which files a path names |
//! | `bytes.rs`, `compressed.rs`, `utf16.rs` | from a file's bytes to text |
//! | `form.rs`, `header.rs` | which form a text has; whether it is a table |
//! | `row.rs`, `json.rs`, `lenient.rs`, `table.rs`, `parquet.rs` | rows of JSON (Lines), tables, Parquet |
//! | `scratch.rs` | what cannot be read twice, on the disk |
//! | `columns.rs`, `names.rs`, `fields.rs`, `options.rs`, `sample.rs` | a row's columns → what is learned of it |
//! | `documents.rs`, `choices.rs`, `prompts.rs`, `text.rs` | that → tokens |
//! | `tokens.rs`, `window.rs`, `part.rs` | what is kept: ids, and which of them are a row |
//! | `numbers.rs` | where it is kept: in memory while it is little, then on the disk |
//! | `read.rs`, `read/` | all of these at work, on plain texts and on rows |
//! | `report.rs` | what was read, skipped and cut |
//! | `held_out.rs` | which files of plain text are held out, and which are by their names |
//! | `order.rs`, `pack.rs` | which rows come when; rows → batch |
//! | `digest.rs` | what tells texts apart |

mod bytes;
mod choices;
mod columns;
mod compressed;
mod digest;
mod documents;
mod fields;
mod form;
mod header;
mod held_out;
mod json;
mod lenient;
mod names;
mod numbers;
mod options;
mod order;
mod pack;
mod parquet;
mod part;
mod prompts;
mod read;
mod report;
mod row;
mod sample;
mod scratch;
mod source;
mod table;
mod text;
mod tokens;
mod utf16;
mod window;

use anyhow::{Context, Result, ensure};
use std::{
    collections::BTreeMap,
    path::Path,
    sync::{Arc, atomic::AtomicU64},
};

use crate::{
    chat::ChatTemplate,
    model::{Batch, Tokenizer},
};
pub use columns::Columns;
use documents::Encoder;
use pack::Pack;
use part::{Part, Rows};
use read::{ReadTexts, Sinks};
pub use report::Report;
pub use source::cannot_read;
use tokens::Tokens;
use window::Windows;

/// Share of the data that [`Dataset::load_split`] holds out.
pub const HELD_OUT: f64 = 0.1;

/// Rows of a text, drawn in a seeded order.
#[derive(Clone)]
pub struct Dataset {
    tokens: Arc<Tokens>,
    rows: Arc<Rows>,
    by_cost: Option<Arc<[u32]>>,
    /// Of all rows together.
    cost: u64,
    sequence_length: usize,
    text_tokens: u64,
    text_bytes: u64,
    report: Arc<Report>,
}

/// How texts are read.
pub struct Reader<'a> {
    /// The model's.
    pub tokenizer: &'a Tokenizer,
    /// How conversations become text.
    pub template: &'a ChatTemplate,
    /// Which columns of rows are read.
    pub columns: &'a Columns,
    /// Tokens of a window.
    pub sequence_length: usize,
    /// A directory on a disk with room for what does not go into memory.
    pub scratch: &'a Path,
    /// Bytes that were read so far, for who watches.
    pub progress: Arc<AtomicU64>,
}

impl Reader<'_> {
    /// Reads a file, a directory, or standard input (`-`).
    ///
    /// Errors name the file, the line or byte, and what to do.
    pub fn load(&self, path: &Path) -> Result<Dataset> {
        let ReadTexts { tokens, train, report, .. } = self.read(path, 0.0)?;
        let report = Arc::new(report);
        Dataset::of_part(Arc::new(tokens), train, self.sequence_length, report)
            .with_context(|| format!("in {}", path.display()))
    }

    /// The same, split: (first 90%, last 10%), by bytes for text, in whole files where that comes near, and by rows. A
    /// row that is trained on in equal words is not held out. Both have at least one row.
    pub fn load_split(&self, path: &Path) -> Result<(Dataset, Dataset)> {
        let ReadTexts { tokens, train, held_out, report } = self.read(path, HELD_OUT)?;
        let (tokens, report) = (Arc::new(tokens), Arc::new(report));
        let train = Dataset::of_part(tokens.clone(), train, self.sequence_length, report.clone())
            .with_context(|| format!("in {}", path.display()))?;
        ensure!(
            held_out.rows.len() > 0,
            "{} is too short to hold out a part; give --eval a file of its own",
            path.display()
        );
        Ok((train, Dataset::of_part(tokens, held_out, self.sequence_length, report)?))
    }

    fn read(&self, path: &Path, held_out: f64) -> Result<ReadTexts> {
        let Self { tokenizer, template, columns, sequence_length, scratch, ref progress } = *self;
        let encoder = Encoder { tokenizer, template, sequence_length };
        read::load(path, &encoder, columns, held_out, Sinks { scratch, progress })
    }
}

impl Dataset {
    /// As [`Reader::load`] with a plain template and the columns by their names.
    pub fn load(path: &Path, tokenizer: &Tokenizer, sequence_length: usize) -> Result<Self> {
        plain(tokenizer, sequence_length, Columns::default(), |reader| reader.load(path))
    }

    /// As [`Dataset::load`], of rows that only ask ([`Columns::asking`]).
    pub fn load_prompts(path: &Path, tokenizer: &Tokenizer, sequence_length: usize) -> Result<Self> {
        plain(tokenizer, sequence_length, Columns::default().asking(), |reader| reader.load(path))
    }

    /// As [`Reader::load_split`], likewise.
    pub fn load_split(path: &Path, tokenizer: &Tokenizer, sequence_length: usize) -> Result<(Self, Self)> {
        plain(tokenizer, sequence_length, Columns::default(), |reader| reader.load_split(path))
    }

    /// Windows of a text in memory.
    pub fn from_text(text: &str, tokenizer: &Tokenizer, sequence_length: usize) -> Result<Self> {
        ensure!(sequence_length >= 2, "sequence length {sequence_length} is too short, a window needs 2 tokens");
        let mut tokens = Tokens::for_vocabulary(tokenizer.vocabulary(), &std::env::temp_dir());
        tokens.extend(tokenizer.opening())?;
        text::encode_text(text, tokenizer, &mut tokens)?;
        tokens.extend(tokenizer.closing())?;
        let rows = Rows::Windows(Windows::of_stream(0..tokens.len(), sequence_length));
        let part = Part { rows, tokens: tokens.len() as u64, bytes: text.len() as u64 };
        Self::of_part(Arc::new(tokens), part, sequence_length, Arc::default())
    }

    fn of_part(tokens: Arc<Tokens>, part: Part, sequence_length: usize, report: Arc<Report>) -> Result<Self> {
        let Part { rows, tokens: text_tokens, bytes: text_bytes } = part;
        ensure!(
            rows.len() > 0,
            "the text has {text_tokens} tokens, one window needs {sequence_length}; give more text or a shorter --sequence-length"
        );
        let (mut cost, mut least, mut most) = (0, usize::MAX, 0);
        rows.costs(sequence_length, |own| (cost, least, most) = (cost + own as u64, least.min(own), most.max(own)))?;
        Ok(Self {
            tokens,
            by_cost: if least == most { None } else { Some(by_cost(&rows, sequence_length)?) },
            cost,
            rows: Arc::new(rows),
            sequence_length,
            text_tokens,
            text_bytes,
            report,
        })
    }

    /// Number of rows (windows, or rows with choices), at least one.
    pub fn windows(&self) -> usize {
        self.rows.len()
    }

    /// How many rows have, on average, as many tokens as `windows` windows of full length.
    pub fn rows_of_windows(&self, windows: usize) -> usize {
        let tokens = windows as u128 * (self.sequence_length as u128 - 1);
        (tokens * self.rows.len() as u128 / u128::from(self.cost.max(1))) as usize
    }

    /// Tokens of a window, at most.
    pub fn sequence_length(&self) -> usize {
        self.sequence_length
    }

    /// Whether rows have choices, of which one is right.
    pub fn has_choices(&self) -> bool {
        matches!(*self.rows, Rows::Questions(_))
    }

    /// Whether rows are prompts, which a model completes.
    pub fn is_prompts(&self) -> bool {
        matches!(*self.rows, Rows::Prompts(_))
    }

    /// Tokens to go on from, of `count` rows, evenly spread, or of all if there are fewer.
    pub fn prompts(&self, count: usize) -> Result<Vec<Vec<u32>>> {
        let (rows, count) = (self.rows.len(), count.min(self.rows.len()));
        let prompt = |at: usize| {
            let tokens = self.tokens.read(self.rows.prompt(at * rows / count)?)?;
            Ok(tokens.into_iter().map(|token| token.id).collect())
        };
        (0..count).map(prompt).collect()
    }

    /// What was read, skipped and cut, of all parts.
    pub fn report(&self) -> &Report {
        &self.report
    }

    /// Tokens of the whole text (of the completions or choices, where the loss is on them only).
    pub fn tokens(&self) -> u64 {
        self.text_tokens
    }

    /// Bytes of the same.
    pub fn bytes(&self) -> u64 {
        self.text_bytes
    }

    /// Tokens per byte of the whole text.
    pub fn tokens_per_byte(&self) -> f64 {
        self.text_tokens as f64 / self.text_bytes.max(1) as f64
    }

    /// Batch `number`, of `batch_size` rows, in the order that `seed` gives: each epoch is a permutation of all
    /// rows, and batches have about equal numbers of tokens. A pure function, so that a restart goes on where it
    /// stopped.
    pub fn batch(&self, seed: u64, number: u64, batch_size: usize) -> Result<Batch> {
        let rows = self.rows.len() as u64;
        let first = u128::from(number) * batch_size as u128;
        let indices = (0..batch_size).map(|place| {
            let position = first + place as u128;
            let (epoch, index) = (position / u128::from(rows), position % u128::from(rows));
            let rank = order::stratified(seed, epoch as u64, rows, batch_size as u64, index as u64) as usize;
            let index = self.by_cost.as_ref().map_or(rank, |by_cost| by_cost[rank] as usize);
            (index, order::draw(seed, position as u64))
        });
        self.packed(indices)
    }

    /// The rows of these indices as one batch, whose completions draw alike each time.
    pub fn batch_of(&self, indices: &[usize]) -> Result<Batch> {
        self.packed(indices.iter().map(|index| (*index, order::draw(0, *index as u64))))
    }

    /// A batch of rows, each by its index and the seed of its draws.
    fn packed(&self, rows: impl ExactSizeIterator<Item = (usize, u64)>) -> Result<Batch> {
        ensure!(rows.len() > 0, "a batch needs at least one row");
        let mut pack = Pack::new(&self.tokens);
        for (index, draw) in rows {
            ensure!(index < self.rows.len(), "row {index} of {}", self.rows.len());
            self.rows.pack(index, draw, &mut pack)?;
        }
        pack.finish()
    }
}

/// Indices of the rows from the shortest to the longest, equal ones in their order.
fn by_cost(rows: &Rows, sequence_length: usize) -> Result<Arc<[u32]>> {
    let mut counts: BTreeMap<usize, u32> = BTreeMap::new();
    rows.costs(sequence_length, |cost| *counts.entry(cost).or_default() += 1)?;
    let mut next = 0;
    for count in counts.values_mut() {
        next += std::mem::replace(count, next);
    }
    let (mut indices, mut index) = (vec![0; rows.len()], 0);
    rows.costs(sequence_length, |cost| {
        if let Some(place) = counts.get_mut(&cost) {
            indices[*place as usize] = index;
            *place += 1;
        }
        index += 1;
    })?;
    Ok(indices.into())
}

fn plain<T>(
    tokenizer: &Tokenizer,
    sequence_length: usize,
    columns: Columns,
    read: impl FnOnce(&Reader<'_>) -> Result<T>,
) -> Result<T> {
    let end = tokenizer.eos().first().and_then(|id| tokenizer.special_text(*id));
    let special: BTreeMap<String, String> = end.map(|end| ("eos_token".into(), end)).into_iter().collect();
    let template = ChatTemplate::plain(special)?;
    let progress = Arc::default();
    read(&Reader {
        tokenizer,
        template: &template,
        columns: &columns,
        sequence_length,
        scratch: &std::env::temp_dir(),
        progress,
    })
}
