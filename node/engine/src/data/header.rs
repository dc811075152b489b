//! Whether a text is a table: told by its header.

use anyhow::{Result, bail};

use super::{
    columns::Columns,
    report::{few, shown},
};

/// Records of a table, or lines of another text, that are looked at.
pub const RECORDS_MAX: usize = 64;
/// Longest name of a column, characters.
const NAME_CHARACTERS_MAX: usize = 64;

/// What may separate columns, for people.
const SEPARATORS: [(u8, &str); 4] = [(b'\t', "tabs"), (b',', "commas"), (b';', "semicolons"), (b'|', "bars")];

/// Names of files that say that it is text.
const TEXTS: [&str; 5] = ["txt", "text", "log", "md", "markdown"];

/// What separates the fields, if it is a table. Errors if it surely is one, and no column is known.
pub fn separator(head: &str, is_whole: bool, extension: &str, columns: &Columns) -> Result<Option<u8>> {
    let (candidates, is_named) = match extension {
        "csv" => (&b",;\t|"[..], true),
        "tsv" | "tab" => (&b"\t"[..], true),
        // A table of Markdown begins with what separates its columns.
        _ if head.trim_start().starts_with('|') => (&b"\t,;"[..], false),
        _ => (&b"\t,;|"[..], false),
    };
    let knows = |records: &[Vec<String>]| records.first().is_some_and(|header| columns.knows(header));
    let tables: Vec<(u8, Vec<Vec<String>>)> = candidates
        .iter()
        .map(|separator| (*separator, records(head, is_whole, *separator)))
        .filter(|(_, records)| is_table(records, is_named) || (is_named || !is_whole) && is_header(records))
        .collect();
    if let Some((separator, _)) = tables.iter().find(|(_, records)| knows(records)) {
        return Ok(Some(*separator));
    }
    // What is called one is read as one, whatever its records; a single column, too, if a flag names it.
    let single = records(head, is_whole, candidates[0]);
    let is_column_named = || matches!(single.first().map(Vec::as_slice), Some([name]) if columns.names(name));
    if is_named && knows(&single) || is_column_named() {
        return Ok(Some(candidates[0]));
    }
    let is_surely = |(separator, records): &&(u8, Vec<Vec<String>>)| {
        is_named || *separator == b'\t' && !TEXTS.contains(&extension) && has_columns(records)
    };
    match tables.iter().find(is_surely) {
        Some((_, records)) => bail!(
            "it is a table, and its first line names no column that is known: {}. If that is the header, say which column is \
             the text: --text-field <name>, or --template '…{{{{ name }}}}…'; if it is data, put a header above it, {} for \
             example",
            few(&records[0].iter().map(|name| shown(name)).collect::<Vec<_>>()),
            if records[0].len() == 2 { "prompt and completion" } else { "text" }
        ),
        None if is_named && is_column(&single) => bail!(
            "it is a table of one column, and its first line is no name that is known: {name}. If that is the header, say \
             that it is the text: --text-field '{name}'; if it is data, put text above it",
            name = shown(&single[0][0])
        ),
        None if is_named => {
            bail!("it is named .{extension}, and its lines have no equal number of fields; if it is text, name it .txt")
        }
        None => Ok(None),
    }
}

/// What separates the columns of a text, if it has some. In prose a space follows what divides it.
pub fn separated(head: &str, is_whole: bool) -> Option<&'static str> {
    let is_spaced = |record: &Vec<String>| record.iter().any(|field| field.starts_with(' '));
    let separates = |separator: u8| {
        let records = records(head, is_whole, separator);
        has_columns(&records) && (separator == b'\t' || !records.iter().any(is_spaced))
    };
    SEPARATORS.into_iter().find(|(separator, _)| separates(*separator)).map(|(_, name)| name)
}

fn has_columns(records: &[Vec<String>]) -> bool {
    records.len() >= 5 && is_table(records, false)
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

fn is_name(name: &str) -> bool {
    let name = name.trim();
    !name.is_empty() && name.chars().count() <= NAME_CHARACTERS_MAX && !name.contains('\n')
}

/// Two columns or more with names of their own, and as many fields in nearly all records; in what is called a table,
/// fields at the end may have been left off.
fn is_table(records: &[Vec<String>], is_named: bool) -> bool {
    let Some((header, rows)) = records.split_first() else { return false };
    let is_whole = |row: &&Vec<String>| row.len() == header.len() || is_named && (2..header.len()).contains(&row.len());
    let whole = rows.iter().filter(is_whole).count();
    header.len() >= 2 && !rows.is_empty() && header.iter().any(|name| is_name(name)) && 10 * whole >= 9 * rows.len()
}

/// Names of two columns or more, and no record, or one of which the end is not in sight.
fn is_header(records: &[Vec<String>]) -> bool {
    matches!(records, [header] if header.len() >= 2 && header.iter().all(|name| is_name(name)))
}

/// A name, and a field in each record.
fn is_column(records: &[Vec<String>]) -> bool {
    records.len() >= 2 && records.iter().all(|record| record.len() == 1) && is_name(&records[0][0])
}
