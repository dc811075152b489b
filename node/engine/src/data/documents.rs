//! A row's sample as tokens, and which of them are learned.

use anyhow::{Result, ensure};
use std::{ops::Range, sync::Arc};

use super::{
    choices::{self, Question},
    part::DocumentRows,
    prompts::{self, Prompt},
    sample::Sample,
    text::{ids, pieces},
    tokens::Tokens,
    window::{answer_windows, document_windows},
};
use crate::{
    chat::{ChatTemplate, Rendered},
    model::Tokenizer,
};

/// What makes tokens of samples.
pub struct Encoder<'a> {
    pub tokenizer: &'a Tokenizer,
    pub template: &'a ChatTemplate,
    pub sequence_length: usize,
}

/// Tokens of one row.
pub struct Document {
    form: Form,
    /// Bytes of what is learned.
    bytes: u64,
    /// Whether the system's turn went before the user's.
    pub system_moved: bool,
    /// Whether its prompt lost its start.
    cut: bool,
}

enum Form {
    Text(Vec<u32>),
    /// One row, or one for each turn that is shown otherwise once others follow.
    Answers(Vec<Answers>),
    Choices(Vec<u32>, Question),
    Prompt(Vec<u32>, Arc<str>),
}

/// Tokens, and which of them are learned: the last one, and never the first.
struct Answers {
    ids: Vec<u32>,
    learned: Vec<bool>,
    /// Whether the prompt lost its start.
    cut: bool,
}

impl Encoder<'_> {
    /// Errors if there is nothing to learn, or if the template refuses a conversation.
    pub fn encode(&self, sample: Sample) -> Result<Document> {
        let document = |form, bytes| Document { form, bytes, system_moved: false, cut: false };
        Ok(match sample {
            Sample::Text(text) => {
                let ids = [self.tokenizer.opening(), &self.ids(&text)?, self.tokenizer.closing()].concat();
                document(Form::Text(ids), text.len() as u64)
            }
            Sample::Completion(prompt, completion) => {
                document(Form::Answers(vec![self.completion(&prompt, &completion)?]), completion.len() as u64)
            }
            Sample::Marked(rendered) => {
                let (answers, bytes) = self.answers(&rendered, self.tokenizer.opening())?;
                document(Form::Answers(vec![answers]), bytes)
            }
            Sample::Conversation(conversation) => {
                let (rendered, system_moved) = conversation.render(self.template)?;
                let opening = self.template.opening(self.tokenizer);
                let rows = rendered.iter().map(|one| self.answers(one, opening)).collect::<Result<Vec<_>>>()?;
                let bytes = rows.iter().map(|(_, bytes)| bytes).sum();
                let rows = rows.into_iter().map(|(answers, _)| answers).collect();
                Document { system_moved, ..document(Form::Answers(rows), bytes) }
            }
            Sample::Choices { prompt, choices, answer } => {
                let bytes = choices.iter().map(|choice| choice.len() as u64).sum();
                let choices::Encoded { ids, question, cut } =
                    choices::encode(&prompt, &choices, &answer, self.tokenizer, self.sequence_length)?;
                Document { cut, ..document(Form::Choices(ids, question), bytes) }
            }
            Sample::Prompt(prompt) => {
                let prompts::Encoded { ids, row, bytes, cut } =
                    prompts::encode(prompt, self.tokenizer, self.template, self.sequence_length)?;
                Document { cut, ..document(Form::Prompt(ids, row), bytes) }
            }
        })
    }

    fn ids(&self, text: &str) -> Result<Vec<u32>> {
        ids(text, self.tokenizer)
    }

    fn completion(&self, prompt: &str, completion: &str) -> Result<Answers> {
        let before = self.ids(prompt)?;
        // As one text where that leaves the prompt's tokens as they are: some tokenizers put a space before every text.
        let whole = self.ids(&format!("{prompt}{completion}"))?;
        let following = match whole.strip_prefix(&before[..]).filter(|rest| !rest.is_empty()) {
            Some(rest) => rest.to_vec(),
            None => self.ids(completion)?,
        };
        let mut ids = self.tokenizer.prompt(self.tokenizer.opening(), &before)?;
        let mut learned = vec![false; ids.len()];
        ids.extend(following);
        ensure!(ids.len() > learned.len(), "the completion has no tokens, there is nothing to learn");
        // The end of the turn is part of what is learned, so that generation stops there.
        ids.extend(self.tokenizer.turn_end());
        learned.resize(ids.len(), true);
        Ok(self.fitted(ids, learned))
    }

    /// Tokens of a text after `opening`, and the bytes of those that are learned. What is learned ends with a special
    /// token: the template's, or else the one that ends a text.
    fn answers(&self, rendered: &Rendered, opening: &[u32]) -> Result<(Answers, u64)> {
        let Rendered { text, learned: ranges } = rendered;
        let (mut ids, mut learned, mut bytes) = (opening.to_vec(), vec![false; opening.len()], 0);
        let (mut base, mut counted, mut range, mut ended, mut blank) = (0, 0, 0, None, learned.clone());
        for piece in pieces(text) {
            for (id, Range { start, end }) in self.tokenizer.encode_with_offsets(piece)? {
                let (start, end) = (base + start, base + end);
                while ranges.get(range).is_some_and(|range| range.end <= start) {
                    range += 1;
                }
                let mut is_learned = ranges.get(range).is_some_and(|range| range.start <= start);
                // After the special token that ends a turn there is but white space, which is the template's.
                let is_blank = text.get(start..end).is_some_and(|text| text.trim().is_empty());
                let was_special = ids.last().is_some_and(|id| self.tokenizer.is_special(*id));
                if is_learned && is_blank && (ended == Some(range) || was_special && learned.last() == Some(&true)) {
                    (is_learned, ended) = (false, Some(range));
                }
                ids.push(id);
                learned.push(is_learned);
                blank.push(is_blank);
                if is_learned && !self.tokenizer.is_special(id) {
                    // Tokens that are bytes of one character all have its place.
                    bytes += end.saturating_sub(start.max(counted)) as u64;
                    counted = counted.max(end);
                }
            }
            base += piece.len();
        }
        let mut end = learned.iter().rposition(|learned| *learned).map_or(0, |last| last + 1);
        // Without a token that ends the turn, what ends it is white space of the template; at the end that is not
        // needed.
        while end > 0 && blank[end - 1] && learned[end - 1] && !self.tokenizer.is_special(ids[end - 1]) {
            end -= 1;
        }
        ensure!(end > 0 && bytes > 0, "the answer is empty, there is nothing to learn");
        ids.truncate(end);
        learned.truncate(end);
        if !ids.last().is_some_and(|id| self.tokenizer.is_special(*id) || self.tokenizer.eos().contains(id)) {
            ids.extend(self.tokenizer.turn_end());
            learned.resize(ids.len(), true);
        }
        if learned[0] {
            let start = self.tokenizer.start();
            ids.splice(0..0, start);
            learned.splice(0..0, start.map(|_| false));
            learned[0] = false;
        }
        ensure!(learned.contains(&true), "one token alone is no answer, there is nothing to learn");
        Ok((self.fitted(ids, learned), bytes))
    }

    /// Cuts the start of a prompt that leaves no room for what is learned: to what fits beside that, or to half of a
    /// window. What opens a text stays in front.
    fn fitted(&self, mut ids: Vec<u32>, mut learned: Vec<bool>) -> Answers {
        let (length, given) = (self.sequence_length, learned.iter().position(|learned| *learned).unwrap_or(0));
        let half = given.min(length / 2).max(1);
        let room = if ids.len() - given + half <= length { length - (ids.len() - given) } else { half };
        let cut = given > room;
        if cut {
            let answer = ids.split_off(given);
            self.tokenizer.cut_start(&mut ids, room);
            ids.extend(answer);
            learned.drain(..given - room);
        }
        Answers { ids, learned, cut }
    }
}

impl Document {
    /// What tells documents apart: equal for equal tokens.
    pub fn digest(&self) -> u64 {
        let mut hasher = blake3::Hasher::new();
        let mut write = |ids: &[u32]| {
            for id in ids {
                hasher.update(&id.to_le_bytes());
            }
        };
        match &self.form {
            Form::Text(ids) | Form::Choices(ids, _) | Form::Prompt(ids, _) => write(ids),
            Form::Answers(rows) => rows.iter().for_each(|row| write(&row.ids)),
        }
        let digest: [u8; 32] = hasher.finalize().into();
        u64::from_le_bytes(*digest.first_chunk().unwrap_or(&[0; 8]))
    }

    /// Whether it has choices.
    pub fn has_choices(&self) -> bool {
        matches!(self.form, Form::Choices(..))
    }

    /// Stores its tokens behind those of `tokens`.
    pub fn store(self, sequence_length: usize, tokens: &mut Tokens) -> Result<Stored> {
        let (first, bytes) = (tokens.len(), self.bytes);
        let (rows, count, cut) = match self.form {
            Form::Text(ids) => {
                tokens.extend(&ids)?;
                let windows = document_windows(first, ids.len(), sequence_length).collect();
                (DocumentRows::Windows(windows), ids.len(), self.cut)
            }
            Form::Answers(rows) => {
                let (mut windows, mut count, mut cut) = (Vec::new(), 0, self.cut);
                for Answers { ids, learned, cut: own } in rows {
                    cut |= own;
                    windows.extend(answer_windows(tokens.len(), &learned, sequence_length));
                    tokens.extend_marked(&ids, &learned)?;
                    count += learned.iter().filter(|learned| **learned).count();
                }
                (DocumentRows::Windows(windows), count, cut)
            }
            Form::Choices(ids, question) => {
                tokens.extend(&ids)?;
                let count = ids.len() - question.prompt as usize;
                (DocumentRows::Question(Question { start: first, ..question }), count, self.cut)
            }
            Form::Prompt(ids, row) => {
                tokens.extend(&ids)?;
                let prompt = Prompt { start: first, tokens: ids.len() as u32, row };
                (DocumentRows::Prompt(prompt), ids.len(), self.cut)
            }
        };
        Ok(Stored { rows, tokens: count as u64, bytes, cut })
    }
}

/// What became of a document.
pub struct Stored {
    pub rows: DocumentRows,
    /// Tokens that are predicted.
    pub tokens: u64,
    /// Bytes of the same.
    pub bytes: u64,
    /// Whether a prompt lost its start.
    pub cut: bool,
}
