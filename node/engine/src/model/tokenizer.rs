//! The model's tokenizer. Its file may come from a peer.

use anyhow::{Context, Result, anyhow, ensure};
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::Interface;

/// A Hugging Face `tokenizer.json` that fits a model's vocabulary.
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    vocabulary: usize,
    bos: Option<u32>,
    eos: Vec<u32>,
}

impl Tokenizer {
    /// Parses `tokenizer.json`. The ids that start and end a text are the model's.
    pub fn from_bytes(bytes: &[u8], interface: &Interface) -> Result<Self> {
        let inner = guarded(|| tokenizers::Tokenizer::from_bytes(bytes))
            .context("tokenizer.json is malformed or not of a supported kind; download it again")?;
        let mut this = Self {
            inner,
            vocabulary: interface.vocabulary,
            bos: interface.bos.filter(|id| (*id as usize) < interface.vocabulary),
            eos: interface.eos.clone(),
        };
        // Truncation and padding belong to how a batch is made, not to the text.
        this.inner.with_padding(None);
        guarded(|| this.inner.with_truncation(None).map(|_| ())).context("tokenizer.json: truncation")?;
        let largest = this.inner.get_vocab(true).into_values().max().unwrap_or(0);
        ensure!(
            (largest as usize) < interface.vocabulary,
            "tokenizer.json has token id {largest}, the model's vocabulary ends at {}; they belong to different models",
            interface.vocabulary - 1
        );
        Ok(this)
    }

    /// Ids of `text`, without special tokens around it.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        let encoding = guarded(|| self.inner.encode_fast(text, false)).context("the tokenizer failed on the text")?;
        let ids = encoding.get_ids().to_vec();
        if let Some(id) = ids.iter().find(|id| **id as usize >= self.vocabulary) {
            anyhow::bail!("the tokenizer made token id {id}, the model's vocabulary ends at {}", self.vocabulary - 1);
        }
        Ok(ids)
    }

    /// Text of `ids`, special tokens left out.
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        guarded(|| self.inner.decode(ids, true)).context("the tokenizer cannot decode these tokens")
    }

    /// The id that starts a text, if any.
    pub fn bos(&self) -> Option<u32> {
        self.bos
    }

    /// The ids that end a text.
    pub fn eos(&self) -> &[u32] {
        &self.eos
    }

    /// Number of ids.
    pub fn vocabulary(&self) -> usize {
        self.vocabulary
    }
}

/// Runs a call into the tokenizers library, whose data may come from a peer: a panic there is an error here.
fn guarded<T>(call: impl FnOnce() -> tokenizers::Result<T>) -> Result<T> {
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(result) => result.map_err(|error| anyhow!("{error}")),
        Err(_) => Err(anyhow!("the tokenizer panicked; its tokenizer.json is not sound")),
    }
}
