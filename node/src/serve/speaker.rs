//! The weights to speak with, and an answer from them.

use anyhow::{Context, Result};
use engine::{
    chat::{ChatTemplate, Conversation, Value},
    model::{self, Checkpoint, Generated, Sampling, Tokenizer},
    weights::Weights,
};
use std::{
    sync::{
        Arc, Mutex, PoisonError, Weak,
        mpsc::{SyncSender, sync_channel},
    },
    time::{Duration, Instant},
};

use crate::{
    system::hex::hex,
    trainer::{CopyFor, sampler::usual_sampling},
};

/// While others are being answered, a copy of the weights that is no older than this will do.
const FRESH: Duration = Duration::from_secs(5);

/// Where weights come from.
pub enum Source {
    /// Nobody changes them.
    Still(Weights),
    /// The trainer makes copies of the exact weights, between two of its own steps.
    Trainer(SyncSender<CopyFor>),
}

/// Answers with a model, many at a time.
pub struct Speaker {
    /// What it is called, for clients.
    pub name: String,
    tokenizer: Tokenizer,
    template: ChatTemplate,
    sampling: Sampling,
    checkpoint: Checkpoint,
    trainer: Option<SyncSender<CopyFor>>,
    copies: Mutex<Copies>,
}

/// At most two sets of weights are in memory for answers: the last one, and one before that is still being used.
struct Copies {
    last: Option<(Arc<Copied>, Instant)>,
    before: Weak<Copied>,
}

struct Copied {
    weights: Weights,
    digest: [u8; 32],
}

impl From<Weights> for Copied {
    fn from(weights: Weights) -> Self {
        Self { digest: weights.digest(), weights }
    }
}

/// What an answer came to.
#[derive(Clone, Debug)]
pub struct Spoken {
    /// Tokens of the answer, and why there are no more.
    pub generated: Generated,
    /// Digest of the weights that spoke.
    pub weights: String,
}

impl Speaker {
    /// A speaker of the model of `checkpoint`, with weights of `source`.
    pub fn new(checkpoint: Checkpoint, source: Source) -> Result<Self> {
        let tokenizer = Tokenizer::of(&checkpoint)?;
        let template =
            ChatTemplate::of(&checkpoint, &tokenizer).with_context(|| format!("of {}", checkpoint.source))?;
        let sampling = usual_sampling(&checkpoint)?;
        let name = checkpoint.source.clone();
        let (trainer, last) = match source {
            Source::Still(weights) => (None, Some((Arc::new(weights.into()), Instant::now()))),
            Source::Trainer(trainer) => (Some(trainer), None),
        };
        let copies = Mutex::new(Copies { last, before: Weak::new() });
        Ok(Self { name, tokenizer, template, sampling, checkpoint, trainer, copies })
    }

    /// Most tokens of a prompt and its answer.
    pub fn window(&self) -> Result<usize> {
        Ok(self.checkpoint.architecture()?.interface().window_max)
    }

    /// How the model's own files sample, or this program does.
    pub fn sampling(&self) -> Sampling {
        self.sampling.clone()
    }

    /// Whether the model has a chat template of its own.
    pub fn has_template(&self) -> bool {
        !self.template.is_plain()
    }

    /// A conversation as the model reads it, up to where its answer begins, in tokens. Errors are the template's words.
    pub fn conversation(&self, messages: &[Value], tools: Option<&Value>) -> Result<Vec<u32>> {
        let text = Conversation::new(messages.to_vec(), tools.cloned()).question(&self.template)?;
        self.tokenizer.prompt(self.template.opening(&self.tokenizer), &self.tokenizer.encode(&text)?)
    }

    /// A text that is to be continued, in tokens.
    pub fn text(&self, text: &str) -> Result<Vec<u32>> {
        self.tokenizer.text_prompt(text)
    }

    /// Texts at which an answer to a conversation ends, beside the tokens that end it.
    pub fn turn_stops(&self) -> Vec<String> {
        if self.has_template() { Vec::new() } else { vec!["\nUser:".into(), "\nAssistant:".into()] }
    }

    /// Continues `prompt` with the newest weights that are at hand; `on_text` gets each piece as it comes, and ends the
    /// answer by an error.
    pub fn speak(
        &self,
        prompt: &[u32],
        sampling: &Sampling,
        on_text: impl FnMut(&str) -> Result<()>,
    ) -> Result<Spoken> {
        let copied = self.weights()?;
        let model = self.checkpoint.architecture()?.adapted(
            copied.weights.tensors(),
            copied.weights.packed(),
            &copied.weights.adapters(),
        )?;
        let generated = model::generate(&*model, &self.tokenizer, prompt, sampling, on_text)?;
        Ok(Spoken { generated, weights: hex(&copied.digest) })
    }

    /// The newest weights, or others that will do.
    fn weights(&self) -> Result<Arc<Copied>> {
        let mut copies = self.copies.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(trainer) = &self.trainer else {
            return copies.last.as_ref().map(|(last, _)| last.clone()).context("there are no weights");
        };
        if let Some((last, made)) = copies.last.take() {
            let is_spoken_with = Arc::strong_count(&last) > 1;
            if is_spoken_with && (made.elapsed() < FRESH || copies.before.strong_count() > 0) {
                copies.last = Some((last.clone(), made));
                return Ok(last);
            }
            copies.before = Arc::downgrade(&last);
        }
        let (send, receive) = sync_channel(1);
        let gone = "this node does not train any more, and has no weights to speak with";
        trainer.send(send).ok().context(gone)?;
        let copied = Arc::new(Copied::from(receive.recv().context(gone)??));
        copies.last = Some((copied.clone(), Instant::now()));
        Ok(copied)
    }
}
