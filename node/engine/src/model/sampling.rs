//! How the next token is chosen from its logits: settings and arithmetic as transformers' `GenerationConfig` names
//! them.

use anyhow::{Result, ensure};
use rand_xoshiro::rand_core::Rng;
use serde_json::Value;
use std::{collections::BTreeSet, time::Instant};

/// Tokens that are less likely than e^-30 of the likeliest are never drawn: all of them together are as good as never.
const RANGE: f64 = 30.0;
/// What transformers takes where a config samples and says nothing of top-k.
const USUAL_TOP_K: usize = 50;

/// Fields of a `generation_config.json` that change a text and are not followed here, each with the value that says
/// nothing, beside null.
const NOT_FOLLOWED: [(&str, &str); 20] = [
    ("min_p", "0"),
    ("typical_p", "1"),
    ("top_h", "0"),
    ("epsilon_cutoff", "0"),
    ("eta_cutoff", "0"),
    ("penalty_alpha", "0"),
    ("guidance_scale", "1"),
    ("num_beams", "1"),
    ("encoder_repetition_penalty", "1"),
    ("no_repeat_ngram_size", "0"),
    ("encoder_no_repeat_ngram_size", "0"),
    ("min_length", "0"),
    ("min_new_tokens", "0"),
    ("bad_words_ids", "[]"),
    ("sequence_bias", "{}"),
    ("suppress_tokens", "[]"),
    ("begin_suppress_tokens", "[]"),
    ("forced_bos_token_id", "-1"),
    ("forced_eos_token_id", "-1"),
    ("exponential_decay_length_penalty", "[]"),
];

/// Whether a setting changes nothing: it is null, or `neutral`, which is JSON; numbers are compared as numbers.
pub fn says_nothing(value: &Value, neutral: &str) -> bool {
    let is_number = value.as_f64().is_some_and(|number| neutral.parse() == Ok(number));
    value.is_null() || is_number || serde_json::from_str::<Value>(neutral).is_ok_and(|neutral| neutral == *value)
}

/// What a `generation_config.json` says that would change a text, and is not followed.
pub fn not_followed(config: &Value) -> Vec<&'static str> {
    let is_said = |(name, neutral): &(&str, &str)| config.get(name).is_some_and(|value| !says_nothing(value, neutral));
    NOT_FOLLOWED.iter().filter(|field| is_said(field)).map(|(name, _)| *name).collect()
}

/// Logits that nothing can be chosen from.
#[derive(Debug)]
pub struct NotFinite;

impl std::fmt::Display for NotFinite {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the model's logits are not finite; its weights have diverged")
    }
}

impl std::error::Error for NotFinite {}

/// How tokens are chosen, and when to stop.
#[derive(Clone, PartialEq, Debug)]
pub struct Sampling {
    /// Divides the logits; 0 takes the most likely token always.
    pub temperature: f64,
    /// Tokens are drawn from so many of the most likely ones; 0 for all.
    pub top_k: usize,
    /// Tokens are drawn from the smallest set of likely ones that has at least this probability, above 0 to 1.
    pub top_p: f64,
    /// Divides the positive logits of tokens that were there before, and multiplies the negative ones; 1 changes
    /// nothing.
    pub repetition_penalty: f64,
    /// Seed of the draws.
    pub seed: u64,
    /// Most tokens to make.
    pub tokens_max: usize,
    /// After this no more tokens are begun. None: however long it takes.
    pub until: Option<Instant>,
    /// Texts that end the generation; they are not part of it.
    pub stop: Vec<String>,
}

impl Default for Sampling {
    fn default() -> Self {
        Self {
            temperature: 0.8,
            top_k: 0,
            top_p: 0.95,
            repetition_penalty: 1.0,
            seed: 0,
            tokens_max: 200,
            until: None,
            stop: Vec::new(),
        }
    }
}

impl Sampling {
    /// What a `generation_config.json` says: of the repetition penalty always, of the draws where it samples
    /// (`do_sample`). Fields of other types count as absent.
    pub fn of_generation_config(config: &Value) -> Self {
        let number = |name: &str| config.get(name).and_then(Value::as_f64);
        let usual = Self { repetition_penalty: number("repetition_penalty").unwrap_or(1.0), ..Self::default() };
        if config.get("do_sample").and_then(Value::as_bool) != Some(true) {
            return usual;
        }
        Self {
            temperature: number("temperature").unwrap_or(1.0),
            top_k: config.get("top_k").and_then(Value::as_u64).map_or(USUAL_TOP_K, |k| k as usize),
            top_p: number("top_p").unwrap_or(1.0),
            ..usual
        }
    }

    /// Errors name the setting and the value.
    pub fn check(&self) -> Result<()> {
        let Self { temperature, top_p, repetition_penalty, .. } = *self;
        ensure!(
            (0.0..=1e6).contains(&temperature),
            "temperature {temperature} must be 0, which takes the likeliest token, or more"
        );
        ensure!(top_p > 0.0 && top_p <= 1.0, "top-p {top_p} must be above 0, at most 1");
        ensure!(
            repetition_penalty > 0.0 && repetition_penalty <= 1e6,
            "repetition penalty {repetition_penalty} must be above 0; 1 changes nothing, 1.1 is usual"
        );
        ensure!(!self.stop.iter().any(String::is_empty), "an empty stop text would stop before the first token");
        Ok(())
    }

    /// The next token, after `before`. A [`NotFinite`] error if a logit is not finite.
    pub fn choose(&self, logits: &mut [f32], before: &[u32], random: &mut impl Rng) -> Result<u32> {
        ensure!(logits.iter().all(|logit| logit.is_finite()), NotFinite);
        if self.repetition_penalty != 1.0 {
            let penalty = self.repetition_penalty as f32;
            for id in before.iter().collect::<BTreeSet<_>>() {
                let Some(logit) = logits.get_mut(*id as usize) else { continue };
                *logit = if *logit < 0.0 { *logit * penalty } else { *logit / penalty };
            }
        }
        if self.temperature == 0.0 {
            return Ok(largest(logits) as u32);
        }
        Ok(self.draw(logits, (random.next_u64() >> 11) as f64 / (1u64 << 53) as f64))
    }

    /// Draws from what top-k and, after it, top-p leave of `logits`; `uniform` is in [0, 1).
    fn draw(&self, logits: &[f32], uniform: f64) -> u32 {
        let first = f64::from(logits[largest(logits)]);
        let weight = |id: u32| ((f64::from(logits[id as usize]) - first) / self.temperature).exp();
        let is_likely = |id: &u32| (first - f64::from(logits[*id as usize])) / self.temperature <= RANGE;
        let mut kept: Vec<u32> = (0..logits.len() as u32).filter(is_likely).collect();
        kept.sort_by(|a, b| logits[*b as usize].total_cmp(&logits[*a as usize]));
        if self.top_k > 0 {
            kept.truncate(self.top_k);
        }
        let total: f64 = kept.iter().map(|id| weight(*id)).sum();
        let mut nucleus = 0.0;
        let count = kept.iter().take_while(|id| {
            let wanted = nucleus < self.top_p * total;
            nucleus += weight(**id);
            wanted
        });
        let count = count.count();
        kept.truncate(count.max(1));
        let mut remaining = uniform * kept.iter().map(|id| weight(*id)).sum::<f64>();
        for id in &kept {
            remaining -= weight(*id);
            if remaining < 0.0 {
                return *id;
            }
        }
        kept.last().copied().unwrap_or(0)
    }
}

/// Index of the largest logit, the first of equal ones; 0 of none.
fn largest(logits: &[f32]) -> usize {
    (0..logits.len()).fold(0, |best, id| if logits[id] > logits[best] { id } else { best })
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand_xoshiro::{Xoshiro256PlusPlus, rand_core::SeedableRng};
    use serde_json::json;

    #[test]
    fn draws_follow_the_probabilities_inside_the_nucleus_only() {
        let logits = [1f32.ln(), 6f32.ln(), 3f32.ln()];
        let all = Sampling { temperature: 1.0, top_p: 1.0, ..Sampling::default() };
        assert_eq!([0.0, 0.59, 0.61, 0.89, 0.91].map(|u| all.draw(&logits, u)), [1, 1, 2, 2, 0]);
        let most = Sampling { top_p: 0.7, ..all.clone() };
        assert!((0..100).all(|u| most.draw(&logits, f64::from(u) / 100.0) != 0));
        let one = Sampling { top_p: 0.1, ..all.clone() };
        assert!((0..100).all(|u| one.draw(&logits, f64::from(u) / 100.0) == 1));
        let two = Sampling { top_k: 2, ..all.clone() };
        assert_eq!([0.0, 0.66, 0.67, 0.999].map(|u| two.draw(&logits, u)), [1, 1, 2, 2], "6 to 3");
        let cold = Sampling { temperature: 1e-3, ..all };
        assert_eq!(cold.draw(&logits, 0.999), 1);
    }

    #[test]
    fn what_was_there_before_is_penalised_whatever_its_sign() {
        let greedy = Sampling { temperature: 0.0, repetition_penalty: 2.0, ..Sampling::default() };
        let mut random = Xoshiro256PlusPlus::seed_from_u64(0);
        let mut choose =
            |logits: &[f32], before: &[u32]| greedy.choose(&mut logits.to_vec(), before, &mut random).unwrap();
        assert_eq!(choose(&[1.0, 1.5, 0.0], &[]), 1);
        assert_eq!(choose(&[1.0, 1.5, 0.0], &[1, 1]), 0, "once, however often it was there");
        assert_eq!(choose(&[-1.5, -1.0], &[1]), 0);
        assert_eq!(choose(&[-1.0, -1.0], &[]), 0, "the first of equal ones");
        let error = greedy.choose(&mut [f32::NAN], &[], &mut random).unwrap_err().to_string();
        assert!(error.contains("diverged"), "{error}");
    }

    #[test]
    fn a_generation_config_that_samples_gives_its_settings() {
        let read = |config: Value| Sampling::of_generation_config(&config);
        let sampling = read(json!({"do_sample": true, "temperature": 0.6, "top_p": 0.9}));
        assert_eq!((sampling.temperature, sampling.top_p, sampling.top_k), (0.6, 0.9, 50));
        let other = read(json!({"do_sample": true, "top_k": 7, "repetition_penalty": 1.1}));
        assert_eq!((other.temperature, other.top_k, other.repetition_penalty), (1.0, 7, 1.1));
        for greedy in [json!({"temperature": 0.6}), json!({"do_sample": false}), Value::Null] {
            assert_eq!(read(greedy), Sampling::default());
        }
        let penalty = read(json!({"repetition_penalty": 1.5}));
        assert_eq!(penalty, Sampling { repetition_penalty: 1.5, ..Sampling::default() }, "whether it samples or not");
    }

    #[test]
    fn what_is_not_followed_is_named_where_it_says_something() {
        let usual = json!({"do_sample": true, "top_p": 0.9, "min_p": null, "num_beams": 1, "min_length": 0,
            "suppress_tokens": [], "forced_eos_token_id": null, "typical_p": 1.0, "eos_token_id": 2});
        assert!(not_followed(&usual).is_empty());
        let config = json!({"min_p": 0.1, "no_repeat_ngram_size": 3, "forced_eos_token_id": 0, "bad_words_ids": [[1]]});
        assert_eq!(not_followed(&config), ["min_p", "no_repeat_ngram_size", "bad_words_ids", "forced_eos_token_id"]);
    }

    #[test]
    fn each_setting_is_checked_by_name() {
        let bad = [
            (Sampling { temperature: -1.0, ..Sampling::default() }, "temperature -1"),
            (Sampling { temperature: f64::NAN, ..Sampling::default() }, "temperature NaN"),
            (Sampling { top_p: 0.0, ..Sampling::default() }, "top-p 0"),
            (Sampling { top_p: 1.5, ..Sampling::default() }, "top-p 1.5"),
            (Sampling { repetition_penalty: 0.0, ..Sampling::default() }, "repetition penalty 0"),
            (Sampling { stop: vec![String::new()], ..Sampling::default() }, "stop"),
        ];
        for (sampling, expected) in bad {
            let error = sampling.check().unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
