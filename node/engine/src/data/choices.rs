//! Rows of a prompt and possible continuations, one of which is right.

use anyhow::{Context, Result, bail, ensure};
use minijinja::Value;

use super::{
    pack::Pack,
    text::{self, Ending, ending},
};
use crate::{
    chat::kind,
    model::{Row, Tokenizer},
};

/// Tokens of a prompt and, right behind it, those of each choice.
#[derive(Clone, Debug)]
pub struct Question {
    pub start: usize,
    /// Tokens of the prompt, at least one.
    pub prompt: u32,
    /// Index of the right choice.
    pub answer: u32,
    /// Tokens of each choice, at least one; at least two choices.
    pub choices: Box<[u32]>,
}

impl Question {
    /// Tokens that a forward sees: the prompt once, and of each choice all but the last.
    pub fn cost(&self) -> usize {
        self.prompt as usize + self.choices.iter().map(|tokens| *tokens as usize - 1).sum::<usize>()
    }

    /// Adds its row: the prompt, whose last token predicts the first of every choice, and the choices side by side.
    pub fn pack(&self, pack: &mut Pack<'_>) -> Result<()> {
        let mut at = self.start + self.prompt as usize;
        let prompt = pack.start(self.start..at)?;
        let last = pack.len() - 1;
        let mut choices = Vec::with_capacity(self.choices.len());
        for tokens in &self.choices {
            let (own, tokens) = (pack.len(), at..at + *tokens as usize);
            if tokens.len() > 1 {
                pack.continue_from(prompt, tokens.start..tokens.end - 1)?;
            }
            at = tokens.end;
            choices.push(pack.predict([last].into_iter().chain(own..), tokens)?);
        }
        pack.end(Row::of_choices(choices, self.answer as usize));
        Ok(())
    }
}

/// A row whose place among the dataset's tokens is not known yet.
pub struct Encoded {
    /// Of the prompt and, right behind it, each choice.
    pub ids: Vec<u32>,
    /// With `start` zero.
    pub question: Question,
    /// Whether the prompt was cut.
    pub cut: bool,
}

/// Tokens of a row `{"prompt", "choices", "answer"}`. A prompt that does not fit `sequence_length` with the longest
/// choice loses its start. Errors name the field, the value and the remedy.
pub fn encode(
    prompt: &str,
    choices: &[String],
    answer: &Value,
    tokenizer: &Tokenizer,
    sequence_length: usize,
) -> Result<Encoded> {
    let answer = check(choices, answer)?;
    let (mut ids, encoded) = tokens(prompt, choices, tokenizer, sequence_length)?;
    for (index, choice) in encoded.iter().enumerate() {
        ensure!(!choice.is_empty(), "choices[{index}], {:?}, has no tokens; give it a text", choices[index]);
        ensure!(
            choice.len() < sequence_length,
            "choices[{index}] has {} tokens and does not fit --sequence-length {sequence_length} with one of the prompt; \
             give a longer one",
            choice.len()
        );
        if let Some(same) = encoded[..index].iter().position(|earlier| earlier == choice) {
            bail!("choices[{same}] and choices[{index}], {:?}, are the same; leave one out", choices[index]);
        }
    }
    let longest = encoded.iter().map(Vec::len).max().unwrap_or(0);
    let kept = ids.len().min(sequence_length - longest);
    let cut = kept < ids.len();
    tokenizer.cut_start(&mut ids, kept);
    let lengths = encoded.iter().map(|choice| choice.len() as u32).collect();
    encoded.iter().for_each(|choice| ids.extend(choice));
    Ok(Encoded { ids, question: Question { start: 0, prompt: kept as u32, answer, choices: lengths }, cut })
}

/// The index of the right choice.
fn check(choices: &[String], answer: &Value) -> Result<u32> {
    let count = choices.len();
    ensure!(count >= 2, "choices has {count} of at least two; use completion where there is nothing to choose");
    let empty = choices.iter().position(String::is_empty);
    ensure!(empty.is_none(), "choices[{}] is empty; give it a text", empty.unwrap_or_default());
    let index = Some(answer).filter(|answer| answer.is_integer()).and_then(Value::as_usize);
    index.filter(|index| *index < count).map(|index| index as u32).with_context(|| {
        let last = count - 1;
        format!(
            "answer is {}; it must be the index of the right one of the {count} choices, 0 to {last}, its letter from A on, or its \
             text",
            kind(answer)
        )
    })
}

/// Tokens of the prompt, at least one, and of each choice as it follows the prompt. Of a prompt that has more than
/// `sequence_length`, more than that of its end.
///
/// Some tokenizers treat the start of a text in their own way, so prompt and choice are tokenised as one text where
/// that leaves the prompt's tokens as they are, for all choices; each by itself otherwise.
fn tokens(
    prompt: &str,
    choices: &[String],
    tokenizer: &Tokenizer,
    sequence_length: usize,
) -> Result<(Vec<u32>, Vec<Vec<u32>>)> {
    let Ending { piece, ids, own, .. } = ending(prompt, sequence_length, tokenizer)?;
    let last = &ids[ids.len() - own..];
    let whole = choices.iter().map(|choice| text::ids(&format!("{piece}{choice}"), tokenizer));
    let whole = whole.collect::<Result<Vec<_>>>()?;
    let following = whole.iter().map(|whole| whole.strip_prefix(last).filter(|rest| !rest.is_empty()));
    let encoded = match following.collect::<Option<Vec<_>>>() {
        Some(following) => following.into_iter().map(<[u32]>::to_vec).collect(),
        None => choices.iter().map(|choice| text::ids(choice, tokenizer)).collect::<Result<_>>()?,
    };
    Ok((tokenizer.prompt(tokenizer.opening(), &ids)?, encoded))
}
