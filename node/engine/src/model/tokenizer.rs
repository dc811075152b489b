//! The model's tokenizer. Its file may come from a peer.

use anyhow::{Context, Result, anyhow, ensure};
use protocol::manifest::Role;
use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
    panic::{AssertUnwindSafe, catch_unwind},
};
use tokenizers::AddedToken;

use super::{
    Checkpoint, Interface,
    special_tokens::{self, SpecialTokens},
    tokenizer_class::Around,
};

/// Texts of which every tokenizer makes tokens: what is around those is what its post-processor adds.
const PROBES: [&str; 4] = ["a", "the", "1", "A"];

/// A Hugging Face `tokenizer.json` that fits a model's vocabulary.
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    vocabulary: usize,
    opening: Vec<u32>,
    closing: Vec<u32>,
    bos: Option<u32>,
    eos: Vec<u32>,
    turn_end: Option<u32>,
    /// Special tokens, and how they are written.
    special: BTreeMap<u32, String>,
}

impl Tokenizer {
    /// The tokenizer of a checkpoint, with the special tokens that its files name.
    pub fn of(checkpoint: &Checkpoint) -> Result<Self> {
        let mut this = Self::from_bytes(&checkpoint.tokenizer, checkpoint.architecture()?.interface())?;
        this.add(special_tokens::listed(checkpoint.beside_weights())?)?;
        let has = this.inner.get_added_tokens_decoder().into_iter().map(|(_, token)| token.content);
        let has: BTreeSet<String> = has.collect();
        let mut named = special_tokens::special(checkpoint.beside_weights())?;
        named.retain(|token| !has.contains(&token.content));
        this.add(named)?;
        let special = SpecialTokens::read(checkpoint.beside_weights())?;
        let id = |token: Option<&String>| this.inner.token_to_id(token?).filter(|id| (*id as usize) < this.vocabulary);
        let (end, beginning) = (id(special.end.as_ref()), id(special.beginning.as_ref()));
        this.bos = beginning.or(this.bos);
        let json = |role: Role| special_tokens::json(checkpoint.beside_weights(), role);
        match Around::of(&json(Role::Config)?, &json(Role::TokenizerConfig)?) {
            Around::PostProcessor => {}
            Around::Nothing => (this.opening, this.closing) = (Vec::new(), Vec::new()),
            Around::Beginning => (this.opening, this.closing) = (Vec::from_iter(this.bos), Vec::new()),
        }
        // As transformers: where there is a generation_config.json, what config.json says of stopping does not count.
        // A turn must end in something: where nobody else names it, config.json does.
        this.eos = special.stops.unwrap_or(this.eos);
        this.eos.retain(|id| (*id as usize) < this.vocabulary);
        this.turn_end = end.or_else(|| this.eos.first().copied()).or(this.turn_end);
        if let Some(end) = this.turn_end.filter(|end| !this.eos.contains(end)) {
            this.eos.push(end);
        }
        Ok(this)
    }

    /// Parses `tokenizer.json`. The ids that start and end a text are the model's.
    pub fn from_bytes(bytes: &[u8], interface: &Interface) -> Result<Self> {
        let inner = guarded(|| tokenizers::Tokenizer::from_bytes(bytes))
            .context("tokenizer.json is malformed or not of a supported kind; download it again")?;
        let mut this = Self {
            special: special(&inner, interface.vocabulary),
            inner,
            vocabulary: interface.vocabulary,
            opening: Vec::new(),
            closing: Vec::new(),
            bos: interface.bos.filter(|id| (*id as usize) < interface.vocabulary),
            eos: interface.eos.clone(),
            turn_end: None,
        };
        // Nothing can be trained to end in a token that the model has not.
        this.eos.retain(|id| (*id as usize) < interface.vocabulary);
        this.turn_end = this.eos.first().copied();
        // Truncation and padding belong to how a batch is made, not to the text.
        this.inner.with_padding(None);
        guarded(|| this.inner.with_truncation(None).map(|_| ())).context("tokenizer.json: truncation")?;
        // Added tokens may lie beyond: tools add one for padding that no text has. A text that has one is refused.
        let largest = this.inner.get_vocab(false).into_values().max().unwrap_or(0);
        ensure!(
            (largest as usize) < interface.vocabulary,
            "tokenizer.json has token id {largest}, the model's vocabulary ends at {}; they belong to different models",
            interface.vocabulary - 1
        );
        (this.opening, this.closing) = this.around()?;
        Ok(this)
    }

    /// Adds tokens that stand in other files than `tokenizer.json`, as transformers does.
    fn add(&mut self, tokens: Vec<AddedToken>) -> Result<()> {
        guarded(|| self.inner.add_tokens(tokens))
            .context("the tokenizer does not take the tokens that its files add")?;
        self.special = special(&self.inner, self.vocabulary);
        Ok(())
    }

    /// What the post-processor puts before and after a text.
    fn around(&self) -> Result<(Vec<u32>, Vec<u32>)> {
        for probe in PROBES {
            let (plain, whole) = (self.encode(probe)?, self.ids(probe, true)?);
            let at = whole.windows(plain.len().max(1)).position(|window| window == plain);
            if let Some(at) = at.filter(|_| !plain.is_empty()) {
                return Ok((whole[..at].to_vec(), whole[at + plain.len()..].to_vec()));
            }
        }
        Ok((Vec::new(), Vec::new()))
    }

    /// Ids of `text`, without special tokens around it.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        self.ids(text, false)
    }

    /// As [`Self::encode`], each id with the bytes of `text` that it stands for. Slower.
    pub fn encode_with_offsets(&self, text: &str) -> Result<Vec<(u32, Range<usize>)>> {
        let encoding = guarded(|| self.inner.encode(text, false)).context("the tokenizer failed on the text")?;
        let ids = encoding.get_ids();
        self.check(ids)?;
        Ok(ids.iter().zip(encoding.get_offsets()).map(|(id, (start, end))| (*id, *start..*end)).collect())
    }

    /// How the special token `id` is written, if it is one: no text is written with it.
    pub fn special_text(&self, id: u32) -> Option<String> {
        self.special.get(&id).cloned()
    }

    /// Whether `id` is a special token.
    pub fn is_special(&self, id: u32) -> bool {
        self.special.contains_key(&id)
    }

    fn check(&self, ids: &[u32]) -> Result<()> {
        if let Some(id) = ids.iter().find(|id| **id as usize >= self.vocabulary) {
            let token = self.inner.id_to_token(*id).unwrap_or_default();
            anyhow::bail!(
                "the tokenizer made token id {id}, {token:?}, the model's vocabulary ends at {}; leave that token out of the text",
                self.vocabulary - 1
            );
        }
        Ok(())
    }

    fn ids(&self, text: &str, around: bool) -> Result<Vec<u32>> {
        let encoding = guarded(|| self.inner.encode_fast(text, around)).context("the tokenizer failed on the text")?;
        let ids = encoding.get_ids().to_vec();
        self.check(&ids)?;
        Ok(ids)
    }

    /// Text of `ids`, special tokens left out.
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        guarded(|| self.inner.decode(ids, true)).context("the tokenizer cannot decode these tokens")
    }

    /// What is put before a text: BOS, or nothing.
    pub fn opening(&self) -> &[u32] {
        &self.opening
    }

    /// What is put after a text: mostly nothing.
    pub fn closing(&self) -> &[u32] {
        &self.closing
    }

    /// Cuts a prompt to its last `kept` tokens, and keeps what opens a text in front of them where there is room.
    pub fn cut_start(&self, prompt: &mut Vec<u32>, kept: usize) {
        let cut = prompt.len().saturating_sub(kept);
        let opening = self.opening.len();
        let from = if opening < kept && prompt.starts_with(&self.opening) { opening } else { 0 };
        prompt.drain(from..from + cut);
    }

    /// The id that starts a text, if any, whether or not it is put before each.
    pub fn bos(&self) -> Option<u32> {
        self.bos
    }

    /// What stands before a text of which the first token is to be predicted, too: what starts one, or else what ends
    /// one.
    pub fn start(&self) -> Option<u32> {
        self.bos.or(self.turn_end)
    }

    /// The prompt that is the beginning of a text: what is put after a text does not end it.
    pub fn text_prompt(&self, text: &str) -> Result<Vec<u32>> {
        self.prompt(self.opening(), &self.encode(text)?)
    }

    /// A prompt: a text's `ids` after its `opening`, or [`Self::start`] where both are empty. Errors if there is no
    /// such token.
    pub fn prompt(&self, opening: &[u32], ids: &[u32]) -> Result<Vec<u32>> {
        let mut ids = [opening, ids].concat();
        if ids.is_empty() {
            ids.extend(self.start());
        }
        ensure!(!ids.is_empty(), "the prompt is empty and the model has no token that starts a text; give a prompt");
        Ok(ids)
    }

    /// The ids that end a text: generation stops at any of them.
    pub fn eos(&self) -> &[u32] {
        &self.eos
    }

    /// The id that ends a turn, which training puts behind a completion: the tokenizer's `eos_token`, else the first of
    /// those that end a text.
    pub fn turn_end(&self) -> Option<u32> {
        self.turn_end
    }

    /// Number of ids.
    pub fn vocabulary(&self) -> usize {
        self.vocabulary
    }
}

/// The special tokens within the model's vocabulary, and how they are written.
fn special(inner: &tokenizers::Tokenizer, vocabulary: usize) -> BTreeMap<u32, String> {
    let added = inner.get_added_tokens_decoder().into_iter().filter(|(_, token)| token.special);
    added.filter(|(id, _)| (*id as usize) < vocabulary).map(|(id, token)| (id, token.content)).collect()
}

/// Runs a call into the tokenizers library, whose data may come from a peer: a panic there is an error here.
fn guarded<T>(call: impl FnOnce() -> tokenizers::Result<T>) -> Result<T> {
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(result) => result.map_err(|error| anyhow!("{error}")),
        Err(_) => Err(anyhow!("the tokenizer panicked; its tokenizer.json is not sound")),
    }
}
