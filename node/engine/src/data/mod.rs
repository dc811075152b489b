//! A machine's own data: files → documents → windows of tokens → batches.
//!
//! Plain text is one stream of tokens without BOS, cut into windows of `sequence_length` tokens that do not overlap; a
//! window predicts all its tokens but the first. JSON Lines are documents: `text`, cut into windows of which the last
//! is padded, or `prompt` and `completion`, one window each, with the loss on the completion only.

mod order;
mod read;
mod window;

use anyhow::{Context, Result, bail, ensure};
use std::{path::Path, sync::Arc};

use crate::{
    device,
    model::{Batch, IGNORED, Tokenizer},
};
use read::ReadTexts;
use window::{Part, Tokens, Window, stream_windows};

/// Share of the data that [`Dataset::load_split`] holds out.
pub const HELD_OUT: f64 = 0.1;

/// Windows of a text, drawn in a seeded order.
#[derive(Clone)]
pub struct Dataset {
    tokens: Arc<Tokens>,
    windows: Vec<Window>,
    sequence_length: usize,
    text_tokens: u64,
    text_bytes: u64,
}

impl Dataset {
    /// Reads a text file, a JSON Lines file (`.jsonl`, `.ndjson`), or a directory of both, in the order of their paths.
    ///
    /// Errors name the file, the line or byte, and what to do.
    pub fn load(path: &Path, tokenizer: &Tokenizer, sequence_length: usize) -> Result<Self> {
        let ReadTexts { tokens, train, .. } = read::load(path, tokenizer, sequence_length, 0.0)?;
        Self::of_part(Arc::new(tokens), train, sequence_length).with_context(|| format!("in {}", path.display()))
    }

    /// The same, split: (first 90%, last 10%), by bytes for text, by documents for JSON Lines. Both have at least one
    /// window.
    pub fn load_split(path: &Path, tokenizer: &Tokenizer, sequence_length: usize) -> Result<(Self, Self)> {
        let ReadTexts { tokens, train, held_out } = read::load(path, tokenizer, sequence_length, HELD_OUT)?;
        let tokens = Arc::new(tokens);
        let train =
            Self::of_part(tokens.clone(), train, sequence_length).with_context(|| format!("in {}", path.display()))?;
        ensure!(
            !held_out.windows.is_empty(),
            "{} is too short to hold out a part; give --eval a file of its own",
            path.display()
        );
        Ok((train, Self::of_part(tokens, held_out, sequence_length)?))
    }

    /// Windows of a text in memory.
    pub fn from_text(text: &str, tokenizer: &Tokenizer, sequence_length: usize) -> Result<Self> {
        ensure!(sequence_length >= 2, "sequence length {sequence_length} is too short, a window needs 2 tokens");
        let mut tokens = Tokens::for_vocabulary(tokenizer.vocabulary());
        read::encode_text(text, tokenizer, &mut tokens)?;
        let windows = stream_windows(0, tokens.len(), sequence_length);
        let part = Part { windows, tokens: tokens.len() as u64, bytes: text.len() as u64 };
        Self::of_part(Arc::new(tokens), part, sequence_length)
    }

    fn of_part(tokens: Arc<Tokens>, part: Part, sequence_length: usize) -> Result<Self> {
        let Part { windows, tokens: text_tokens, bytes: text_bytes } = part;
        ensure!(
            !windows.is_empty(),
            "the text has {text_tokens} tokens, one window needs {sequence_length}; give more text or a shorter --sequence-length"
        );
        Ok(Self { tokens, windows, sequence_length, text_tokens, text_bytes })
    }

    /// Number of windows, at least one.
    pub fn windows(&self) -> usize {
        self.windows.len()
    }

    /// Tokens of a window, at most.
    pub fn sequence_length(&self) -> usize {
        self.sequence_length
    }

    /// Tokens of the whole text (of the completions, where the loss is on them only).
    pub fn tokens(&self) -> u64 {
        self.text_tokens
    }

    /// Bytes of the same.
    pub fn bytes(&self) -> u64 {
        self.text_bytes
    }

    /// Tokens per byte of the whole text.
    pub fn tokens_per_byte(&self) -> f64 {
        self.text_tokens as f64 / self.text_bytes.max(1) as f64
    }

    /// Batch number `sample` of the order that `seed` gives: each epoch is a permutation of all windows. A pure
    /// function, so that a restart goes on where it stopped.
    pub fn batch(&self, seed: u64, sample: u64, batch_size: usize) -> Result<Batch> {
        let windows = self.windows.len() as u64;
        let first = u128::from(sample) * batch_size as u128;
        let indices = (first..first + batch_size as u128).map(|position| {
            let epoch = (position / u128::from(windows)) as u64;
            order::permute(seed, epoch, windows, (position % u128::from(windows)) as u64) as usize
        });
        self.batch_of(&indices.collect::<Vec<_>>())
    }

    /// The windows of these indices as one batch.
    pub fn batch_of(&self, indices: &[usize]) -> Result<Batch> {
        ensure!(!indices.is_empty(), "a batch needs at least one window");
        let width = self.sequence_length - 1;
        let mut inputs = vec![0u32; indices.len() * width];
        let mut targets = vec![IGNORED; indices.len() * width];
        let rows = inputs.chunks_exact_mut(width).zip(targets.chunks_exact_mut(width));
        for (index, (inputs, targets)) in indices.iter().zip(rows) {
            let Some(window) = self.windows.get(*index) else { bail!("window {index} of {}", self.windows.len()) };
            for position in 0..window.tokens as usize - 1 {
                inputs[position] = self.tokens.get(window.start + position);
                if position + 1 >= window.given as usize {
                    targets[position] = self.tokens.get(window.start + position + 1);
                }
            }
        }
        Ok(Batch { inputs: device::tensor(inputs, (indices.len(), width))?, targets })
    }
}
