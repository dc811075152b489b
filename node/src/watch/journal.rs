//! `journal.jsonl` in the state directory: when what came. One JSON object a line, appended, never rewritten.
//!
//! ```text
//! {"kind":"heights","at_ms":1764000000000,"heights":{"8f1c22ab0d9e.51f0":384}}
//!     ledgers that grew since the last such line
//! {"kind":"revoked","at_ms":…,"machine":"8f1c22ab0d9e.51f0","from":120,"fork":false}
//!     samples from 120 on no longer count
//! {"kind":"weights","at_ms":…,"weights":"91ab…","heights":{"8f1c22ab0d9e.51f0":384,…}}
//!     the weights' digest when they held just this
//! {"kind":"point","at_ms":…,"weights":"91ab…","heights":{"8f1c22ab0d9e.51f0":384,…},"root":"7d02…","revoked":{},
//!  "measure":{"text":"c01d…","unit":"nats per token","windows":128},"loss":2.31,"bits_per_byte":3.12}
//!     the same, and what the weights came to on the held-out text; written once all of the samples are in the ledgers
//! ```
//!
//! Times are this machine's clock, Unix milliseconds. A program's first `heights` line names every ledger. The ledgers
//! themselves are in the database: nothing is lost with this file but the times and the digests.

use anyhow::{Context, Result};
use protocol::replica::Replica;
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    fs::File,
    io::{BufRead, BufReader},
    path::Path,
    time::{SystemTime, UNIX_EPOCH},
};

/// The file's name.
pub const FILE: &str = "journal.jsonl";

/// Machine (as in `node log show`) to number of samples.
pub type Heights = BTreeMap<String, u64>;

/// One line.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Line {
    /// Ledgers that grew.
    Heights {
        /// Unix time, milliseconds.
        at_ms: u64,
        /// To where.
        heights: Heights,
    },
    /// A machine was forked, or withdrawn by the authority.
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

/// Samples of each machine that count in `replica`.
pub fn counted(replica: &Replica) -> Heights {
    replica.effective_ranges().map(|range| (range.machine.to_string(), range.to)).collect()
}

/// Unix time, milliseconds.
pub fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

/// All lines of the journal in `state` that can be read, in order, and how many could not. None if there is no journal.
pub fn read(state: &Path) -> Result<Option<(Vec<Line>, usize)>> {
    let path = state.join(FILE);
    let file = match File::open(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        file => file.with_context(|| path.display().to_string())?,
    };
    let (mut lines, mut unreadable) = (Vec::new(), 0);
    for line in BufReader::new(file).split(b'\n') {
        let line = line.with_context(|| path.display().to_string())?;
        match serde_json::from_slice(&line) {
            Ok(line) => lines.push(line),
            // The end of a line that a crash cut off, and what was written behind it.
            Err(_) => unreadable += usize::from(!line.is_empty()),
        }
    }
    Ok(Some((lines, unreadable)))
}
