//! Text from a model: prompt tokens in, a stream of tokens out.

use anyhow::{Result, ensure};
use rand_xoshiro::{Xoshiro256PlusPlus, rand_core::SeedableRng};
use std::time::Instant;

use super::{Model, Past, Sampling, Tokenizer, text_stream::TextStream};
use crate::device;

/// Why a generation ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Finish {
    /// A token or a text that ends it came.
    Stop,
    /// It has as many tokens as were asked for, or as time allowed.
    Length,
}

/// What a generation came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Generated {
    /// Tokens that were made, the one that ended it included.
    pub tokens: usize,
    /// Why there are no more.
    pub finish: Finish,
}

/// Continues `prompt` until a token of [`Tokenizer::eos`], a stop text, `tokens_max`, or the end of its time; `on_text`
/// gets each piece of text as soon as it is certain, and ends the generation with an error of its own.
///
/// `prompt` is fed as it is, special tokens included ([`Tokenizer::prompt`]). Where it and what is made outgrow the
/// model's window, the model sees the last tokens that fit.
pub fn generate(
    model: &dyn Model,
    tokenizer: &Tokenizer,
    prompt: &[u32],
    sampling: &Sampling,
    mut on_text: impl FnMut(&str) -> Result<()>,
) -> Result<Generated> {
    sampling.check()?;
    ensure!(!prompt.is_empty(), "there is no token to continue from");
    let mut random = Xoshiro256PlusPlus::seed_from_u64(sampling.seed);
    let mut text = TextStream::new(tokenizer, prompt, &sampling.stop);
    let mut tokens = prompt.to_vec();
    let mut reader = Reader { model, past: Past::new(model.layers()) };
    let mut generated = Generated { tokens: 0, finish: Finish::Length };
    let is_in_time = || sampling.until.is_none_or(|until| Instant::now() < until);
    while generated.tokens < sampling.tokens_max && is_in_time() {
        let mut logits = reader.next_logits(&tokens)?;
        let next = sampling.choose(&mut logits, &tokens, &mut random)?;
        generated.tokens += 1;
        if tokenizer.eos().contains(&next) {
            generated.finish = Finish::Stop;
            break;
        }
        tokens.push(next);
        let piece = text.push(next)?;
        if !piece.is_empty() {
            on_text(&piece)?;
        }
        if text.is_stopped() {
            generated.finish = Finish::Stop;
            break;
        }
    }
    let rest = text.finish()?;
    if !rest.is_empty() {
        on_text(&rest)?;
    }
    Ok(generated)
}

/// Reads tokens once, as long as they fit the model's window.
struct Reader<'a> {
    model: &'a dyn Model,
    /// Of the first so many tokens.
    past: Past,
}

impl Reader<'_> {
    /// Logits of what follows `tokens`, which begin with those of the last call.
    fn next_logits(&mut self, tokens: &[u32]) -> Result<Vec<f32>> {
        let window_max = self.model.interface().window_max;
        if !self.model.keeps_past(self.past.length, tokens.len()) {
            self.past = Past::new(self.model.layers());
        }
        let unread = match tokens.len() <= window_max {
            true => &tokens[self.past.length..],
            // Positions change with every token: all of the window is read anew.
            false => {
                self.past = Past::new(self.model.layers());
                &tokens[tokens.len() - window_max..]
            }
        };
        let hidden = self.model.hidden_after(&device::tensor(unread.to_vec(), unread.len())?, &mut self.past)?;
        let last = hidden.narrow(0, unread.len() - 1, 1)?;
        Ok(self.model.logits(&last)?.squeeze(0)?.to_vec1::<f32>()?)
    }
}
