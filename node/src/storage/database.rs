//! The embedded database: small values, ledgers, statements about machines and keys, peers.

use anyhow::{Context, Result};
use protocol::machine::MachineId;
use redb::{
    ReadTransaction, ReadableDatabase, ReadableTable, StorageBackend, Table, TableDefinition, WriteTransaction,
    backends::InMemoryBackend,
};
use std::{
    cmp::Reverse,
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use super::durable;

pub const FILE: &str = "node.redb";
/// Pages kept in memory: the ledgers live in the replica, so the database needs little.
const CACHE_BYTES: usize = 2 << 20;
/// Neighbours remembered, of this session and earlier ones.
const KNOWN_PEERS_MAX: usize = 256;

const VALUES: TableDefinition<&str, &[u8]> = TableDefinition::new("values");
/// key (32) ‖ incarnation (u64 BE) ‖ first sample (u64 BE) → encoded chunk.
const CHUNKS: TableDefinition<&[u8], &[u8]> = TableDefinition::new("chunks");
/// Name of the statement → encoded statement.
const STATEMENTS: TableDefinition<&[u8], &[u8]> = TableDefinition::new("statements");
/// Peer id → number of the last list that it was in, a space, and its address there.
const PEERS: TableDefinition<&[u8], &str> = TableDefinition::new("peers");

/// What is stored durably. Opaque here, except for the order of chunks.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Row {
    /// Takes the place of the machine's chunks that begin in `first..end`.
    Chunk {
        machine: MachineId,
        first: u64,
        /// First sample after it.
        end: u64,
        bytes: Vec<u8>,
    },
    /// Takes the place of the one of the same name.
    Statement {
        /// Names what it is about.
        name: Vec<u8>,
        bytes: Vec<u8>,
    },
    /// A small private value.
    Setting { name: String, bytes: Vec<u8> },
    /// (peer id, address) of neighbours, remembered before all others: of those, the latest stay.
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

/// The number of a peer's list and its address. Older releases knew no numbers.
fn numbered(value: &str) -> (u64, &str) {
    let parts = value.split_once(' ').and_then(|(number, address)| Some((number.parse::<u64>().ok()?, address)));
    parts.unwrap_or((0, value))
}

/// A list of neighbours: whoever is connected alone must not take the place of all that are away.
fn remember(peers: &mut Table<'_, &'static [u8], &'static str>, neighbours: &[(Vec<u8>, String)]) -> Result<()> {
    let neighbours = &neighbours[..neighbours.len().min(KNOWN_PEERS_MAX)];
    let mut earlier: Vec<(u64, Vec<u8>)> = Vec::new();
    for entry in peers.iter()? {
        let (peer, value) = entry?;
        earlier.push((numbered(value.value()).0, peer.value().to_vec()));
    }
    let number = earlier.iter().map(|(number, _)| *number).max().unwrap_or(0).saturating_add(1);
    earlier.retain(|(_, peer)| !neighbours.iter().any(|(neighbour, _)| neighbour == peer));
    earlier.sort_by_key(|(number, _)| Reverse(*number));
    for (_, peer) in earlier.iter().skip(KNOWN_PEERS_MAX - neighbours.len()) {
        peers.remove(peer.as_slice())?;
    }
    for (peer, address) in neighbours {
        peers.insert(peer.as_slice(), format!("{number} {address}").as_str())?;
    }
    Ok(())
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
                    Row::KnownPeers(neighbours) => remember(&mut peers, neighbours)?,
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

    pub fn statements(&self) -> Result<Vec<Vec<u8>>> {
        self.read(|transaction| {
            let table = transaction.open_table(STATEMENTS)?;
            table.iter()?.map(|entry| Ok(entry?.1.value().to_vec())).collect()
        })
    }

    /// (peer id, address), the latest first.
    pub fn known_peers(&self) -> Result<Vec<(Vec<u8>, String)>> {
        self.read(|transaction| {
            let table = transaction.open_table(PEERS)?;
            let mut known = Vec::new();
            for entry in table.iter()? {
                let (peer, value) = entry?;
                let (number, address) = numbered(value.value());
                known.push((number, (peer.value().to_vec(), address.to_owned())));
            }
            known.sort_by_key(|(number, _)| Reverse(*number));
            Ok(known.into_iter().map(|(_, known)| known).collect())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(number: u16) -> (Vec<u8>, String) {
        (number.to_be_bytes().to_vec(), format!("/ip4/192.0.2.1/tcp/{number}"))
    }

    fn list(peers: impl IntoIterator<Item = u16>) -> Row {
        Row::KnownPeers(peers.into_iter().map(peer).collect())
    }

    #[test]
    fn whoever_is_connected_now_takes_nobodys_place_as_long_as_there_is_room() {
        let directory = tempfile::tempdir().unwrap();
        let database = Database::open(&directory.path().join(FILE)).unwrap();
        database.commit(&[list([2, 3])]).unwrap();
        database.commit(&[list([2])]).unwrap();
        assert_eq!(database.known_peers().unwrap(), [peer(2), peer(3)]);
        let moved = (peer(3).0, "/dns/moved/tcp/7".to_owned());
        database.commit(&[Row::KnownPeers(vec![moved.clone()])]).unwrap();
        assert_eq!(database.known_peers().unwrap(), [moved, peer(2)]);
        database.commit(&[list(10..10 + KNOWN_PEERS_MAX as u16 - 1)]).unwrap();
        let known = database.known_peers().unwrap();
        assert_eq!((known.len(), &known[KNOWN_PEERS_MAX - 1].0), (KNOWN_PEERS_MAX, &peer(3).0), "the latest stay");
        database.commit(&[list(1_000..3_000)]).unwrap();
        assert_eq!(database.known_peers().unwrap().len(), KNOWN_PEERS_MAX);
    }

    #[test]
    fn addresses_of_older_releases_are_read() {
        assert_eq!(numbered("/ip4/192.0.2.1/tcp/7"), (0, "/ip4/192.0.2.1/tcp/7"));
        assert_eq!(numbered("5 /ip4/192.0.2.1/tcp/7"), (5, "/ip4/192.0.2.1/tcp/7"));
    }
}
