//! The storage thread: first in, first out, many rows in one transaction.

use anyhow::Result;
use std::{
    collections::VecDeque,
    path::PathBuf,
    sync::{
        Arc,
        mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
    },
    time::Duration,
};
use tokio::sync::watch;

use super::{
    checkpoint::WrittenCheckpoint,
    database::{Database, Row},
    directory::StateDir,
};

/// Jobs that may wait in the thread's queue; more wait in the handle.
const JOBS_MAX: usize = 256;
/// Rows in one transaction.
const GROUP_ROWS_MAX: usize = 4_096;
/// Pause before a failed write is tried again.
const RETRY: Duration = Duration::from_millis(500);
/// While the queue is full, this often is looked for room in it.
const PUMP_INTERVAL: Duration = Duration::from_millis(10);

/// Where the thread writes to.
pub trait Disk: Send + 'static {
    /// Makes rows durable, all or none.
    fn store(&self, rows: &[Row]) -> Result<()>;
    /// Makes a written file the checkpoint.
    fn commit_checkpoint(&self, written: WrittenCheckpoint, contents: &[u8], normalizer: &[u8]) -> Result<()>;
}

/// The database and the directory of a node.
struct StateDisk {
    database: Arc<Database>,
    directory: PathBuf,
}

impl Disk for StateDisk {
    fn store(&self, rows: &[Row]) -> Result<()> {
        self.database.commit(rows)
    }

    fn commit_checkpoint(&self, written: WrittenCheckpoint, contents: &[u8], normalizer: &[u8]) -> Result<()> {
        written.commit(&self.directory, &self.database, contents, normalizer)
    }
}

enum Job {
    Store { rows: Vec<Row>, write: Option<u64> },
    Checkpoint { written: WrittenCheckpoint, contents: Vec<u8>, normalizer: Vec<u8> },
    Stop,
}

/// How far the thread is.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct StorageState {
    /// The highest number of a write that is durable.
    pub stored: u64,
    /// Checkpoints committed, or given up.
    pub checkpoints: u64,
    /// Attempts to write that failed, ever.
    pub failures: u64,
    /// Why the last attempt failed, if it did. It is made again, in order.
    pub error: Option<String>,
}

/// The shell's end.
pub struct StorageHandle {
    jobs: SyncSender<Job>,
    /// Jobs that the thread has no room for yet.
    waiting: VecDeque<Job>,
    /// Progress. Closed when the thread has ended.
    pub state: watch::Receiver<StorageState>,
}

/// Starts the thread on a state directory.
pub fn spawn(state: &StateDir) -> Result<StorageHandle> {
    spawn_on(StateDisk { database: state.database.clone(), directory: state.path.clone() })
}

/// Starts the thread on any disk.
pub fn spawn_on(disk: impl Disk) -> Result<StorageHandle> {
    let (jobs, receiver) = sync_channel(JOBS_MAX);
    let (sender, state) = watch::channel(StorageState::default());
    let worker = Worker { disk, jobs: receiver, state: sender };
    std::thread::Builder::new().name("storage".into()).spawn(move || worker.run())?;
    Ok(StorageHandle { jobs, waiting: VecDeque::new(), state })
}

impl StorageHandle {
    /// Queues rows, and the number by which their durability is told. Never blocks.
    pub fn submit(&mut self, rows: Vec<Row>, write: Option<u64>) {
        self.waiting.push_back(Job::Store { rows, write });
        self.pump();
    }

    /// Queues the second half of a checkpoint, behind the rows that it relies on.
    pub fn commit_checkpoint(&mut self, written: WrittenCheckpoint, contents: Vec<u8>, normalizer: Vec<u8>) {
        self.waiting.push_back(Job::Checkpoint { written, contents, normalizer });
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

    /// Waits until all that is queued is durable, however long that takes. Fails as soon as the disk refuses a write.
    pub async fn drain(mut self) -> Result<(), String> {
        self.waiting.push_back(Job::Stop);
        loop {
            self.pump();
            if let Some(error) = &self.state.borrow_and_update().error {
                return Err(error.clone());
            }
            let look_again = tokio::time::timeout(PUMP_INTERVAL, self.state.changed());
            if let Ok(Err(_)) = look_again.await {
                return Ok(());
            }
        }
    }
}

struct Worker<D> {
    disk: D,
    jobs: Receiver<Job>,
    state: watch::Sender<StorageState>,
}

impl<D: Disk> Worker<D> {
    fn run(self) {
        let mut next = None;
        while let Some(job) = next.take().or_else(|| self.jobs.recv().ok()) {
            match job {
                Job::Stop => return,
                Job::Store { mut rows, mut write } => {
                    while rows.len() < GROUP_ROWS_MAX && next.is_none() {
                        match self.jobs.try_recv() {
                            Ok(Job::Store { rows: more, write: later }) => {
                                rows.extend(more);
                                write = later.or(write);
                            }
                            Ok(other) => next = Some(other),
                            Err(_) => break,
                        }
                    }
                    if !self.insist(|| self.disk.store(&rows)) {
                        return;
                    }
                    if let Some(write) = write {
                        self.state.send_modify(|state| state.stored = state.stored.max(write));
                    }
                }
                Job::Checkpoint { written, contents, normalizer } => {
                    // A checkpoint only saves time: if it cannot be kept, the ledger still can.
                    if let Err(error) = self.disk.commit_checkpoint(written, &contents, &normalizer) {
                        tracing::warn!("no checkpoint this time ({error:#}); the ledger is safe");
                    }
                    self.state.send_modify(|state| state.checkpoints += 1);
                }
            }
        }
    }

    /// Tries until it succeeds. False if the shell is gone.
    fn insist(&self, write: impl Fn() -> Result<()>) -> bool {
        loop {
            match write() {
                Ok(()) => {
                    self.state.send_if_modified(|state| state.error.take().is_some());
                    return true;
                }
                Err(error) => {
                    self.state.send_modify(|state| {
                        state.failures += 1;
                        state.error = Some(format!("{error:#}"));
                    });
                    if self.state.is_closed() {
                        return false;
                    }
                    std::thread::park_timeout(RETRY);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::bail;
    use std::sync::atomic::{AtomicU32, Ordering};

    /// Takes its time, and refuses the first writes.
    struct Lame {
        takes: Duration,
        refusals: AtomicU32,
        stored: Arc<AtomicU32>,
    }

    impl Disk for Lame {
        fn store(&self, rows: &[Row]) -> Result<()> {
            std::thread::sleep(self.takes);
            if self.refusals.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok() {
                bail!("no space left");
            }
            self.stored.fetch_add(rows.len() as u32, Ordering::SeqCst);
            Ok(())
        }

        fn commit_checkpoint(&self, _: WrittenCheckpoint, _: &[u8], _: &[u8]) -> Result<()> {
            Ok(())
        }
    }

    fn row(number: u64) -> Row {
        Row::Setting { name: number.to_string(), bytes: Vec::new() }
    }

    #[tokio::test]
    async fn a_slow_disk_is_waited_for_until_everything_is_on_it() {
        let stored = Arc::new(AtomicU32::new(0));
        let takes = Duration::from_millis(300);
        let mut storage = spawn_on(Lame { takes, refusals: 0.into(), stored: stored.clone() }).unwrap();
        // More than the queue holds.
        let writes = 2 * JOBS_MAX as u64;
        (1..=writes).for_each(|write| storage.submit(vec![row(write)], Some(write)));
        let state = storage.state.clone();
        storage.drain().await.unwrap();
        assert_eq!((state.borrow().stored, stored.load(Ordering::SeqCst)), (writes, writes as u32));
    }

    #[tokio::test]
    async fn every_refusal_is_counted_and_then_the_write_is_made() {
        let stored = Arc::new(AtomicU32::new(0));
        let mut storage = spawn_on(Lame { takes: Duration::ZERO, refusals: 2.into(), stored: stored.clone() }).unwrap();
        storage.submit(vec![row(1)], Some(1));
        storage.state.wait_for(|state| state.failures == 1 && state.error.is_some()).await.unwrap();
        let end = storage.state.wait_for(|state| state.stored == 1).await.unwrap().clone();
        assert_eq!(end, StorageState { stored: 1, checkpoints: 0, failures: 2, error: None });
    }

    #[tokio::test]
    async fn a_disk_that_refuses_is_not_waited_for_and_the_thread_ends() {
        let mut storage = spawn_on(Lame { takes: Duration::ZERO, refusals: u32::MAX.into(), stored: Arc::default() });
        let mut state = storage.as_mut().unwrap().state.clone();
        storage.as_mut().unwrap().submit(vec![row(1)], Some(1));
        assert_eq!(storage.unwrap().drain().await.unwrap_err(), "no space left");
        // Of the two ends only this one is left, which keeps the thread trying.
        state.wait_for(|state| state.failures > 1).await.unwrap();
    }
}
