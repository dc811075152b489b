//! The thread that writes what people may read later: `status.json`, `metrics.jsonl` and the journal.
//!
//! A slow or full disk loses lines here, and nothing else.

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use std::{
    fs::{self, File, OpenOptions},
    io::{Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    sync::{
        Arc,
        mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use super::{Measured, Phase, Snapshot, journal};

/// The latest snapshot, replaced every second.
pub const STATUS: &str = "status.json";
/// The run's numbers, a line every [`METRICS_INTERVAL`].
pub const METRICS: &str = "metrics.jsonl";
/// Between two lines of [`METRICS`].
pub const METRICS_INTERVAL: Duration = Duration::from_secs(10);
/// What waits for a slow disk; more is dropped.
const WAITING_MAX: usize = 256;
/// At the end, the thread is looked at this often.
const LOOK_AGAIN: Duration = Duration::from_millis(2);

/// One line of `metrics.jsonl`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Metrics {
    /// Unix time, milliseconds.
    pub time_ms: u64,
    /// The swarm's, since the run began.
    pub gradients: u64,
    /// This node's, since the run began.
    pub own: u64,
    /// Of the last own batches, nats per token; per row, where rows have choices.
    pub training_loss: Option<f64>,
    /// The same, on the held-out text.
    pub held_out_loss: Option<f64>,
    /// The same in bits per byte, where rows have no choices.
    pub held_out_bits_per_byte: Option<f64>,
    /// Share of rows whose right choice was the likeliest, where they have choices.
    pub held_out_accuracy: Option<f64>,
    /// Mean score of completions, where a program gives one.
    #[serde(default)]
    pub held_out_score: Option<f64>,
    /// The swarm's gradients when that was measured.
    pub held_out_gradients: Option<u64>,
    /// Own gradients.
    pub own_per_second: f64,
    /// Everyone's.
    pub swarm_per_second: f64,
    /// Bytes from all sockets since the program had the base model.
    pub received: u64,
    /// Bytes to all sockets since the program had the base model.
    pub sent: u64,
    /// See [`Snapshot::staleness`].
    pub staleness: Option<u64>,
    /// Of the run.
    pub machines: u64,
    /// Connected.
    pub peers: u64,
}

impl Metrics {
    /// What the looks of these lines show first: those that an older release wrote have fewer fields.
    pub fn shown<'a>(lines: impl Iterator<Item = &'a Self>) -> Measured {
        let (mut accuracy, mut score) = (None, None);
        for line in lines {
            (accuracy, score) = (accuracy.or(line.held_out_accuracy), score.or(line.held_out_score));
        }
        Measured::of(accuracy, score)
    }

    /// Its look, as far as it shows this.
    pub fn figure(&self, shown: Measured) -> Option<f64> {
        match shown {
            Measured::BitsPerByte => self.held_out_bits_per_byte,
            Measured::Accuracy => self.held_out_accuracy,
            Measured::Score => self.held_out_score,
        }
    }
}

impl From<&Snapshot> for Metrics {
    fn from(snapshot: &Snapshot) -> Self {
        let held_out = snapshot.held_out;
        Self {
            time_ms: snapshot.time_ms,
            gradients: snapshot.swarm.total,
            own: snapshot.own.total,
            training_loss: snapshot.training_loss,
            held_out_loss: held_out.map(|held_out| held_out.loss),
            held_out_bits_per_byte: held_out.and_then(|held_out| held_out.bits_per_byte),
            held_out_accuracy: held_out.and_then(|held_out| held_out.accuracy),
            held_out_score: held_out.and_then(|held_out| held_out.score),
            held_out_gradients: held_out.map(|held_out| held_out.gradients),
            own_per_second: snapshot.own.per_second,
            swarm_per_second: snapshot.swarm.per_second,
            received: snapshot.traffic.received,
            sent: snapshot.traffic.sent,
            staleness: snapshot.staleness,
            machines: snapshot.machine_count,
            peers: snapshot.peers.len() as u64,
        }
    }
}

enum Entry {
    Snapshot(Arc<Snapshot>),
    Journal(Box<journal::Line>),
}

/// Hands what is to be written to the thread, without ever waiting for it.
pub struct Recorder {
    entries: SyncSender<Entry>,
    thread: JoinHandle<()>,
}

impl Recorder {
    /// Starts the thread. Its files are in `state`.
    pub fn start(state: &Path) -> Result<Self> {
        let (entries, receiver) = sync_channel(WAITING_MAX);
        let files = Files { state: state.to_owned(), metrics: None, journal: None, last_metrics: None, failing: false };
        let thread = std::thread::Builder::new()
            .name("recorder".into())
            .spawn(move || files.write_all(&receiver))
            .context("no thread for the recorder")?;
        Ok(Self { entries, thread })
    }

    /// For `status.json`, and now and then for `metrics.jsonl`.
    pub fn snapshot(&self, snapshot: Arc<Snapshot>) {
        let _ = self.entries.try_send(Entry::Snapshot(snapshot));
    }

    /// For the journal.
    pub fn journal(&self, line: journal::Line) {
        let _ = self.entries.try_send(Entry::Journal(Box::new(line)));
    }

    /// Hands over the last snapshot, and waits until everything is written, however long that takes.
    pub async fn finish(self, last: Arc<Snapshot>) {
        let Self { entries, thread } = self;
        let mut entry = Entry::Snapshot(last);
        while let Err(TrySendError::Full(again)) = entries.try_send(entry) {
            entry = again;
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        drop(entries);
        while !thread.is_finished() {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }
}

struct Files {
    state: PathBuf,
    metrics: Option<File>,
    journal: Option<File>,
    last_metrics: Option<Instant>,
    failing: bool,
}

impl Files {
    fn write_all(mut self, entries: &Receiver<Entry>) {
        while let Ok(entry) = entries.recv() {
            let (written, is_status) = match entry {
                Entry::Snapshot(snapshot) => (self.write_snapshot(&snapshot), true),
                Entry::Journal(line) => (append(&mut self.journal, &self.state.join(journal::FILE), &line), false),
            };
            let is_news = self.note(is_status, written.is_ok());
            if let (Err(error), true) = (written, is_news) {
                tracing::warn!("status, metrics and journal are not written ({error:#}); the run goes on without");
            }
        }
    }

    /// Whether people should hear of a failure: once, until the status is written again. On a full disk a line of the
    /// journal may fit where nothing else does.
    fn note(&mut self, is_status: bool, is_written: bool) -> bool {
        let was_failing = self.failing;
        self.failing = !is_written || was_failing && !is_status;
        self.failing && !was_failing
    }

    fn write_snapshot(&mut self, snapshot: &Snapshot) -> Result<()> {
        let (path, new) = (self.state.join(STATUS), self.state.join("status.json.new"));
        fs::write(&new, serde_json::to_vec(snapshot)?).with_context(|| new.display().to_string())?;
        fs::rename(&new, &path).with_context(|| path.display().to_string())?;
        let is_due = self.last_metrics.is_none_or(|last| last.elapsed() >= METRICS_INTERVAL);
        if is_due || snapshot.phase == Phase::Left {
            self.last_metrics = Some(Instant::now());
            append(&mut self.metrics, &self.state.join(METRICS), &Metrics::from(snapshot))?;
        }
        Ok(())
    }
}

/// Appends one line, in one write. Opens the file on first use, and ends the line that a crash cut off.
fn append(file: &mut Option<File>, path: &Path, line: &impl Serialize) -> Result<()> {
    let mut write = || -> Result<()> {
        let mut bytes = serde_json::to_vec(line)?;
        bytes.push(b'\n');
        let out = match file {
            Some(out) => out,
            None => {
                let mut opened = OpenOptions::new().read(true).append(true).create(true).open(path)?;
                let mut last = [b'\n'];
                if opened.metadata()?.len() > 0 {
                    opened.seek(SeekFrom::End(-1))?;
                    opened.read_exact(&mut last)?;
                }
                if last != [b'\n'] {
                    bytes.insert(0, b'\n');
                }
                file.insert(opened)
            }
        };
        out.write_all(&bytes)?;
        Ok(())
    };
    let written = write();
    if written.is_err() {
        // Reopened at the next line: it may have been cut.
        *file = None;
    }
    written.with_context(|| path.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_hear_of_a_full_disk_once_until_the_status_is_written_again() {
        let mut files =
            Files { state: PathBuf::new(), metrics: None, journal: None, last_metrics: None, failing: false };
        let (status, journal) = (true, false);
        let said =
            [(status, true), (status, false), (journal, true), (status, false), (status, true), (journal, false)]
                .map(|(what, is_written)| files.note(what, is_written));
        assert_eq!(said, [false, true, false, false, false, true]);
    }
}
