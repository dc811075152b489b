//! From a path to tokens and rows.

mod rows;
mod texts;

use anyhow::{Result, bail, ensure};
use std::{
    path::Path,
    sync::{Arc, atomic::AtomicU64},
};

use super::{
    bytes::{self, Content, Opened},
    columns::Columns,
    documents::Encoder,
    form::{Form, form, nearly_json},
    header,
    held_out::mixed,
    part::{Documents, Part, Rows, Split},
    report::{Report, counted},
    row::Row,
    source::{self, Counted, Source},
    tokens::Tokens,
};

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
}
