//! A state directory as it was at one moment, for those who only look. Nothing in the directory is written or locked,
//! and a node may be using it.
//!
//! The database is copied into memory. A copy is sound if nothing was written while it was made: it is then what a
//! crash at that moment would have left, and a crash loses nothing (see `database`). A write sets the file's time of
//! modification, which some systems count in steps of up to 10 ms. So: look at the time, wait longer than a step, copy,
//! look again.

use anyhow::{Context, Result, bail, ensure};
use protocol::{manifest::Manifest, secret::Secret};
use std::{
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
    sync::Mutex,
    time::{Duration, SystemTime},
};

use super::{
    base::BaseReader,
    checkpoint::{CheckpointRecord, LoadedCheckpoint},
    database::{self, Database},
    directory::{SECRET, check_format, network_key, secret_key},
    paths::{BASE, no_run, no_state},
};

/// Longer than the steps in which file systems count time.
const TIME_STEP_MAX: Duration = Duration::from_millis(20);
/// A node that wrote during so many attempts in a row never pauses for long enough. Attempts are counted, not seconds:
/// a slow disk makes each of them longer, and gets as many.
const ATTEMPTS_MAX: u32 = 400;

/// A copy of a state directory's database, with the checkpoint that it names held open.
pub struct StateCopy {
    path: PathBuf,
    database: Database,
    secret_key: [u8; 32],
    network_key: [u8; 32],
    incarnation: u64,
    checkpoint: Option<HeldCheckpoint>,
}

/// A node may remove the file at any time; who has it open can still read it.
struct HeldCheckpoint {
    record: CheckpointRecord,
    file: Mutex<io::Result<File>>,
}

impl StateCopy {
    /// Copies what is at `path`. Fails if that is no state directory, is damaged, or is written to all the time.
    pub fn of(path: &Path) -> Result<Self> {
        let file = path.join(database::FILE);
        ensure!(file.is_file(), no_state(path));
        let mut attempts = 0;
        loop {
            attempts += 1;
            let (bytes, written) = copy_at_rest(&file, ATTEMPTS_MAX).with_context(|| unreadable(path))?;
            let database =
                Database::of_copy(&bytes).with_context(|| format!("{}: the database is damaged", path.display()))?;
            // A node was stopped before it had made its tables.
            ensure!(database.is_initialized()?, no_run(path));
            let checkpoint = hold_checkpoint(&database, path)?;
            // A newer checkpoint may have taken the place of the one in the copy.
            let missing = checkpoint.as_ref().is_some_and(HeldCheckpoint::is_missing);
            if missing && attempts < ATTEMPTS_MAX && stamp(&File::open(&file)?)? != written {
                continue;
            }
            check_format(&database, path)?;
            let secret_key = secret_key(&database, path)?;
            return Ok(Self {
                path: path.to_owned(),
                secret_key,
                network_key: network_key(&database, secret_key)?,
                incarnation: database.get_u64("incarnation")?.context("no incarnation in the database")?,
                database,
                checkpoint,
            });
        }
    }

    /// The secret of a private run.
    pub fn secret(&self) -> Result<Option<Secret>> {
        Ok(self.database.get(SECRET)?.and_then(|bytes| bytes.try_into().ok()).map(Secret))
    }

    /// (peer id, address) of earlier neighbours.
    pub fn known_peers(&self) -> Result<Vec<(Vec<u8>, String)>> {
        self.database.known_peers()
    }

    /// Of the original.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Ed25519 seed of its machine.
    pub fn secret_key(&self) -> [u8; 32] {
        self.secret_key
    }

    /// Ed25519 seed of its identity in the network.
    pub fn network_key(&self) -> [u8; 32] {
        self.network_key
    }

    /// Its machine's incarnation.
    pub fn incarnation(&self) -> u64 {
        self.incarnation
    }

    /// The encoded manifest, if there is a run.
    pub fn manifest(&self) -> Result<Option<Vec<u8>>> {
        self.database.get("manifest")
    }

    /// Calls `visit` with every stored chunk, by machine and sample.
    pub fn for_each_chunk(&self, visit: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        self.database.for_each_chunk(visit)
    }

    pub fn statements(&self) -> Result<Vec<Vec<u8>>> {
        self.database.statements()
    }

    /// Whether the base model is there.
    pub fn has_base(&self) -> bool {
        self.path.join(BASE).is_file()
    }

    /// The base model: the file itself, which nobody changes once it is there.
    pub fn base(&self, manifest: &Manifest) -> Result<BaseReader> {
        BaseReader::open(&self.path, &self.database, manifest)
    }

    /// The file of the checkpoint that counted; it may be gone.
    pub fn checkpoint_path(&self) -> Option<PathBuf> {
        self.checkpoint.as_ref().map(|held| held.record.path(&self.path))
    }

    /// The checkpoint that counted; None if there was none.
    pub fn load_checkpoint(&self, manifest: &Manifest) -> Result<Option<LoadedCheckpoint>> {
        let Some(held) = &self.checkpoint else { return Ok(None) };
        let file = held.file.lock().map_err(|_| anyhow::anyhow!("the checkpoint's reader failed before"))?;
        let file = match &*file {
            Ok(file) => file.try_clone(),
            Err(error) => Err(io::Error::new(error.kind(), error.to_string())),
        };
        held.record.load(file, &held.record.path(&self.path), manifest).map(Some)
    }
}

impl HeldCheckpoint {
    fn is_missing(&self) -> bool {
        self.file.lock().is_ok_and(|file| file.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::NotFound))
    }
}

fn hold_checkpoint(database: &Database, directory: &Path) -> Result<Option<HeldCheckpoint>> {
    let record = CheckpointRecord::of(database)?;
    Ok(record.map(|record| HeldCheckpoint { file: Mutex::new(File::open(record.path(directory))), record }))
}

/// Length, and time of the last write.
type Stamp = (u64, SystemTime);

fn stamp(file: &File) -> io::Result<Stamp> {
    let metadata = file.metadata()?;
    Ok((metadata.len(), metadata.modified()?))
}

/// The file's bytes at a moment at which nobody was writing, and its stamp.
fn copy_at_rest(path: &Path, attempts_max: u32) -> Result<(Vec<u8>, Stamp)> {
    for _ in 0..attempts_max {
        let mut file = File::open(path)?;
        let before = stamp(&file)?;
        std::thread::sleep(TIME_STEP_MAX);
        let mut bytes = Vec::with_capacity(usize::try_from(before.0)?);
        file.read_to_end(&mut bytes)?;
        if stamp(&file)? == before && bytes.len() as u64 == before.0 {
            return Ok((bytes, before));
        }
    }
    bail!("a node writes there all the time: ask that node, with --peer and its address")
}

fn unreadable(path: &Path) -> String {
    format!("{}: the database cannot be copied", path.display())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicBool, Ordering};

    #[test]
    fn a_copy_made_between_writes_holds_whole_transactions() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(database::FILE);
        let original = Database::open(&path).unwrap();
        let value = |number: u64| vec![number as u8; 30_000];
        let write = |number: u64| original.put_all(&[("first", &value(number)), ("second", &value(number))]).unwrap();
        write(0);
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for number in (1u64..).take_while(|_| !stop.load(Ordering::Relaxed)) {
                    write(number);
                    std::thread::sleep(Duration::from_millis(number * 7 % 60));
                }
            });
            let mut seen = Vec::new();
            while seen.len() < 5 {
                let (bytes, _) = copy_at_rest(&path, ATTEMPTS_MAX).unwrap();
                let copy = Database::of_copy(&bytes).unwrap();
                let (first, second) = (copy.get("first").unwrap().unwrap(), copy.get("second").unwrap().unwrap());
                assert!(first == second && first == value(first[0].into()), "a transaction came apart");
                seen.push(first[0]);
                seen.dedup();
            }
            stop.store(true, Ordering::Relaxed);
        });
    }

    #[test]
    fn a_file_that_is_written_all_the_time_is_given_up_on() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(database::FILE);
        std::fs::write(&path, b"0").unwrap();
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    std::fs::write(&path, b"written again").unwrap();
                }
            });
            let error = copy_at_rest(&path, 10).map(drop).unwrap_err();
            stop.store(true, Ordering::Relaxed);
            assert!(error.to_string().contains("--peer"), "{error:#}");
        });
    }
}
