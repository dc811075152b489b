//! The storage thread: first in, first out, many records in one transaction.

use anyhow::{Result, bail};
use std::{
    collections::VecDeque,
    sync::{
        Arc,
        mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel},
    },
    time::{Duration, Instant},
};
use tokio::sync::watch;

use super::{Record, StateDir, checkpoint::WrittenCheckpoint, database::Database};

/// Jobs that may wait in the thread's queue; more wait in the handle.
const JOBS_MAX: usize = 256;
/// Records in one transaction.
const GROUP_RECORDS_MAX: usize = 4_096;
/// Pause before a failed write is tried again.
const RETRY: Duration = Duration::from_millis(500);

enum Job {
    Commit { records: Vec<Record>, token: Option<u64> },
    Checkpoint { written: WrittenCheckpoint, contents: Vec<u8>, spsa: Vec<u8> },
    Stop,
}

/// How far the thread is.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct StorageState {
    /// The highest token that is durable.
    pub stored: u64,
    /// Checkpoints committed, or given up.
    pub checkpoints: u64,
    /// Why writes fail at present, if they do. They are tried again, in order.
    pub error: Option<String>,
}

/// The driver's end.
pub struct StorageHandle {
    jobs: SyncSender<Job>,
    /// Jobs that the thread has no room for yet.
    waiting: VecDeque<Job>,
    done: Receiver<()>,
    /// Progress.
    pub state: watch::Receiver<StorageState>,
}

/// Starts the thread.
pub fn spawn(state: &StateDir) -> Result<StorageHandle> {
    let (jobs, job_receiver) = sync_channel(JOBS_MAX);
    let (done_sender, done) = sync_channel(1);
    let (sender, receiver) = watch::channel(StorageState::default());
    let worker =
        Worker { database: state.database.clone(), directory: state.path.clone(), jobs: job_receiver, state: sender };
    std::thread::Builder::new().name("storage".into()).spawn(move || {
        worker.run();
        let _ = done_sender.try_send(());
    })?;
    Ok(StorageHandle { jobs, waiting: VecDeque::new(), done, state: receiver })
}

impl StorageHandle {
    /// Queues records. Never blocks; see [`StorageHandle::is_congested`].
    pub fn submit(&mut self, records: Vec<Record>, token: Option<u64>) {
        self.waiting.push_back(Job::Commit { records, token });
        self.pump();
    }

    /// Queues the second half of a checkpoint, behind the records that it relies on.
    pub fn commit_checkpoint(&mut self, written: WrittenCheckpoint, contents: Vec<u8>, spsa: Vec<u8>) {
        self.waiting.push_back(Job::Checkpoint { written, contents, spsa });
        self.pump();
    }

    /// Hands over what waits, as far as there is room. To be called now and then.
    pub fn pump(&mut self) {
        while let Some(job) = self.waiting.pop_front() {
            if let Err(TrySendError::Full(job) | TrySendError::Disconnected(job)) = self.jobs.try_send(job) {
                self.waiting.push_front(job);
                return;
            }
        }
    }

    /// Whether the disk is so far behind that no more input should be taken.
    pub fn is_congested(&self) -> bool {
        self.waiting.len() > JOBS_MAX
    }

    /// Stores what is queued and ends the thread, within `limit`.
    pub fn stop(mut self, limit: Duration) -> Result<()> {
        let begun = Instant::now();
        self.waiting.push_back(Job::Stop);
        loop {
            self.pump();
            let step = Duration::from_millis(5).min(limit);
            match self.done.recv_timeout(step) {
                Ok(()) | Err(RecvTimeoutError::Disconnected) => return Ok(()),
                Err(RecvTimeoutError::Timeout) if begun.elapsed() < limit => {}
                Err(RecvTimeoutError::Timeout) => {
                    let error = self.state.borrow().error.clone().unwrap_or_else(|| "the disk is slow".into());
                    bail!("leaving although some of what peers sent is not stored ({error}); it comes again from them");
                }
            }
        }
    }
}

struct Worker {
    database: Arc<Database>,
    directory: std::path::PathBuf,
    jobs: Receiver<Job>,
    state: watch::Sender<StorageState>,
}

impl Worker {
    fn run(self) {
        let mut next = None;
        while let Some(job) = next.take().or_else(|| self.jobs.recv().ok()) {
            match job {
                Job::Stop => return,
                Job::Commit { mut records, mut token } => {
                    while records.len() < GROUP_RECORDS_MAX && next.is_none() {
                        match self.jobs.try_recv() {
                            Ok(Job::Commit { records: more, token: later }) => {
                                records.extend(more);
                                token = later.or(token);
                            }
                            Ok(other) => next = Some(other),
                            Err(_) => break,
                        }
                    }
                    if !self.insist(|| self.database.commit(&records)) {
                        return;
                    }
                    if let Some(token) = token {
                        self.state.send_modify(|state| state.stored = state.stored.max(token));
                    }
                }
                Job::Checkpoint { written, contents, spsa } => {
                    // A checkpoint only saves time: if it cannot be kept, the ledger still can.
                    if let Err(error) = written.commit(&self.directory, &self.database, &contents, &spsa) {
                        tracing::warn!("no checkpoint this time ({error:#}); the ledger is safe");
                    }
                    self.state.send_modify(|state| state.checkpoints += 1);
                }
            }
        }
    }

    /// Tries until it succeeds. False if the driver is gone.
    fn insist(&self, write: impl Fn() -> Result<()>) -> bool {
        loop {
            match write() {
                Ok(()) => {
                    self.state.send_if_modified(|state| state.error.take().is_some());
                    return true;
                }
                Err(error) => {
                    let error = format!("{error:#}");
                    self.state.send_if_modified(|state| state.error.replace(error.clone()) != Some(error));
                    if self.state.is_closed() {
                        return false;
                    }
                    std::thread::park_timeout(RETRY);
                }
            }
        }
    }
}
