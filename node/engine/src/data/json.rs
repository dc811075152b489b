//! Rows of JSON and JSON Lines, one after the other, each with its place.

use anyhow::{Result, anyhow, bail, ensure};
use minijinja::{Value, value::ValueKind};
use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use std::{
    fmt,
    io::{BufRead, Read},
    sync::atomic::Ordering,
};

use super::{
    bytes::Bytes,
    lenient::Lenient,
    names,
    report::{few, shown},
    row::{Content, ROW_BYTES_MAX, Row, parse},
};
use crate::chat::{is_by_field, present};

/// Lists of rows by the names that they have beside others: the first of these is read.
const LISTS: [&str; 3] = ["rows", "data", "train"];

/// Takes a row, and its number where its value holds several.
type Sink<'a> = dyn FnMut(Value, Option<u64>) -> Result<()> + 'a;

/// A value a line. `sink` gets each row; errors if the file cannot be read on.
pub fn lines(mut bytes: Bytes, sink: &mut dyn FnMut(Row) -> Result<()>) -> Result<()> {
    // A line that is alone may hold all rows.
    let (mut alone, mut count) = (None, 0u64);
    for number in 1u64.. {
        let mut line = Vec::new();
        let read = bytes.by_ref().take(ROW_BYTES_MAX).read_until(b'\n', &mut line)?;
        ensure!((read as u64) < ROW_BYTES_MAX, "line {number} has more than {ROW_BYTES_MAX} bytes; it is no row");
        if read == 0 {
            break;
        }
        // Files that were put together have a mark in the middle, sequences of JSON (RFC 7464) one before each value.
        let mut line = &line[..];
        while let Some(rest) = line.strip_prefix(b"\xef\xbb\xbf").or_else(|| line.strip_prefix(b"\x1e")) {
            line = rest;
        }
        let line = line.trim_ascii();
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
    let Ok(value) = parse(&line) else { return sink(Row { place, content: Content::Line(line) }) };
    let mut left = Vec::new();
    expand(value, &mut left, &mut |value, index| {
        let place = index.map_or(place.clone(), |index| format!("{place}, row {index}"));
        sink(Row { place, content: Content::Value(value) })
    })?;
    if left.is_empty() { Ok(()) } else { sink(Row { place, content: Content::ListsLeft(left) }) }
}

/// One value after the other, each of which is a row or holds rows. `sink` gets each row; errors if the file cannot be
/// read on.
pub fn values(bytes: Bytes, sink: &mut dyn FnMut(Row) -> Result<()>) -> Result<()> {
    let reader = Lenient::new(bytes);
    let line = reader.line.clone();
    let mut deserializer = serde_json::Deserializer::from_reader(reader);
    let (mut values, mut stopped) = (0, None);
    while deserializer.end().is_err() {
        values += 1;
        let mut row = |value: Value, index: Option<u64>| {
            let line = line.load(Ordering::Relaxed);
            let place = match index {
                Some(index) if values > 1 => format!("row {index} of value {values}, which ends in line {line}"),
                index => format!("row {}, which ends in line {line}", index.unwrap_or(values)),
            };
            sink(Row { place, content: Content::Value(value) })
        };
        let mut left = Vec::new();
        let top = TopLevel { sink: &mut row, left: &mut left, stopped: &mut stopped };
        if let Err(error) = top.deserialize(&mut deserializer) {
            return Err(stopped.unwrap_or_else(|| anyhow!("malformed JSON: {error}; what follows cannot be read")));
        }
        if !left.is_empty() {
            sink(Row { place: format!("value {values}"), content: Content::ListsLeft(left) })?;
        }
    }
    Ok(())
}

/// Hands out the rows of a list as they come, so that they are not all in memory at once.
struct TopLevel<'a> {
    sink: &'a mut Sink<'a>,
    /// Names of lists of rows that are not read.
    left: &'a mut Vec<String>,
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
            Self::keep(self.stopped, (self.sink)(unwrapped(value), Some(index)))?;
        }
        first.map_or(Ok(()), |value| Self::keep(self.stopped, (self.sink)(value, None)))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut pairs = Vec::new();
        while let Some(pair) = map.next_entry::<String, Value>()? {
            pairs.push(pair);
        }
        Self::keep(self.stopped, expand(Value::from_pairs(pairs), self.left, self.sink))
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

/// The rows of a value that is a row, or holds some: in a list, in a list under some name, by column, or by key. `left`
/// takes the names of lists of rows that are not read.
fn expand(value: Value, left: &mut Vec<String>, sink: &mut Sink<'_>) -> Result<()> {
    let mut all =
        |rows: &mut dyn Iterator<Item = Value>| (1..).zip(rows).try_for_each(|(i, row)| sink(unwrapped(row), Some(i)));
    match value.kind() {
        ValueKind::Seq if !first(&value).is_some_and(|first| is_message(&first)) => {
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
    if pairs.iter().any(|(name, _)| names::is_known(name)) {
        return sink(value, None);
    }
    // The only thing in it may hold the rows: {"dataset": {"train": [...]}}.
    if let [(_, inner)] = &pairs[..]
        && inner.kind() == ValueKind::Map
        && !is_message(inner)
    {
        return expand(inner.clone(), left, sink);
    }
    if let Some((name, list)) = list_of_rows(&pairs)? {
        left.extend(pairs.iter().filter(|(other, value)| other != name && is_list(value)).map(|(name, _)| shown(name)));
        return all(&mut list.try_iter()?);
    }
    if pairs.len() > 1 && pairs.iter().all(|(_, value)| value.kind() == ValueKind::Map) {
        return all(&mut pairs.into_iter().map(|(_, value)| value));
    }
    sink(value, None)
}

fn first(list: &Value) -> Option<Value> {
    list.get_item_by_index(0).ok()
}

/// Whether it is a list of what may be rows.
fn is_list(value: &Value) -> bool {
    value.kind() == ValueKind::Seq && first(value).is_some_and(|first| first.kind() == ValueKind::Map)
}

/// The list of rows among the fields of an object, by its name if there are several. Errors if none is called so.
fn list_of_rows(pairs: &[(String, Value)]) -> Result<Option<&(String, Value)>> {
    let lists: Vec<&(String, Value)> = pairs.iter().filter(|(_, value)| is_list(value)).collect();
    let called = LISTS.iter().find_map(|name| lists.iter().find(|(own, _)| own == name));
    match (called, &lists[..]) {
        (Some(list), _) | (None, [list]) => Ok(Some(list)),
        (None, []) => Ok(None),
        (None, _) => {
            let names: Vec<String> = lists.iter().map(|(name, _)| shown(name)).collect();
            bail!(
                "it holds several lists of rows ({}), and none is called {}; put the one to read into a file of its own",
                few(&names),
                LISTS.join(", ")
            )
        }
    }
}

/// Whether there are lists in it, as in a column of conversations; a conversation has objects.
fn holds_lists(column: &Value) -> bool {
    let item = |key: Value| if column.kind() == ValueKind::Map { column.get_item(&key).ok() } else { Some(key) };
    let mut items = column.try_iter().into_iter().flatten().filter_map(item);
    items.any(|item| item.kind() == ValueKind::Seq)
}

/// Rows that are written column by column, as pandas does: lists of equal lengths, or objects with equal keys.
fn by_column(pairs: &[(String, Value)]) -> Option<Vec<Value>> {
    let (_, sample) =
        pairs.iter().find(|(name, value)| names::is_text(name) || names::is_messages(name) && holds_lists(value))?;
    let is_alike = |value: &Value| value.kind() == sample.kind() && value.len() == sample.len();
    if !matches!(sample.kind(), ValueKind::Seq | ValueKind::Map) || !pairs.iter().all(|(_, value)| is_alike(value)) {
        return None;
    }
    // One row, whose prompt and completion are messages.
    let is_conversation = |value: &Value| {
        is_by_field(value) || value.kind() == ValueKind::Seq && first(value).is_some_and(|first| is_message(&first))
    };
    if pairs.iter().any(|(_, value)| is_conversation(value)) {
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
