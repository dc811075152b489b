//! The embedded database: small values, ledgers, statements about machines and keys, peers.

use anyhow::{Context, Result};
use protocol::machine::MachineId;
use redb::{
    ReadTransaction, ReadableDatabase, ReadableTable, StorageBackend, TableDefinition, WriteTransaction,
    backends::InMemoryBackend,
};
use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use super::durable;

/// Its file.
pub const FILE: &str = "node.redb";
/// Pages kept in memory: the ledgers live in the replica, so the database needs little.
const CACHE_BYTES: usize = 2 << 20;
/// Neighbours remembered.
const KNOWN_PEERS_MAX: usize = 256;

const VALUES: TableDefinition<&str, &[u8]> = TableDefinition::new("values");
/// key (32) ‖ incarnation (u64 BE) ‖ first sample (u64 BE) → encoded chunk.
const CHUNKS: TableDefinition<&[u8], &[u8]> = TableDefinition::new("chunks");
/// Name of the statement → encoded statement.
const STATEMENTS: TableDefinition<&[u8], &[u8]> = TableDefinition::new("statements");
const PEERS: TableDefinition<&[u8], &str> = TableDefinition::new("peers");

/// What is stored durably. Opaque here, except for the order of chunks.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Row {
    /// Takes the place of the machine's chunks that begin in `first..end`.
    Chunk {
        /// Whose ledger.
        machine: MachineId,
        /// First sample.
        first: u64,
        /// First sample after it.
        end: u64,
        /// Encoded chunk.
        bytes: Vec<u8>,
    },
    /// Takes the place of the one of the same name.
    Statement {
        /// Names what it is about.
        name: Vec<u8>,
        /// Encoded statement.
        bytes: Vec<u8>,
    },
    /// A small private value.
    Setting {
        /// Its name.
        name: String,
        /// Its value.
        bytes: Vec<u8>,
    },
    /// (peer id, address) of neighbours, in place of those remembered.
    KnownPeers(Vec<(Vec<u8>, String)>),
}

fn open_file(path: &Path) -> Result<redb::Database> {
    Ok(redb::Builder::new().set_cache_size(CACHE_BYTES).create(path)?)
}

fn chunk_key(machine: &MachineId, first: u64) -> [u8; 48] {
    let mut key = [0u8; 48];
    key[..32].copy_from_slice(&machine.key);
    key[32..40].copy_from_slice(&machine.incarnation.to_be_bytes());
    key[40..].copy_from_slice(&first.to_be_bytes());
    key
}

/// Every commit is durable when it returns.
///
/// After a failed write redb refuses all others until it is opened anew, so a failure closes it and the next use opens
/// it.
pub struct Database {
    /// None: a copy in memory.
    path: Option<PathBuf>,
    open: Mutex<Option<redb::Database>>,
}

impl Database {
    /// Opens or makes the file, readable by its owner only: it holds the secret key.
    pub fn open(path: &Path) -> Result<Self> {
        let database = open_file(path)?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
        // A crash may have left a file without tables.
        let no_tables = database.begin_read()?.list_tables()?.next().is_none();
        if no_tables {
            let transaction = database.begin_write()?;
            transaction.open_table(VALUES)?;
            transaction.open_table(CHUNKS)?;
            transaction.open_table(STATEMENTS)?;
            transaction.open_table(PEERS)?;
            durable::point();
            transaction.commit()?;
            durable::point();
        }
        Ok(Self { path: Some(path.to_owned()), open: Mutex::new(Some(database)) })
    }

    /// A copy of the file's bytes, in memory. What a crash would have left unfinished in them is mended there.
    pub fn of_copy(bytes: &[u8]) -> Result<Self> {
        let backend = InMemoryBackend::new();
        backend.set_len(bytes.len() as u64)?;
        backend.write(0, bytes)?;
        let database = redb::Builder::new().set_cache_size(CACHE_BYTES).create_with_backend(backend)?;
        Ok(Self { path: None, open: Mutex::new(Some(database)) })
    }

    fn with<T>(&self, work: impl FnOnce(&redb::Database) -> Result<T>) -> Result<T> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let database = match open.take() {
            Some(database) => database,
            None => open_file(self.path.as_ref().context("the copy in memory was given up after an error")?)?,
        };
        let result = work(&database);
        if result.is_ok() {
            *open = Some(database);
        }
        result
    }

    fn read<T>(&self, work: impl FnOnce(&ReadTransaction) -> Result<T>) -> Result<T> {
        self.with(|database| work(&database.begin_read()?))
    }

    /// A value.
    pub fn get(&self, name: &str) -> Result<Option<Vec<u8>>> {
        self.read(|transaction| Ok(transaction.open_table(VALUES)?.get(name)?.map(|value| value.value().to_vec())))
    }

    /// Whether there are tables, and the directory's format is recorded.
    pub fn is_initialized(&self) -> Result<bool> {
        let has_tables = self.read(|transaction| Ok(transaction.list_tables()?.next().is_some()))?;
        Ok(has_tables && self.get("format")?.is_some())
    }

    /// A value that is a u64 LE.
    pub fn get_u64(&self, name: &str) -> Result<Option<u64>> {
        Ok(self.get(name)?.and_then(|bytes| bytes.try_into().ok()).map(u64::from_le_bytes))
    }

    /// Stores a value.
    pub fn put(&self, name: &str, value: &[u8]) -> Result<()> {
        self.put_all(&[(name, value)])
    }

    /// Stores values, all or none.
    pub fn put_all(&self, values: &[(&str, &[u8])]) -> Result<()> {
        self.write(|transaction| {
            let mut table = transaction.open_table(VALUES)?;
            for (name, value) in values {
                table.insert(*name, *value)?;
            }
            Ok(())
        })
    }

    /// Removes values, all or none; those that are not there, too.
    pub fn remove_all(&self, names: &[&str]) -> Result<()> {
        self.write(|transaction| {
            let mut table = transaction.open_table(VALUES)?;
            for name in names {
                table.remove(*name)?;
            }
            Ok(())
        })
    }

    fn write(&self, change: impl FnOnce(&WriteTransaction) -> Result<()>) -> Result<()> {
        self.with(|database| {
            let transaction = database.begin_write()?;
            change(&transaction)?;
            durable::point();
            transaction.commit()?;
            durable::point();
            Ok(())
        })
    }

    /// Stores rows, all or none.
    pub fn commit(&self, rows: &[Row]) -> Result<()> {
        self.write(|transaction| {
            let (mut chunks, mut values) = (transaction.open_table(CHUNKS)?, transaction.open_table(VALUES)?);
            let (mut statements, mut peers) = (transaction.open_table(STATEMENTS)?, transaction.open_table(PEERS)?);
            for row in rows {
                match row {
                    Row::Chunk { machine, first, end, bytes } => {
                        let (from, to) = (chunk_key(machine, *first), chunk_key(machine, *end));
                        chunks.retain_in(from.as_slice()..to.as_slice(), |_, _| false)?;
                        chunks.insert(from.as_slice(), bytes.as_slice())?;
                    }
                    Row::Statement { name, bytes } => {
                        statements.insert(name.as_slice(), bytes.as_slice())?;
                    }
                    Row::Setting { name, bytes } => {
                        values.insert(format!("setting {name}").as_str(), bytes.as_slice())?;
                    }
                    Row::KnownPeers(known) => {
                        peers.retain(|_, _| false)?;
                        for (peer, address) in known.iter().take(KNOWN_PEERS_MAX) {
                            peers.insert(peer.as_slice(), address.as_str())?;
                        }
                    }
                }
            }
            Ok(())
        })
    }

    /// Visits every chunk in order of machine and sample.
    pub fn for_each_chunk(&self, mut visit: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        self.read(|transaction| {
            for entry in transaction.open_table(CHUNKS)?.iter()? {
                visit(entry.context("reading the ledgers")?.1.value())?;
            }
            Ok(())
        })
    }

    /// All statements.
    pub fn statements(&self) -> Result<Vec<Vec<u8>>> {
        self.read(|transaction| {
            let table = transaction.open_table(STATEMENTS)?;
            table.iter()?.map(|entry| Ok(entry?.1.value().to_vec())).collect()
        })
    }

    /// (peer id, address).
    pub fn known_peers(&self) -> Result<Vec<(Vec<u8>, String)>> {
        self.read(|transaction| {
            let table = transaction.open_table(PEERS)?;
            let entries = table.iter()?.map(|entry| {
                let (peer, address) = entry?;
                Ok((peer.value().to_vec(), address.value().to_owned()))
            });
            entries.collect()
        })
    }
}
