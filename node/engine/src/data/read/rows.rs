//! Files of rows: each row a document, tokenised side by side.

use anyhow::{Context, Result, bail, ensure};
use minijinja::value::ValueKind;
use rayon::prelude::*;
use std::{fs::File, sync::atomic::AtomicU64};

use super::super::{
    bytes::Opened,
    columns::Columns,
    documents::{Document, Encoder, Stored},
    fields::{NoColumn, keys},
    form::Form,
    json,
    names::is_known,
    parquet,
    part::{DocumentRows, Rows},
    report::{counted, shown},
    row::{self, Row},
    sample, scratch,
    source::Source,
    table,
};
use super::{Reading, Seen};
use crate::chat::{on_deep_threads, present};

/// Rows, and bytes of them, that are tokenised side by side before their tokens are stored.
const ROWS_AT_ONCE: usize = 256;
const BYTES_AT_ONCE: usize = 1 << 20;
/// So many are enough to know that a file is no good, if they are more than the others.
const BAD_ENOUGH: u64 = 1_000;

impl Reading<'_> {
    /// The rows of a file. One of a directory that has none which can be used is skipped: a list of settings, mostly.
    /// Of one that cannot be read to its end, what came before that is used.
    pub(super) fn table(&mut self, mut seen: Seen) -> Result<()> {
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
        let encoded: Vec<(String, u64, Result<Option<Encoded>>)> = on_deep_threads(|| {
            rows.into_par_iter().map(|row| (row.place.clone(), row.count(), encode(row, encoder, columns))).collect()
        })?;
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
