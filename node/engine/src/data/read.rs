//! From a path to tokens and rows.

use anyhow::{Context, Result, bail, ensure};
use minijinja::value::ValueKind;
use rayon::prelude::*;
use std::{
    collections::{HashMap, HashSet},
    fs::File,
    io::{BufReader, Read, Seek, SeekFrom},
    ops::Range,
    path::Path,
    sync::{Arc, atomic::AtomicU64},
};

use super::{
    bytes::{self, Content, Opened},
    columns::Columns,
    documents::{Document, Encoder, Stored},
    fields::{NoColumn, keys},
    form::{Form, form, nearly_json},
    header,
    held_out::{held_out_files, mixed},
    json,
    names::is_known,
    parquet,
    part::{DocumentRows, Documents, Part, Rows, Split},
    report::{Report, counted, shown},
    row::{self, Row},
    sample, scratch,
    source::{self, Counted, Source},
    table,
    text::{encode_bytes, split},
    tokens::Tokens,
    window::Windows,
};
use crate::chat::present;

/// Rows, and bytes of them, that are tokenised side by side before their tokens are stored.
const ROWS_AT_ONCE: usize = 256;
const BYTES_AT_ONCE: usize = 1 << 20;
/// So many are enough to know that a file is no good, if they are more than the others.
const BAD_ENOUGH: u64 = 1_000;
/// Files whose texts begin with so many equal bytes may be copies. Fewer than are looked at, of which marks are taken.
const ALIKE_BYTES: usize = 32 * 1024;

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
    /// What tells the beginning of its text from those of others.
    beginning: [u8; 32],
    /// What separates its columns, if it is plain text with some.
    separated: Option<&'static str>,
    /// What keeps it from being JSON, if it is plain text that is nearly that.
    nearly_json: Option<&'static str>,
    /// Of what can be read only once.
    open: Option<Opened>,
}

/// Where what is read goes.
pub struct Sinks<'a> {
    /// A directory, for what does not go into memory.
    pub scratch: &'a Path,
    /// Counts bytes as they are read.
    pub progress: &'a Arc<AtomicU64>,
}

/// Reads `path` and holds out the last `held_out` of it.
pub fn load(
    path: &Path,
    encoder: &Encoder<'_>,
    columns: &Columns,
    held_out: f64,
    Sinks { scratch, progress }: Sinks<'_>,
) -> Result<ReadTexts> {
    let sequence_length = encoder.sequence_length;
    ensure!(sequence_length >= 2, "--sequence-length {sequence_length} is too short, a window needs 2 tokens");
    let report = Report { path: path.to_owned(), sequence_length, ..Report::default() };
    let tokens = Tokens::for_vocabulary(encoder.tokenizer.vocabulary(), scratch);
    let documents = Documents::new(held_out > 0.0, scratch);
    let (waiting, bytes, is_stuck) = (Vec::new(), 0, false);
    let mut reading =
        Reading { encoder, columns, scratch, progress, report, tokens, documents, waiting, bytes, is_stuck };
    let (texts, tables) = reading.look(path)?;
    if reading.report.is_directory {
        let files = texts.iter().chain(&tables).map(|seen| seen.source.path());
        reading.report.mixed = mixed(files.map(|file| file.strip_prefix(path).unwrap_or(file)));
    }
    let [train, eval] = reading.texts(texts, held_out)?;
    for seen in tables {
        reading.table(seen)?;
    }
    let Reading { mut report, tokens, documents, .. } = reading;
    report.check()?;
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
    ensure!(
        report.short == 0 || train.rows.len() + eval.rows.len() > 0,
        "{}: {} of one token, which predicts nothing, and no others; give longer texts",
        path.display(),
        counted(report.short, "row")
    );
    ensure!(train.bytes + eval.bytes > 0, "{}{}", path.display(), report.no_text());
    if held > 0 {
        let texts = report.held_out.take().map_or(String::new(), |texts| format!("{texts} and "));
        report.held_out = Some(format!("{texts}the last {}", counted(held, "row")));
    }
    report.all_equal = all_equal;
    report.windows = (train.rows.len() + eval.rows.len()) as u64;
    report.tokens = train.tokens + eval.tokens;
    Ok(ReadTexts { tokens, train, held_out: eval, report })
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
    /// Whether tokens could not be stored: no matter of the file that is read.
    is_stuck: bool,
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

    fn look_at(&self, source: Source) -> Result<Option<Seen>> {
        let (opened, form) = match self.open(&source)? {
            Content::Text(text) if text.is_whole && String::from_utf8_lossy(&text.head).trim().is_empty() => {
                return Ok(None);
            }
            Content::Text(text) => {
                let form = form(&text.head, text.is_whole, source.path(), self.columns);
                // Of rows, one that has it is bad.
                let nul = text.head.iter().position(|byte| *byte == 0);
                if let (Ok(Form::Text) | Err(_), Some(at)) = (&form, nul) {
                    bail!("no text: byte {at} is NUL; if it should be text, save it as UTF-8");
                }
                (text, form?)
            }
            Content::Parquet(opened) => (opened, Form::Parquet),
            Content::Empty => return Ok(None),
            Content::Other(what) => bail!("{what}"),
        };
        if let (Form::Text, Some(flag)) = (form, self.columns.flag()) {
            bail!("{flag} names columns, and this is plain text; give it rows with columns, or leave out {flag}");
        }
        let is_text = form == Form::Text;
        let separated = || header::separated(&String::from_utf8_lossy(&opened.head), opened.is_whole);
        let separated = is_text.then(separated).flatten();
        let nearly_json = is_text.then(|| nearly_json(&opened.head, opened.is_whole)).flatten();
        let beginning = blake3::hash(&opened.head[..opened.head.len().min(ALIKE_BYTES)]).into();
        let open = source.size().is_none().then_some(opened);
        Ok(Some(Seen { source, form, beginning, separated, nearly_json, open }))
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
        if held_out > 0.0 {
            texts = self.without_copies(texts);
        }
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

    /// The texts without those that are there before, compressed or not: one would be trained on, and the other held
    /// out.
    fn without_copies(&mut self, texts: Vec<Seen>) -> Vec<Seen> {
        let (mut beginnings, mut digests, mut kept) = (HashMap::new(), HashSet::new(), Vec::new());
        for seen in &texts {
            *beginnings.entry(seen.beginning).or_insert(0) += 1;
        }
        for seen in texts {
            let is_alike = beginnings[&seen.beginning] > 1;
            if is_alike && digest(&seen.source).is_some_and(|digest| !digests.insert(digest)) {
                let path = seen.source.path();
                let name = path.strip_prefix(&self.report.path).unwrap_or(path).display().to_string();
                self.report.skip(name, "the same text as one before, under another name".into());
            } else {
                kept.push(seen);
            }
        }
        kept
    }

    /// Tokens of a file, with what opens and closes a text where it begins and ends, on whichever side that is. Returns
    /// the bytes of both sides.
    fn text(&mut self, seen: &mut Seen, place: Place, eval_start: &mut Option<usize>) -> Result<[u64; 2]> {
        let Opened { mut bytes, marks, wrapping, .. } = self.reopen(seen)?;
        let here = match place {
            Place::Train => u64::MAX,
            Place::HeldOut => 0,
            Place::Both(share) => {
                // A share of a text can be told once its length is known.
                let is_plain = wrapping.is_empty() && seen.source.size().is_some();
                let (mut file, start) = match is_plain {
                    true => (File::open(seen.source.path())?, marks),
                    false => (scratch::copy(&mut bytes, self.scratch)?, 0),
                };
                let length = file.metadata()?.len().saturating_sub(start);
                let here = split(&mut file, start, length, (length as f64 * share).floor() as u64)?;
                file.seek(SeekFrom::Start(start))?;
                let progress = if is_plain { self.progress.clone() } else { Arc::default() };
                bytes = BufReader::new(Box::new(Counted { raw: Box::new(file), progress }));
                here
            }
        };
        let (tokenizer, tokens, mut read, mut says) = (self.encoder.tokenizer, &mut self.tokens, [0, 0], [false; 2]);
        if here > 0 {
            tokens.extend(tokenizer.opening())?;
            (read[0], says[0]) = encode_bytes(&mut bytes.by_ref().take(here), 0, tokenizer, tokens)?;
        }
        if here < u64::MAX {
            eval_start.get_or_insert(tokens.len());
            tokens.extend(if here == 0 { tokenizer.opening() } else { &[] })?;
            (read[1], says[1]) = encode_bytes(&mut bytes, here, tokenizer, tokens)?;
        }
        ensure!(says.contains(&true), "no text, only white space");
        tokens.extend(tokenizer.closing())?;
        self.count(seen.form, &wrapping);
        self.report.doubt(seen.source.path(), seen.separated, seen.nearly_json);
        Ok(read)
    }

    /// The rows of a file. One of a directory that has none which can be used is skipped: a list of settings, mostly.
    /// Of one that cannot be read to its end, what came before that is used.
    fn table(&mut self, mut seen: Seen) -> Result<()> {
        let name = seen.source.path().display().to_string();
        let (documents, bad, without) = (self.documents.len(), self.report.bad.clone(), self.report.without.clone());
        let mut read = self.rows_of(&mut seen, &name);
        if self.report.is_directory && read.is_err() && !self.is_stuck {
            read = self.store(&name).and(read);
        }
        let read = read.with_context(|| format!("in {name}"));
        if !self.report.is_directory || self.is_stuck {
            return read;
        }
        self.waiting.clear();
        let used = (self.documents.len() - documents) as u64;
        let first = self.report.bad.first.get(bad.first.len()).cloned();
        let first = first.or_else(|| self.report.without.first.get(without.first.len()).cloned());
        let why = match (read, first) {
            (Ok(()), _) if used > 0 => return Ok(()),
            (Err(error), _) if used > 0 => {
                self.report.skip(name, format!("its end, after {}: {}", counted(used, "row"), error.root_cause()));
                return Ok(());
            }
            (Err(error), _) => error.root_cause().to_string(),
            (Ok(()), Some(first)) => first,
            (Ok(()), None) if self.report.bad.count + self.report.without.count > bad.count + without.count => {
                "no row of it can be used".into()
            }
            (Ok(()), None) => return Ok(()),
        };
        (self.report.bad, self.report.without) = (bad, without);
        self.report.uncount(seen.form.name());
        self.report.skip(name, why);
        Ok(())
    }

    fn rows_of(&mut self, seen: &mut Seen, name: &str) -> Result<()> {
        let Opened { mut bytes, wrapping, .. } = self.reopen(seen)?;
        self.count(seen.form, &wrapping);
        let (progress, directory) = (self.progress.clone(), self.scratch);
        let mut sink = |row: Row| {
            if let row::Content::ListsLeft(names) = row.content {
                self.report.leave_lists(names);
                return Ok(());
            }
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
            (Form::JsonLines, _) => json::lines(bytes, &mut sink)?,
            (Form::Json, _) => json::values(bytes, &mut sink)?,
            (Form::Table(separator), _) => table::read(bytes, separator, &mut sink)?,
            (Form::Text, _) => {}
        }
        self.store(name)
    }

    /// Tokenises the rows that wait, side by side, and stores their tokens in their order.
    fn store(&mut self, name: &str) -> Result<()> {
        let rows = std::mem::take(&mut self.waiting);
        self.bytes = 0;
        let (encoder, columns) = (self.encoder, self.columns);
        let encoded: Vec<(String, u64, Result<Option<Encoded>>)> =
            rows.into_par_iter().map(|row| (row.place.clone(), row.count(), encode(row, encoder, columns))).collect();
        for (place, rows, document) in encoded {
            match document.and_then(|document| self.checked(document)) {
                Ok(Some(document)) => self.push(document).inspect_err(|_| self.is_stuck = true)?,
                Ok(None) => self.report.empty += 1,
                Err(error) => {
                    let report = &mut self.report;
                    let lost = if error.is::<NoColumn>() { &mut report.without } else { &mut report.bad };
                    lost.add(rows, &format!("{name}, {place}: {error:#}"));
                }
            }
        }
        let bad = self.report.unusable().count;
        if bad >= BAD_ENOUGH && 2 * bad > self.report.all_rows() {
            return self.report.check();
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
        let windows = if let DocumentRows::Windows(windows) = &rows { windows.len() } else { 1 };
        report.windowed += u64::from(windows > 1);
        self.documents.push(rows, tokens, bytes, digest)?;
        if windows == 0 {
            report.short += 1;
            return Ok(());
        }
        *report.rows.entry(label).or_default() += 1;
        report.prompts_cut += u64::from(cut);
        report.systems_moved += u64::from(system_moved);
        report.plain_template |= is_conversation && self.encoder.template.is_plain();
        left.iter().for_each(|name| report.leave_column(name, is_known(name)));
        Ok(())
    }
}

/// What tells texts apart; None if one cannot be read, which is said where it is.
fn digest(source: &Source) -> Option<[u8; 32]> {
    let Ok(Content::Text(opened)) = bytes::content(source.open().ok()?) else { return None };
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(opened.bytes).ok()?;
    Some(hasher.finalize().into())
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
    let Some(sample::Found { sample, label, used }) = columns.sample(&value)? else { return Ok(None) };
    let column = |name: &str| if value.kind() == ValueKind::Map { present(&value, name) } else { Some(value.clone()) };
    let has_nul = |name: &&String| column(name).is_some_and(|value| row::has_nul(&value));
    if let Some(name) = used.iter().find(has_nul) {
        bail!("column {}: {}", shown(name), row::NUL);
    }
    let left = keys(&value).into_iter().filter(|name| !used.contains(name)).collect();
    let is_conversation = sample.is_conversation();
    Ok(Some(Encoded { document: encoder.encode(sample)?, label, left, is_conversation }))
}
