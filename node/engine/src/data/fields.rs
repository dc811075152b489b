//! A row's columns by their names, and what they say.

use anyhow::{Context, Result, bail, ensure};
use minijinja::{Value, value::ValueKind};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use super::{
    names::{ANSWERS, CHOSEN_FROM, CONTEXT, FORMS, MESSAGES, PAIRS, RIGHT, SYSTEM, TEXTS, is_known},
    options::Options,
    report::shown,
    sample::{Question, Sample},
};
use crate::chat::{self, Conversation, kind, present};

/// Names that an error shows.
const NAMES_MAX: usize = 12;

/// What people are told that was read of a row with these columns.
fn named(asked: &str, answered: &str) -> &'static str {
    match (asked, answered) {
        ("instruction", "output") => "instruction and output",
        ("instruction", "response") => "instruction and response",
        ("question", "answer") => "question and answer",
        ("prompt", "response") => "prompt and response",
        ("query", "response") => "query and response",
        ("input", "output") => "input and output",
        ("inputs", "targets") => "inputs and targets",
        ("user", "assistant") => "user and assistant",
        _ => "what is asked and what answers it",
    }
}

/// A row has no column that is read.
#[derive(Debug)]
pub struct NoColumn(String);

impl fmt::Display for NoColumn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for NoColumn {}

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
                        Some(value) => {
                            used.extend(is_white(&value).then(|| name.clone()));
                            // Of two with one name, the first that says something.
                            let first = all.entry(lower).or_insert_with(|| (name.clone(), value.clone()));
                            if is_white(&first.1) {
                                *first = (name, value);
                            }
                        }
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
        let is_bare = |name: &str| self.is_there(name) && !self.has(name);
        let is_blank = || self.blank.iter().any(|name| is_known(name)) || TEXTS.into_iter().any(is_bare);
        let is_pair = || self.pair(is_bare).is_some() || is_bare("prompt") && is_bare("completion");
        self.all.keys().all(|name| is_bare(name)) || is_blank() || is_pair()
    }

    /// The text of the column that a flag names; None if there is nothing in it. Errors if there is no such column.
    pub fn named(&mut self, field: &str) -> Result<Option<String>> {
        let name = field.trim().to_lowercase();
        if !self.is_there(&name) && !self.all.is_empty() && !self.blank.contains(&name) {
            return Err(self.no_column(&format!("and no column {field:?} (--text-field)")));
        }
        self.text(&name)
    }

    fn no_column(&self, what: &str) -> anyhow::Error {
        let mut names: Vec<String> = self.all.values().map(|(name, _)| shown(name)).take(NAMES_MAX).collect();
        names.extend((self.all.len() > NAMES_MAX).then(|| "…".to_owned()));
        NoColumn(format!("the row has {}; {what}", names.join(", "))).into()
    }

    /// Whether a column is there, and has more in it than white space.
    fn has(&self, name: &str) -> bool {
        self.all.get(name).is_some_and(|(_, value)| !is_white(value))
    }

    fn is_there(&self, name: &str) -> bool {
        self.all.contains_key(name)
    }

    /// Whether a column is false, or, in a table, says so.
    fn is_false(&self, name: &str) -> bool {
        self.all.get(name).is_some_and(|(_, value)| match value.as_str() {
            Some(text) => text.trim().eq_ignore_ascii_case("false"),
            None => value.kind() == ValueKind::Bool && !value.is_true(),
        })
    }

    fn take(&mut self, name: &str) -> Option<Value> {
        let (own, value) = self.all.get(name)?;
        self.used.push(own.clone());
        Some(value.clone())
    }

    /// The text of a column; None if it is not there, or blank. Errors if it is no text, and no number.
    fn text(&mut self, name: &str) -> Result<Option<String>> {
        if !self.is_there(name) {
            return Ok(None);
        }
        self.raw(name).map(|text| Some(text).filter(|text| !text.trim().is_empty()))
    }

    fn is_list(&self, name: &str) -> bool {
        self.all.get(name).is_some_and(|(_, value)| value.kind() == ValueKind::Seq || chat::is_by_field(value))
    }

    /// What is learned; None if there is nothing in the row.
    pub fn sample(&mut self) -> Result<Option<(Sample, &'static str)>> {
        let conversation = self.conversation();
        ensure!(
            conversation.is_none() && !self.is_there("completion") || !self.is_false("label"),
            "the row's label is false, which says that its answer is not wanted, and there is no objective for that; \
             leave such rows out (or the column label, if it says something else)"
        );
        if let Some(name) = conversation {
            return self.messages(name).map(|conversation| Some((Sample::Conversation(conversation), name)));
        }
        let is_turns = self.is_list("prompt") || self.is_list("completion");
        let is_free = |name: &&str| *name == "completion" || self.choices_name().is_none();
        if let Some(answered) = self.first(&ANSWERS).filter(|name| is_turns && is_free(name)) {
            return Ok(Some((Sample::Conversation(self.turns(answered)?), "prompt and completion as messages")));
        }
        if let Some(name) = self.choices_name() {
            return self.choices(name).map(Some);
        }
        if self.has("prompt") && self.has("answer") {
            return self
                .instruction("prompt", "answer")
                .map(|one| Some((Sample::Conversation(one), "prompt and answer")));
        }
        if self.has("chosen") && self.has("rejected") {
            bail!("the row compares chosen and rejected, and there is no objective for that; give it {FORMS}");
        }
        if self.is_there("prompt") && self.has("completion") {
            let (prompt, completion) = (self.raw("prompt")?, self.raw("completion")?);
            return Ok(Some((Sample::Completion(prompt, completion), "prompt and completion")));
        }
        match (self.pair(|name| self.has(name)), self.first(&TEXTS)) {
            (Some((asked, answered, is_strong)), text) if is_strong || text.is_none() => {
                self.instruction(asked, answered).map(|one| Some((Sample::Conversation(one), named(asked, answered))))
            }
            (_, Some(name)) => Ok(self.text(name)?.map(|text| (Sample::Text(text), name))),
            _ => self.nothing().map(|()| None),
        }
    }

    /// Errors if a row that has nothing to learn should have: half of a pair, or columns of which none is read.
    fn nothing(&mut self) -> Result<()> {
        let answered = ANSWERS.into_iter().find(|name| self.is_there(name));
        if let Some(answered) = answered.filter(|name| *name == "completion" || self.is_list("prompt"))
            && self.has("prompt")
        {
            bail!("the {answered} is empty, there is nothing to learn");
        }
        let has_text = TEXTS.iter().any(|name| self.is_there(name));
        if let Some((asked, answered, is_strong)) = self.pair(|name| self.is_there(name))
            && (is_strong || !has_text)
            && (self.has(asked) || self.has(answered))
        {
            return self.instruction(asked, answered).map(|_| ());
        }
        self.refuse_dialogue()?;
        if self.is_empty() { Ok(()) } else { Err(self.no_column(&format!("it must have {FORMS}"))) }
    }

    /// Errors if a column of messages is a text, and no list of them.
    fn refuse_dialogue(&self) -> Result<()> {
        let Some(name) = self.first(&MESSAGES) else { return Ok(()) };
        bail!(
            "column {name} is a plain text, and no conversation: that is a list of messages with role and content; if it is \
             what to learn, give --text-field {name}, or --template '…{{{{ {name} }}}}…'"
        )
    }

    /// The column of messages, if there is one: a list, or JSON of one.
    fn conversation(&self) -> Option<&'static str> {
        let is_list = |(_, value): &(String, Value)| {
            value.as_str().is_none_or(|text| text.trim_start().starts_with(['[', '{', '"']))
        };
        MESSAGES.into_iter().find(|name| self.all.get(*name).is_some_and(is_list))
    }

    /// What is asked and what answers it, by their names, and whether they come before a text. `is_in`: which columns
    /// count.
    fn pair(&self, is_in: impl Fn(&str) -> bool) -> Option<(&'static str, &'static str, bool)> {
        let pair = |(asked, answered, is_strong): &(&'static str, &[&'static str], bool)| {
            let answered = answered.iter().find(|name| is_in(name) && is_in(asked))?;
            Some((*asked, *answered, *is_strong))
        };
        PAIRS.iter().find_map(pair)
    }

    /// What is asked, without what answers it; None if there is nothing in the row.
    pub fn question(&mut self) -> Result<Option<(Question, &'static str)>> {
        if let Some(name) = self.conversation() {
            let Conversation { messages, tools, .. } = self.messages(name)?;
            return Ok(Some((unanswered(messages, tools)?, "prompts of conversations")));
        }
        if self.is_list("prompt") {
            let messages = chat::messages(&self.take("prompt").context("the row has no prompt")?)?;
            let messages = self.with_system(messages)?;
            return Ok(Some((unanswered(messages, self.tools()?)?, "prompts of conversations")));
        }
        // As when it is learned: beside an answer it is a turn, else a text to go on with.
        let pair = self.pair(|name| self.has(name));
        if self.has("prompt") && pair.is_none() {
            return Ok(Some((Question::Text(self.raw("prompt")?), "prompts")));
        }
        // Beside a text, a user is somebody's name. One that is empty is said to be, unless another is there.
        let is_free = |name: &str| name != "user" || self.first(&TEXTS).is_none();
        let asked = || PAIRS.iter().map(|(asked, ..)| *asked).filter(|name| is_free(name));
        let alone = || asked().find(|name| self.has(name)).or_else(|| asked().find(|name| self.is_there(name)));
        match pair.map(|(asked, ..)| asked).or_else(alone) {
            Some("prompt") if !self.has("prompt") => return Ok(None),
            Some(asked) => {
                let (question, system) = (self.asked(asked)?, self.system()?);
                let turns = system.into_iter().chain([turn("user", &question)]).collect();
                return Ok(Some((Question::Conversation(turns, None), "questions")));
            }
            None => {}
        }
        self.refuse_dialogue()?;
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
        match (value.kind(), value.as_str()) {
            (ValueKind::Number, _) => Ok(value.to_string()),
            (_, Some(text)) => Ok(text.to_owned()),
            _ => bail!(
                "column {name} is {}, not a text; write it as one, or give --template '…{{{{ {name} }}}}…'",
                kind(&value)
            ),
        }
    }

    fn tools(&mut self) -> Result<Option<Value>> {
        let Some(name) = self.first(&["tools", "functions"]) else { return Ok(None) };
        self.take(name).map_or(Ok(None), |tools| chat::tools(&tools))
    }

    fn messages(&mut self, name: &str) -> Result<Conversation> {
        let value = self.take(name).context("there are no messages")?;
        let messages = chat::messages(&value).with_context(|| format!("column {name}"))?;
        Ok(Conversation::new(self.with_system(messages)?, self.tools()?))
    }

    /// TRL's conversational prompt and completion: only the latter is learned.
    fn turns(&mut self, answered: &str) -> Result<Conversation> {
        let mut turns = |name: &str, role: &str| {
            if !self.is_list(name) {
                return self.raw(name).map(|text| vec![turn(role, &text)]);
            }
            let value = self.take(name).with_context(|| format!("the row has no {name}"))?;
            chat::messages(&value).with_context(|| format!("column {name}"))
        };
        let (prompt, completion) = (turns("prompt", "user")?, turns(answered, "assistant")?);
        let prompt = self.with_system(prompt)?;
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
        let question = self.text(asked)?.with_context(|| format!("the {asked} is empty"))?;
        let about = self.about(asked)?;
        Ok(about.map_or(question.clone(), |about| format!("{question}\n\n{about}")))
    }

    /// What it is asked about, if anything.
    fn about(&mut self, asked: &'static str) -> Result<Option<String>> {
        let about = CONTEXT.into_iter().find(|name| *name != asked && self.has(name));
        about.map_or(Ok(None), |name| self.text(name))
    }

    /// Messages behind the row's system prompt, unless they have one of their own.
    fn with_system(&mut self, mut messages: Vec<Value>) -> Result<Vec<Value>> {
        let is_system = |message: &Value| present(message, "role").is_some_and(|role| role.as_str() == Some("system"));
        if !messages.iter().any(is_system) {
            messages.splice(0..0, self.system()?);
        }
        Ok(messages)
    }

    /// A turn of the system: a text, an object with the text, as Gemini has it, or a list of parts, as Anthropic has.
    fn system(&mut self) -> Result<Option<Value>> {
        let Some(name) = self.first(&SYSTEM) else { return Ok(None) };
        let value = self.all.get(name).map(|(_, value)| value.clone()).unwrap_or_default();
        let parts = Some(&value).filter(|value| value.kind() == ValueKind::Seq).cloned();
        let within = || ["parts", "content", "text"].iter().find_map(|field| present(&value, field));
        let Some(text) = parts.or_else(within) else {
            return Ok(self.text(name)?.map(|text| turn("system", &text)));
        };
        self.take(name);
        let message = Value::from_pairs([("role", Value::from("system")), ("content", text)]);
        let message = chat::message(&message).with_context(|| format!("column {name}"))?;
        // An empty one is none, as an empty text is.
        let says_something = |message: &Value| present(message, "content").is_some_and(|text| !is_white(&text));
        Ok(Some(message).filter(says_something))
    }

    /// Choices, or options beside what may name the right one: elsewhere these are settings, mostly.
    fn choices_name(&self) -> Option<&'static str> {
        let is_asked = self.first(&CHOSEN_FROM).is_some() && self.first(&RIGHT).is_some() && !self.has("completion");
        let is_said = self.pair(|name| self.has(name)).is_some_and(|(_, answered, _)| !RIGHT.contains(&answered));
        self.first(&["choices"]).or_else(|| self.first(&["options"]).filter(|_| is_asked && !is_said))
    }

    fn choices(&mut self, name: &'static str) -> Result<(Sample, &'static str)> {
        // A question that is empty may follow a text; a prompt that is, nothing.
        let asked = self.first(&CHOSEN_FROM).or_else(|| CHOSEN_FROM.into_iter().find(|name| self.is_there(name)));
        let (Some(asked), Some(answered), false) = (asked, self.first(&RIGHT), self.has("completion")) else {
            bail!("a row with choices must have prompt (or question), choices and answer, and no completion");
        };
        let prompt = self.raw(asked)?;
        let prompt = match self.about(asked)? {
            Some(about) if prompt.trim().is_empty() => about,
            Some(about) if asked == "instruction" => format!("{prompt}\n\n{about}"),
            // What is asked comes last: the choices follow it.
            Some(about) => format!("{about}\n\n{prompt}"),
            None => prompt,
        };
        let value = self.take(name).context("no choices")?;
        let options = Options::of(&value).with_context(|| {
            let remedy = if name == "options" { ", or --template where they are none" } else { "" };
            format!("malformed: {name} is {}; give it a list of texts{remedy}", kind(&value))
        })?;
        let answer = self.take(answered).context("no answer")?;
        let label = match options.is_either(&answer) {
            true => "prompt, choices and answer by its index, though it is the text of another choice, too",
            false => "prompt, choices and answer",
        };
        let answer = options.right(&answer).map_or(answer, Value::from);
        Ok((Sample::Choices { prompt, choices: options.choices, answer }, label))
    }
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
    let is_empty = |name: &str| present(value, name).is_some_and(|list| list.len() == Some(0));
    match value.as_str() {
        Some(text) => is_messages && matches!(text.trim(), "" | "[]" | "null"),
        None if is_messages && chat::is_by_field(value) => is_empty("role") || is_empty("from"),
        None => value.kind() == ValueKind::Seq && value.len() == Some(0) && name != "choices",
    }
}

fn is_white(value: &Value) -> bool {
    value.as_str().is_some_and(|text| text.trim().is_empty())
}

fn turn(role: &str, content: &str) -> Value {
    Value::from_pairs([("role", role), ("content", content)])
}
