//! `--record`: what the peer was told, and when.

use anyhow::{Context, Result};
use peer::{Config, Input, Output, record::Recorder};
use std::{
    fs::{File, OpenOptions},
    io::{self, BufWriter, ErrorKind, Write},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

/// Bytes of a recording.
pub const RECORDING_BYTES_MAX: u64 = 256 << 20;
/// What is recorded reaches the system at least this often: a node that is killed leaves all before.
const FLUSH_INTERVAL: Duration = Duration::from_millis(500);

/// A file that must not be there before.
pub fn create(path: &Path) -> Result<File> {
    match OpenOptions::new().write(true).create_new(true).open(path) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => anyhow::bail!(
            "--record {}: is there already, and is not written over; move it away, or name another file",
            path.display()
        ),
        file => file.with_context(|| format!("--record {}: cannot be written", path.display())),
    }
}

/// A recording that is being made.
pub struct Recording {
    path: PathBuf,
    /// None once it has ended.
    recorder: Option<Recorder<Flushed>>,
    has_steps: bool,
}

impl Recording {
    /// Begins with what the peer is made from.
    pub fn begin(file: File, path: &Path, config: &Config) -> Result<Self> {
        let out = Flushed { buffer: BufWriter::with_capacity(1 << 16, file), flushed: Instant::now() };
        let recorder = Recorder::begin(out, config, RECORDING_BYTES_MAX).with_context(|| path.display().to_string())?;
        Ok(Self { path: path.to_owned(), recorder: Some(recorder), has_steps: false })
    }

    /// One input and what it brought. A recording that cannot go on ends, in words; the node goes on.
    pub fn step(&mut self, now_ms: u64, input: &Input, outputs: &[Output]) {
        let Some(recorder) = &mut self.recorder else { return };
        self.has_steps = true;
        let path = self.path.display();
        match recorder.step(now_ms, input, outputs) {
            Ok(true) => return,
            Ok(false) => tracing::warn!(
                "{path}: the recording has reached {} MiB and ends here; the run goes on",
                RECORDING_BYTES_MAX >> 20
            ),
            Err(error) => tracing::warn!("{path}: the recording ends here ({error}); the run goes on"),
        }
        self.finish();
    }

    /// Whether the peer was told anything.
    pub fn has_steps(&self) -> bool {
        self.has_steps
    }

    /// Writes out what is buffered, and ends the recording.
    pub fn finish(&mut self) {
        if let Some(mut recorder) = self.recorder.take()
            && let Err(error) = recorder.flush()
        {
            tracing::warn!("{}: the end of the recording is missing ({error})", self.path.display());
        }
    }
}

/// A buffer that is written out when it is full, and now and then. The peer is told the time many times a second, so
/// there is always a next write.
struct Flushed {
    buffer: BufWriter<File>,
    flushed: Instant,
}

impl Write for Flushed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.flushed.elapsed() >= FLUSH_INTERVAL {
            self.flush()?;
        }
        self.buffer.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.flushed = Instant::now();
        self.buffer.flush()
    }
}
