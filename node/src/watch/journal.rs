//! `journal.jsonl` in the state directory: when what came. One JSON object a line, appended, never rewritten.
//!
//! ```text
//! {"kind":"heights","at_ms":1764000000000,"heights":{"8f1c22ab0d9e.51f0":384}}
//!     ledgers that grew since the last such line
//! {"kind":"revoked","at_ms":…,"machine":"8f1c22ab0d9e.51f0","from":120,"fork":false}
//!     samples from 120 on no longer count
//! {"kind":"weights","at_ms":…,"weights":"91ab…","heights":{"8f1c22ab0d9e.51f0":384,…}}
//!     the weights' digest when they held just this
//! ```
//!
//! Times are this machine's clock, Unix milliseconds. A program's first `heights` line names every ledger. The ledgers
//! themselves are in the database: nothing is lost with this file but the times and the digests.

use anyhow::{Context, Result};
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
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
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
