//! Which form a text has: told by its beginning.

use anyhow::{Result, bail};
use serde::de::IgnoredAny;
use std::path::Path;

use super::columns::Columns;

/// Records of a table that are looked at.
const RECORDS_MAX: usize = 64;
/// Longest name of a column, characters.
const NAME_CHARACTERS_MAX: usize = 64;

/// A form of text.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Form {
    /// Prose, code, whatever.
    Text,
    /// A value a line.
    JsonLines,
    /// One value that holds rows, or several over many lines.
    Json,
    /// A header, and records whose fields this separates.
    Table(u8),
    /// Columns of rows, which are no text.
    Parquet,
}

impl Form {
    /// For people.
    pub fn name(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::JsonLines => "JSON Lines",
            Self::Json => "JSON",
            Self::Table(b'\t') => "TSV",
            Self::Table(_) => "CSV",
            Self::Parquet => "Parquet",
        }
    }
}

/// The form of a text that begins with `head`; `is_whole`: and ends with it. The name of its file decides where the
/// beginning alone could be either. Errors if the name promises a form that the text does not have.
pub fn form(head: &[u8], is_whole: bool, path: &Path, columns: &Columns) -> Result<Form> {
    let head = String::from_utf8_lossy(head);
    let extension = extension(path);
    if let Some(form) = json(&head, is_whole, &extension) {
        return Ok(form);
    }
    if let Some(form) = table(&head, is_whole, &extension, columns)? {
        return Ok(form);
    }
    match extension.as_str() {
        "jsonl" | "ndjson" | "json" => {
            let first: String =
                head.lines().find(|line| !line.trim().is_empty()).unwrap_or("").chars().take(60).collect();
            let is_comment = ["//", "/*", "#"].iter().any(|mark| first.trim_start().starts_with(mark));
            bail!(
                "it is named .{extension}, and its first line is no JSON: {first:?}; {}",
                if is_comment { "JSON has no comments: take them out" } else { "if it is text, name it .txt" }
            )
        }
        _ => Ok(Form::Text),
    }
}

/// What a file is called at the end, without that of a compression.
fn extension(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
    let name = [".gz", ".gzip", ".zst", ".zstd"].iter().find_map(|end| name.strip_suffix(end)).unwrap_or(&name);
    name.rsplit_once('.').map_or(String::new(), |(_, extension)| extension.to_owned())
}

/// Whether it is JSON, and of which kind.
fn json(head: &str, is_whole: bool, extension: &str) -> Option<Form> {
    let is_named = matches!(extension, "json" | "jsonl" | "ndjson");
    let start = head.trim_start();
    if !looks_like_json(start, is_named) {
        return None;
    }
    let mut lines = start.lines().filter(|line| !line.trim().is_empty()).peekable();
    let (mut sound, mut all) = (0, 0);
    while let Some(line) = lines.next().filter(|_| all < RECORDS_MAX) {
        // The last line of a head may be cut.
        if lines.peek().is_none() && !is_whole && all > 0 {
            break;
        }
        all += 1;
        sound += usize::from(is_row(line));
    }
    // Over several lines: what there is of it must be sound.
    let is_sound = is_value(start, is_whole);
    // One long line, of which the end is not in sight.
    let one_line = !start.contains('\n') && !is_whole;
    // The rows of a list, a line each, are no lines by themselves: its first line is no row.
    let is_list = is_sound && !start.lines().next().is_some_and(is_row);
    if 2 * sound >= all && sound > 0 && !is_list || one_line && start.starts_with('{') {
        // An array on one line holds rows; a file of arrays, a line each, holds conversations.
        let is_array = all == 1 && is_whole && start.starts_with('[');
        return Some(if is_array { Form::Json } else { Form::JsonLines });
    }
    (is_sound || is_named).then_some(if is_named && !is_sound && (sound > 0 || extension != "json") {
        Form::JsonLines
    } else {
        Form::Json
    })
}

/// Whether `text` begins with a value, or, if it is not whole, with what may become one.
fn is_value(text: &str, is_whole: bool) -> bool {
    let text = without_non_finite(text);
    match serde_json::Deserializer::from_str(&text).into_iter::<IgnoredAny>().next() {
        Some(Ok(_)) => true,
        Some(Err(error)) => error.is_eof() && !is_whole,
        None => false,
    }
}

/// What no prose begins with.
fn looks_like_json(start: &str, is_named: bool) -> bool {
    let mut characters = start.chars();
    let first = characters.next();
    let second = characters.find(|character| !character.is_whitespace());
    match (first, second) {
        (Some('{' | '['), _) if is_named => true,
        (Some('{'), Some('"' | '}')) => true,
        (Some('['), Some('{' | '[' | '"' | ']')) => true,
        (Some('"'), _) => is_named,
        _ => false,
    }
}

/// Whether a line is one value that could be a row.
fn is_row(line: &str) -> bool {
    line.trim_start().starts_with(['{', '[', '"'])
        && serde_json::from_str::<IgnoredAny>(&without_non_finite(without_comma(line))).is_ok()
}

/// A line as those of a list are written, without the comma between them.
pub fn without_comma(line: &str) -> &str {
    line.trim_end().strip_suffix(',').filter(|line| line.ends_with(['}', ']'])).unwrap_or(line)
}

fn without_non_finite(text: &str) -> std::borrow::Cow<'_, str> {
    match text.contains("NaN") || text.contains("Infinity") {
        true => super::non_finite::replaced(text.as_bytes()).into(),
        false => text.into(),
    }
}

/// Whether it is a table. Errors if it surely is one, and no column is known.
fn table(head: &str, is_whole: bool, extension: &str, columns: &Columns) -> Result<Option<Form>> {
    let named = match extension {
        "csv" => &b",;\t|"[..],
        "tsv" | "tab" => b"\t",
        _ => b"",
    };
    let candidates = if named.is_empty() { &b"\t,;"[..] } else { named };
    let tables: Vec<(u8, Vec<Vec<String>>)> = candidates
        .iter()
        .map(|separator| (*separator, records(head, is_whole, *separator)))
        .filter(|(_, records)| is_table(records))
        .collect();
    let knows = |records: &[Vec<String>]| columns.knows(&records[0]);
    if let Some((separator, _)) = tables.iter().find(|(_, records)| knows(records)) {
        return Ok(Some(Form::Table(*separator)));
    }
    // A single column is a table if it is called one and has a name that is known.
    if !named.is_empty() && records(head, is_whole, named[0]).first().is_some_and(|header| columns.knows(header)) {
        return Ok(Some(Form::Table(named[0])));
    }
    let is_surely = |(separator, records): &&(u8, Vec<Vec<String>>)| {
        records.len() >= 2 && (!named.is_empty() || *separator == b'\t' && records.len() >= 5)
    };
    match tables.iter().find(is_surely) {
        Some((_, records)) => bail!(
            "it is a table, and its first line names no column that is known: {}. If that is the header, say which column is \
             the text: --text-field <name>, or --template '…{{{{ name }}}}…'; if it is data, put a header above it, {} for \
             example",
            shortened(&records[0]),
            if records[0].len() == 2 { "prompt and completion" } else { "text" }
        ),
        None if !named.is_empty() => {
            bail!("it is named .{extension}, and its lines have no equal number of fields; if it is text, name it .txt")
        }
        None => Ok(None),
    }
}

/// The first records; the last one may be cut, and is left out.
fn records(head: &str, is_whole: bool, separator: u8) -> Vec<Vec<String>> {
    let head = head.strip_prefix("sep=").map_or(head, |rest| rest.split_once('\n').map_or("", |(_, rest)| rest));
    let mut reader =
        csv::ReaderBuilder::new().delimiter(separator).has_headers(false).flexible(true).from_reader(head.as_bytes());
    let read = reader.records().take(RECORDS_MAX).map_while(Result::ok);
    let mut records: Vec<Vec<String>> = read.map(|record| record.iter().map(str::to_owned).collect()).collect();
    if !is_whole && records.len() < RECORDS_MAX {
        records.pop();
    }
    records
}

/// Two columns or more with names of their own, and as many fields in nearly all records.
fn is_table(records: &[Vec<String>]) -> bool {
    let Some((header, rows)) = records.split_first() else { return false };
    let is_name = |name: &String| {
        let name = name.trim();
        !name.is_empty() && name.chars().count() <= NAME_CHARACTERS_MAX && !name.contains('\n')
    };
    let whole = rows.iter().filter(|row| row.len() == header.len()).count();
    header.len() >= 2 && !rows.is_empty() && header.iter().any(is_name) && 10 * whole >= 9 * rows.len()
}

fn shortened(fields: &[String]) -> String {
    let short = |field: &String| field.chars().take(40).collect::<String>();
    super::report::few(&fields.iter().map(short).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(text: &str, name: &str) -> String {
        match form(text.as_bytes(), true, Path::new(name), &Columns::default()) {
            Ok(form) => form.name().to_owned(),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn forms_are_told_by_content_whatever_the_name() {
        for (text, expected) in [
            ("Once upon a time, there was, so they say, a king.\nHe had, as kings do, a crown.\n", "text"),
            ("[Verse 1]\nla la la\n", "text"),
            ("{\\rm not JSON}\nmore\n", "text"),
            ("\"To be,\" he said.\n", "text"),
            ("a\tb\nc\n", "text"),
            ("{\"text\": \"a\"}\n{\"text\": \"b\"}\n", "JSON Lines"),
            ("\n\n{\"text\": \"a\", \"score\": NaN}\n{\"text\"\n{\"text\": \"b\"}", "JSON Lines"),
            ("[{\"role\": \"user\", \"content\": \"a\"}]\n[{\"role\": \"user\", \"content\": \"b\"}]\n", "JSON Lines"),
            ("[{\"text\": \"a\"}, {\"text\": \"b\"}]", "JSON"),
            ("[\n  {\"text\": \"a\"},\n  {\"text\": \"b\"}\n]\n", "JSON"),
            ("{\n  \"data\": [\n    {\"text\": \"a\"}\n  ]\n}\n", "JSON"),
            (
                "{\n\"data\": [\n{\"text\": \"a\"},\n{\"text\": \"b\"},\n{\"text\": \"c\"},\n{\"text\": \"d\"}\n]}\n",
                "JSON",
            ),
            ("{\"text\": \"a\"},\n{\"text\": \"b\"},\n", "JSON Lines"),
            ("{\n  \"text\": \"a\"\n}\n{\n  \"text\": \"b\"\n}\n", "JSON"),
            ("id,text\n0,\"a, and\nb\"\n1,c\n", "CSV"),
            ("Question;Answer\na;b\nc;d\n", "CSV"),
            ("prompt\tcompletion\na\tb\n", "TSV"),
        ] {
            for name in ["x", "x.txt", "x.md"] {
                assert_eq!(told(text, name), expected, "{name}: {text}");
            }
        }
        assert_eq!(told("text\nfirst\nsecond\n", "x.csv"), "CSV");
        assert_eq!(told("text\nfirst\nsecond\n", "x.txt"), "text");
    }

    #[test]
    fn a_name_that_promises_what_the_text_is_not_is_an_error() {
        assert!(told("once upon a time", "x.jsonl").contains("no JSON"));
        assert!(told("once upon a time", "x.json.gz").contains("no JSON"));
        assert!(told("title;body\na;b\n", "x.csv").contains("--text-field"));
        assert!(told("a good film\t1\na bad film\t0\n", "x.tsv").contains("header"));
        assert!(told("some\nwords, only\nfew, of, them\n", "x.csv").contains("equal number"));
    }
}
