//! What was read of a path, for people: one line.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    path::PathBuf,
};

/// Names that a list shows before it says how many more there are.
const NAMES_MAX: usize = 3;

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
    /// Columns that nothing was taken from.
    pub(super) columns_left: BTreeSet<String>,
    /// Rows without a text.
    pub(super) empty: u64,
    /// Rows that cannot be used.
    pub(super) bad: u64,
    /// The first of them, with their places.
    pub(super) first_bad: Vec<String>,
    /// Files that were not read, and why.
    pub(super) skipped: Vec<(String, String)>,
    /// Names that begin with a dot.
    pub(super) hidden: u64,
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

impl Report {
    /// A file is not read.
    pub(super) fn skip(&mut self, name: String, why: String) {
        self.skipped.push((name, why));
    }

    /// A file of this form was of no use.
    pub(super) fn uncount(&mut self, form: &'static str) {
        let count = self.files.remove(form).unwrap_or(0);
        if count > 1 {
            self.files.insert(form, count - 1);
        }
    }

    /// A row cannot be used.
    pub(super) fn bad_row(&mut self, why: String) {
        self.bad += 1;
        if self.first_bad.len() < NAMES_MAX {
            self.first_bad.push(why);
        }
    }

    /// All rows that were looked at.
    pub(super) fn all_rows(&self) -> u64 {
        self.rows.values().sum::<u64>() + self.empty + self.bad
    }

    /// How many prompts lost their start.
    pub fn prompts_cut(&self) -> u64 {
        self.prompts_cut
    }

    /// Rows that cannot be used.
    pub fn bad_rows(&self) -> u64 {
        self.bad
    }

    /// Files that were not read, hidden ones among them.
    pub fn files_skipped(&self) -> u64 {
        self.skipped.len() as u64 + self.hidden
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

    fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        notes.extend(self.held_out.as_ref().map(|held_out| format!("held out: {held_out}")));
        if self.all_equal {
            notes.push(
                "nearly all rows are equal, so those that are held out are trained on, too: give --eval a text".into(),
            );
        }
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
        if self.bad > 0 {
            skipped.push(format!(
                "{} that cannot be used ({})",
                counted(self.bad, "row"),
                few_of(&self.first_bad, self.bad)
            ));
        }
        if self.left_over > 0 {
            skipped.push(format!("the last {}, which fill no window", counted(self.left_over, "token")));
        }
        if !skipped.is_empty() {
            notes.push(format!("skipped: {}", skipped.join(", ")));
        }
        if !self.columns_left.is_empty() {
            let names: Vec<String> = self.columns_left.iter().cloned().collect();
            notes.push(format!("columns left alone: {}", few(&names)));
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
        write!(f, "{name}: {}{notes}", self.read())
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
