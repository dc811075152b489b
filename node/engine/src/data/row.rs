//! Rows of a file, one after the other, each with its place.

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use minijinja::{Value, value::ValueKind};
use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use std::{
    fmt,
    io::{BufRead, Read},
    sync::atomic::Ordering,
};

use super::{
    bytes::Bytes,
    columns,
    form::{Form, without_comma},
    non_finite,
};
use crate::chat::present;

/// Longest row, bytes: one that is longer has lost its end, most likely.
const ROW_BYTES_MAX: u64 = 1 << 30;
/// A record of a table that spans so many lines, and has the wrong number of fields, has a quote that is not closed.
const RECORD_LINES_MAX: u64 = 100;

/// A row, as it was found.
pub struct Row {
    /// `line 3`, or `row 17, line 120`.
    pub place: String,
    pub content: Content,
}

/// What was found.
pub enum Content {
    /// A line of JSON Lines.
    Line(Vec<u8>),
    Value(Value),
    /// Why it is no row.
    Bad(anyhow::Error),
}

impl Row {
    /// Bytes of it, about.
    pub fn size(&self) -> usize {
        match &self.content {
            Content::Line(line) => line.len(),
            Content::Value(_) | Content::Bad(_) => 1024,
        }
    }

    /// The value. Errors say what is malformed, and where.
    pub fn value(self) -> Result<Value> {
        match self.content {
            Content::Line(line) => parse(&line),
            Content::Value(value) => Ok(value),
            Content::Bad(error) => Err(error),
        }
    }
}

/// Reads all rows of a text; `sink` gets each. Errors if the file cannot be read on.
pub fn read(form: Form, bytes: Bytes, sink: &mut dyn FnMut(Row) -> Result<()>) -> Result<()> {
    match form {
        Form::JsonLines => lines(bytes, sink),
        Form::Json => json(bytes, sink),
        Form::Table(separator) => table(bytes, separator, sink),
        Form::Text | Form::Parquet => Ok(()),
    }
}

fn lines(mut bytes: Bytes, sink: &mut dyn FnMut(Row) -> Result<()>) -> Result<()> {
    // A line that is alone may hold all rows.
    let (mut alone, mut count) = (None, 0u64);
    for number in 1u64.. {
        let mut line = Vec::new();
        let read = bytes.by_ref().take(ROW_BYTES_MAX).read_until(b'\n', &mut line)?;
        ensure!((read as u64) < ROW_BYTES_MAX, "line {number} has more than {ROW_BYTES_MAX} bytes; it is no row");
        if read == 0 {
            break;
        }
        // Files that were put together have a mark in the middle.
        let line = line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&line).trim_ascii();
        if line.is_empty() {
            continue;
        }
        let row = Row { place: format!("line {number}"), content: Content::Line(line.to_vec()) };
        count += 1;
        if count == 1 {
            alone = Some(row);
            continue;
        }
        alone.take().map_or(Ok(()), &mut *sink)?;
        sink(row)?;
    }
    let Some(Row { place, content: Content::Line(line) }) = alone else { return Ok(()) };
    match parse(&line) {
        Ok(value) => expand(value, &mut |value, index| {
            let place = index.map_or(place.clone(), |index| format!("{place}, row {index}"));
            sink(Row { place, content: Content::Value(value) })
        }),
        Err(_) => sink(Row { place, content: Content::Line(line) }),
    }
}

/// A line of JSON as a value.
fn parse(line: &[u8]) -> Result<Value> {
    let text = std::str::from_utf8(line)
        .map_err(|error| anyhow!("byte {} is not UTF-8; save the file as UTF-8", error.valid_up_to()))?;
    let malformed = |error: serde_json::Error| {
        let words = error.to_string();
        let what = words.split(" at line").next().unwrap_or_default();
        anyhow!("column {}: malformed JSON ({what}); each line must be an object", error.column())
    };
    match serde_json::from_str(without_comma(text)) {
        Ok(value) => Ok(value),
        Err(error) if text.contains("NaN") || text.contains("Infinity") => {
            serde_json::from_str(&non_finite::replaced(line)).map_err(|_| malformed(error))
        }
        Err(error) => Err(malformed(error)),
    }
}

/// One value after the other, each of which is a row or holds rows.
fn json(bytes: Bytes, sink: &mut dyn FnMut(Row) -> Result<()>) -> Result<()> {
    let reader = non_finite::Json::new(bytes);
    let line = reader.line.clone();
    let mut deserializer = serde_json::Deserializer::from_reader(reader);
    let (mut values, mut stopped) = (0, None);
    while deserializer.end().is_err() {
        values += 1;
        let mut row = |value: Value, index: Option<u64>| {
            let line = line.load(Ordering::Relaxed);
            let place = format!("row {}, which ends in line {line}", index.unwrap_or(values));
            sink(Row { place, content: Content::Value(value) })
        };
        let top = TopLevel { sink: &mut row, stopped: &mut stopped };
        if let Err(error) = top.deserialize(&mut deserializer) {
            return Err(stopped.unwrap_or_else(|| anyhow!("malformed JSON: {error}; what follows cannot be read")));
        }
    }
    Ok(())
}

/// Hands out the rows of a list as they come, so that they are not all in memory at once.
struct TopLevel<'a> {
    sink: &'a mut dyn FnMut(Value, Option<u64>) -> Result<()>,
    /// Why the sink took no more.
    stopped: &'a mut Option<anyhow::Error>,
}

impl TopLevel<'_> {
    fn keep<E: serde::de::Error>(stopped: &mut Option<anyhow::Error>, result: Result<()>) -> Result<(), E> {
        result.map_err(|error| {
            *stopped = Some(error);
            E::custom("stopped")
        })
    }
}

impl<'de> DeserializeSeed<'de> for TopLevel<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for TopLevel<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object or a list of objects")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        let mut first = None;
        for index in 1u64.. {
            let Some(value) = list.next_element::<Value>()? else { break };
            // A list of messages is one row, and short.
            if index == 1 && is_message(&value) {
                let mut messages = vec![value];
                while let Some(value) = list.next_element()? {
                    messages.push(value);
                }
                first = Some(Value::from(messages));
                break;
            }
            Self::keep(self.stopped, (self.sink)(value, Some(index)))?;
        }
        first.map_or(Ok(()), |value| Self::keep(self.stopped, (self.sink)(value, None)))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut pairs = Vec::new();
        while let Some(pair) = map.next_entry::<String, Value>()? {
            pairs.push(pair);
        }
        Self::keep(self.stopped, expand(Value::from_pairs(pairs), self.sink))
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<(), E> {
        Self::keep(self.stopped, (self.sink)(Value::from(text), None))
    }
}

fn is_message(value: &Value) -> bool {
    value.kind() == ValueKind::Map && ["role", "from"].iter().any(|name| present(value, name).is_some())
}

/// A row that is wrapped with its number, as the viewer of a hub writes it, without that.
fn unwrapped(value: Value) -> Value {
    let row = present(&value, "row").filter(|row| row.kind() == ValueKind::Map && present(&value, "row_idx").is_some());
    row.unwrap_or(value)
}

/// The rows of a value that is a row, or holds some: in a list, in a list under some name, by column, or by key.
fn expand(value: Value, sink: &mut dyn FnMut(Value, Option<u64>) -> Result<()>) -> Result<()> {
    let mut all =
        |rows: &mut dyn Iterator<Item = Value>| (1..).zip(rows).try_for_each(|(i, row)| sink(unwrapped(row), Some(i)));
    match value.kind() {
        ValueKind::Seq if !value.get_item_by_index(0).is_ok_and(|first| is_message(&first)) => {
            return all(&mut value.try_iter()?);
        }
        ValueKind::Map => {}
        _ => return sink(value, None),
    }
    let pairs: Vec<(String, Value)> =
        value.try_iter()?.map(|key| (key.to_string(), value.get_item(&key).unwrap_or_default())).collect();
    if let Some(rows) = by_column(&pairs) {
        return all(&mut rows.into_iter());
    }
    if pairs.iter().any(|(name, _)| columns::is_known(name)) {
        return sink(value, None);
    }
    // The only thing in it may hold the rows: {"dataset": {"train": [...]}}.
    if let [(_, inner)] = &pairs[..]
        && inner.kind() == ValueKind::Map
        && !is_message(inner)
    {
        return expand(inner.clone(), sink);
    }
    let first = |value: &Value| value.get_item_by_index(0).ok();
    let is_list = |value: &Value| {
        value.kind() == ValueKind::Seq && first(value).is_some_and(|first| first.kind() == ValueKind::Map)
    };
    let lists: Vec<&(String, Value)> = pairs.iter().filter(|(_, value)| is_list(value)).collect();
    match lists.iter().find(|(name, _)| name == "train").or(lists.first()) {
        Some((name, list)) if lists.len() == 1 || name == "train" => return all(&mut list.try_iter()?),
        Some(_) => {
            let names: Vec<&str> = lists.iter().map(|(name, _)| name.as_str()).collect();
            bail!("it holds several lists of rows ({}); put the one to read into a file of its own", names.join(", "));
        }
        None => {}
    }
    if pairs.len() > 1 && pairs.iter().all(|(_, value)| value.kind() == ValueKind::Map) {
        return all(&mut pairs.into_iter().map(|(_, value)| value));
    }
    sink(value, None)
}

/// Rows that are written column by column, as pandas does: lists of equal lengths, or objects with equal keys.
fn by_column(pairs: &[(String, Value)]) -> Option<Vec<Value>> {
    let (_, sample) = pairs.iter().find(|(name, _)| columns::is_text(name))?;
    let is_alike = |value: &Value| value.kind() == sample.kind() && value.len() == sample.len();
    if !matches!(sample.kind(), ValueKind::Seq | ValueKind::Map) || !pairs.iter().all(|(_, value)| is_alike(value)) {
        return None;
    }
    let cell = |column: &Value, index: usize, key: &Value| match column.kind() {
        ValueKind::Seq => column.get_item_by_index(index).unwrap_or_default(),
        _ => column.get_item(key).unwrap_or_default(),
    };
    // A list yields its items, an object its keys.
    let keys: Vec<Value> = sample.try_iter().ok()?.collect();
    let row = |(index, key): (usize, &Value)| {
        Value::from_pairs(pairs.iter().map(|(name, column)| (name.clone(), cell(column, index, key))))
    };
    Some(keys.iter().enumerate().map(row).collect())
}

fn table(mut bytes: Bytes, separator: u8, sink: &mut dyn FnMut(Row) -> Result<()>) -> Result<()> {
    let mut skipped = 0;
    // Excel says so which separator there is.
    if bytes.fill_buf()?.starts_with(b"sep=") {
        bytes.read_until(b'\n', &mut Vec::new())?;
        skipped = 1;
    }
    let mut reader =
        csv::ReaderBuilder::new().delimiter(separator).has_headers(false).flexible(true).from_reader(bytes);
    let mut record = csv::ByteRecord::new();
    if !reader.read_byte_record(&mut record)? {
        return Ok(());
    }
    let text = |field: &[u8]| String::from_utf8_lossy(field).trim().to_owned();
    let header: Vec<String> = record.iter().map(text).collect();
    while reader.read_byte_record(&mut record)? {
        let line = record.position().map_or(0, csv::Position::line) + skipped;
        let lines = reader.position().line() + skipped - line;
        ensure!(
            record.len() == header.len() || lines <= RECORD_LINES_MAX,
            "line {line}: a quote is opened there, and not closed for {lines} lines; close it"
        );
        let content = match fields(&header, &record) {
            Ok(value) => Content::Value(value),
            Err(error) => Content::Bad(error),
        };
        sink(Row { place: format!("line {line}"), content })?;
    }
    Ok(())
}

fn fields(header: &[String], record: &csv::ByteRecord) -> Result<Value> {
    ensure!(
        record.len() == header.len(),
        "{} fields, and the header has {}; put quotes around a field that has the separator in it",
        record.len(),
        header.len()
    );
    let field = |(name, field): (&String, &[u8])| {
        let text =
            std::str::from_utf8(field).with_context(|| format!("column {name}: not UTF-8; save the file as UTF-8"))?;
        Ok((name.clone(), Value::from(text)))
    };
    Ok(Value::from_pairs(header.iter().zip(record.iter()).map(field).collect::<Result<Vec<_>>>()?))
}
