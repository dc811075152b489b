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
            Some((opened, trouble)) => Err(anyhow!(
                "the quote that is opened in line {} {}; close it, or write it twice within quotes",
                opened + skipped,
                trouble.words(skipped)
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

/// What is wrong with quotes.
#[derive(Clone, Copy)]
enum Trouble {
    /// A backslash stands before one, and text follows: some programs write a quote within quotes so.
    Escaped,
    /// Text follows what closes them.
    Glued,
    /// Each line up to this one, in which they are closed, looks like a record of its own.
    Records(u64),
    Open,
}

impl Trouble {
    /// `skipped`: lines before the table's first.
    fn words(self, skipped: u64) -> String {
        match self {
            Self::Escaped => "has \\\" in it, which ends it here (pandas: to_csv with doublequote=True)".into(),
            Self::Glued => "has text right behind what closes it".into(),
            Self::Records(closed) => {
                let closed = closed + skipped;
                format!(
                    "closes in line {closed}, though each line up to there looks like a row of its own (if it is one text, save \
                     the rows as JSON Lines)"
                )
            }
            Self::Open => "is not closed to the end of the file".into(),
        }
    }
}

/// Lines of one record, of which a field in quotes may be prose of several, or records that two stray quotes hold
/// together: those have a separator between every two columns, and none that stands as commas do in prose.
#[derive(Default)]
struct Lines {
    /// How many have ended, and how many of them look like a record.
    count: u64,
    alike: u64,
    /// Whether the first and the latest do.
    first: bool,
    latest: bool,
    /// Separators of the present one, and whether it is surely prose.
    separators: u64,
    is_prose: bool,
    /// The byte before.
    last: u8,
    /// Separators outside quotes, of all of them.
    fields: u64,
    /// The line in which the quotes were opened that span the first and the second.
    opened: u64,
}

impl Lines {
    fn pass(&mut self, byte: u8, separator: u8, is_quoted: bool) {
        let is_blank = byte.is_ascii_whitespace() || byte == b'"';
        if is_quoted {
            self.is_prose |= match self.last {
                b'\n' => is_blank || byte == separator,
                last => last == separator && is_blank && byte != separator,
            };
        }
        self.separators += u64::from(byte == separator);
        self.fields += u64::from(byte == separator && !is_quoted);
        self.last = byte;
    }

    /// A line ends, of a table of this many columns.
    fn end(&mut self, columns: u64) {
        self.latest = self.separators + 1 == columns && !self.is_prose;
        if self.count == 0 {
            self.first = self.latest;
        }
        self.count += 1;
        self.alike += u64::from(self.latest);
        (self.separators, self.is_prose) = (0, false);
    }

    /// Whether nearly all of them look like a record, the ends among them: two stray quotes begin in one and end in
    /// one. Of a record of two lines nobody can tell, nor where there is one column.
    fn are_records(&self, columns: u64) -> bool {
        columns >= 2 && self.count >= 3 && self.first && self.latest && 10 * self.alike >= 9 * self.count
    }
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
    /// The line in which the latest quote was opened, and whether a backslash stands before the one that closed it.
    opened: u64,
    is_escaped: bool,
    /// What is wrong with quotes: (byte, line in which they were opened, what). Of one buffer at most.
    troubles: VecDeque<(u64, u64, Trouble)>,
    /// Lines of the present record.
    lines: Lines,
    /// Of the header; zero while it is not read.
    columns: u64,
    has_ended: bool,
}

impl Quotes {
    fn new(source: Bytes, separator: u8) -> Self {
        let (state, troubles, lines) = (State::Start, VecDeque::new(), Lines::default());
        let (passed, line, record, opened, columns) = (0, 1, 0, 0, 0);
        let (is_escaped, has_ended) = (false, false);
        Self { source, separator, state, passed, line, record, opened, is_escaped, troubles, lines, columns, has_ended }
    }

    /// What is wrong with the quotes of the record that ends at byte `until`, and the line in which they were opened.
    fn trouble(&mut self, until: u64) -> Option<(u64, Trouble)> {
        let mut first = None;
        while let Some((_, opened, trouble)) = self.troubles.front().filter(|(at, ..)| *at < until) {
            first = first.or(Some((*opened, *trouble)));
            self.troubles.pop_front();
        }
        let is_open = self.has_ended && self.state == State::Quoted;
        if is_open { Some((self.opened, Trouble::Open)) } else { first }
    }

    fn pass(&mut self, byte: u8) {
        let is_end = matches!(byte, b'\n' | b'\r');
        let is_quoted = self.state == State::Quoted;
        self.state = match (self.state, byte) {
            (State::Quoted, b'"') => {
                self.is_escaped = self.lines.last == b'\\';
                State::Closed
            }
            (State::Quoted, _) | (State::Closed, b'"') => State::Quoted,
            (State::Start, b'"') => {
                self.opened = self.line;
                State::Quoted
            }
            (_, byte) if is_end || byte == self.separator => State::Start,
            (State::Closed, byte) => {
                if self.is_escaped {
                    self.troubles.push_back((self.passed, self.opened, Trouble::Escaped));
                } else if self.opened < self.line && byte != b' ' {
                    self.troubles.push_back((self.passed, self.opened, Trouble::Glued));
                }
                State::Plain
            }
            _ => State::Plain,
        };
        let ends_record = is_end && self.state == State::Start;
        if ends_record {
            self.end_record();
        } else {
            self.lines.pass(byte, self.separator, is_quoted);
        }
        if is_quoted && byte == b'\n' {
            if self.lines.count == 0 {
                self.lines.opened = self.opened;
            }
            self.lines.end(self.columns);
        }
        self.passed += 1;
        self.line += u64::from(byte == b'\n');
        if ends_record {
            self.record = self.passed;
        }
    }

    /// A record ends before the present byte, unless there is none.
    fn end_record(&mut self) {
        if self.passed == self.record {
            return;
        }
        let mut lines = std::mem::take(&mut self.lines);
        lines.end(self.columns);
        if self.columns == 0 {
            self.columns = lines.fields + 1;
        } else if lines.are_records(self.columns) {
            self.troubles.push_back((self.passed - 1, lines.opened, Trouble::Records(self.line)));
        }
    }
}

impl Read for Quotes {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.source.read(buffer)?;
        self.has_ended |= count == 0;
        if count == 0 && self.state != State::Quoted {
            self.end_record();
            self.record = self.passed;
        }
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
