//! Recordings: what a peer was told and when, so that it can be told again.
//!
//! A recording holds no text and no secret: neither ever reaches a peer, and chunks of the base model are named by
//! their digests. What it does hold is what a node of the run sees anyway: the manifest, ledgers, and messages of other
//! nodes, who are numbers in it.
//!
//! ```text
//! file  = "onebyte recording 2\n" ‖ frame of the config ‖ frame of each step
//! frame = length of the content (u32 LE) ‖ check of the length ‖ check of the content ‖ content
//! check = first 8 bytes of BLAKE3(frame number (u64 LE) ‖ what is checked)
//! step  = time, ms (u64) ‖ input ‖ number of outputs (u32) ‖ first 8 bytes of BLAKE3(outputs)
//! ```
//!
//! Contents and outputs are encoded as messages are ([`protocol::encoding`]). A frame that a crash cut short ends the
//! recording; that the length has a check of its own tells such an end from a length that was changed.

use protocol::{encoding, signature::Ed25519Verifier};
use serde::{Deserialize, Serialize};
use std::io::{self, Read, Write};

use crate::{Config, Input, Output, Peer};

const MAGIC: &[u8] = b"onebyte recording 2\n";
/// Largest content of a frame, and largest output that is hashed, bytes. The digests of a base of some 500 GB fit.
const FRAME_BYTES_MAX: usize = 64 << 20;
/// Bytes of a frame before its content.
const HEAD_BYTES: usize = 4 + 8 + 8;

type Check = [u8; 8];

fn shorten(hash: blake3::Hash) -> Check {
    std::array::from_fn(|index| hash.as_bytes()[index])
}

fn check(number: u64, content: &[u8]) -> Check {
    shorten(blake3::Hasher::new().update(&number.to_le_bytes()).update(content).finalize())
}

/// What the outputs of a step are compared by.
fn fingerprint(outputs: &[Output]) -> io::Result<(u32, Check)> {
    let mut hasher = blake3::Hasher::new();
    for output in outputs {
        let bytes = encoding::encode::<_, FRAME_BYTES_MAX>(output).map_err(io::Error::other)?;
        hasher.update(&(bytes.len() as u64).to_le_bytes()).update(&bytes);
    }
    Ok((outputs.len() as u32, shorten(hasher.finalize())))
}

#[derive(Serialize)]
struct StepOut<'a> {
    now_ms: u64,
    input: &'a Input,
    outputs: (u32, Check),
}

#[derive(Deserialize)]
struct StepIn {
    now_ms: u64,
    input: Input,
    outputs: (u32, Check),
}

/// Writes a recording.
pub struct Recorder<W: Write> {
    out: W,
    frames: u64,
    bytes_left: u64,
}

impl<W: Write> Recorder<W> {
    /// Begins with what the peer was made from. Ends itself before it is larger than `bytes_max`.
    pub fn begin(mut out: W, config: &Config, bytes_max: u64) -> io::Result<Self> {
        out.write_all(MAGIC)?;
        let mut recorder = Self { out, frames: 0, bytes_left: bytes_max.saturating_sub(MAGIC.len() as u64) };
        recorder.frame(config)?;
        Ok(recorder)
    }

    /// One input, and all outputs that it brought. False, and nothing is written, from the step on that would be too
    /// much. After an error nothing is written any more, either: what follows a torn frame could not be read.
    pub fn step(&mut self, now_ms: u64, input: &Input, outputs: &[Output]) -> io::Result<bool> {
        if self.bytes_left == 0 {
            return Ok(false);
        }
        let written = fingerprint(outputs).and_then(|outputs| self.frame(&StepOut { now_ms, input, outputs }));
        if written.is_err() {
            self.bytes_left = 0;
        }
        written
    }

    fn frame(&mut self, content: &impl Serialize) -> io::Result<bool> {
        let content = encoding::encode::<_, FRAME_BYTES_MAX>(content).map_err(io::Error::other)?;
        let length = (content.len() as u32).to_le_bytes();
        let head = [&length[..], &check(self.frames, &length), &check(self.frames, &content)].concat();
        let Some(left) = self.bytes_left.checked_sub((head.len() + content.len()) as u64) else {
            self.bytes_left = 0;
            self.out.flush()?;
            return Ok(false);
        };
        self.bytes_left = left;
        self.frames += 1;
        self.out.write_all(&head)?;
        self.out.write_all(&content)?;
        Ok(true)
    }

    /// Writes out what is buffered.
    pub fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// One step of a replay.
#[derive(Debug)]
pub struct Step {
    /// Its number, from 0.
    pub number: u64,
    /// When, ms.
    pub now_ms: u64,
    /// What the peer was told.
    pub input: Input,
    /// What it wants done now.
    pub outputs: Vec<Output>,
    /// Whether that is what it wanted when it was recorded.
    pub is_as_recorded: bool,
}

/// Runs a recording through a peer, step by step.
pub struct Replay<R: Read> {
    input: R,
    peer: Peer,
    frames: u64,
    /// Bytes read so far.
    at: u64,
    is_cut: bool,
    /// Whether there is nothing more to read.
    is_over: bool,
}

/// Why a recording cannot be replayed.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// It cannot be read.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// It does not begin as a recording does.
    #[error("not a recording of this release")]
    NotOne,
    /// Its bytes were changed.
    #[error("damaged in step {step}, which begins at byte {at}: {reason}")]
    Damaged {
        /// Number of the step, from 0.
        step: u64,
        /// Where its frame begins.
        at: u64,
        /// What does not fit.
        reason: String,
    },
}

impl<R: Read> Replay<R> {
    /// Reads the beginning.
    pub fn open(mut input: R) -> Result<Self, ReplayError> {
        let mut magic = Vec::new();
        (&mut input).take(MAGIC.len() as u64).read_to_end(&mut magic)?;
        if magic != MAGIC {
            return Err(ReplayError::NotOne);
        }
        let (mut at, mut frames) = (MAGIC.len() as u64, 0);
        let Frame::Content(content) = frame(&mut input, &mut at, &mut frames)? else { return Err(ReplayError::NotOne) };
        let config = encoding::decode::<Config, FRAME_BYTES_MAX>(&content).map_err(|_| ReplayError::NotOne)?;
        let peer = Peer::new(config, Box::new(Ed25519Verifier));
        Ok(Self { input, peer, frames, at, is_cut: false, is_over: false })
    }

    /// The next step; None at the end, and after an error.
    pub fn next_step(&mut self) -> Result<Option<Step>, ReplayError> {
        if self.is_over {
            return Ok(None);
        }
        let step = self.read_step();
        self.is_over = !matches!(step, Ok(Some(_)));
        step
    }

    fn read_step(&mut self) -> Result<Option<Step>, ReplayError> {
        let (number, at) = (self.frames - 1, self.at);
        let content = match frame(&mut self.input, &mut self.at, &mut self.frames)? {
            Frame::Content(content) => content,
            Frame::Cut => {
                self.is_cut = true;
                return Ok(None);
            }
            Frame::End => return Ok(None),
        };
        let step = encoding::decode::<StepIn, FRAME_BYTES_MAX>(&content).map_err(|error| ReplayError::Damaged {
            step: number,
            at,
            reason: error.to_string(),
        })?;
        let outputs = self.peer.step(step.input.clone(), step.now_ms);
        let is_as_recorded = fingerprint(&outputs)? == step.outputs;
        Ok(Some(Step { number, now_ms: step.now_ms, input: step.input, outputs, is_as_recorded }))
    }

    /// Whether the last step was cut short, as by a crash.
    pub fn is_cut(&self) -> bool {
        self.is_cut
    }

    /// The peer as it stands.
    pub fn peer(&self) -> &Peer {
        &self.peer
    }

    /// Bytes read so far.
    pub fn bytes(&self) -> u64 {
        self.at
    }
}

enum Frame {
    Content(Vec<u8>),
    Cut,
    End,
}

/// The next frame of `input`, checked.
fn frame(input: &mut impl Read, at: &mut u64, frames: &mut u64) -> Result<Frame, ReplayError> {
    let damaged =
        |reason: &str| ReplayError::Damaged { step: frames.saturating_sub(1), at: *at, reason: reason.into() };
    let mut head = Vec::new();
    input.take(HEAD_BYTES as u64).read_to_end(&mut head)?;
    let Some((length, checks)) = head.split_first_chunk::<4>().filter(|(_, checks)| checks.len() == HEAD_BYTES - 4)
    else {
        return Ok(if head.is_empty() { Frame::End } else { Frame::Cut });
    };
    let (of_length, of_content) = checks.split_at(size_of::<Check>());
    if check(*frames, length) != of_length {
        return Err(damaged("its length was changed"));
    }
    let length = u32::from_le_bytes(*length) as usize;
    if length > FRAME_BYTES_MAX {
        return Err(damaged("its length is impossible"));
    }
    let mut content = Vec::new();
    input.take(length as u64).read_to_end(&mut content)?;
    if content.len() < length {
        return Ok(Frame::Cut);
    }
    if check(*frames, &content) != of_content {
        return Err(damaged("its bytes were changed"));
    }
    *at += (HEAD_BYTES + length) as u64;
    *frames += 1;
    Ok(Frame::Content(content))
}
