//! Which form a text has: told by its beginning.

use anyhow::{Result, bail, ensure};
use serde::de::IgnoredAny;
use std::path::Path;

use super::{
    columns::Columns,
    header::{self, RECORDS_MAX},
    lenient,
};

/// So many lines that are texts in quotes are more than a dialogue's chance.
const TEXTS_MIN: usize = 5;

/// Names of files that are no text: one that is has the words of a server, mostly, in place of what it should.
const NO_TEXTS: [&str; 7] = ["parquet", "arrow", "feather", "zip", "pdf", "docx", "xlsx"];

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
    let (extension, lines) = (extension(path), first_lines(&head, is_whole));
    ensure!(
        extension == "py" || !is_python(&lines),
        "its rows are written as Python shows them, {{'text': …}}, and that is no JSON: write each with json.dumps(row)"
    );
    if let Some(form) = json(&head, &lines, is_whole, &extension).or_else(|| rows_in_lines(&lines, columns)) {
        return Ok(form);
    }
    if let Some(separator) = header::separator(&head, is_whole, &extension, columns)? {
        return Ok(Form::Table(separator));
    }
    let first: String = lines.first().unwrap_or(&"").chars().take(60).collect();
    match extension.as_str() {
        "jsonl" | "ndjson" | "json" => {
            let is_comment = ["//", "/*", "#"].iter().any(|mark| first.trim_start().starts_with(mark));
            bail!(
                "it is named .{extension}, and its first line is no JSON: {first:?}; {}",
                if is_comment { "JSON has no comments: take them out" } else { "if it is text, name it .txt" }
            )
        }
        name if NO_TEXTS.contains(&name) => {
            bail!("it is named .{name}, and is a text that begins {first:?}: download it again, or name it .txt")
        }
        _ => Ok(Form::Text),
    }
}

/// The first lines that are not blank. The last line of a head may be cut, and is left out, unless it is alone.
fn first_lines(head: &str, is_whole: bool) -> Vec<&str> {
    let lines = head.lines().map(|line| line.trim_start_matches(['\u{feff}', '\u{1e}']));
    let lines = lines.filter(|line| !line.trim().is_empty());
    let mut lines: Vec<&str> = lines.take(RECORDS_MAX + 1).collect();
    if lines.len() > RECORDS_MAX || lines.len() > 1 && !is_whole {
        lines.pop();
    }
    lines
}

/// What a file is called at the end, without that of a compression.
fn extension(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
    let name = [".gz", ".gzip", ".zst", ".zstd"].iter().find_map(|end| name.strip_suffix(end)).unwrap_or(&name);
    name.rsplit_once('.').map_or(String::new(), |(_, extension)| extension.to_owned())
}

/// Whether it is JSON, and of which kind.
fn json(head: &str, lines: &[&str], is_whole: bool, extension: &str) -> Option<Form> {
    let is_named = matches!(extension, "json" | "jsonl" | "ndjson");
    let start = past_marks(head);
    if !looks_like_json(start, is_named) {
        return None;
    }
    let (sound, all) = (lines.iter().filter(|line| is_row(line)).count(), lines.len());
    // Over several lines: what there is of it must be sound.
    let is_sound = is_value(start, is_whole);
    // One long line, of which the end is not in sight.
    let one_line = !start.contains('\n') && !is_whole && is_sound;
    // The rows of a list, a line each, are no lines by themselves: its first line is no row.
    let is_list = is_sound && !start.lines().next().is_some_and(is_row);
    if 2 * sound >= all && sound > 0 && !is_list || one_line && start.starts_with('{') {
        // An array on one line holds rows; a file of arrays, a line each, holds conversations.
        let is_array = all == 1 && is_whole && start.starts_with('[');
        return Some(if is_array { Form::Json } else { Form::JsonLines });
    }
    let is_broken = is_broken(&lenient::mended(start.as_bytes()));
    let is_lines = is_named && !is_sound && (extension != "json" || sound > 0 && !is_broken);
    (is_sound || is_named || is_broken).then_some(match is_lines {
        true => Form::JsonLines,
        false => Form::Json,
    })
}

/// What keeps a text that begins with `head` from being JSON, if it is nearly that; of a text that is none.
pub fn nearly_json(head: &[u8], is_whole: bool) -> Option<&'static str> {
    let head = String::from_utf8_lossy(head);
    let start = past_comments(&head);
    if !start.starts_with(['{', '[']) {
        return None;
    }
    let mended = lenient::mended(start.as_bytes());
    match is_broken(&mended) || is_value(start, is_whole) && begins_with_pair(&mended) {
        true => Some("comments"),
        false => begins_with_bare_pair(start).then_some("names or texts without double quotes"),
    }
}

/// What follows white space and comments, as JavaScript, C and Python have them.
fn past_comments(text: &str) -> &str {
    let mut rest = text.trim_start();
    while rest.starts_with("/*") || rest.starts_with("//") || rest.starts_with('#') {
        let end = if rest.starts_with("/*") { "*/" } else { "\n" };
        rest = rest.split_once(end).map_or("", |(_, after)| after.trim_start());
    }
    rest
}

/// The first value of a text.
fn first_value(text: &str) -> Option<serde_json::Result<IgnoredAny>> {
    serde_json::Deserializer::from_str(text).into_iter().next()
}

/// Whether JSON begins and is broken further on, or has no end.
fn is_broken(text: &str) -> bool {
    // Behind a value that has its end there may be prose.
    matches!(first_value(text), Some(Err(_))) && begins_with_pair(text)
}

/// Whether the first pair of a name and a value is sound, whatever lists and objects it is in.
fn begins_with_pair(text: &str) -> bool {
    let mut rest = past_comments(text);
    loop {
        if let Some(list) = rest.strip_prefix('[') {
            rest = past_comments(list);
            continue;
        }
        let Some(inner) = rest.strip_prefix('{').and_then(|pair| behind_name(past_comments(pair))) else {
            return false;
        };
        if matches!(first_value(inner), Some(Ok(_))) {
            return true;
        }
        rest = past_comments(inner);
    }
}

/// What follows the name of a field, with which `text` begins.
fn behind_name(text: &str) -> Option<&str> {
    let mut names = serde_json::Deserializer::from_str(text).into_iter::<String>();
    names.next()?.ok()?;
    text.get(names.byte_offset()..)?.trim_start().strip_prefix(':')
}

/// Whether an object, or a list of some, begins with a name or a text that lacks its double quotes.
fn begins_with_bare_pair(text: &str) -> bool {
    let mut rest = past_comments(text);
    while let Some(list) = rest.strip_prefix('[') {
        rest = past_comments(list);
    }
    let Some(pair) = rest.strip_prefix('{').map(past_comments) else { return false };
    let is_text = |value: &str| value.trim_start().starts_with('\'');
    let is_value = |value: &str| {
        let value = value.trim_start();
        value.starts_with(['"', '\'', '[', '{', '-']) || value.starts_with(|first: char| first.is_ascii_digit())
    };
    match behind_name(pair) {
        Some(value) => is_text(value),
        None => behind_bare_name(pair).is_some_and(is_value),
    }
}

/// What follows a name that is a word, or in single quotes.
fn behind_bare_name(text: &str) -> Option<&str> {
    let behind = match text.strip_prefix('\'') {
        Some(name) => name.split_once('\'')?.1,
        None => text.trim_start_matches(|part: char| part.is_alphanumeric() || part == '_'),
    };
    (behind.len() < text.len()).then_some(behind)?.trim_start().strip_prefix(':')
}

/// Rows a line each, behind a first line that is none (a comment, or half a line); or texts in quotes, which may be the
/// fields of a table with one column.
fn rows_in_lines(lines: &[&str], columns: &Columns) -> Option<Form> {
    let is_object = |line: &&&str| {
        line.trim_start().strip_prefix('{').is_some_and(|rest| rest.trim_start().starts_with('"')) && is_row(line)
    };
    let objects = lines.iter().filter(is_object).count();
    if 2 * objects >= lines.len() && objects > 0 {
        return Some(Form::JsonLines);
    }
    let texts = lines.iter().map_while(|line| serde_json::from_str::<String>(line.trim()).ok());
    let texts: Vec<String> = texts.collect();
    match texts.len() == lines.len() && texts.len() >= TEXTS_MIN {
        true if columns.knows(&texts[..1]) => Some(Form::Table(b',')),
        true => Some(Form::JsonLines),
        false => None,
    }
}

/// Whether most lines are Python's dicts, or lists of them.
fn is_python(lines: &[&str]) -> bool {
    let is_dict = |line: &&&str| line.trim_start().trim_start_matches('[').starts_with("{'");
    2 * lines.iter().filter(is_dict).count() >= lines.len() && !lines.is_empty()
}

/// Whether `text` is values one after the other, or, if it is not whole, what may become some.
fn is_value(text: &str, is_whole: bool) -> bool {
    let is_sound = |text: &str| {
        let mut values = serde_json::Deserializer::from_str(text).into_iter::<IgnoredAny>();
        match values.next() {
            // Prose may begin with {} or ["a"].
            Some(Ok(_)) => {
                let rest = past_marks(text.get(values.byte_offset()..).unwrap_or_default());
                let rest = rest.strip_prefix(',').map_or(rest, str::trim_start);
                rest.is_empty() || rest.starts_with(['{', '[', '"'])
            }
            Some(Err(error)) => error.is_eof() && !is_whole,
            None => false,
        }
    };
    is_sound(text) || is_sound(&lenient::mended(text.as_bytes()))
}

/// What follows white space, and the marks before the values of a sequence of JSON (RFC 7464).
fn past_marks(text: &str) -> &str {
    text.trim_start_matches(|part: char| part.is_whitespace() || part == '\u{1e}')
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
    let line = without_comma(line);
    let is_sound = |line: &str| serde_json::from_str::<IgnoredAny>(line).is_ok();
    line.trim_start().starts_with(['{', '[', '"']) && (is_sound(line) || is_sound(&lenient::mended(line.as_bytes())))
}

/// A line as those of a list are written, without the comma between them.
pub fn without_comma(line: &str) -> &str {
    line.trim_end().strip_suffix(',').filter(|line| line.ends_with(['}', ']'])).unwrap_or(line)
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
            ("text|label\na|1\nb|0\n", "CSV"),
            ("| text | label |\n|---|---|\n| a | 1 |\n", "text"),
            ("[\n  {\n    \"text\": \"a\"\n  },\n]\n", "JSON"),
            ("{\n  \"data\": [\n    {\n      \"text\": NaN,\n      \"x\": \"a\n", "JSON"),
            ("{\"a\": 1} is an object, they say.\nAnd more.\n", "text"),
            ("{\"a\": …} is an object, they say.\nAnd more.\n", "text"),
            ("{} is the empty set, they say.\nAnd more.\n", "text"),
            ("{}, the empty set, has no elements.\nAnd more.\n", "text"),
            ("{\n  \"text\": \"a\"\n},\n{\n  \"text\": \"b\"\n}\n", "JSON"),
            ("[\"Hello\"] she said.\nAnd more.\n", "text"),
            ("# a comment\n{\"text\": \"a\"}\n{\"text\": \"b\"}\n", "JSON Lines"),
            ("of a line\"}\n{\"text\": \"a\"}\n", "JSON Lines"),
            ("null\n{\"text\": \"a\tb\"}\n{\"text\": \"b\", \"x\": 1e400}\n", "JSON Lines"),
            ("Some words.\nMore words.\n{\"text\": \"a\"}\n", "text"),
            ("\"a\"\n\"b\"\n\"c\"\n\"d\"\n\"e\"\n", "JSON Lines"),
            ("\"text\"\n\"b\"\n\"c\"\n\"d\"\n\"e\"\n", "CSV"),
            ("\"To be,\" he said.\n\"a\"\n\"b\"\n\"c\"\n\"d\"\n\"e\"\n", "text"),
        ] {
            for name in ["x", "x.txt", "x.md"] {
                assert_eq!(told(text, name), expected, "{name}: {text}");
            }
        }
        assert_eq!(told("text\nfirst\nsecond\n", "x.csv"), "CSV");
        assert_eq!(told("text\nfirst\nsecond\n", "x.txt"), "text");
    }

    #[test]
    fn a_first_cell_of_any_length_leaves_a_table_a_table() {
        let cell = "a line of text\n".repeat(8000);
        let cut = |text: &str, name: &str, columns: &Columns| {
            form(&text.as_bytes()[..1 << 16], false, Path::new(name), columns)
                .map(Form::name)
                .map_err(|e| e.to_string())
        };
        let known = Columns::default();
        assert_eq!(cut(&format!("id,text\n1,\"{cell}\"\n"), "x", &known).unwrap(), "CSV");
        assert_eq!(cut(&format!("id\ttext\n1\t{}\n", cell.replace('\n', " ")), "x", &known).unwrap(), "TSV");
        assert_eq!(cut(&format!("id,text\n1,\"{cell}\"\n"), "x.csv", &known).unwrap(), "CSV");
        assert!(cut(&format!("id,body\n1,\"{cell}\"\n"), "x.csv", &known).unwrap_err().contains("--text-field"));
        assert_eq!(cut(&format!("Once, long ago\n{cell}"), "x", &known).unwrap(), "text");
    }

    #[test]
    fn one_column_is_a_table_if_it_is_named() {
        let with = |field: Option<&str>, template: Option<&str>, text: &str| {
            let columns = Columns::new(field.map(str::to_owned), template).unwrap();
            form(text.as_bytes(), true, Path::new("x"), &columns).unwrap().name()
        };
        assert_eq!(with(Some("review"), None, "review\ngood, they say\nbad\n"), "TSV");
        assert_eq!(with(None, Some("It is: {{ review }}"), "review\ngood\nbad\n"), "TSV");
        assert_eq!(with(Some("review"), None, "a review\ngood\nbad\n"), "text");
        assert_eq!(with(None, Some("It is: {{ review }}"), "a review\ngood\nbad\n"), "text");
    }

    #[test]
    fn a_name_that_promises_what_the_text_is_not_is_an_error() {
        assert!(told("once upon a time", "x.jsonl").contains("no JSON"));
        assert!(told("once upon a time", "x.json.gz").contains("no JSON"));
        assert!(told("<!DOCTYPE html>\n<title>404</title>\n", "x.parquet").contains("download it again"));
        assert!(told("Entry not found", "x.ZIP").contains("is a text that begins \"Entry not found\""));
        assert!(told("title;body\na;b\n", "x.csv").contains("--text-field"));
        assert!(told("a good film\t1\na bad film\t0\n", "x.tsv").contains("header"));
        assert!(told("review\ngood\nbad\n", "x.csv").contains("--text-field 'review'"));
        assert!(told("{'text': 'a'}\n{'text': 'b'}\n", "x").contains("json.dumps"));
        assert!(told("[{'role': 'user'}]\n", "x.jsonl").contains("json.dumps"));
        assert_eq!(told("{'text': 'a'}\n", "x.py"), "text");
        assert_eq!(told("id,text,label\n1,a\n2,b\n", "x.csv"), "CSV");
        assert!(told("some\nwords, only\nfew, of, them\n", "x.csv").contains("equal number"));
    }
}
