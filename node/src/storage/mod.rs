//! The state directory of one node: crash-safe, self-contained, one node at a time.
//!
//! ```text
//! lock            held while a node or a command uses the directory; holds the process id
//! node.redb       format, manifest, identity, ledgers, statements, known peers, checkpoint record, settings
//! base            the original files, one behind the other in the manifest's order, then the appendix
//! base.part       the same, while it comes from peers
//! statement-<hash>.signed  what the run's authority said while the node runs, until it is in node.redb
//! ticket          the run's ticket, readable by its owner only; see `join`
//! paused          there while the node is to measure nothing; see `control`
//! status.json, metrics.jsonl, journal.jsonl, samples.jsonl  for people and programs; see `watch`
//! checkpoint-<n>  weights, f32 LE, in the manifest's order; node.redb says which n counts, and what it contains
//! ```
//!
//! Order of durability: the ledger before the checkpoint that contains it; the base before the manifest's `base` is
//! believed (its digests are checked at every start).

mod base;
pub mod checkpoint;
mod copy;
mod database;
mod directory;
mod download;
mod durable;
mod lock;
pub mod opened;
mod paths;
pub mod records;
mod thread;

pub use base::{BaseReader, start_run};
pub use copy::StateCopy;
pub use database::Row;
pub use directory::{StateDir, ensure_state};
pub use download::{BaseDownload, Refusal};
pub use paths::{TICKET, no_run};
pub use thread::{Disk, StorageHandle, StorageState, spawn, spawn_on};
