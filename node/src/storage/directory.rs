//! One state directory, opened and locked.

use anyhow::{Context, Result, ensure};
use protocol::{
    manifest::{Manifest, Membership},
    secret::Secret,
    signature::{Ed25519Signer, Signer as _},
};
use std::{
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::UNIX_EPOCH,
};

use crate::system::random::random;

use super::{
    database::{self, Database, Row},
    lock::{self, Lock},
    paths::{BASE, NEW, PART, TICKET, no_state, sync_directory, unusable},
};

/// Name of the scale of own gradients in the database, from when only `spsa` had one.
pub(super) const NORMALIZER: &str = "setting spsa";
/// Name of a private run's secret in the database.
pub(super) const SECRET: &str = "run secret";
/// Seed of the network's identity in the database, where that is not the machine's.
const NETWORK_KEY: &str = "network key";
/// Version of the directory's layout.
const FORMAT: u64 = 2;

/// Says what to do about a directory that no node has used.
pub fn ensure_state(path: &Path) -> Result<()> {
    ensure!(path.join(database::FILE).is_file(), no_state(path));
    Ok(())
}

/// An opened, locked state directory.
pub struct StateDir {
    pub(super) path: PathBuf,
    pub(super) database: Arc<Database>,
    secret_key: [u8; 32],
    network_key: [u8; 32],
    incarnation: AtomicU64,
    /// The incarnation was opened by this process: no segment of it can be anywhere else.
    is_new_incarnation: AtomicBool,
    made: Made,
    /// Held while a run begins here, and for ever once what this opening made is taken back.
    begins: Mutex<()>,
    _lock: Lock,
}

/// What an opening made that was not there before.
#[derive(Default)]
struct Made {
    directory: bool,
    database: bool,
    lock: bool,
}

impl StateDir {
    /// Opens the directory, or makes it.
    pub fn create_or_open(path: &Path) -> Result<Self> {
        let is_missing = |name: &str| !path.join(name).exists();
        let made =
            Made { directory: !path.exists(), database: is_missing(database::FILE), lock: is_missing(lock::FILE) };
        fs::create_dir_all(path).with_context(|| unusable(path))?;
        Ok(Self { made, ..Self::open(path)? })
    }

    /// Takes back what opening it made, if there is no run yet: the start failed, or was interrupted. What was there
    /// stays. To be called before the process ends: no run begins here any more.
    pub fn take_back(&self) {
        // Where one begins this moment, there is nothing to take back.
        let Ok(begins) = self.begins.try_lock() else { return };
        if !self.made.database || !matches!(self.manifest(), Ok(None)) {
            return;
        }
        // Another thread may be about to begin one, over what is removed here.
        std::mem::forget(begins);
        // Of a run without a database nothing would have been opened: a base is of this start. The lock goes last.
        let names = [Some(NEW), Some(BASE), Some(database::FILE), self.made.lock.then_some(lock::FILE)];
        for name in names.into_iter().flatten() {
            if let Err(error) = self.remove(name) {
                tracing::debug!("{name} stays: {error:#}");
            }
        }
        if self.made.directory {
            // Unless something else is in it.
            let _ = fs::remove_dir(&self.path);
        }
    }

    /// To be held while a run begins here. Waits for the end of the process if that is taken back already.
    pub(super) fn begin(&self) -> MutexGuard<'_, ()> {
        self.begins.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens a directory that a node has used.
    pub fn open_existing(path: &Path) -> Result<Self> {
        ensure_state(path)?;
        Self::open(path)
    }

    /// The same, unless a node or a command is using it.
    pub fn open_if_free(path: &Path) -> Result<Option<Self>> {
        ensure_state(path)?;
        Lock::take_if_free(path)?.map(|lock| Self::locked(path, lock)).transpose()
    }

    fn open(path: &Path) -> Result<Self> {
        Self::locked(path, Lock::take(path)?)
    }

    fn locked(path: &Path, lock: Lock) -> Result<Self> {
        let file = path.join(database::FILE);
        let database = Database::open(&file).with_context(|| unusable(path))?;
        let home = Home::of(&file)?;
        let fresh = database.get("format")?.is_none();
        if fresh {
            // A run of which only the database is gone: another one would begin over what is left of it.
            ensure!(
                !path.join(BASE).exists(),
                "{}: is empty or was missing, though {BASE} of a run is here. Put it back if there is a copy; else move the \
                 directory away: what others hold of this machine's gradients stays theirs",
                file.display()
            );
            initialize(&database, &home.0)?;
        }
        check_format(&database, path)?;
        let mut secret_key = secret_key(&database, path)?;
        let moved = database.get("home")?.as_deref() != Some(home.0.as_slice());
        if moved {
            // It leads to the machine that the directory was copied from.
            remove_file(path, TICKET)?;
            let is_renamed = !is_known_by_key(&database, &secret_key)?;
            if is_renamed {
                secret_key = random()?;
            }
            let network_key = if is_renamed { secret_key } else { random()? };
            let incarnation = random_incarnation()?.to_le_bytes();
            // In one transaction: whoever opens this directory next must not go on with the ledger either.
            database.put_all(&[
                ("home", &home.0),
                ("incarnation", &incarnation),
                ("secret key", &secret_key),
                (NETWORK_KEY, &network_key),
            ])?;
            // Whoever comes next does not see it any more.
            say_copied(path, is_renamed);
        }
        let incarnation = database.get_u64("incarnation")?.context("no incarnation in the database")?;
        let network_key = network_key(&database, secret_key)?;
        Ok(Self {
            path: path.to_owned(),
            database: Arc::new(database),
            secret_key,
            network_key,
            incarnation: AtomicU64::new(incarnation),
            is_new_incarnation: AtomicBool::new(fresh || moved),
            made: Made::default(),
            begins: Mutex::new(()),
            _lock: lock,
        })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Ed25519 seed of this machine.
    pub fn secret_key(&self) -> [u8; 32] {
        self.secret_key
    }

    /// Ed25519 seed of the network's identity: the machine's, but of a copy that keeps its machine's key. Peers take
    /// nodes of one identity for one, and hear only one of them.
    pub fn network_key(&self) -> [u8; 32] {
        self.network_key
    }

    /// The own ledger's incarnation.
    pub fn incarnation(&self) -> u64 {
        self.incarnation.load(Ordering::Relaxed)
    }

    /// Whether the incarnation was opened by this process.
    pub fn is_new_incarnation(&self) -> bool {
        self.is_new_incarnation.load(Ordering::Relaxed)
    }

    /// Opens a random incarnation, durable before it is returned.
    pub fn new_incarnation(&self) -> Result<u64> {
        let incarnation = random_incarnation()?;
        self.database.put("incarnation", &incarnation.to_le_bytes())?;
        self.incarnation.store(incarnation, Ordering::Relaxed);
        self.is_new_incarnation.store(true, Ordering::Relaxed);
        Ok(incarnation)
    }

    /// The encoded manifest, if there is a run here.
    pub fn manifest(&self) -> Result<Option<Vec<u8>>> {
        self.database.get("manifest")
    }

    /// Makes this the state of a run whose base is still to come.
    pub fn set_manifest(&self, bytes: &[u8]) -> Result<()> {
        let _begins = self.begin();
        ensure!(self.manifest()?.is_none(), "{}: holds a run already", self.path.display());
        // What a start that was killed left is the base of no run.
        if self.has_base() {
            fs::remove_file(self.path.join(BASE)).with_context(|| unusable(&self.path))?;
            sync_directory(&self.path)?;
        }
        self.database.put("manifest", bytes)
    }

    /// The secret of a private run, if this machine has one.
    pub fn secret(&self) -> Result<Option<Secret>> {
        let bytes = self.database.get(SECRET)?.and_then(|bytes| bytes.try_into().ok());
        Ok(bytes.map(Secret))
    }

    /// Keeps the secret of the run that is started or joined here.
    pub fn set_secret(&self, secret: &Secret) -> Result<()> {
        self.database.put(SECRET, &secret.0)
    }

    /// Whether the ledgers are empty and nobody has signed a statement.
    pub fn is_untouched(&self) -> Result<bool> {
        let mut chunks = 0;
        self.for_each_chunk(|_| {
            chunks += 1;
            Ok(())
        })?;
        Ok(chunks == 0 && self.statements()?.is_empty())
    }

    /// Makes this the state of no run again. What is this machine's stays: its identity, the seed of its data's order,
    /// known peers, a pause. Base and ticket go once others take their places.
    pub fn forget_run(&self) -> Result<()> {
        let old = ["manifest", "checkpoint", "checkpoint contents", NORMALIZER, "setting starter", SECRET];
        self.database.remove_all(&old)?;
        let files = ["metrics.jsonl", "journal.jsonl", "status.json", "samples.jsonl", PART];
        files.iter().try_for_each(|name| self.remove(name))
    }

    /// Removes a file, if it is there.
    pub(super) fn remove(&self, name: &str) -> Result<()> {
        remove_file(&self.path, name)
    }

    /// The scale of own gradients, as the checkpoint has it.
    pub fn normalizer(&self) -> Result<Option<Vec<u8>>> {
        self.database.get(NORMALIZER)
    }

    /// A small private value.
    pub fn setting(&self, name: &str) -> Result<Option<Vec<u8>>> {
        self.database.get(&format!("setting {name}"))
    }

    /// Makes rows durable, in one transaction.
    pub fn commit(&self, rows: &[Row]) -> Result<()> {
        self.database.commit(rows)
    }

    /// Calls `visit` with every stored chunk, by machine and sample.
    pub fn for_each_chunk(&self, visit: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        self.database.for_each_chunk(visit)
    }

    pub fn statements(&self) -> Result<Vec<Vec<u8>>> {
        self.database.statements()
    }

    /// (peer id, address) of earlier neighbours.
    pub fn known_peers(&self) -> Result<Vec<(Vec<u8>, String)>> {
        self.database.known_peers()
    }

    /// Whether the base model is here.
    pub fn has_base(&self) -> bool {
        self.path.join(BASE).is_file()
    }
}

fn remove_file(directory: &Path, name: &str) -> Result<()> {
    match fs::remove_file(directory.join(name)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error).with_context(|| unusable(directory)),
        _ => Ok(()),
    }
}

/// The directory was copied or restored since it was last open: the file system knows its database by another number.
/// The node it was copied from may still run, so it got a new incarnation, and a new key unless the run names this one.
fn say_copied(directory: &Path, is_renamed: bool) {
    let directory = directory.display();
    match is_renamed {
        true => tracing::warn!(
            "{directory}: this state directory was copied or restored: going on as a new machine, with a key of its own, so that \
             a node on the other copy is not taken for this one. What the old one made still counts"
        ),
        false => tracing::warn!(
            "{directory}: this state directory was copied or restored: going on as a new incarnation under the same key, which the \
             run knows, and under a name of its own in the network, so that peers hear both should the other copy run, too"
        ),
    }
}

/// Format and identity of a fresh directory, in one transaction.
fn initialize(database: &Database, home: &[u8]) -> Result<()> {
    let secret_key: [u8; 32] = random()?;
    let incarnation = random_incarnation()?;
    database.put_all(&[
        ("format", &FORMAT.to_le_bytes()),
        ("secret key", &secret_key),
        ("incarnation", &incarnation.to_le_bytes()),
        ("home", home),
    ])
}

pub(super) fn check_format(database: &Database, path: &Path) -> Result<()> {
    let format = database.get_u64("format")?.unwrap_or(0);
    ensure!(
        format == FORMAT,
        "{}: state of format {format}, this program reads format {FORMAT}; use a matching release, or another --state",
        path.display()
    );
    Ok(())
}

pub(super) fn secret_key(database: &Database, path: &Path) -> Result<[u8; 32]> {
    let key = database.get("secret key")?.and_then(|bytes| bytes.try_into().ok());
    key.with_context(|| format!("{}: no identity in the database", path.display()))
}

pub(super) fn network_key(database: &Database, secret_key: [u8; 32]) -> Result<[u8; 32]> {
    let own = database.get(NETWORK_KEY)?.and_then(|bytes| bytes.try_into().ok());
    Ok(own.unwrap_or(secret_key))
}

fn random_incarnation() -> Result<u64> {
    Ok(u64::from_le_bytes(random()?).max(1))
}

/// Whether the run in the database is not open to every key, or this one is its authority's.
fn is_known_by_key(database: &Database, secret_key: &[u8; 32]) -> Result<bool> {
    let Some(manifest) = database.get("manifest")? else { return Ok(false) };
    let own = Ed25519Signer::from_seed(secret_key).key();
    let is_named = |manifest: &Manifest| manifest.membership != Membership::Open || manifest.authority == Some(own);
    Ok(Manifest::decode(&manifest).is_ok_and(|(manifest, _)| is_named(&manifest)))
}

/// What the file system knows the database by: inode and time of birth, which no copy shares; where it tells no birth,
/// device and inode. A device has another number after a restart of many a system.
struct Home(Vec<u8>);

impl Home {
    fn of(file: &Path) -> Result<Self> {
        let metadata = fs::metadata(file).with_context(|| unusable(file))?;
        let born = metadata.created().ok().and_then(|born| born.duration_since(UNIX_EPOCH).ok());
        let inode = metadata.ino().to_le_bytes();
        Ok(Self(match born {
            Some(born) => [&inode[..], &born.as_nanos().to_le_bytes()].concat(),
            None => [metadata.dev().to_le_bytes(), inode].concat(),
        }))
    }
}
