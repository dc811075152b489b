//! `samples.jsonl` in the state directory: what the model wrote after the same prompts, over the course of the run. One
//! [`Look`] a line, oldest first; at most [`LOOKS_MAX`], of which the older ones are thinned out.

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use std::{
    fs,
    io::{ErrorKind, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

use crate::trainer::sampler::Sampled;

/// The file's name.
pub const FILE: &str = "samples.jsonl";
/// Looks that are kept.
pub const LOOKS_MAX: usize = 48;

/// What the model wrote at one time.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Look {
    /// Unix time, milliseconds.
    pub at_ms: u64,
    /// In the weights when it was asked.
    pub gradients: u64,
    /// In the order of the prompts.
    pub samples: Vec<Sampled>,
}

/// The looks in this file, none if there is no such file. A line that cannot be read is left out.
pub fn read(path: &Path) -> Result<Vec<Look>> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).with_context(|| format!("{} cannot be read", path.display())),
    };
    Ok(text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect())
}

/// Adds a look. The file is complete, old or new, at any time.
pub fn add(path: &Path, look: Look) -> Result<()> {
    let mut looks = read(path)?;
    looks.push(look);
    if looks.len() > LOOKS_MAX {
        let mut number = 0;
        // Every second one but the first and the newest half.
        looks.retain(|_| {
            number += 1;
            number == 1 || number > LOOKS_MAX / 2 || number % 2 == 1
        });
    }
    let mut lines = String::new();
    for look in &looks {
        lines += &serde_json::to_string(look)?;
        lines.push('\n');
    }
    let new = path.with_extension("jsonl.new");
    // The prompts are of one's own text.
    let mut options = fs::OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    let written = options.open(&new).and_then(|mut file| file.write_all(lines.as_bytes()));
    written.and_then(|()| fs::rename(&new, path)).with_context(|| path.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_and_the_newest_stay_and_the_file_does_not_grow() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(FILE);
        assert!(read(&path).unwrap().is_empty());
        for gradients in 0..300 {
            let samples = vec![Sampled { prompt: "Once".into(), text: format!(" {gradients}\n") }];
            add(&path, Look { at_ms: 1, gradients, samples }).unwrap();
            let looks = read(&path).unwrap();
            assert!(looks.len() <= LOOKS_MAX && looks.is_sorted_by_key(|look| look.gradients));
            assert_eq!((looks[0].gradients, looks.last().unwrap().gradients), (0, gradients));
        }
        fs::write(&path, "{\"torn").unwrap();
        assert!(read(&path).unwrap().is_empty());
    }
}
