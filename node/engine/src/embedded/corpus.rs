//! The embedded model's texts, made by two small grammars.
//!
//! A grammar is lines of `symbol = alternative | alternative`; `<symbol>` in an alternative is expanded in its turn,
//! `\n` is a line break, and a line that begins with `#` is a comment. The alternatives of a symbol that is defined
//! twice add up. A symbol in capitals is drawn once per text and kept.

use rand_xoshiro::{
    Xoshiro256PlusPlus,
    rand_core::{Rng, SeedableRng},
};
use std::collections::HashMap;

/// Seed of the task's held-out text, the same on all machines. Machines that train must not use it.
const HELD_OUT_SEED: u64 = u64::MAX;
/// Bytes of the task's held-out text.
const HELD_OUT_BYTES: usize = 64 * 1024;

const STORIES: &str = include_str!("stories.grammar");
const LOGBOOK: &str = include_str!("logbook.grammar");

/// At least `bytes` of little stories, what the base is pre-trained on.
pub fn stories(seed: u64, bytes: usize) -> String {
    Grammar::parse(STORIES).write(seed, bytes)
}

/// At least `bytes` of a lighthouse's logbook, what a swarm on the embedded default learns.
pub fn task(seed: u64, bytes: usize) -> String {
    Grammar::parse(LOGBOOK).write(seed, bytes)
}

/// The task's held-out text.
pub fn held_out() -> String {
    task(HELD_OUT_SEED, HELD_OUT_BYTES)
}

struct Grammar<'a> {
    rules: HashMap<&'a str, Vec<&'a str>>,
}

impl<'a> Grammar<'a> {
    fn parse(source: &'a str) -> Self {
        let mut rules: HashMap<&str, Vec<&str>> = HashMap::new();
        let lines = source.lines().filter(|line| !line.starts_with('#'));
        for (symbol, alternatives) in lines.filter_map(|line| line.split_once(" = ")) {
            rules.entry(symbol).or_default().extend(alternatives.split(" | "));
        }
        Self { rules }
    }

    fn write(&self, seed: u64, bytes: usize) -> String {
        let mut random = Xoshiro256PlusPlus::seed_from_u64(seed);
        let mut out = String::with_capacity(bytes + 1024);
        while out.len() < bytes {
            self.expand("text", &mut random, &mut HashMap::new(), &mut out);
        }
        out
    }

    fn expand(&self, symbol: &'a str, random: &mut impl Rng, kept: &mut HashMap<&'a str, String>, out: &mut String) {
        if let Some(text) = kept.get(symbol) {
            return out.push_str(text);
        }
        let Some(alternatives) = self.rules.get(symbol) else { return };
        let drawn = ((random.next_u64() >> 32) * alternatives.len() as u64) >> 32;
        let start = out.len();
        let mut rest = alternatives[drawn as usize];
        while let Some((before, after)) = rest.split_once('<') {
            push_unescaped(before, out);
            let Some((inner, after)) = after.split_once('>') else { break };
            self.expand(inner, random, kept, out);
            rest = after;
        }
        push_unescaped(rest, out);
        if symbol.bytes().all(|b| b.is_ascii_uppercase()) {
            kept.insert(symbol, out[start..].to_owned());
        }
    }
}

fn push_unescaped(text: &str, out: &mut String) {
    out.push_str(&text.replace("\\n", "\n"));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_symbol_that_a_grammar_uses_is_defined() {
        for source in [STORIES, LOGBOOK] {
            let grammar = Grammar::parse(source);
            for alternative in grammar.rules.values().flatten() {
                for part in alternative.split('<').skip(1) {
                    let symbol = part.split_once('>').unwrap().0;
                    assert!(grammar.rules.contains_key(symbol), "{symbol} in {alternative}");
                }
            }
        }
    }

    #[test]
    fn texts_follow_their_seed() {
        assert_eq!(task(1, 5000), task(1, 5000));
        assert_ne!(task(1, 5000), task(2, 5000));
        assert!(stories(3, 5000).len() >= 5000);
        assert!(task(1, 5000).is_ascii() && !task(1, 5000).contains(['<', '\\']));
    }
}
