//! Sampling text.

use anyhow::{Result, ensure};
use candle_core::D;
use rand_xoshiro::{
    Xoshiro256PlusPlus,
    rand_core::{Rng, SeedableRng},
};

use super::{Layout, Model, Tokenizer};
use crate::device;

/// How the next token is chosen.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Sampling {
    /// Divides the logits; 0 takes the most likely token always.
    pub temperature: f64,
    /// Tokens are drawn from the smallest set of likely ones that has at least this probability, above 0 to 1.
    pub top_p: f64,
    /// Seed of the draws.
    pub seed: u64,
    /// Most tokens to make.
    pub tokens_max: usize,
}

impl Default for Sampling {
    fn default() -> Self {
        Self { temperature: 0.8, top_p: 0.95, seed: 0, tokens_max: 200 }
    }
}

/// Continues `prompt` until a token that ends a text or `tokens_max`; `on_text` gets each piece of text as it is made.
///
/// Each step runs the last tokens anew, as many as the model's window holds.
pub fn generate(
    model: &dyn Model,
    tokenizer: &Tokenizer,
    prompt: &str,
    sampling: &Sampling,
    mut on_text: impl FnMut(&str) -> Result<()>,
) -> Result<()> {
    ensure!(sampling.temperature >= 0.0, "temperature {} must not be negative", sampling.temperature);
    ensure!(sampling.top_p > 0.0 && sampling.top_p <= 1.0, "top-p {} must be above 0, at most 1", sampling.top_p);
    let mut tokens = tokenizer.encode(prompt)?;
    if tokens.is_empty() {
        tokens.extend(tokenizer.bos());
    }
    ensure!(!tokens.is_empty(), "the prompt is empty and the model has no token that starts a text; give a prompt");
    let mut random = Xoshiro256PlusPlus::seed_from_u64(sampling.seed);
    // Text up to here was handed out; decoding starts over from `start` so that tokens may join.
    let (mut start, mut handed_out) = (tokens.len(), String::new());
    let context = tokens.len().saturating_sub(4);
    let prefix = tokenizer.decode(&tokens[context..])?.len();
    for _ in 0..sampling.tokens_max {
        let next = next_token(model, &tokens, sampling, &mut random)?;
        if tokenizer.eos().contains(&next) {
            break;
        }
        tokens.push(next);
        let text = tokenizer.decode(&tokens[context..])?;
        // An unfinished character decodes to U+FFFD: it waits for its other bytes, four at most.
        if text.ends_with('\u{fffd}') && tokens.len() - start < 4 {
            continue;
        }
        if let Some(piece) = text.get(prefix + handed_out.len()..) {
            on_text(piece)?;
            handed_out.push_str(piece);
        }
        start = tokens.len();
    }
    Ok(())
}

fn next_token(model: &dyn Model, tokens: &[u32], sampling: &Sampling, random: &mut impl Rng) -> Result<u32> {
    let window = &tokens[tokens.len().saturating_sub(model.interface().window_max)..];
    let hidden = model.hidden(&device::tensor(window.to_vec(), window.len())?, &Layout::of_rows([window.len()])?)?;
    let last = hidden.narrow(0, window.len() - 1, 1)?;
    let logits = model.logits(&last)?.squeeze(0)?;
    if sampling.temperature == 0.0 {
        return Ok(logits.argmax(D::Minus1)?.to_scalar::<u32>()?);
    }
    let logits = logits.to_vec1::<f32>()?;
    ensure!(logits.iter().all(|l| l.is_finite()), "the model's logits are not finite; its weights have diverged");
    Ok(draw(&logits, sampling, (random.next_u64() >> 11) as f64 / (1u64 << 53) as f64))
}

/// Draws from the nucleus of `logits`; `uniform` is in [0, 1).
fn draw(logits: &[f32], sampling: &Sampling, uniform: f64) -> u32 {
    let mut order: Vec<u32> = (0..logits.len() as u32).collect();
    let logit = |id: u32| f64::from(logits[id as usize]);
    order.sort_by(|a, b| logit(*b).total_cmp(&logit(*a)));
    let Some(first) = order.first().copied() else { return 0 };
    let weight = |id: u32| ((logit(id) - logit(first)) / sampling.temperature).exp();
    let total: f64 = order.iter().map(|id| weight(*id)).sum();
    let mut nucleus = 0.0;
    let kept = order.iter().take_while(|id| {
        let wanted = nucleus < sampling.top_p * total;
        nucleus += weight(**id);
        wanted
    });
    let kept: Vec<u32> = kept.copied().collect();
    let mut remaining = uniform * kept.iter().map(|id| weight(*id)).sum::<f64>();
    for id in &kept {
        remaining -= weight(*id);
        if remaining < 0.0 {
            return *id;
        }
    }
    kept.last().copied().unwrap_or(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_follow_the_probabilities_inside_the_nucleus_only() {
        let logits = [1f32.ln(), 6f32.ln(), 3f32.ln()];
        let all = Sampling { temperature: 1.0, top_p: 1.0, ..Sampling::default() };
        assert_eq!([0.0, 0.59, 0.61, 0.89, 0.91].map(|u| draw(&logits, &all, u)), [1, 1, 2, 2, 0]);
        let most = Sampling { top_p: 0.7, ..all };
        assert!((0..100).all(|u| draw(&logits, &most, f64::from(u) / 100.0) != 0));
        let one = Sampling { top_p: 0.1, ..all };
        assert!((0..100).all(|u| draw(&logits, &one, f64::from(u) / 100.0) == 1));
        let cold = Sampling { temperature: 1e-3, ..all };
        assert_eq!(draw(&logits, &cold, 0.999), 1);
    }
}
