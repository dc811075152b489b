//! A row's choices as data sets write them, and which of them is right.

use anyhow::{Context, Result, ensure};
use minijinja::{Value, value::ValueKind};

use crate::chat::{from_json, present};

/// Choices, and what they are called, if they have labels of their own.
pub struct Options {
    pub choices: Vec<String>,
    labels: Option<Vec<String>>,
    /// Whether they are JSON in a text, as in a table, where an index is a text as well.
    is_cell: bool,
}

impl Options {
    /// Of a list of texts, of objects with `label` and `text`, of ARC's two lists called so, or of an object whose keys
    /// are the labels; or of one of these as JSON in a string.
    pub fn of(value: &Value) -> Result<Self> {
        let is_cell = value.kind() == ValueKind::String;
        let value = if is_cell { from_json(value.as_str().unwrap_or_default())? } else { value.clone() };
        let (choices, labels) = match (value.kind(), present(&value, "text")) {
            (ValueKind::Map, Some(texts)) => {
                (texts_of(&texts)?, present(&value, "label").map(|labels| texts_of(&labels)).transpose()?)
            }
            (ValueKind::Map, None) => {
                let key = |key: Value| Some((key.to_string(), present(&value, key.as_str()?)?));
                let (keys, texts): (Vec<String>, Vec<Value>) = value.try_iter()?.filter_map(key).unzip();
                (texts_of(&Value::from(texts))?, Some(keys))
            }
            _ => match labelled(&value)? {
                Some((labels, texts)) => (texts_of(&Value::from(texts))?, Some(labels)),
                None => (texts_of(&value)?, None),
            },
        };
        Ok(Self { choices, labels, is_cell })
    }

    /// The index of the right choice that is named: by its label, by its own words, by a number as tables have it (1.0
    /// too), or by a letter, A for the first, as `a`, `(A)` or `A.`, too. None where it is an index already, or names
    /// none. A number in a table is an index, whatever the choices are.
    pub fn right(&self, answer: &Value) -> Option<usize> {
        let labelled = |text: &str| self.labels.as_ref().and_then(|labels| at(labels, text));
        let Some(text) = answer.as_str().map(str::trim) else {
            let number = Some(answer).filter(|answer| answer.kind() == ValueKind::Number)?;
            let float = || f64::try_from(number.clone()).ok().filter(|_| !number.is_integer());
            return labelled(&number.to_string()).or_else(|| float().and_then(|number| self.whole(number)));
        };
        let letter = || match text.trim_matches(['(', ')', '.', ':']).to_ascii_uppercase().as_bytes() {
            [letter @ b'A'..=b'Z'] => Some(usize::from(letter - b'A')),
            _ => None,
        };
        let first = labelled(text).or_else(|| self.index(text).filter(|_| self.is_cell));
        let words = || at(&self.choices, text);
        let number = || text.parse().ok().or_else(|| self.index(text));
        first.or_else(words).or_else(number).or_else(|| letter().filter(|at| *at < self.choices.len()))
    }

    /// Whether an answer, a number or a text in a table, is an index, and the words of another choice as well.
    pub fn is_either(&self, answer: &Value) -> bool {
        let text = match answer.kind() {
            ValueKind::Number => answer.to_string(),
            _ if self.is_cell => answer.as_str().unwrap_or_default().trim().to_owned(),
            _ => return false,
        };
        let is_label = self.labels.as_ref().is_some_and(|labels| at(labels, &text).is_some());
        let words = at(&self.choices, &text).filter(|_| !is_label);
        words.is_some() && words != self.right(answer).or_else(|| answer.as_usize())
    }

    fn index(&self, text: &str) -> Option<usize> {
        text.parse().ok().and_then(|number| self.whole(number))
    }

    fn whole(&self, number: f64) -> Option<usize> {
        let is_index = number.fract() == 0.0 && (0.0..self.choices.len() as f64).contains(&number);
        is_index.then_some(number as usize)
    }
}

fn at(all: &[String], text: &str) -> Option<usize> {
    all.iter().position(|one| one.trim() == text)
}

/// The labels and texts of a list of objects; None if it is none.
fn labelled(list: &Value) -> Result<Option<(Vec<String>, Vec<Value>)>> {
    let is_object = |one: Value| one.kind() == ValueKind::Map;
    if list.kind() != ValueKind::Seq || !list.get_item_by_index(0).is_ok_and(is_object) {
        return Ok(None);
    }
    let of = |one: Value| {
        let named = |names: [&str; 2]| names.into_iter().find_map(|name| present(&one, name));
        let label = named(["label", "key"]).context("one of them has no label")?;
        Ok((label.to_string(), named(["text", "value"]).context("one of them has no text")?))
    };
    Ok(Some(list.try_iter()?.map(of).collect::<Result<Vec<_>>>()?.into_iter().unzip()))
}

/// The texts of a list, numbers among them.
fn texts_of(list: &Value) -> Result<Vec<String>> {
    ensure!(list.kind() == ValueKind::Seq, "it is not a list of texts");
    let text = |text: Value| match text.kind() {
        ValueKind::Number => Ok(text.to_string()),
        _ => text.as_str().map(str::to_owned).context("it is not a list of texts"),
    };
    list.try_iter()?.map(text).collect()
}
