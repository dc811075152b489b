//! From a row's columns to what is learned of it.

use anyhow::{Context, Result, bail, ensure};
use minijinja::{Value, value::ValueKind};
use std::collections::BTreeMap;

use crate::chat::{self, Conversation, Formatter, Rendered, kind, present};

/// What a row may be, for people.
const FORMS: &str = "text; prompt and completion; messages; conversations; instruction (or question) and output (or answer); \
                     prompt, choices and answer. Other columns: --text-field <name>, or --template '…{{ name }}…'";
const MESSAGES: [&str; 5] = ["messages", "conversations", "conversation", "dialogue", "contents"];
const TEXTS: [&str; 2] = ["text", "content"];
const ASKED: [&str; 7] = ["instruction", "question", "query", "prompt", "input", "inputs", "user"];
const ANSWERED: [&str; 7] = ["output", "response", "answer", "completion", "target", "targets", "assistant"];
const CONTEXT: [&str; 2] = ["input", "context"];
const SYSTEM: [&str; 2] = ["system", "system_prompt"];

/// Which columns of rows are read, where it is not what their names say.
#[derive(Default)]
pub struct Columns {
    text_field: Option<String>,
    formatter: Option<Formatter>,
    /// Whether rows only ask, and what answers them is made by the model.
    asks: bool,
}

/// What is learned of a row.
pub enum Sample {
    /// All of it.
    Text(String),
    /// The second, after the first.
    Completion(String, String),
    Conversation(Conversation),
    /// The marked parts of a text.
    Marked(Rendered),
    /// Which of the choices follows the prompt.
    Choices {
        prompt: String,
        choices: Vec<String>,
        answer: Value,
    },
    /// What is to be completed.
    Prompt(Prompt),
}

/// What is to be completed, and judged then.
pub struct Prompt {
    pub asked: Question,
    /// All of the row's columns.
    pub row: Value,
}

/// What the model is to go on from.
pub enum Question {
    Text(String),
    Conversation(Vec<Value>, Option<Value>),
}

impl Sample {
    pub fn is_conversation(&self) -> bool {
        matches!(self, Self::Conversation(_))
    }
}

/// A sample, and where it is from.
pub struct Found {
    pub sample: Sample,
    /// For people.
    pub label: &'static str,
    /// Columns that it was taken from.
    pub used: Vec<String>,
}

impl Columns {
    /// `text_field`: the column that is the text. `template`: Jinja over a row's columns. Errors name the flag.
    pub fn new(text_field: Option<String>, template: Option<&str>) -> Result<Self> {
        ensure!(
            text_field.is_none() || template.is_none(),
            "--text-field and --template both say what a row's text is; give one"
        );
        let formatter = template.map(Formatter::new).transpose().context("--template")?;
        Ok(Self { text_field, formatter, asks: false })
    }

    /// The same for rows of which only what is asked is read: the model completes it, and a program judges that.
    pub fn asking(self) -> Self {
        Self { asks: true, ..self }
    }

    /// Whether rows only ask.
    pub fn asks(&self) -> bool {
        self.asks
    }

    /// Whether a table with this header has columns that are read.
    pub fn knows(&self, header: &[String]) -> bool {
        let named = |name: &String| match &self.text_field {
            Some(field) => name.trim() == field,
            None => self.formatter.is_some() || is_known(name),
        };
        header.iter().any(named)
    }

    /// What is learned of a row; None if there is no text in it. Errors name the column, the value and the remedy.
    pub fn sample(&self, row: &Value) -> Result<Option<Found>> {
        if let Some(formatter) = &self.formatter {
            ensure!(row.kind() == ValueKind::Map, "the row is {}, and has no columns for --template", kind(row));
            let marked = formatter.render_marked(row).context("--template")?;
            let rendered = Rendered::of_marked(&marked).context("--template marks parts within parts")?;
            let is_empty = rendered.text.trim().is_empty();
            let used = keys(row);
            let sample = match rendered.learned.first() {
                Some(first) if self.asks => prompt(Question::Text(rendered.text[..first.start].to_owned()), row),
                None if self.asks => prompt(Question::Text(rendered.text), row),
                Some(_) => Sample::Marked(rendered),
                None => Sample::Text(rendered.text),
            };
            return Ok((!is_empty).then_some(Found { sample, label: "--template", used }));
        }
        let mut fields = Fields::of(row)?;
        let sample = match &self.text_field {
            Some(field) => {
                ensure!(fields.has(field), "no column {field:?} (--text-field); there are {}", keys(row).join(", "));
                let text = fields.text(&field.to_lowercase())?;
                let sample = |text| if self.asks { prompt(Question::Text(text), row) } else { Sample::Text(text) };
                text.map(|text| (sample(text), "--text-field"))
            }
            None if self.asks => fields.question()?.map(|(asked, label)| (prompt(asked, row), label)),
            None => fields.sample()?,
        };
        // A judge gets all columns.
        let used = if self.asks { keys(row) } else { fields.used };
        Ok(sample.map(|(sample, label)| Found { sample, label, used }))
    }
}

/// Whether a column of this name is read.
pub fn is_known(name: &str) -> bool {
    let name = name.trim().to_lowercase();
    let name = name.as_str();
    is_text(name) || MESSAGES.contains(&name) || name == "choices"
}

/// Whether a column of this name is read, and holds a text.
pub fn is_text(name: &str) -> bool {
    let name = name.trim().to_lowercase();
    TEXTS.contains(&name.as_str()) || ASKED.contains(&name.as_str()) || ANSWERED.contains(&name.as_str())
}

/// The names of a row's columns.
pub fn keys(row: &Value) -> Vec<String> {
    row.try_iter().map(|keys| keys.map(|key| key.to_string()).collect()).unwrap_or_default()
}

/// A row's columns by their names in lower case, and which of them were used.
struct Fields {
    all: BTreeMap<String, (String, Value)>,
    used: Vec<String>,
}

impl Fields {
    fn of(row: &Value) -> Result<Self> {
        let mut all = BTreeMap::new();
        match row.kind() {
            ValueKind::Map => {
                for name in keys(row) {
                    if let Some(value) = present(row, &name) {
                        all.insert(name.trim().to_lowercase(), (name, value));
                    }
                }
            }
            // A line that is a text, or a list of messages.
            ValueKind::String => drop(all.insert("text".into(), ("text".into(), row.clone()))),
            ValueKind::Seq => drop(all.insert("messages".into(), ("messages".into(), row.clone()))),
            _ => bail!("the row is {}; it must be an object with {FORMS}", kind(row)),
        }
        Ok(Self { all, used: Vec::new() })
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

    fn sample(&mut self) -> Result<Option<(Sample, &'static str)>> {
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
        if let (Some(asked), Some(answered)) = (self.first(&ASKED), self.first(&ANSWERED)) {
            return self.instruction(asked, answered).map(|one| Some((Sample::Conversation(one), "instructions")));
        }
        if let Some(name) = self.first(&TEXTS) {
            return Ok(self.text(name)?.map(|text| (Sample::Text(text), name)));
        }
        // A null, or a field that is not there.
        if self.all.is_empty() {
            return Ok(None);
        }
        let names: Vec<&str> = self.all.keys().map(String::as_str).take(12).collect();
        bail!("the row has {}; it must have {FORMS}", names.join(", "))
    }

    /// What is asked, without what answers it; None if there is nothing in the row.
    fn question(&mut self) -> Result<Option<(Question, &'static str)>> {
        if let Some(name) = MESSAGES.iter().find(|name| self.has(name)) {
            let Conversation { messages, tools, .. } = self.messages(name)?;
            return Ok(Some((unanswered(messages, tools)?, "prompts of conversations")));
        }
        if self.is_list("prompt") {
            let messages = chat::messages(&self.take("prompt").context("the row has no prompt")?)?;
            return Ok(Some((unanswered(messages, self.tools()?)?, "prompts of conversations")));
        }
        // As when it is learned: beside an answer it is a turn, else a text to go on with.
        let is_turn = ANSWERED.iter().any(|name| *name != "completion" && self.has(name));
        if self.has("prompt") && !is_turn {
            let text = self.raw("prompt")?;
            return Ok((!text.is_empty()).then_some((Question::Text(text), "prompts")));
        }
        if let Some(asked) = self.first(&ASKED) {
            let (question, system) = (self.asked(asked)?, self.system()?);
            let turns = system.into_iter().chain([turn("user", &question)]).collect();
            return Ok(Some((Question::Conversation(turns, None), "questions")));
        }
        if self.all.is_empty() {
            return Ok(None);
        }
        let names: Vec<&str> = self.all.keys().map(String::as_str).take(12).collect();
        bail!(
            "the row has {}; a program scores completions of what is asked: give rows with prompt, messages, conversations, \
             instruction or question, or name the column with --text-field",
            names.join(", ")
        )
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

/// The index of the right choice that a text names: by its label, by its own words, by a number as tables have it, or
/// by a letter, A for the first. None where it is no text, or names none.
fn right_choice(answer: &Value, choices: &[String], labels: Option<&[String]>) -> Option<usize> {
    let text = answer.as_str()?;
    let at = |all: &[String]| all.iter().position(|one| one.trim() == text.trim());
    let letter = || match text.trim().as_bytes() {
        [letter @ b'A'..=b'Z'] => Some(usize::from(letter - b'A')),
        _ => None,
    };
    let by_label = labels.and_then(at).or_else(|| at(choices));
    by_label.or_else(|| text.trim().parse().ok()).or_else(|| letter().filter(|at| *at < choices.len()))
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

fn prompt(asked: Question, row: &Value) -> Sample {
    Sample::Prompt(Prompt { asked, row: row.clone() })
}

fn turn(role: &str, content: &str) -> Value {
    Value::from_pairs([("role", role), ("content", content)])
}
