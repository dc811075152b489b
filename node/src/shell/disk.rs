//! The disk's side of a shell: the state directory, its storage thread, and the base model on its way from peers.

use anyhow::{Context, Result};
use indicatif::ProgressBar;
use peer::{Input, Output, Piece, exchange};
use protocol::{message::Response, replica::Contained};
use std::{
    collections::VecDeque,
    sync::{Arc, Once},
    time::{Duration, Instant},
};

use crate::{
    network::{Multiaddr, PeerId},
    say,
    storage::{
        BaseDownload, BaseReader, StateDir, StorageHandle, StorageState, checkpoint::WrittenCheckpoint, records,
    },
    system::display::progress_bar,
};

/// Pause before a new incarnation that the disk refused is tried again.
const RETRY: Duration = Duration::from_millis(500);

/// What became of the disk since it was last looked at.
#[derive(PartialEq, Eq, Debug)]
pub enum Turn {
    /// It refuses writes, for this reason.
    Failing(String),
    /// It takes them again.
    Recovered,
}

/// See the module's documentation.
pub struct Disk {
    /// Locked.
    pub state: Arc<StateDir>,
    /// A run to join was found, and is on the disk.
    has_joined: bool,
    storage: Option<StorageHandle>,
    seen: StorageState,
    /// Number of the last write that was handed over.
    handed_over: u64,
    base: Option<BaseReader>,
    /// People hear of a damaged base once.
    base_damage: Once,
    download: Option<(BaseDownload, ProgressBar)>,
    /// A checkpoint file that does not count yet, and the state of the estimator that goes with it.
    written: Option<(WrittenCheckpoint, Vec<u8>)>,
    /// The addresses of neighbours that the disk has.
    remembered: Vec<(PeerId, Multiaddr)>,
    /// When the disk refused the new incarnation that the peer waits for, if it did.
    refused_at: Option<Instant>,
}

impl Disk {
    /// A directory without a thread that writes to it.
    pub fn new(state: Arc<StateDir>) -> Self {
        Self {
            state,
            has_joined: false,
            storage: None,
            seen: StorageState::default(),
            handed_over: 0,
            base_damage: Once::new(),
            base: None,
            download: None,
            written: None,
            remembered: Vec::new(),
            refused_at: None,
        }
    }

    /// From now on there is a base model to serve, and records are written by this thread.
    pub fn run(&mut self, base: Option<BaseReader>, storage: StorageHandle) {
        self.base = base;
        self.storage = Some(storage);
    }

    /// Whether a run to join was found, and is on the disk.
    pub fn has_joined(&self) -> bool {
        self.has_joined
    }

    /// Chunks of the base are expected.
    pub fn begin_download(&mut self, download: BaseDownload) -> Input {
        let template = "{msg} {wide_bar} {bytes} of {total_bytes}, {bytes_per_sec}, {eta} left";
        let bar = progress_bar(Some(download.progress().0), "fetching the base model", template);
        let input = Input::FetchBase { digests: download.digests().to_vec(), missing: download.missing().collect() };
        self.download = Some((download, bar));
        input
    }

    /// Whether the base is still on its way.
    pub fn is_downloading(&self) -> bool {
        self.download.is_some()
    }

    /// So much of the base is here.
    pub fn show_progress(&self, here: u64) {
        if let Some((_, bar)) = &self.download {
            bar.set_position(here);
        }
    }

    /// Returns when the storage thread has got on. Never if there is none.
    pub async fn progress(&mut self) {
        let Some(storage) = &mut self.storage else { return std::future::pending().await };
        if storage.state.changed().await.is_err() {
            std::future::pending().await
        }
    }

    /// What the peer is to be told, and people, of what the storage thread did since the last look.
    pub fn look(&mut self) -> (Vec<Input>, Option<Turn>) {
        let Some(storage) = &mut self.storage else { return (Vec::new(), None) };
        let now = storage.state.borrow_and_update().clone();
        let before = std::mem::replace(&mut self.seen, now.clone());
        let mut inputs = Vec::new();
        if now.stored > before.stored {
            inputs.push(Input::Stored { write: now.stored });
        }
        inputs.extend((before.failures..now.failures).map(|_| Input::StoreFailed));
        inputs.extend((before.checkpoints..now.checkpoints).map(|_| Input::Committed));
        let turn = match (before.error, now.error) {
            (None, Some(error)) => Some(Turn::Failing(error)),
            (Some(_), None) => Some(Turn::Recovered),
            _ => None,
        };
        (inputs, turn)
    }

    /// Number of the last write that was handed over, and of the last that is durable.
    pub fn writes(&self) -> (u64, u64) {
        (self.handed_over, self.seen.stored)
    }

    /// Why the disk refuses writes, if it does.
    pub fn error(&self) -> Option<&str> {
        self.seen.error.as_deref()
    }

    /// Hands to the thread what it had no room for, and tries again what was refused here. Returns what the peer is to
    /// be told then.
    pub fn pump(&mut self) -> Option<Input> {
        if let Some(storage) = &mut self.storage {
            storage.pump();
        }
        let is_due = self.refused_at.is_some_and(|at| at.elapsed() >= RETRY);
        is_due.then(|| self.open_incarnation()).flatten()
    }

    /// A new incarnation, unless the disk refuses it: then the peer waits, and signs nothing meanwhile.
    fn open_incarnation(&mut self) -> Option<Input> {
        match self.state.new_incarnation() {
            Ok(incarnation) => {
                self.refused_at = None;
                Some(Input::Incarnation(incarnation))
            }
            Err(error) => {
                if self.refused_at.replace(Instant::now()).is_none() {
                    say::no_incarnation(&error);
                }
                None
            }
        }
    }

    /// Carries out what concerns the disk; any other output comes back. What is answered at once goes to `answers`.
    pub fn carry_out(&mut self, output: Output, answers: &mut VecDeque<Input>) -> Result<Option<Output>> {
        match output {
            Output::StoreRun(run) => {
                self.state.set_manifest(&run.bytes)?;
                self.has_joined = true;
            }
            Output::StoreDigests(digests) => {
                let (download, _) = self.download.as_mut().context("digests of a base that nobody fetches")?;
                download.accept_digests(digests)?;
                answers.push_back(Input::DigestsStored { missing: download.missing().collect() });
            }
            Output::FinishBase => {
                let (download, bar) = self.download.take().context("the end of a base that nobody fetches")?;
                bar.finish_and_clear();
                download.finish().context("storing the base model")?;
            }
            Output::NewIncarnation => answers.extend(self.open_incarnation()),
            Output::Persist { records, write } => {
                let rows = records.iter().map(records::to_row).collect::<Result<Vec<_>>>()?;
                self.storage
                    .as_mut()
                    .context("records before there is a thread to store them")?
                    .submit(rows, Some(write));
                self.handed_over = write;
            }
            Output::Commit { contents } => {
                if let Err(error) = self.commit(&contents) {
                    tracing::warn!("no checkpoint: {error:#}");
                    answers.push_back(Input::Committed);
                }
            }
            Output::Discard => self.written = None,
            other => return Ok(Some(other)),
        }
        Ok(None)
    }

    /// Stores a chunk of the base, which is checked again: the peer saw only its digest.
    pub fn store_chunk(&mut self, index: u64, chunk: &[u8]) -> Result<Input> {
        let (download, _) = self.download.as_mut().context("a chunk of a base that nobody fetches")?;
        download.accept_chunk(index, chunk)?;
        Ok(Input::ChunkStored { index })
    }

    /// The answer to a request for a piece of the base.
    pub fn serve(&self, piece: Piece) -> Response {
        let Some((base, digests)) = self.base.as_ref().and_then(|base| Some((base, base.chunk_digests()?))) else {
            return Response::Unavailable;
        };
        exchange::serve(piece, digests, |index| {
            let chunk = base.chunk(index);
            if let Err(error) = &chunk {
                self.base_damage.call_once(|| say::base_damaged(error));
            }
            chunk.ok()
        })
    }

    /// A checkpoint file was written.
    pub fn wrote(&mut self, written: WrittenCheckpoint, normalizer: Vec<u8>) {
        self.written = Some((written, normalizer));
    }

    fn commit(&mut self, contents: &[Contained]) -> Result<()> {
        let contents = records::encode_contents(contents)?;
        let (written, normalizer) = self.written.take().context("there is no file")?;
        let storage = self.storage.as_mut().context("there is no thread to store it")?;
        storage.commit_checkpoint(written, contents, normalizer);
        Ok(())
    }

    /// The digest of the weights in the file that was written last, if it does not count yet.
    pub fn written(&self) -> Option<&[u8; 32]> {
        self.written.as_ref().map(|(written, _)| written.digest())
    }

    /// Keeps the addresses of neighbours for the next start.
    pub fn remember(&mut self, mut neighbours: Vec<(PeerId, Multiaddr)>) {
        neighbours.sort();
        if let Some(storage) = &mut self.storage
            && !neighbours.is_empty()
            && neighbours != self.remembered
        {
            storage.submit(vec![records::known_peers(&neighbours)], None);
            self.remembered = neighbours;
        }
    }

    /// Waits until all that was handed over is durable. Fails as soon as the disk refuses a write.
    pub async fn drain(&mut self) -> Result<(), String> {
        match self.storage.take() {
            Some(storage) => storage.drain().await,
            None => Ok(()),
        }
    }
}
