//! A conversation, as text of which the model says a part.

use anyhow::{Result, ensure};
use minijinja::{Value, value::ValueKind};
use std::{iter, ops::Range};

use super::{
    message::present,
    template::{ChatTemplate, LEARNED_END, LEARNED_START, with_stack},
};

/// Messages, and which of them are to be learned.
#[derive(Debug)]
pub struct Conversation {
    /// In the form that [`messages`](super::messages) returns.
    pub messages: Vec<Value>,
    /// Whether the model is to learn to say it, for each message; only those of the assistant can be.
    pub learned: Vec<bool>,
    /// What the assistant may call.
    pub tools: Option<Value>,
}

/// Text, and the bytes of it that are learned, in order, disjoint.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rendered {
    /// The whole conversation.
    pub text: String,
    /// Of the assistant.
    pub learned: Vec<Range<usize>>,
}

impl Conversation {
    /// All turns of the assistant are learned, except those that are empty, or say `"weight": 0`.
    pub fn new(messages: Vec<Value>, tools: Option<Value>) -> Self {
        let learned = messages.iter().map(|one| is_assistant(one) && has_weight(one) && says_something(one)).collect();
        Self { messages, learned, tools }
    }

    /// One text with all turns that are learned, or more than one where the template shows an earlier turn otherwise
    /// once others follow it (reasoning that is left out, mostly): each as it is shown when the model says it.
    ///
    /// Errors if nothing is learned, or if the template refuses the conversation: its words. The second value says
    /// whether the system's turn was put before the user's first, for a template that takes none.
    pub fn render(&self, template: &ChatTemplate) -> Result<(Vec<Rendered>, bool)> {
        ensure!(self.learned.contains(&true), "no turn of the assistant says anything, so there is nothing to learn");
        with_stack(|| match self.rendered(template) {
            Ok(rendered) => Ok((rendered, false)),
            Err(error) => match self.without_system() {
                Some(folded) => folded.rendered(template).map(|rendered| (rendered, true)).map_err(|_| error),
                None => Err(error),
            },
        })
    }

    /// The text up to where the model's answer begins, the system's turn put before the user's first for a template
    /// that takes none: as [`Self::render`] has it. Errors are the template's words.
    pub fn question(&self, template: &ChatTemplate) -> Result<String> {
        let ask = |one: &Self| template.render(&one.messages, one.tools.as_ref(), true);
        with_stack(|| {
            ask(self).or_else(|error| match self.without_system() {
                Some(folded) => ask(&folded).map_err(|_| error),
                None => Err(error),
            })
        })
    }

    fn rendered(&self, template: &ChatTemplate) -> Result<Vec<Rendered>> {
        let tools = self.tools.as_ref();
        if template.marks_learned() && self.learns_all() {
            let marked = template.render_marked(&self.messages, tools, false)?;
            if let Some(rendered) = Rendered::of_marked(&marked).filter(|rendered| !rendered.learned.is_empty()) {
                self.check_calls(0..self.messages.len(), &rendered.text)?;
                return Ok(vec![rendered]);
            }
        }
        let whole = template.render(&self.messages, tools, false)?;
        let (mut together, mut apart) = (Vec::new(), Vec::new());
        for index in (0..self.messages.len()).filter(|index| self.learned[*index]) {
            let until = match index + 1 == self.messages.len() {
                true => whole.clone(),
                false => template.render(&self.messages[..=index], tools, false)?,
            };
            // A template may refuse to ask for an answer to nothing.
            let before = match template.render(&self.messages[..index], tools, true) {
                Ok(before) => before,
                Err(_) if index == 0 => String::new(),
                Err(error) => return Err(error),
            };
            let start = common_prefix(&before, &until);
            ensure!(start < until.len(), "the template shows nothing of message {index}");
            self.check_calls(index..index + 1, &until[start..])?;
            match whole.starts_with(&until) {
                true => together.push(start..until.len()),
                false => {
                    apart.push(Rendered { text: until.clone(), learned: iter::once(start..until.len()).collect() })
                }
            }
        }
        if !together.is_empty() {
            apart.push(Rendered { text: whole, learned: together });
        }
        Ok(apart)
    }

    /// Errors if the template left out a call of these messages, as `shown` has them: to say nothing in its place would
    /// be learned.
    fn check_calls(&self, messages: Range<usize>, shown: &str) -> Result<()> {
        for index in messages.filter(|index| self.learned[*index]) {
            let Some(calls) = present(&self.messages[index], "tool_calls") else { continue };
            for call in calls.try_iter()? {
                let name = present(&call, "function").and_then(|function| present(&function, "name"));
                let name = name.map(|name| name.to_string()).unwrap_or_default();
                ensure!(
                    shown.contains(&name),
                    "the model's chat template does not show the call of {name:?} in message {index}: take a model \
                     whose template knows tools, or leave such turns out (\"weight\": 0)"
                );
            }
        }
        Ok(())
    }

    /// Whether every turn of the assistant is learned.
    fn learns_all(&self) -> bool {
        self.messages.iter().zip(&self.learned).all(|(message, learned)| *learned == is_assistant(message))
    }

    /// The same with the system's words before the user's first; None if the first message is not the system's, or the
    /// second not the user's.
    fn without_system(&self) -> Option<Self> {
        let role = |index: usize| present(self.messages.get(index)?, "role");
        let is = |index: usize, name: &str| role(index).is_some_and(|role| role.as_str() == Some(name));
        if !is(0, "system") || !is(1, "user") {
            return None;
        }
        let content = |index: usize| present(&self.messages[index], "content").map(|text| text.to_string());
        let text = format!("{}\n\n{}", content(0)?, content(1)?);
        let first = Value::from_pairs([("role", Value::from("user")), ("content", Value::from(text))]);
        let messages = [&[first], &self.messages[2..]].concat();
        Some(Self { messages, learned: self.learned[1..].to_vec(), tools: self.tools.clone() })
    }
}

impl Rendered {
    /// From text with marks in it; None if they are not in order.
    pub fn of_marked(marked: &str) -> Option<Self> {
        let (mut text, mut learned, mut open) = (String::with_capacity(marked.len()), Vec::new(), None);
        for character in marked.chars() {
            match (character, open) {
                (LEARNED_START, None) => open = Some(text.len()),
                (LEARNED_END, Some(start)) => {
                    learned.extend(Some(start..text.len()).filter(|range| !range.is_empty()));
                    open = None;
                }
                (LEARNED_START | LEARNED_END, _) => return None,
                _ => text.push(character),
            }
        }
        open.is_none().then_some(Self { text, learned })
    }
}

fn is_assistant(message: &Value) -> bool {
    present(message, "role").is_some_and(|role| role.as_str() == Some("assistant"))
}

fn says_something(message: &Value) -> bool {
    let content =
        present(message, "content").is_some_and(|text| text.as_str().is_none_or(|text| !text.trim().is_empty()));
    content || present(message, "tool_calls").is_some()
}

/// OpenAI's way to leave a turn out.
fn has_weight(message: &Value) -> bool {
    present(message, "weight").is_none_or(|weight| weight.kind() != ValueKind::Number || weight.is_true())
}

/// Bytes that two texts begin with alike, whole characters.
fn common_prefix(a: &str, b: &str) -> usize {
    let same = a.bytes().zip(b.bytes()).take_while(|(a, b)| a == b).count();
    (0..=same).rev().find(|at| b.is_char_boundary(*at)).unwrap_or(0)
}
