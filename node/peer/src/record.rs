//! Recordings: what a peer was told and when, so that it can be told again.
//!
//! A recording holds no text and no secret: texts and keys never reach a peer, and chunks of the base model are named by their
//! digests. It ends when it has reached its size.

use std::io::{self, Read, Write};

use crate::{Config, Input, Output};

/// Writes a recording.
pub struct Recorder<W: Write> {
    out: W,
}

impl<W: Write> Recorder<W> {
    /// Begins with what the peer was made from. Ends itself beyond `bytes_max`.
    pub fn begin(_out: W, _config: &Config, _bytes_max: u64) -> io::Result<Self> {
        unimplemented!()
    }

    /// One input, and all outputs that it brought. False from the step on that would be too much.
    pub fn step(&mut self, _now_ms: u64, _input: &Input, _outputs: &[Output]) -> io::Result<bool> {
        unimplemented!()
    }

    /// Writes out what is buffered.
    pub fn finish(mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// One step of a replay.
pub struct Step {
    /// Its number, from 0.
    pub number: u64,
    /// When, ms.
    pub now_ms: u64,
    /// What the peer was told.
    pub input: Input,
    /// What it wants done now.
    pub outputs: Vec<Output>,
    /// Whether that is what it wanted then.
    pub is_as_recorded: bool,
}

/// Runs a recording through a peer, step by step.
pub struct Replay<R: Read> {
    _input: R,
}

impl<R: Read> Replay<R> {
    /// Reads the beginning.
    pub fn open(_input: R) -> Result<Self, ReplayError> {
        unimplemented!()
    }

    /// The next step; None at the end.
    pub fn next_step(&mut self) -> Result<Option<Step>, ReplayError> {
        unimplemented!()
    }
}

/// Why a recording cannot be replayed.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// It cannot be read.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// It is no recording, or is damaged.
    #[error("not a recording of this release, or damaged at byte {at}: {reason}")]
    Damaged {
        /// Where.
        at: u64,
        /// Why.
        reason: String,
    },
}
