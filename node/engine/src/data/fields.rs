//! A row's columns by their names, and what they say.

use anyhow::{Context, Result, bail, ensure};
use minijinja::{Value, value::ValueKind};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use super::{
    report::shown,
    sample::{Question, Sample},
};
use crate::chat::{self, Conversation, kind, present};

/// What a row may be, for people.
const FORMS: &str = "text; prompt and completion; messages; conversations; instruction (or question) and output (or answer); \
                     prompt, choices and answer. Other columns: --text-field <name>, or --template '…{{ name }}…'";
const MESSAGES: [&str; 5] = ["messages", "conversations", "conversation", "dialogue", "contents"];
const TEXTS: [&str; 2] = ["text", "content"];
/// What is asked, what may answer it, and whether the two say more of a row than a text beside them does. Other pairs
/// are chance: the user of a post, and its target.
const PAIRS: [(&str, &[&str], bool); 7] = [
    ("instruction", &["output", "response", "answer", "completion", "target"], true),
    ("question", &["answer", "response", "output", "completion"], true),
    ("prompt", &["response", "answer", "output", "target"], true),
    ("query", &["response", "answer", "output"], false),
    ("input", &["output", "response", "target", "answer"], false),
    ("inputs", &["targets", "outputs"], false),
    ("user", &["assistant"], false),
];
const CONTEXT: [&str; 2] = ["input", "context"];
const SYSTEM: [&str; 2] = ["system", "system_prompt"];

/// Names that an error shows.
const NAMES_MAX: usize = 12;

/// A row has no column that is read.
#[derive(Debug)]
pub struct NoColumn(String);

impl fmt::Display for NoColumn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for NoColumn {}

/// Whether a column of this name is read.
pub fn is_known(name: &str) -> bool {
    let name = name.trim().to_lowercase();
    let name = name.as_str();
    is_text(name) || MESSAGES.contains(&name) || name == "choices"
}

/// Whether a column of this name is read, and holds a text.
pub fn is_text(name: &str) -> bool {
    let name = name.trim().to_lowercase();
    let is_in = |(asked, answered, _): &(&str, &[&str], bool)| *asked == name || answered.contains(&name.as_str());
    TEXTS.contains(&name.as_str()) || PAIRS.iter().any(is_in)
}

/// The names of a row's columns; none if it is no object.
pub fn keys(row: &Value) -> Vec<String> {
    let keys = (row.kind() == ValueKind::Map).then(|| row.try_iter().ok()).flatten();
    keys.map(|keys| keys.map(|key| key.to_string()).collect()).unwrap_or_default()
}

/// A row's columns by their names in lower case, and which of them were used.
pub struct Fields {
    all: BTreeMap<String, (String, Value)>,
    /// Columns with nothing in them.
    blank: BTreeSet<String>,
    pub used: Vec<String>,
}

impl Fields {
    pub fn of(row: &Value) -> Result<Self> {
        let (mut all, mut blank, mut used) = (BTreeMap::new(), BTreeSet::new(), Vec::new());
        match row.kind() {
            ValueKind::Map => {
                for name in keys(row) {
                    let lower = name.trim().to_lowercase();
                    match present(row, &name).filter(|value| !is_blank(&lower, value)) {
                        Some(value) => drop(all.entry(lower).or_insert((name, value))),
                        // Nothing is left in it.
                        None => {
                            blank.insert(lower);
                            used.push(name);
                        }
                    }
                }
            }
            // A line that is a text, or a list of messages.
            ValueKind::String => drop(all.insert("text".into(), ("text".into(), row.clone()))),
            ValueKind::Seq if is_blank("messages", row) => {}
            ValueKind::Seq => drop(all.insert("messages".into(), ("messages".into(), row.clone()))),
            _ => bail!("the row is {}; it must be an object with {FORMS}", kind(row)),
        }
        Ok(Self { all, blank, used })
    }

    /// Whether it has nothing to learn, and nothing wrong: no columns, or nothing in those that are read.
    fn is_empty(&self) -> bool {
        self.all.is_empty() || self.blank.iter().any(|name| is_known(name))
    }

    /// The text of the column that a flag names; None if there is nothing in it. Errors if there is no such column.
    pub fn named(&mut self, field: &str) -> Result<Option<String>> {
        let name = field.trim().to_lowercase();
        if !self.has(&name) && !self.all.is_empty() && !self.blank.contains(&name) {
            return Err(self.no_column(&format!("and no column {field:?} (--text-field)")));
        }
        self.text(&name)
    }

    fn no_column(&self, what: &str) -> anyhow::Error {
        let mut names: Vec<String> = self.all.values().map(|(name, _)| shown(name)).take(NAMES_MAX).collect();
        names.extend((self.all.len() > NAMES_MAX).then(|| "…".to_owned()));
        NoColumn(format!("the row has {}; {what}", names.join(", "))).into()
    }

    fn has(&self, name: &str) -> bool {
        self.all.contains_key(&name.to_lowercase())
    }

    fn take(&mut self, name: &str) -> Option<Value> {
        let (own, value) = self.all.get(name)?;
        self.used.push(own.clone());
        Some(value.clone())
    }

    /// The text of a column; None if it is not there, or blank. Errors if it is no text.
    fn text(&mut self, name: &str) -> Result<Option<String>> {
        let Some(value) = self.take(name) else { return Ok(None) };
        match value.as_str() {
            Some(text) if text.trim().is_empty() => Ok(None),
            Some(text) => Ok(Some(text.to_owned())),
            None => bail!("column {name} is {}, not a text", kind(&value)),
        }
    }

    fn is_list(&self, name: &str) -> bool {
        self.all.get(name).is_some_and(|(_, value)| value.kind() == ValueKind::Seq)
    }

    /// What is learned; None if there is nothing in the row.
    pub fn sample(&mut self) -> Result<Option<(Sample, &'static str)>> {
        if let Some(name) = MESSAGES.iter().find(|name| self.has(name)) {
            return self.messages(name).map(|conversation| Some((Sample::Conversation(conversation), *name)));
        }
        if self.is_list("prompt") || self.is_list("completion") {
            return Ok(Some((Sample::Conversation(self.turns()?), "prompt and completion as messages")));
        }
        if self.has("choices") || self.has("prompt") && self.has("answer") {
            return self.choices().map(Some);
        }
        if self.has("chosen") && self.has("rejected") {
            bail!("the row compares chosen and rejected, and there is no objective for that; give it {FORMS}");
        }
        if self.has("prompt") && self.has("completion") {
            let (prompt, completion) = (self.raw("prompt")?, self.raw("completion")?);
            ensure!(!completion.is_empty(), "the completion is empty, there is nothing to learn");
            return Ok(Some((Sample::Completion(prompt, completion), "prompt and completion")));
        }
        match (self.pair(), self.first(&TEXTS)) {
            (Some((asked, answered, is_strong)), text) if is_strong || text.is_none() => {
                self.instruction(asked, answered).map(|one| Some((Sample::Conversation(one), "instructions")))
            }
            (_, Some(name)) => Ok(self.text(name)?.map(|text| (Sample::Text(text), name))),
            _ if self.is_empty() => Ok(None),
            _ => Err(self.no_column(&format!("it must have {FORMS}"))),
        }
    }

    /// What is asked and what answers it, by their names, and whether they come before a text.
    fn pair(&self) -> Option<(&'static str, &'static str, bool)> {
        let pair = |(asked, answered, is_strong): &(&'static str, &[&'static str], bool)| {
            let answered = self.first(answered).filter(|_| self.has(asked))?;
            Some((*asked, answered, *is_strong))
        };
        PAIRS.iter().find_map(pair)
    }

    /// What is asked, without what answers it; None if there is nothing in the row.
    pub fn question(&mut self) -> Result<Option<(Question, &'static str)>> {
        if let Some(name) = MESSAGES.iter().find(|name| self.has(name)) {
            let Conversation { messages, tools, .. } = self.messages(name)?;
            return Ok(Some((unanswered(messages, tools)?, "prompts of conversations")));
        }
        if self.is_list("prompt") {
            let messages = chat::messages(&self.take("prompt").context("the row has no prompt")?)?;
            return Ok(Some((unanswered(messages, self.tools()?)?, "prompts of conversations")));
        }
        // As when it is learned: beside an answer it is a turn, else a text to go on with.
        let pair = self.pair();
        if self.has("prompt") && pair.is_none() {
            let text = self.raw("prompt")?;
            return Ok((!text.is_empty()).then_some((Question::Text(text), "prompts")));
        }
        // Beside a text, a user is somebody's name.
        let is_asked = |name: &&str| self.has(name) && (*name != "user" || self.first(&TEXTS).is_none());
        let alone = || PAIRS.iter().map(|(asked, ..)| *asked).find(is_asked);
        if let Some(asked) = pair.map(|(asked, ..)| asked).or_else(alone) {
            let (question, system) = (self.asked(asked)?, self.system()?);
            let turns = system.into_iter().chain([turn("user", &question)]).collect();
            return Ok(Some((Question::Conversation(turns, None), "questions")));
        }
        if self.is_empty() {
            return Ok(None);
        }
        Err(self.no_column(
            "a program scores completions of what is asked: give rows with prompt, messages, conversations, instruction or \
             question, or name the column with --text-field",
        ))
    }

    fn first(&self, names: &[&'static str]) -> Option<&'static str> {
        names.iter().copied().find(|name| self.has(name))
    }

    /// A text as it is.
    fn raw(&mut self, name: &str) -> Result<String> {
        let value = self.take(name).with_context(|| format!("the row has no {name}"))?;
        Ok(value.as_str().with_context(|| format!("column {name} is {}, not a text", kind(&value)))?.to_owned())
    }

    fn tools(&mut self) -> Result<Option<Value>> {
        let tools = self.take("tools").or_else(|| self.take("functions"));
        tools.map_or(Ok(None), |tools| chat::tools(&tools))
    }

    fn messages(&mut self, name: &str) -> Result<Conversation> {
        let value = self.take(name).context("there are no messages")?;
        let mut messages = chat::messages(&value)?;
        if let Some(system) = self.system()? {
            messages.insert(0, system);
        }
        Ok(Conversation::new(messages, self.tools()?))
    }

    /// TRL's conversational prompt and completion: only the latter is learned.
    fn turns(&mut self) -> Result<Conversation> {
        let mut turns = |name: &str, role: &str| {
            let value = self.take(name).with_context(|| format!("the row has no {name}"))?;
            match value.as_str() {
                Some(text) => Ok(vec![turn(role, text)]),
                None => chat::messages(&value).with_context(|| format!("column {name}")),
            }
        };
        let (prompt, completion) = (turns("prompt", "user")?, turns("completion", "assistant")?);
        let given = prompt.len();
        let mut conversation = Conversation::new([prompt, completion].concat(), self.tools()?);
        conversation.learned[..given].fill(false);
        Ok(conversation)
    }

    /// Alpaca's and similar: what is asked, about what, and the answer.
    fn instruction(&mut self, asked: &'static str, answered: &'static str) -> Result<Conversation> {
        let question = self.asked(asked)?;
        let answer =
            self.text(answered)?.with_context(|| format!("the {answered} is empty, there is nothing to learn"))?;
        let turns = self.system()?.into_iter().chain([turn("user", &question), turn("assistant", &answer)]);
        Ok(Conversation::new(turns.collect(), None))
    }

    /// What is asked, and about what.
    fn asked(&mut self, asked: &'static str) -> Result<String> {
        let about = CONTEXT.iter().find(|name| **name != asked && self.has(name));
        let question = self.text(asked)?.with_context(|| format!("the {asked} is empty"))?;
        let about = about.map_or(Ok(None), |name| self.text(name))?;
        Ok(about.map_or(question.clone(), |about| format!("{question}\n\n{about}")))
    }

    fn system(&mut self) -> Result<Option<Value>> {
        let Some(name) = self.first(&SYSTEM) else { return Ok(None) };
        Ok(self.text(name)?.map(|text| turn("system", &text)))
    }

    fn choices(&mut self) -> Result<(Sample, &'static str)> {
        if !self.has("choices") {
            return self.instruction("prompt", "answer").map(|one| (Sample::Conversation(one), "instructions"));
        }
        let (asked, answered) = (self.first(&["prompt", "question"]), self.first(&["answer", "answerkey", "label"]));
        let (Some(asked), Some(answered), false) = (asked, answered, self.has("completion")) else {
            bail!("a row with choices must have prompt (or question), choices and answer, and no completion");
        };
        let prompt = self.raw(asked)?;
        let value = self.take("choices").context("no choices")?;
        // ARC's have labels of their own.
        let labels = present(&value, "label").map(|labels| texts_of(&labels)).transpose()?;
        let value = present(&value, "text").unwrap_or(value);
        let list = match value.as_str() {
            Some(text) => serde_json::from_str(text).unwrap_or_else(|_| value.clone()),
            None => value.clone(),
        };
        let choices = texts_of(&list).with_context(|| format!("malformed: choices is {}", kind(&value)))?;
        let answer = self.take(answered).context("no answer")?;
        let answer = right_choice(&answer, &choices, labels.as_deref()).map_or(answer, Value::from);
        Ok((Sample::Choices { prompt, choices, answer }, "prompt, choices and answer"))
    }
}

/// The texts of a list.
fn texts_of(list: &Value) -> Result<Vec<String>> {
    ensure!(list.kind() == ValueKind::Seq, "malformed: it is not a list of texts");
    let text = |text: Value| text.as_str().map(str::to_owned).context("malformed: it is not a list of texts");
    list.try_iter()?.map(text).collect()
}

/// The index of the right choice that is named: by its label, by its own words, by a number as tables have it (1.0
/// too), or by a letter, A for the first, as `a`, `(A)` or `A.`, too. None where it is an index already, or names none.
fn right_choice(answer: &Value, choices: &[String], labels: Option<&[String]>) -> Option<usize> {
    let whole = |number: f64| {
        let is_index = number.fract() == 0.0 && (0.0..choices.len() as f64).contains(&number);
        is_index.then_some(number as usize)
    };
    let Some(text) = answer.as_str().map(str::trim) else {
        let is_float = answer.kind() == ValueKind::Number && !answer.is_integer();
        return is_float.then(|| f64::try_from(answer.clone()).ok()).flatten().and_then(whole);
    };
    let at = |all: &[String]| all.iter().position(|one| one.trim() == text);
    let letter = || match text.trim_matches(['(', ')', '.', ':']).to_ascii_uppercase().as_bytes() {
        [letter @ b'A'..=b'Z'] => Some(usize::from(letter - b'A')),
        _ => None,
    };
    let number = || text.parse().ok().or_else(|| text.parse().ok().and_then(whole));
    labels.and_then(at).or_else(|| at(choices)).or_else(number).or_else(|| letter().filter(|at| *at < choices.len()))
}

/// A conversation up to what the assistant is to say.
fn unanswered(mut messages: Vec<Value>, tools: Option<Value>) -> Result<Question> {
    let is_answer = |message: &Value| present(message, "role").is_some_and(|role| role.as_str() == Some("assistant"));
    while messages.last().is_some_and(is_answer) {
        messages.pop();
    }
    ensure!(!messages.is_empty(), "the conversation asks nothing: it has turns of the assistant only");
    Ok(Question::Conversation(messages, tools))
}

/// Whether there is nothing in a column: null, no messages, or a list of none. Choices are counted later.
fn is_blank(name: &str, value: &Value) -> bool {
    let is_messages = MESSAGES.contains(&name);
    match value.as_str() {
        Some(text) => is_messages && matches!(text.trim(), "" | "[]" | "null"),
        None => value.kind() == ValueKind::Seq && value.len() == Some(0) && name != "choices",
    }
}

fn turn(role: &str, content: &str) -> Value {
    Value::from_pairs([("role", role), ("content", content)])
}
