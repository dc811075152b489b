//! What was read of a path, for people: one line.

use anyhow::{Result, bail};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    path::{Path, PathBuf},
};

/// Names that a list shows before it says how many more there are.
const NAMES_MAX: usize = 3;
/// Largest share of rows that cannot be used: one in twenty.
const BAD_SHARE: u64 = 20;
/// Names of columns, or lists, that are kept, and characters of one that are shown.
const COLUMNS_MAX: usize = 64;
const NAME_CHARACTERS_MAX: usize = 40;

/// Counts of all that was read, skipped and cut. Its [`Display`](fmt::Display) is one line.
#[derive(Clone, Default, Debug)]
pub struct Report {
    /// What was named.
    pub path: PathBuf,
    pub(super) is_directory: bool,
    /// Files by their form.
    pub(super) files: BTreeMap<&'static str, u64>,
    /// What was taken off files: `gzip`, `UTF-16LE`.
    pub(super) wrapping: BTreeSet<&'static str>,
    /// Rows by what they have.
    pub(super) rows: BTreeMap<&'static str, u64>,
    /// Columns that nothing was taken from: (whether it is of no name that is known, the name).
    pub(super) columns_left: BTreeSet<(bool, String)>,
    /// Whether there are more of them.
    pub(super) columns_left_more: bool,
    /// Lists of rows beside one that was read.
    pub(super) lists_left: BTreeSet<String>,
    /// Rows without a text.
    pub(super) empty: u64,
    /// Rows with a text that makes no window.
    pub(super) short: u64,
    /// Rows that cannot be used.
    pub(super) bad: Lost,
    /// Rows without a column that is read. Among rows that have one, it was left off; if most lack it, they are bad.
    pub(super) without: Lost,
    /// Files that were not read, and why.
    pub(super) skipped: Vec<(String, String)>,
    /// Plain texts with columns, by what separates these.
    pub(super) separated: BTreeMap<&'static str, Vec<String>>,
    /// Plain texts that are nearly JSON, by what they have that JSON has not.
    pub(super) nearly_json: BTreeMap<&'static str, Vec<String>>,
    /// Names that begin with a dot.
    pub(super) hidden: u64,
    /// What names say is to be trained on, and what is to be measured by, if both are read here.
    pub(super) mixed: Option<[Vec<String>; 2]>,
    /// Rows that were cut into several windows.
    pub(super) windowed: u64,
    /// Rows whose prompt lost its start.
    pub(super) prompts_cut: u64,
    /// Conversations whose system turn went before the user's first.
    pub(super) systems_moved: u64,
    /// Whether there are conversations, and the model has no template of its own.
    pub(super) plain_template: bool,
    /// Tokens at the end of a text that fill no window.
    pub(super) left_over: u64,
    /// Of both parts.
    pub(super) windows: u64,
    pub(super) tokens: u64,
    /// What is held out of it, in words, if anything is.
    pub(super) held_out: Option<String>,
    /// Whether rows are held out that are trained on as well, since all are equal.
    pub(super) all_equal: bool,
    pub(super) sequence_length: usize,
}

/// Rows that are lost.
#[derive(Clone, Default, Debug)]
pub(super) struct Lost {
    pub count: u64,
    /// The first of them, with their places.
    pub first: Vec<String>,
}

impl Lost {
    pub fn add(&mut self, rows: u64, why: &str) {
        self.count += rows;
        if self.first.len() < NAMES_MAX {
            self.first.push(in_line(why));
        }
    }

    fn note(&self, what: &str) -> Option<String> {
        let rows = counted(self.count, "row");
        let first = few_of(&self.first, self.count);
        (self.count > 0).then(|| format!("{rows} {what} ({first})"))
    }
}

impl Report {
    /// A file is not read.
    pub(super) fn skip(&mut self, name: String, why: String) {
        self.skipped.push((name, why));
    }

    /// A plain text is read that looks like something else: with columns that something separates, or nearly JSON.
    pub(super) fn doubt(&mut self, path: &Path, separated: Option<&'static str>, nearly_json: Option<&'static str>) {
        let name = || shown(&path.file_name().unwrap_or_default().to_string_lossy());
        if let Some(by) = separated {
            self.separated.entry(by).or_default().push(name());
        }
        if let Some(but) = nearly_json {
            self.nearly_json.entry(but).or_default().push(name());
        }
    }

    /// Nothing is taken from a column; `is_known`: though its name is one that is.
    pub(super) fn leave_column(&mut self, name: &str, is_known: bool) {
        self.columns_left.insert((!is_known, shown(name)));
        if self.columns_left.len() > COLUMNS_MAX {
            self.columns_left.pop_last();
            self.columns_left_more = true;
        }
    }

    /// A file of this form was of no use.
    pub(super) fn uncount(&mut self, form: &'static str) {
        let count = self.files.remove(form).unwrap_or(0);
        if count > 1 {
            self.files.insert(form, count - 1);
        }
    }

    /// Lists of rows are not read, since another is.
    pub(super) fn leave_lists(&mut self, names: Vec<String>) {
        let room = COLUMNS_MAX.saturating_sub(self.lists_left.len());
        self.lists_left.extend(names.into_iter().take(room));
    }

    /// All rows that were looked at.
    pub(super) fn all_rows(&self) -> u64 {
        self.rows.values().sum::<u64>() + self.empty + self.short + self.bad.count + self.without.count
    }

    /// Rows that cannot be used, and should be: those that lack their column, too, unless most have it.
    pub(super) fn unusable(&self) -> Lost {
        let usable = self.rows.values().sum::<u64>() + self.empty + self.short;
        let mut all = self.bad.clone();
        if self.without.count > usable {
            all.count += self.without.count;
            all.first.extend(self.without.first.iter().cloned());
            all.first.truncate(NAMES_MAX);
        }
        all
    }

    /// Errors if too many rows cannot be used: names the first.
    pub(super) fn check(&self) -> Result<()> {
        let (bad, all) = (self.unusable(), self.all_rows());
        if bad.count * BAD_SHARE <= all {
            return Ok(());
        }
        let more = if bad.count > bad.first.len() as u64 { "; the first are" } else { "" };
        bail!("{} of {all} rows cannot be used{more}:\n  {}", bad.count, bad.first.join("\n  "))
    }

    /// Why there is nothing to learn.
    pub(super) fn no_text(&self) -> String {
        if self.is_directory {
            let names: Vec<String> = self.skipped.iter().map(|(name, why)| format!("{name}: {why}")).collect();
            let hidden = (self.hidden > 0).then(|| format!("{} hidden, by the dot before their names", self.hidden));
            let why: Vec<String> = (!names.is_empty()).then(|| few(&names)).into_iter().chain(hidden).collect();
            let why = if why.is_empty() { String::new() } else { format!(" ({})", why.join("; ")) };
            return format!(" has no files with text{why}; give a file or a directory with some");
        }
        let empty = if self.empty > 0 { format!(" ({} empty rows)", self.empty) } else { String::new() };
        format!(" has no text{empty}; give a file with some")
    }

    /// How many prompts lost their start.
    pub fn prompts_cut(&self) -> u64 {
        self.prompts_cut
    }

    /// Rows that cannot be used.
    pub fn bad_rows(&self) -> u64 {
        self.bad.count + self.without.count
    }

    /// Files that were not read, hidden ones among them.
    pub fn files_skipped(&self) -> u64 {
        self.skipped.len() as u64 + self.hidden
    }

    /// Whether files are read together that are apart by their names.
    pub fn is_mixed(&self) -> bool {
        self.mixed.is_some()
    }

    fn read(&self) -> String {
        let count: u64 = self.files.values().sum();
        let wrapping: Vec<&str> = self.wrapping.iter().copied().collect();
        let wrapping = if wrapping.is_empty() { String::new() } else { format!(" ({})", wrapping.join(", ")) };
        let forms: Vec<String> = match self.files.len() {
            1 => self.files.keys().map(|form| (*form).to_owned()).collect(),
            _ => self.files.iter().map(|(form, count)| format!("{} {form}", grouped(*count))).collect(),
        };
        let files = if self.is_directory { format!("{}, ", counted(count, "file")) } else { String::new() };
        let mut parts = vec![format!("{files}{}{wrapping}", forms.join(", "))];
        if !self.rows.is_empty() {
            let rows: u64 = self.rows.values().sum();
            let labels: Vec<String> = match self.rows.len() {
                1 => self.rows.keys().map(|label| (*label).to_owned()).collect(),
                _ => self.rows.iter().map(|(label, count)| format!("{} {label}", grouped(*count))).collect(),
            };
            parts.push(format!("{} ({})", counted(rows, "row"), labels.join("; ")));
        }
        parts.push(format!("{} of at most {} tokens", counted(self.windows, "window"), self.sequence_length));
        parts.push(counted(self.tokens, "token"));
        parts.join(", ")
    }

    /// What was skipped, and why.
    fn all_skipped(&self) -> Vec<String> {
        let mut skipped = Vec::new();
        if !self.skipped.is_empty() {
            let names: Vec<String> = self.skipped.iter().map(|(name, why)| format!("{name}: {why}")).collect();
            skipped.push(format!("{} ({})", counted(names.len() as u64, "file"), few(&names)));
        }
        if self.hidden > 0 {
            skipped.push(format!("{} hidden", grouped(self.hidden)));
        }
        if self.empty > 0 {
            skipped.push(format!("{} empty", counted(self.empty, "row")));
        }
        if self.short > 0 {
            skipped.push(format!("{} of one token, which predicts nothing", counted(self.short, "row")));
        }
        skipped.extend(self.without.note("with no column that is read"));
        skipped.extend(self.bad.note("that cannot be used"));
        if self.left_over > 0 {
            skipped.push(format!("the last {}, which fill no window", counted(self.left_over, "token")));
        }
        skipped
    }

    fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        notes.extend(self.held_out.as_ref().map(|held_out| format!("held out: {held_out}")));
        if self.all_equal {
            notes.push(
                "nearly all rows are equal, so those that are held out are trained on, too: give --eval a text".into(),
            );
        }
        if let Some([train, held_out]) = &self.mixed {
            notes.push(format!(
                "read together, though by their names to train on ({}) and to measure by ({}): name only those that are \
                 meant (to train, the ones as --data and the others as --eval)",
                few(train),
                few(held_out)
            ));
        }
        let skipped = self.all_skipped();
        if !skipped.is_empty() {
            notes.push(format!("skipped: {}", skipped.join(", ")));
        }
        if !self.columns_left.is_empty() {
            let names: Vec<String> = self.columns_left.iter().map(|(_, name)| name.clone()).collect();
            let more = if self.columns_left_more { " at least" } else { "" };
            notes.push(format!("columns left alone: {}{more}", few(&names)));
        }
        if !self.lists_left.is_empty() {
            let names: Vec<String> = self.lists_left.iter().cloned().collect();
            notes.push(format!("lists of rows left alone: {}", few(&names)));
        }
        for (by, names) in &self.separated {
            let (said, remedy) = match *by {
                "tabs" => (", as the name says", "rows are in .tsv"),
                _ => ("", "--text-field NAME reads rows"),
            };
            notes.push(format!("read as text{said}, though {by} separate columns: {} ({remedy})", few(names)));
        }
        for (but, names) in &self.nearly_json {
            notes.push(format!("read as text, though it would be JSON if it had no {but}: {}", few(names)));
        }
        if self.windowed > 0 {
            notes.push(format!("{} longer than a window, cut into several", counted(self.windowed, "row")));
        }
        if self.prompts_cut > 0 {
            notes.push(format!(
                "{} lost the start of their prompt, which a longer --sequence-length keeps",
                counted(self.prompts_cut, "row")
            ));
        }
        if self.systems_moved > 0 {
            let rows = counted(self.systems_moved, "row");
            notes.push(format!("the template takes no system turn, so that of {rows} went before the user's first"));
        }
        if self.plain_template {
            notes.push("the model has no chat template, so turns are written User: … and Assistant: …".into());
        }
        notes
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = if self.path.as_os_str() == "-" { "standard input".into() } else { self.path.display().to_string() };
        let notes: String = self.notes().iter().map(|note| format!("; {note}")).collect();
        f.write_str(&in_line(&format!("{name}: {}{notes}", self.read())))
    }
}

/// A number in groups of three digits, and the noun in the plural unless it is one.
pub(super) fn counted(count: u64, noun: &str) -> String {
    format!("{} {noun}{}", grouped(count), if count == 1 { "" } else { "s" })
}

fn grouped(count: u64) -> String {
    let digits = count.to_string();
    let mut out = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// The first of many names.
pub(super) fn few(names: &[String]) -> String {
    few_of(&names[..names.len().min(NAMES_MAX)], names.len() as u64)
}

fn few_of(first: &[String], all: u64) -> String {
    match all - first.len() as u64 {
        0 => first.join("; "),
        more => format!("{}; and {} more", first.join("; "), grouped(more)),
    }
}

/// A name that somebody's data has, as people may see it: its beginning, in one line.
pub(super) fn shown(name: &str) -> String {
    if name.is_empty() {
        return "one without a name".into();
    }
    let more = if name.chars().nth(NAME_CHARACTERS_MAX).is_some() { "…" } else { "" };
    in_line(&name.chars().take(NAME_CHARACTERS_MAX).collect::<String>()) + more
}

/// With what would end a line, or change how it is shown, as an escape.
fn in_line(text: &str) -> String {
    let is_mark = |character: char| matches!(character, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        match character.is_control() || is_mark(character) {
            true => out.extend(character.escape_default()),
            false => out.push(character),
        }
    }
    out
}
