//! From a path to tokens and rows.

use anyhow::{Context, Result, bail, ensure};
use rayon::prelude::*;
use std::{
    fs::File,
    io::{BufReader, Read, Seek, SeekFrom},
    ops::Range,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use super::{
    bytes::{self, Content, Opened},
    columns::{Columns, Found},
    documents::{Document, Encoder, Stored},
    form::{Form, form},
    parquet,
    part::{DocumentRows, Documents, Part, Rows, Split},
    report::{Report, counted, few},
    row::{self, Row},
    scratch,
    source::{self, Source},
    text::{encode_bytes, split},
    tokens::Tokens,
    window::Windows,
};

/// Rows, and bytes of them, that are tokenised side by side before their tokens are stored.
const ROWS_AT_ONCE: usize = 256;
const BYTES_AT_ONCE: usize = 1 << 20;
/// Largest share of rows that cannot be used: one in twenty.
const BAD_SHARE: u64 = 20;
/// So many are enough to know that a file is no good, if they are more than the others.
const BAD_ENOUGH: u64 = 1_000;
/// The held-out part is whole files if some at the end have a share of all bytes between these.
const WHOLE_FILES_SHARE: [f64; 2] = [0.4, 2.0];

/// What was read of a path.
pub struct ReadTexts {
    /// Of both parts.
    pub tokens: Tokens,
    /// All that is not held out.
    pub train: Part,
    /// Without rows if nothing is held out.
    pub held_out: Part,
    pub report: Report,
}

/// A file that holds something.
struct Seen {
    source: Source,
    form: Form,
    /// Of what can be read only once.
    open: Option<Opened>,
}

/// Reads `path` and holds out the last `held_out` of it. What does not go into memory goes to `scratch`. `progress`
/// counts bytes as they are read.
pub fn load(
    path: &Path,
    encoder: &Encoder<'_>,
    columns: &Columns,
    held_out: f64,
    scratch: &Path,
    progress: &Arc<AtomicU64>,
) -> Result<ReadTexts> {
    let sequence_length = encoder.sequence_length;
    ensure!(sequence_length >= 2, "--sequence-length {sequence_length} is too short, a window needs 2 tokens");
    let report = Report { path: path.to_owned(), sequence_length, ..Report::default() };
    let tokens = Tokens::for_vocabulary(encoder.tokenizer.vocabulary(), scratch);
    let documents = Documents::new(held_out > 0.0, scratch);
    let mut reading =
        Reading { encoder, columns, scratch, progress, report, tokens, documents, waiting: Vec::new(), bytes: 0 };
    let (texts, tables) = reading.look(path)?;
    let [train, eval] = reading.texts(texts, held_out)?;
    for seen in tables {
        reading.table(seen)?;
    }
    let Reading { mut report, tokens, documents, .. } = reading;
    check(&report)?;
    let has_texts = train.rows.len() + eval.rows.len() > 0;
    ensure!(
        !has_texts || !matches!(documents.rows(), Rows::Questions(_)),
        "{} has rows with choices, and plain texts; put the two forms into directories of their own",
        path.display()
    );
    ensure!(
        !has_texts || !columns.asks(),
        "{} is a plain text, and a program scores completions of prompts: give rows with prompt, messages or question",
        path.display()
    );
    let Split { train, eval, held, all_equal } = documents.split(held_out, [train, eval])?;
    ensure!(train.bytes + eval.bytes > 0, "{}{}", path.display(), no_text(&report));
    if held > 0 {
        let texts = report.held_out.take().map_or(String::new(), |texts| format!("{texts} and "));
        report.held_out = Some(format!("{texts}the last {}", counted(held, "row")));
    }
    report.all_equal = all_equal;
    report.windows = (train.rows.len() + eval.rows.len()) as u64;
    report.tokens = train.tokens + eval.tokens;
    Ok(ReadTexts { tokens, train, held_out: eval, report })
}

/// Errors if too many rows cannot be used: names the first.
fn check(report: &Report) -> Result<()> {
    let (bad, all) = (report.bad, report.all_rows());
    if bad * BAD_SHARE <= all {
        return Ok(());
    }
    let more = if bad > report.first_bad.len() as u64 { "; the first are" } else { "" };
    bail!("{bad} of {all} rows cannot be used{more}:\n  {}", report.first_bad.join("\n  "))
}

/// Why there is nothing to learn.
fn no_text(report: &Report) -> String {
    if report.is_directory {
        let names: Vec<String> = report.skipped.iter().map(|(name, why)| format!("{name}: {why}")).collect();
        let why = if names.is_empty() { String::new() } else { format!(" ({})", few(&names)) };
        return format!(" has no files with text{why}; give --data a file or a directory with some");
    }
    let empty = if report.empty > 0 { format!(" ({} empty rows)", report.empty) } else { String::new() };
    format!(" has no text{empty}; give --data a file with some")
}

struct Reading<'a> {
    encoder: &'a Encoder<'a>,
    columns: &'a Columns,
    scratch: &'a Path,
    progress: &'a Arc<AtomicU64>,
    report: Report,
    tokens: Tokens,
    documents: Documents,
    /// Rows that are to be tokenised together, and their bytes.
    waiting: Vec<Row>,
    bytes: usize,
}

impl Reading<'_> {
    /// What there is at `path`: plain texts, and files of rows.
    fn look(&mut self, path: &Path) -> Result<(Vec<Seen>, Vec<Seen>)> {
        let (mut texts, mut tables) = (Vec::new(), Vec::new());
        for source in source::find(path, &mut self.report)? {
            let name = source.path().strip_prefix(path).unwrap_or(source.path()).display().to_string();
            match self.look_at(source) {
                Ok(Some(seen)) if seen.form == Form::Text => texts.push(seen),
                Ok(Some(seen)) => tables.push(seen),
                Ok(None) => self.report.skip(name, "empty".into()),
                Err(error) if self.report.is_directory => self.report.skip(name, format!("{error:#}")),
                Err(error) => return Err(error.context(path.display().to_string())),
            }
        }
        Ok((texts, tables))
    }

    fn look_at(&mut self, source: Source) -> Result<Option<Seen>> {
        let (opened, form) = match self.open(&source)? {
            Content::Text(text) if text.head.iter().all(u8::is_ascii_whitespace) && text.is_whole => return Ok(None),
            Content::Text(text) => {
                let form = form(&text.head, text.is_whole, source.path(), self.columns)?;
                (text, form)
            }
            Content::Parquet(opened) => (opened, Form::Parquet),
            Content::Empty => return Ok(None),
            Content::Other(what) => bail!("{what}"),
        };
        let open = source.size().is_none().then_some(opened);
        Ok(Some(Seen { source, form, open }))
    }

    fn open(&self, source: &Source) -> Result<Content> {
        let raw = Counted { raw: source.open()?, progress: self.progress.clone() };
        bytes::content(Box::new(raw))
    }

    /// The bytes of a file that was looked at before.
    fn reopen(&mut self, seen: &mut Seen) -> Result<Opened> {
        if let Some(opened) = seen.open.take() {
            return Ok(opened);
        }
        match self.open(&seen.source)? {
            Content::Text(opened) if seen.form != Form::Parquet => Ok(opened),
            Content::Parquet(opened) if seen.form == Form::Parquet => Ok(opened),
            _ => bail!("{} has changed while it was read", seen.source.path().display()),
        }
    }

    /// A file is read.
    fn count(&mut self, form: Form, wrapping: &[&'static str]) {
        *self.report.files.entry(form.name()).or_default() += 1;
        self.report.wrapping.extend(wrapping);
    }

    /// All plain texts as one stream: what is trained on, what is held out.
    fn texts(&mut self, mut texts: Vec<Seen>, held_out: f64) -> Result<[Part; 2]> {
        let sizes: Vec<u64> = texts.iter().map(|seen| seen.source.size().unwrap_or(1)).collect();
        let (whole_from, share) = held_out_files(&sizes, held_out);
        let (mut bytes, mut eval_start) = ([0, 0], None);
        for (index, seen) in texts.iter_mut().enumerate() {
            let name = seen.source.path().display().to_string();
            let (before, opened) = (self.tokens.len(), eval_start);
            let place = match () {
                () if index < whole_from => Place::Train,
                () if index > whole_from || share == 0.0 => Place::HeldOut,
                () => Place::Both(share),
            };
            match self.text(seen, place, &mut eval_start) {
                Ok([train, eval]) => bytes = [bytes[0] + train, bytes[1] + eval],
                Err(error) if self.report.is_directory => {
                    self.tokens.truncate(before)?;
                    eval_start = opened;
                    self.report.skip(name, format!("{error:#}"));
                }
                Err(error) => return Err(error.context(name)),
            }
        }
        let (end, length) = (self.tokens.len(), self.encoder.sequence_length);
        let boundary = eval_start.unwrap_or(end);
        self.report.left_over = (boundary % length + (end - boundary) % length) as u64;
        if bytes[1] > 0 {
            let files = (texts.len() - whole_from) as u64;
            self.report.held_out = Some(match (share > 0.0, texts.get(whole_from)) {
                (true, Some(seen)) if texts.len() > 1 => format!("the end of {}", seen.source.path().display()),
                (true, _) => format!("the last {:.0}%", 100.0 * held_out),
                (false, _) => format!("the last {}", counted(files, "text")),
            });
        }
        let part = |tokens: Range<usize>, bytes| Part {
            tokens: tokens.len() as u64,
            rows: Rows::Windows(Windows::of_stream(tokens, length)),
            bytes,
        };
        Ok([part(0..boundary, bytes[0]), part(boundary..end, bytes[1])])
    }

    /// Tokens of a file, with what opens and closes a text where it begins and ends, on whichever side that is. Returns
    /// the bytes of both sides.
    fn text(&mut self, seen: &mut Seen, place: Place, eval_start: &mut Option<usize>) -> Result<[u64; 2]> {
        let Opened { mut bytes, wrapping, .. } = self.reopen(seen)?;
        let here = match place {
            Place::Train => u64::MAX,
            Place::HeldOut => 0,
            Place::Both(share) => {
                // A share of a text can be told once its length is known.
                let is_plain = wrapping.is_empty() && seen.source.size().is_some();
                let mut file = match is_plain {
                    true => File::open(seen.source.path())?,
                    false => scratch::copy(&mut bytes, self.scratch)?,
                };
                let start = bytes::mark_length(&mut file)?;
                let length = file.metadata()?.len() - start;
                let here = split(&mut file, start, length, (length as f64 * share).floor() as u64)?;
                file.seek(SeekFrom::Start(start))?;
                let progress = if is_plain { self.progress.clone() } else { Arc::default() };
                bytes = BufReader::new(Box::new(Counted { raw: Box::new(file), progress }));
                here
            }
        };
        let (tokenizer, tokens, mut read) = (self.encoder.tokenizer, &mut self.tokens, [0, 0]);
        if here > 0 {
            tokens.extend(tokenizer.opening())?;
            read[0] = encode_bytes(&mut bytes.by_ref().take(here), 0, tokenizer, tokens)?;
        }
        if here < u64::MAX {
            eval_start.get_or_insert(tokens.len());
            tokens.extend(if here == 0 { tokenizer.opening() } else { &[] })?;
            read[1] = encode_bytes(&mut bytes, here, tokenizer, tokens)?;
        }
        tokens.extend(tokenizer.closing())?;
        self.count(seen.form, &wrapping);
        Ok(read)
    }

    /// The rows of a file. One of a directory that has none which can be used is skipped: a list of settings, mostly.
    fn table(&mut self, mut seen: Seen) -> Result<()> {
        let name = seen.source.path().display().to_string();
        let (documents, bad, named) = (self.documents.len(), self.report.bad, self.report.first_bad.len());
        let read = self.rows_of(&mut seen, &name).with_context(|| format!("in {name}"));
        if !self.report.is_directory || self.documents.len() > documents {
            return read;
        }
        self.waiting.clear();
        let first = self.report.first_bad.get(named).cloned();
        let why = match (read, first) {
            (Err(error), _) => error.root_cause().to_string(),
            (Ok(()), Some(first)) => first,
            (Ok(()), None) if self.report.bad > bad => "no row of it can be used".into(),
            (Ok(()), None) => return Ok(()),
        };
        self.report.bad = bad;
        self.report.first_bad.truncate(named);
        self.report.uncount(seen.form.name());
        self.report.skip(name, why);
        Ok(())
    }

    fn rows_of(&mut self, seen: &mut Seen, name: &str) -> Result<()> {
        let Opened { mut bytes, wrapping, .. } = self.reopen(seen)?;
        self.count(seen.form, &wrapping);
        let (progress, directory) = (self.progress.clone(), self.scratch);
        let mut sink = |row: Row| {
            self.bytes += row.size();
            self.waiting.push(row);
            match self.waiting.len() >= ROWS_AT_ONCE || self.bytes >= BYTES_AT_ONCE {
                true => self.store(name),
                false => Ok(()),
            }
        };
        match (seen.form, &seen.source) {
            (Form::Parquet, Source::File(path, _)) if wrapping.is_empty() => {
                parquet::read(File::open(path)?, &progress, &mut sink)?;
            }
            // It is read from its end, which a pipe shows last.
            (Form::Parquet, _) => parquet::read(scratch::copy(&mut bytes, directory)?, &AtomicU64::new(0), &mut sink)?,
            (form, _) => row::read(form, bytes, &mut sink)?,
        }
        self.store(name)
    }

    /// Tokenises the rows that wait, side by side, and stores their tokens in their order.
    fn store(&mut self, name: &str) -> Result<()> {
        let rows = std::mem::take(&mut self.waiting);
        self.bytes = 0;
        let (encoder, columns) = (self.encoder, self.columns);
        let encoded: Vec<(String, Result<Option<Encoded>>)> =
            rows.into_par_iter().map(|row| (row.place.clone(), encode(row, encoder, columns))).collect();
        for (place, document) in encoded {
            match document.and_then(|document| self.checked(document)) {
                Ok(Some(document)) => self.push(document)?,
                Ok(None) => self.report.empty += 1,
                Err(error) => self.report.bad_row(format!("{name}, {place}: {error:#}")),
            }
        }
        if self.report.bad >= BAD_ENOUGH && 2 * self.report.bad > self.report.all_rows() {
            return check(&self.report);
        }
        Ok(())
    }

    /// Errors if a row is of another form than those before.
    fn checked(&self, encoded: Option<Encoded>) -> Result<Option<Encoded>> {
        let Some(Encoded { document, .. }) = &encoded else { return Ok(None) };
        let has_choices = document.has_choices();
        let had_choices = matches!(self.documents.rows(), Rows::Questions(_));
        ensure!(
            self.documents.len() == 0 || has_choices == had_choices,
            "this row {} choices, those before {}; put the two forms into texts of their own",
            if has_choices { "has" } else { "has no" },
            if had_choices { "have" } else { "have none" },
        );
        Ok(encoded)
    }

    /// Errors if the disk takes no more.
    fn push(&mut self, encoded: Encoded) -> Result<()> {
        let Encoded { document, label, left, is_conversation } = encoded;
        let (digest, system_moved) = (document.digest(), document.system_moved);
        let Stored { rows, tokens, bytes, cut } = document.store(self.encoder.sequence_length, &mut self.tokens)?;
        let report = &mut self.report;
        report.windowed += u64::from(matches!(&rows, DocumentRows::Windows(windows) if windows.len() > 1));
        self.documents.push(rows, tokens, bytes, digest)?;
        *report.rows.entry(label).or_default() += 1;
        report.prompts_cut += u64::from(cut);
        report.systems_moved += u64::from(system_moved);
        report.plain_template |= is_conversation && self.encoder.template.is_plain();
        report.columns_left.extend(left);
        Ok(())
    }
}

/// Where a file's text goes.
#[derive(Clone, Copy)]
enum Place {
    Train,
    HeldOut,
    /// What comes before this share of its bytes is trained on.
    Both(f64),
}

/// A row as tokens.
struct Encoded {
    document: Document,
    label: &'static str,
    /// Columns that nothing was taken from.
    left: Vec<String>,
    is_conversation: bool,
}

/// None if there is no text in it.
fn encode(row: Row, encoder: &Encoder<'_>, columns: &Columns) -> Result<Option<Encoded>> {
    let value = row.value()?;
    let Some(Found { sample, label, used }) = columns.sample(&value)? else { return Ok(None) };
    let left = super::columns::keys(&value).into_iter().filter(|name| !used.contains(name)).collect();
    let is_conversation = sample.is_conversation();
    Ok(Some(Encoded { document: encoder.encode(sample)?, label, left, is_conversation }))
}

/// From which file on, and from which share of that file on, the last `held_out` of files of these sizes begins: whole
/// files if some at the end have about as many bytes, and else the end of one.
fn held_out_files(sizes: &[u64], held_out: f64) -> (usize, f64) {
    let total: u64 = sizes.iter().sum();
    let wanted = total as f64 * held_out;
    if held_out == 0.0 || total == 0 {
        return (sizes.len(), 0.0);
    }
    let suffix = |from: usize| sizes[from..].iter().sum::<u64>() as f64;
    let is_near = |from: &usize| {
        let share = suffix(*from) / wanted;
        (WHOLE_FILES_SHARE[0]..=WHOLE_FILES_SHARE[1]).contains(&share)
    };
    let distance = |from: &usize| (suffix(*from) - wanted).abs();
    if let Some(from) = (1..sizes.len()).filter(is_near).min_by(|a, b| distance(a).total_cmp(&distance(b))) {
        return (from, 0.0);
    }
    let from = (0..sizes.len()).rev().find(|from| suffix(*from) >= wanted).unwrap_or(0);
    let after = suffix(from + 1);
    (from, 1.0 - (wanted - after) / sizes[from] as f64)
}

/// Counts what is read.
struct Counted {
    raw: Box<dyn Read + Send>,
    progress: Arc<AtomicU64>,
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.raw.read(buffer)?;
        self.progress.fetch_add(count as u64, Ordering::Relaxed);
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_files_are_held_out_where_some_at_the_end_have_about_a_tenth() {
        assert_eq!(held_out_files(&[100; 10], 0.1), (9, 0.0));
        assert_eq!(held_out_files(&[100; 40], 0.1), (36, 0.0));
        assert_eq!(held_out_files(&[500, 400, 60, 40], 0.1), (2, 0.0));
        // The last one alone is too large, or too small.
        assert_eq!(held_out_files(&[100, 100], 0.1), (1, 0.8));
        assert_eq!(held_out_files(&[1000], 0.1), (0, 0.9));
        let (from, share) = held_out_files(&[990, 10], 0.1);
        assert!(from == 0 && (share - 900.0 / 990.0).abs() < 1e-9);
        assert_eq!(held_out_files(&[10, 10], 0.0), (2, 0.0));
        assert_eq!(held_out_files(&[], 0.1), (0, 0.0));
    }
}
