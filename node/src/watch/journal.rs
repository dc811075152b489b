//! `journal.jsonl` in the state directory: when what came. One JSON object a line, appended, never rewritten.
//!
//! ```text
//! {"kind":"heights","at_ms":1764000000000,"heights":{"8f1c22ab0d9e.51f0c3d2a9b8e7f6":384}}
//!     ledgers that grew since the last such line
//! {"kind":"revoked","at_ms":…,"machine":"8f1c22ab0d9e.51f0c3d2a9b8e7f6","from":120,"fork":false}
//!     samples from 120 on no longer count
//! {"kind":"weights","at_ms":…,"weights":"91ab…","heights":{"8f1c22ab0d9e.51f0c3d2a9b8e7f6":384,…}}
//!     the weights' digest when they held just this
//! {"kind":"point","at_ms":…,"weights":"91ab…","heights":{"8f1c22ab0d9e.51f0c3d2a9b8e7f6":384,…},"root":"7d02…",
//!  "revoked":{},"measure":{"text":"c01d…","unit":"nats per token","windows":128},"loss":2.31,"bits_per_byte":3.12}
//!     the same, and what the weights came to on the held-out text; written once all of the samples are in the ledgers
//! ```
//!
//! `weights` and `point` lines name every machine: they come at least 1/500 of the time apart for which it was written.
//!
//! Times are this machine's clock, Unix milliseconds; what was written while it was wrong gets the time of what came
//! before (`log::Journal`). A program's first `heights` line names every ledger. The ledgers
//! themselves are in the database: nothing is lost with this file but the times and the digests.

use anyhow::{Context, Result};
use protocol::{machine::MachineId, replica::Replica};
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, HashMap},
    fs::File,
    io::{BufRead, BufReader},
    path::Path,
    time::{SystemTime, UNIX_EPOCH},
};

/// The file's name.
pub const FILE: &str = "journal.jsonl";

/// Machine (with its whole incarnation) to number of samples.
pub type Heights = BTreeMap<String, u64>;

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Line {
    /// Ledgers that grew.
    Heights {
        /// Unix time, milliseconds.
        at_ms: u64,
        heights: Heights,
    },
    /// Fewer samples of a machine count: it was forked, or the authority withdrew samples or its key.
    Revoked {
        /// Unix time, milliseconds.
        at_ms: u64,
        /// Whose samples.
        machine: String,
        /// The first that no longer counts.
        from: u64,
        /// By its own two histories, not by the authority.
        fork: bool,
    },
    /// What the weights held, and their digest.
    Weights {
        /// Unix time, milliseconds.
        at_ms: u64,
        /// BLAKE3, hexadecimal, as `node digest` prints it.
        weights: String,
        /// Samples of each machine that the weights held.
        heights: Heights,
    },
    /// A look at the held-out text.
    Point(Point),
}

impl Line {
    /// When it was written: Unix time, milliseconds.
    pub fn at_ms(&self) -> u64 {
        match self {
            Self::Heights { at_ms, .. } | Self::Revoked { at_ms, .. } | Self::Weights { at_ms, .. } => *at_ms,
            Self::Point(point) => point.at_ms,
        }
    }

    /// The same, to be set.
    pub fn at_ms_mut(&mut self) -> &mut u64 {
        match self {
            Self::Heights { at_ms, .. } | Self::Revoked { at_ms, .. } | Self::Weights { at_ms, .. } => at_ms,
            Self::Point(point) => &mut point.at_ms,
        }
    }
}

/// A look at the held-out text, and the weights that it was at: anyone with the ledgers can replay them.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Point {
    /// Unix time, milliseconds.
    pub at_ms: u64,
    /// BLAKE3 of the weights, hexadecimal, as `node digest` prints it.
    pub weights: String,
    /// Samples of each machine in the weights, all of them signed.
    pub heights: Heights,
    /// The version vector's root when the look began, hexadecimal. Own samples may have been signed since.
    pub root: String,
    /// Machines that were revoked then, and the first of their samples that did not count.
    pub revoked: Heights,
    /// What was measured. Only points of one measure can be compared.
    pub measure: Measure,
    /// Held-out loss, in the measure's unit.
    pub loss: f64,
    /// The same in bits per byte of text; none where rows have choices.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bits_per_byte: Option<f64>,
    /// Share of rows whose right choice was the likeliest, where rows have choices.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accuracy: Option<f64>,
    /// Mean score of completions, where a program gives one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub score: Option<f64>,
}

/// What a held-out loss is of.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Measure {
    /// BLAKE3 of the held-out text as it is cut into windows, hexadecimal.
    pub text: String,
    /// Unit of the loss.
    pub unit: String,
    /// Windows of the text that are looked at.
    pub windows: u64,
}

impl Point {
    /// Gradients in the weights.
    pub fn gradients(&self) -> u64 {
        self.heights.values().fold(0, |sum, height| sum.saturating_add(*height))
    }

    /// The first machine of which fewer samples count now than the weights held, and how many do. Whoever holds the
    /// point's weights then holds what the run has withdrawn. `counted`: samples of each machine that count.
    pub fn touched<'a>(&'a self, counted: &Heights) -> Option<(&'a str, u64)> {
        let count = |machine: &str| counted.get(machine).copied().unwrap_or(0);
        let less = self.heights.iter().map(|(machine, height)| (machine.as_str(), *height, count(machine)));
        less.filter(|(_, height, counted)| counted < height).map(|(machine, _, counted)| (machine, counted)).next()
    }
}

/// Which lines that name every machine a journal takes: those of a long run are many and long.
#[derive(Clone, Copy, Default, Debug)]
pub struct Sparse {
    /// For how long the journal was written.
    age_ms: u64,
    /// Its age at the last such line.
    last_ms: Option<u64>,
    /// When it was written to last.
    seen_ms: Option<u64>,
}

impl Sparse {
    /// The least share of the journal's age between two.
    const SHARE: u64 = 500;
    /// What lies between two lines counts as so much at most: a node that was off did not age, nor one whose clock was
    /// not set yet.
    const GAP_MS_MAX: u64 = 86_400_000;

    /// After `lines`, of which those are spaced that `is_one` of them says.
    pub fn after(lines: &[Line], is_one: impl Fn(&Line) -> bool) -> Self {
        let mut sparse = Self::default();
        for line in lines {
            sparse.pass_until(line.at_ms());
            if is_one(line) {
                sparse.last_ms = Some(sparse.age_ms);
            }
        }
        sparse
    }

    fn pass_until(&mut self, now_ms: u64) {
        let seen_ms = self.seen_ms.replace(now_ms).unwrap_or(now_ms);
        self.age_ms += now_ms.saturating_sub(seen_ms).min(Self::GAP_MS_MAX);
    }

    /// Whether one is taken now.
    pub fn takes(&mut self, now_ms: u64) -> bool {
        self.pass_until(now_ms);
        let takes = self.last_ms.is_none_or(|last| self.age_ms - last >= self.age_ms / Self::SHARE);
        if takes {
            self.last_ms = Some(self.age_ms);
        }
        takes
    }
}

/// Samples of each machine that count in `replica`.
pub fn counted(replica: &Replica) -> Heights {
    by_full_name(replica.effective_ranges().map(|range| (range.machine, range.to)))
}

/// Samples of each machine, under its whole name.
pub fn by_full_name(samples: impl IntoIterator<Item = (MachineId, u64)>) -> Heights {
    samples.into_iter().map(|(machine, samples)| (format!("{machine:#}"), samples)).collect()
}

/// The first sample of each machine that no longer counts, as `lines` have it.
pub fn floors(lines: &[Line]) -> HashMap<String, u64> {
    let mut floors = HashMap::new();
    for line in lines {
        if let Line::Revoked { machine, from, .. } = line {
            let floor = floors.entry(machine.clone()).or_insert(u64::MAX);
            *floor = (*floor).min(*from);
        }
    }
    floors
}

/// Unix time, milliseconds.
pub fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

/// Machines by the short names that older journals have, and their names in full.
#[derive(Default)]
pub struct FullNames(HashMap<String, String>);

impl FullNames {
    /// Those of the machines in `replica` of which no other has the same short name.
    pub fn of(replica: &Replica) -> Self {
        let mut names: HashMap<String, Option<String>> = HashMap::new();
        for (machine, ..) in replica.machines() {
            let full = names.entry(machine.to_string()).or_insert_with(|| Some(format!("{machine:#}")));
            *full = full.take().filter(|full| *full == format!("{machine:#}"));
        }
        Self(names.into_iter().filter_map(|(short, full)| Some((short, full?))).collect())
    }

    fn complete(&self, line: &mut Line) {
        let of = |name: String| self.0.get(&name).cloned().unwrap_or(name);
        let all = |heights: &mut Heights| {
            *heights = std::mem::take(heights).into_iter().map(|(name, height)| (of(name), height)).collect();
        };
        match line {
            Line::Heights { heights, .. } | Line::Weights { heights, .. } => all(heights),
            Line::Revoked { machine, .. } => *machine = of(std::mem::take(machine)),
            Line::Point(point) => {
                all(&mut point.heights);
                all(&mut point.revoked);
            }
        }
    }
}

/// The lines of earlier sessions that a node goes by when it begins another one: all but heights, of which there are
/// many. A journal that cannot be read is said, and done without.
pub fn earlier(state: &Path, names: &FullNames) -> Vec<Line> {
    let mut lines = Vec::new();
    let keep = |line| {
        if !matches!(line, Line::Heights { .. }) {
            lines.push(line);
        }
    };
    if let Err(error) = visit(state, names, keep) {
        tracing::warn!("what earlier sessions noted down is not known: {error:#}");
    }
    lines
}

/// Calls `visit` with all lines of the journal in `state` that can be read, in order, machines by their names in full.
/// Returns how many could not be read; None if there is no journal.
pub fn visit(state: &Path, names: &FullNames, mut visit: impl FnMut(Line)) -> Result<Option<usize>> {
    let path = state.join(FILE);
    let file = match File::open(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        file => file.with_context(|| path.display().to_string())?,
    };
    let mut unreadable = 0;
    for line in BufReader::new(file).split(b'\n') {
        let line = line.with_context(|| path.display().to_string())?;
        match serde_json::from_slice(&line) {
            Ok(mut line) => {
                names.complete(&mut line);
                visit(line);
            }
            // The end of a line that a crash cut off, and what was written behind it.
            Err(_) => unreadable += usize::from(!line.is_empty()),
        }
    }
    Ok(Some(unreadable))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_run_names_every_machine_ever_more_rarely() {
        let mut sparse = Sparse::default();
        let day_ms = 86_400_000;
        let taken = |sparse: &mut Sparse, from: u64, to: u64| {
            (from..to).step_by(10_000).filter(|now_ms| sparse.takes(*now_ms)).count()
        };
        assert_eq!(taken(&mut sparse, 0, 3_600_000), 360, "all of the first hour");
        let days = [(0, 1), (1, 30), (30, 60)].map(|(from, to)| taken(&mut sparse, from * day_ms, to * day_ms));
        assert!(days[0] < 2_500 && days[1] < 2_000 && days[2] < 400, "{days:?}");
        assert!(!sparse.takes(60 * day_ms));
        assert!(taken(&mut sparse, 0, day_ms) >= 8, "a clock that was set back does not end it");
    }

    /// Regression: a journal that began before the clock was set took a line every 41 days.
    #[test]
    fn what_a_clock_had_before_it_was_set_is_no_age() {
        let revoked = |at_ms| Line::Revoked { at_ms, machine: String::new(), from: 0, fork: false };
        let mut sparse = Sparse::after(&[revoked(1_000), revoked(1_764_000_000_000)], |_| true);
        assert!((1..=20).any(|minute| sparse.takes(1_764_000_000_000 + minute * 60_000)));
    }
}
