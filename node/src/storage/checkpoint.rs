//! Checkpoints: the weights of one moment, and what they contain.
//!
//! Two phases. The trainer writes `checkpoint-<n>` and syncs it. Once the ledger that it contains is durable, the
//! storage thread names it in the database, in one transaction with what it contains, and removes its predecessor. A
//! crash at any point leaves the old checkpoint or the new one.

use anyhow::{Context, Result, ensure};
use engine::weights::Weights;
use protocol::manifest::Manifest;
use std::{
    fs::{self, File},
    io::{self, BufReader, BufWriter, Write},
    path::{Path, PathBuf},
};

use super::{
    database::Database,
    directory::{NORMALIZER, StateDir},
    durable,
    paths::sync_directory,
};

const PREFIX: &str = "checkpoint-";

/// Writes one checkpoint file.
pub struct CheckpointWriter {
    directory: PathBuf,
    number: u64,
}

/// A synced file that does not count yet.
pub struct WrittenCheckpoint {
    number: u64,
    digest: [u8; 32],
}

/// A checkpoint as it was loaded, its digest checked.
pub struct LoadedCheckpoint {
    pub weights: Weights,
    /// What they contain, as the caller encoded it.
    pub contents: Vec<u8>,
}

fn file_name(number: u64) -> String {
    format!("{PREFIX}{number}")
}

impl CheckpointWriter {
    /// Phase one: writes and syncs. No second copy of the weights is made.
    pub fn write(self, weights: &Weights) -> Result<WrittenCheckpoint> {
        let path = self.directory.join(file_name(self.number));
        let write = || -> Result<()> {
            let mut file = BufWriter::with_capacity(1 << 16, File::create(&path)?);
            weights.write_to(&mut file)?;
            file.flush()?;
            durable::point();
            file.get_ref().sync_all()?;
            durable::point();
            Ok(())
        };
        write().inspect_err(|_| drop(fs::remove_file(&path))).with_context(|| path.display().to_string())?;
        Ok(WrittenCheckpoint { number: self.number, digest: weights.digest() })
    }
}

impl WrittenCheckpoint {
    /// Of the weights in it.
    pub fn digest(&self) -> &[u8; 32] {
        &self.digest
    }

    /// Phase two.
    pub(super) fn commit(
        self,
        directory: &Path,
        database: &Database,
        contents: &[u8],
        normalizer: &[u8],
    ) -> Result<()> {
        sync_directory(directory)?;
        let record = [&self.number.to_le_bytes()[..], &self.digest].concat();
        database.put_all(&[("checkpoint", &record), ("checkpoint contents", contents), (NORMALIZER, normalizer)])?;
        for entry in fs::read_dir(directory)? {
            let entry = entry?;
            let number = entry.file_name().to_str().and_then(|name| name.strip_prefix(PREFIX)?.parse::<u64>().ok());
            if number.is_some_and(|number| number < self.number) {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }
}

impl StateDir {
    /// For the next checkpoint.
    pub fn checkpoint_writer(&self) -> Result<CheckpointWriter> {
        // A file of this number that no record names is what a crash left, and is written over.
        let recorded = self.database.get("checkpoint")?.and_then(|record| number_of(&record)).unwrap_or(0);
        Ok(CheckpointWriter { directory: self.path.clone(), number: recorded + 1 })
    }

    /// The checkpoint that counts; None if there is none yet.
    pub fn load_checkpoint(&self, manifest: &Manifest) -> Result<Option<LoadedCheckpoint>> {
        let Some(record) = CheckpointRecord::of(&self.database)? else { return Ok(None) };
        let path = self.checkpoint_path();
        record.load(File::open(&path), &path, manifest).map(Some)
    }

    /// The file of the checkpoint that counts.
    pub fn checkpoint_path(&self) -> PathBuf {
        let number = self.database.get("checkpoint").ok().flatten().and_then(|record| number_of(&record));
        self.path.join(file_name(number.unwrap_or(0)))
    }
}

/// What the database says of the checkpoint that counts.
pub(super) struct CheckpointRecord {
    number: u64,
    digest: Vec<u8>,
    contents: Vec<u8>,
}

impl CheckpointRecord {
    /// None if there is no checkpoint yet.
    pub(super) fn of(database: &Database) -> Result<Option<Self>> {
        let Some(record) = database.get("checkpoint")? else { return Ok(None) };
        let contents = database.get("checkpoint contents")?.context("the checkpoint's contents are not recorded")?;
        let digest = record.get(8..).unwrap_or_default().to_vec();
        Ok(Some(Self { number: number_of(&record).unwrap_or(0), digest, contents }))
    }

    pub(super) fn path(&self, directory: &Path) -> PathBuf {
        directory.join(file_name(self.number))
    }

    /// Reads and checks the weights.
    pub(super) fn load(&self, file: io::Result<File>, path: &Path, manifest: &Manifest) -> Result<LoadedCheckpoint> {
        let file = file.with_context(|| format!("{}: cannot be read", path.display()))?;
        let expected = 4 * manifest.parameters();
        let bytes = file.metadata()?.len();
        ensure!(bytes == expected, "{}: {bytes} bytes instead of {expected}", path.display());
        let weights = Weights::read_from(&manifest.tensors, &mut BufReader::with_capacity(1 << 16, file))
            .with_context(|| path.display().to_string())?;
        ensure!(weights.digest().as_slice() == self.digest, "{}: damaged, its digest does not fit", path.display());
        Ok(LoadedCheckpoint { weights, contents: self.contents.clone() })
    }
}

fn number_of(record: &[u8]) -> Option<u64> {
    record.get(..8)?.try_into().ok().map(u64::from_le_bytes)
}
