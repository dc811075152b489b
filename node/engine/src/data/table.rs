//! Rows of a table: a header, and records.

use anyhow::{Context as _, Result, anyhow, ensure};
use minijinja::Value;
use std::{
    collections::{HashSet, VecDeque},
    io::{BufRead, Error, ErrorKind, Read},
};

use super::{
    bytes::Bytes,
    report::shown,
    row::{Content, NUL, ROW_BYTES_MAX, Row},
};

/// Reads all records; `sink` gets each. Errors if the file cannot be read on.
pub fn read(mut bytes: Bytes, separator: u8, sink: &mut dyn FnMut(Row) -> Result<()>) -> Result<()> {
    let mut skipped = 0;
    // Excel says so which separator there is.
    if bytes.fill_buf()?.starts_with(b"sep=") {
        bytes.read_until(b'\n', &mut Vec::new())?;
        skipped = 1;
    }
    let mut reader = csv::ReaderBuilder::new()
        .delimiter(separator)
        .has_headers(false)
        .flexible(true)
        .from_reader(Quotes::new(bytes, separator));
    let mut record = csv::ByteRecord::new();
    if !reader.read_byte_record(&mut record)? {
        return Ok(());
    }
    let header = header(&record);
    // Of records that are sound: how many, and their lines.
    let (mut is_header, mut sound, mut sound_lines) = (true, 0u64, 0u64);
    loop {
        let start = record.position().map_or(0, csv::Position::line);
        let (lines, until) = ((reader.position().line() - start).max(1), reader.position().byte());
        let content = match reader.get_mut().trouble(until) {
            Some((opened, what)) => Err(anyhow!(
                "the quote that is opened in line {} {what}; close it, or write it twice within quotes",
                opened + skipped
            )),
            None if is_header => Ok(None),
            None => fields(&header, &record).map(Some),
        };
        let content = match content {
            Ok(None) => None,
            Ok(Some(value)) => {
                (sound, sound_lines) = (sound + 1, sound_lines + lines);
                Some(Content::Value(value))
            }
            // What a quote glues together were several rows, each of as many lines as others have.
            Err(why) => Some(Content::Bad(why, (lines * sound.max(1) / sound_lines.max(1)).max(1))),
        };
        if let Some(content) = content {
            sink(Row { place: format!("line {}", start + skipped), content })?;
        }
        is_header = false;
        if !reader.read_byte_record(&mut record)? {
            return Ok(());
        }
    }
}

/// The names of the columns. One that is there before gets a number, as pandas has it.
fn header(record: &csv::ByteRecord) -> Vec<String> {
    let mut seen = HashSet::new();
    let name = |field: &[u8]| {
        let own = String::from_utf8_lossy(field).trim().to_owned();
        let mut name = own.clone();
        for number in 1.. {
            if seen.insert(name.clone()) {
                break;
            }
            name = format!("{own}.{number}");
        }
        name
    };
    record.iter().map(name).collect()
}

/// A record by the names of its columns. Empty fields at its end may have been left off.
fn fields(header: &[String], record: &csv::ByteRecord) -> Result<Value> {
    ensure!(
        record.len() <= header.len(),
        "{} fields, and the header has {}; put quotes around a field that has the separator in it",
        record.len(),
        header.len()
    );
    let field = |(name, field): (&String, &[u8])| {
        let text = std::str::from_utf8(field)
            .with_context(|| format!("column {}: not UTF-8; save the file as UTF-8", shown(name)))?;
        ensure!(!text.contains('\0'), "column {}: {NUL}", shown(name));
        Ok((name.clone(), Value::from(text)))
    };
    let given = record.iter().chain(std::iter::repeat(&b""[..]));
    Ok(Value::from_pairs(header.iter().zip(given).map(field).collect::<Result<Vec<_>>>()?))
}

/// Where a byte of a table is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// A field begins.
    Start,
    Plain,
    Quoted,
    /// Behind a quote within quotes: it closes them, unless another follows.
    Closed,
}

/// Bytes of a table on their way to its reader, whose rules for quotes these are: it takes what is wrong with them for
/// a part of the field.
struct Quotes {
    source: Bytes,
    separator: u8,
    state: State,
    /// Bytes and lines that have passed.
    passed: u64,
    line: u64,
    /// Where the present record begins, bytes.
    record: u64,
    /// The line in which the latest quote was opened.
    opened: u64,
    /// Where text follows quotes that span lines: (byte, line in which they were opened). Of one buffer at most.
    glued: VecDeque<(u64, u64)>,
    has_ended: bool,
}

impl Quotes {
    fn new(source: Bytes, separator: u8) -> Self {
        let (state, glued) = (State::Start, VecDeque::new());
        Self { source, separator, state, passed: 0, line: 1, record: 0, opened: 0, glued, has_ended: false }
    }

    /// What is wrong with the quotes of the record that ends at byte `until`, and the line in which they were opened.
    fn trouble(&mut self, until: u64) -> Option<(u64, &'static str)> {
        let mut glued = None;
        while let Some((_, opened)) = self.glued.front().filter(|(at, _)| *at < until) {
            glued = glued.or(Some((*opened, "has text right behind what closes it")));
            self.glued.pop_front();
        }
        let is_open = self.has_ended && self.state == State::Quoted;
        if is_open { Some((self.opened, "is not closed to the end of the file")) } else { glued }
    }

    fn pass(&mut self, byte: u8) {
        let is_end = matches!(byte, b'\n' | b'\r');
        self.state = match (self.state, byte) {
            (State::Quoted, b'"') => State::Closed,
            (State::Quoted, _) | (State::Closed, b'"') => State::Quoted,
            (State::Start, b'"') => {
                self.opened = self.line;
                State::Quoted
            }
            (_, byte) if is_end || byte == self.separator => State::Start,
            (State::Closed, byte) => {
                if self.opened < self.line && byte != b' ' {
                    self.glued.push_back((self.passed, self.opened));
                }
                State::Plain
            }
            _ => State::Plain,
        };
        self.passed += 1;
        self.line += u64::from(byte == b'\n');
        if is_end && self.state == State::Start {
            self.record = self.passed;
        }
    }
}

impl Read for Quotes {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.source.read(buffer)?;
        self.has_ended |= count == 0;
        buffer[..count].iter().for_each(|byte| self.pass(*byte));
        if self.passed - self.record < ROW_BYTES_MAX {
            return Ok(count);
        }
        let what = match self.state {
            State::Quoted => format!("line {}: a quote is opened there, and not closed", self.opened),
            _ => format!("line {}: it does not end", self.line),
        };
        Err(Error::new(ErrorKind::InvalidData, format!("{what} for {ROW_BYTES_MAX} bytes; it is no row")))
    }
}
