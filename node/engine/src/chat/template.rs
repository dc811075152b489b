//! A model's chat template (Jinja). It may come from a peer: what it may compute is bounded.

use anyhow::{Context, Result, anyhow};
use minijinja::{
    AutoEscape, Environment, Error, ErrorKind, UndefinedBehavior, Value, syntax::SyntaxConfig, value::ValueKind,
};
use protocol::manifest::Role;
use rayon::{ThreadPool, ThreadPoolBuildError, ThreadPoolBuilder};
use serde::Deserialize;
use std::{
    collections::{BTreeMap, BTreeSet},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::LazyLock,
};

use super::{message::present, namespace, python};
use crate::model::{Checkpoint, OriginalFile, Tokenizer, special_tokens};

/// Instructions and blocks of 64 bytes that one rendering may take: 64 MiB, or about half a second, at most.
///
/// minijinja compares (`==`) and joins (`~`, `join`) lists within lists before it knows what that costs, and there is
/// no place to ask first. So a list that holds another many times over, line after line, still takes what it likes.
const FUEL: u64 = 1 << 20;
/// Of a thread that renders: minijinja bounds not how deep lists lie within lists, but each level takes fuel, and
/// no more of the stack than this when it is compared, printed or dropped (measured: up to half). Pages that are not
/// used cost nothing.
const STACK_BYTES: usize = FUEL as usize * 512;
/// Files with templates of their own.
const TEMPLATES_MAX: usize = 16;
/// Longest template, bytes; those of today have up to 20,000.
const TEMPLATE_BYTES_MAX: usize = 1 << 20;
/// Names of a row's columns that an error shows, and characters of each.
const NAMES_MAX: usize = 12;
const NAME_CHARACTERS_MAX: usize = 40;
/// Around what `{% generation %}` marks as said by the model. Of the private use area, which no text uses.
pub const LEARNED_START: char = '\u{100000}';
/// See [`LEARNED_START`].
pub const LEARNED_END: char = '\u{100001}';

/// Turns of a model that has no template.
const PLAIN: &str = include_str!("plain.jinja");

/// How a conversation becomes text.
pub struct ChatTemplate {
    environment: Environment<'static>,
    /// Special tokens by the names that templates know: `bos_token` and so on.
    special: BTreeMap<String, String>,
    is_plain: bool,
    /// Why the model's own cannot be used.
    broken: Option<String>,
    /// Whether it says itself what the model says.
    marks_learned: bool,
}

/// `chat_template` of `tokenizer_config.json`.
#[derive(Deserialize)]
#[serde(untagged)]
enum Templates {
    One(String),
    Listed(Vec<NamedTemplate>),
    Named(BTreeMap<String, String>),
}

#[derive(Deserialize)]
struct NamedTemplate {
    name: String,
    template: String,
}

impl ChatTemplate {
    /// The template of `checkpoint`: `chat_template.jinja`, else that of `tokenizer_config.json`, else a plain one
    /// ([`Self::is_plain`]). One that cannot be used is an error only where a conversation is to be rendered.
    pub fn of(checkpoint: &Checkpoint, tokenizer: &Tokenizer) -> Result<Self> {
        let end = tokenizer.eos().first().and_then(|id| tokenizer.special_text(*id));
        let mut special: BTreeMap<String, String> = end.map(|end| ("eos_token".into(), end)).into_iter().collect();
        match Self::own(checkpoint, &mut special) {
            Ok(Some(own)) => Ok(own),
            Ok(None) => Self::plain(special),
            Err(error) => Ok(Self { broken: Some(format!("{error:#}")), is_plain: false, ..Self::plain(special)? }),
        }
    }

    /// The model's own, if it has one. `special` takes what its files say of special tokens.
    fn own(checkpoint: &Checkpoint, special: &mut BTreeMap<String, String>) -> Result<Option<Self>> {
        let config = special_tokens::json(checkpoint.beside_weights(), Role::TokenizerConfig)?;
        special.extend(special_tokens::named(&config, checkpoint.beside_weights())?);
        let templates = Option::<Templates>::deserialize(&config["chat_template"])
            .context("chat_template of tokenizer_config.json is neither a text nor several with names")?;
        let in_files = Self::in_files(checkpoint)?;
        let templates = match templates {
            _ if !in_files.is_empty() => in_files,
            Some(Templates::One(template)) => vec![("default".into(), template)],
            Some(Templates::Listed(all)) => all.into_iter().map(|named| (named.name, named.template)).collect(),
            Some(Templates::Named(all)) => all.into_iter().collect(),
            None => return Ok(None),
        };
        Self::new(&templates, special.clone()).map(Some)
    }

    /// Name and text of the templates that have a file of their own. As in transformers, they take the place of those
    /// in `tokenizer_config.json`.
    fn in_files(checkpoint: &Checkpoint) -> Result<Vec<(String, String)>> {
        let name = |file: &OriginalFile| match file.role {
            Role::ChatTemplate => Some("default".to_owned()),
            Role::NamedTemplate => Some(file.name.trim_end_matches(".jinja").to_owned()),
            _ => None,
        };
        let named = checkpoint.beside_weights().filter_map(|file| Some((name(file)?, file)));
        anyhow::ensure!(named.clone().count() <= TEMPLATES_MAX, "it has more than {TEMPLATES_MAX} chat templates");
        let read = |(name, file): (String, &OriginalFile)| {
            let text = String::from_utf8(file.read()?).with_context(|| format!("{} is not UTF-8", file.name))?;
            Ok((name, text))
        };
        named.map(read).collect()
    }

    /// The plain one, `User: …` and `Assistant: …`, for a model that has none.
    pub fn plain(special: BTreeMap<String, String>) -> Result<Self> {
        Ok(Self { is_plain: true, ..Self::new(&[("default".into(), PLAIN.to_owned())], special)? })
    }

    /// Of (name, template); `default` is for conversations, and `tool_use`, if there is one, for those with tools.
    pub fn new(templates: &[(String, String)], special: BTreeMap<String, String>) -> Result<Self> {
        let mut environment = environment()?;
        let mut marks_learned = false;
        for (name, template) in templates {
            anyhow::ensure!(template.len() <= TEMPLATE_BYTES_MAX, "it has {} bytes, too many", template.len());
            let (template, marks) = rewritten(template);
            marks_learned |= marks;
            environment.add_template_owned(name.clone(), template).map_err(|error| anyhow!("{}", words(&error)))?;
        }
        anyhow::ensure!(
            templates.iter().any(|(name, _)| name == "default"),
            "there are templates {}, and none of them is called default",
            templates.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(", ")
        );
        Ok(Self { environment, special, is_plain: false, broken: None, marks_learned })
    }

    /// Whether the model has no template of its own.
    pub fn is_plain(&self) -> bool {
        self.is_plain
    }

    /// What stands before its text: nothing where the model's own template says how a conversation begins.
    pub fn opening<'a>(&self, tokenizer: &'a Tokenizer) -> &'a [u32] {
        if self.is_plain { tokenizer.opening() } else { &[] }
    }

    /// Whether it says itself which parts are the model's (`{% generation %}`).
    pub(super) fn marks_learned(&self) -> bool {
        self.marks_learned
    }

    /// The text of `messages`, with the beginning of an answer if `asks`. Errors are the template's words.
    pub fn render(&self, messages: &[Value], tools: Option<&Value>, asks: bool) -> Result<String> {
        let mut text = self.render_marked(messages, tools, asks)?;
        text.retain(|character| character != LEARNED_START && character != LEARNED_END);
        Ok(text)
    }

    /// The same with [`LEARNED_START`] and [`LEARNED_END`] around what the template says is the model's.
    pub(super) fn render_marked(&self, messages: &[Value], tools: Option<&Value>, asks: bool) -> Result<String> {
        if let Some(why) = &self.broken {
            anyhow::bail!("the model's chat template cannot be used: {why}");
        }
        let name = match tools {
            Some(_) if self.environment.get_template("tool_use").is_ok() => "tool_use",
            _ => "default",
        };
        let mut context: Vec<(String, Value)> =
            self.special.iter().map(|(name, text)| (name.clone(), Value::from(text.as_str()))).collect();
        context.push(("messages".into(), Value::from(messages.to_vec())));
        context.push(("tools".into(), tools.cloned().unwrap_or(Value::from(()))));
        context.push(("documents".into(), Value::from(())));
        context.push(("add_generation_prompt".into(), Value::from(asks)));
        render(&self.environment, name, Value::from_pairs(context))
            .context("the model's chat template refuses the messages")
    }
}

/// A template of a row's columns (`--template`), which may mark what is learned by `{% generation %}`.
pub struct Formatter(Environment<'static>);

impl Formatter {
    /// Errors are the template's words.
    pub fn new(template: &str) -> Result<Self> {
        let mut environment = environment()?;
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        let (template, _) = rewritten(template);
        environment.add_template_owned("row", template).map_err(|error| anyhow!("{}", words(&error)))?;
        Ok(Self(environment))
    }

    /// Whether it reads a column of this name.
    pub(crate) fn reads(&self, column: &str) -> bool {
        self.0.get_template("row").is_ok_and(|template| template.undeclared_variables(false).contains(column))
    }

    /// The text of a row, with [`LEARNED_START`] and [`LEARNED_END`] in it.
    pub(crate) fn render_marked(&self, row: &Value) -> Result<String> {
        let template = self.0.get_template("row").map_err(|error| anyhow!("{}", words(&error)))?;
        template.render(row.clone()).map_err(|error| match error.kind() {
            ErrorKind::UndefinedError => self.missing(row).unwrap_or_else(|| failed(&error)),
            _ => failed(&error),
        })
    }

    /// Which columns a row lacks, and which it has; None if it has all that are read.
    fn missing(&self, row: &Value) -> Option<anyhow::Error> {
        let read = self.0.get_template("row").ok()?.undeclared_variables(false);
        let has = |name: &str| present(row, name).is_some() || self.0.globals().any(|(global, _)| global == name);
        let missing: BTreeSet<String> = read.into_iter().filter(|name| !has(name)).collect();
        let short = |name: Value| name.to_string().chars().take(NAME_CHARACTERS_MAX).collect::<String>();
        let columns: Vec<String> = row.try_iter().ok()?.map(short).take(NAMES_MAX).collect();
        let missing: Vec<String> = missing.into_iter().collect();
        (!missing.is_empty()).then(|| {
            anyhow!(
                "the row has no column {}; of those that it has, name one: {}",
                missing.join(", "),
                columns.join(", ")
            )
        })
    }
}

/// Does what renders on a thread with [`STACK_BYTES`]. Errors if it fails, or panics, or there is no such thread.
pub(super) fn with_stack<T: Send>(render: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    let panicked = |_| Err(anyhow!("the chat template cannot be rendered: its reader panicked"));
    on_deep_threads(|| catch_unwind(AssertUnwindSafe(render)).unwrap_or_else(panicked))?
}

/// Does what renders often on threads with [`STACK_BYTES`], which stay: to start one for each rendering took longer
/// than to render. Errors if there are none.
pub fn on_deep_threads<T: Send>(work: impl FnOnce() -> T + Send) -> Result<T> {
    static THREADS: LazyLock<Result<ThreadPool, ThreadPoolBuildError>> =
        LazyLock::new(|| ThreadPoolBuilder::new().stack_size(STACK_BYTES).build());
    let threads = THREADS.as_ref().map_err(|error| anyhow!("cannot start threads for the chat template: {error}"))?;
    Ok(threads.install(work))
}

fn render(environment: &Environment<'_>, name: &str, context: Value) -> Result<String> {
    let template = environment.get_template(name).map_err(|error| anyhow!("{}", words(&error)))?;
    template.render(context).map_err(|error| failed(&error))
}

fn failed(error: &Error) -> anyhow::Error {
    match error.kind() {
        ErrorKind::OutOfFuel => anyhow!("the template computes too much; is it sound?"),
        _ => anyhow!("{}", words(error)),
    }
}

/// What went wrong, in one line.
fn words(error: &Error) -> String {
    let detail = error.detail().map_or_else(|| error.kind().to_string(), str::to_owned);
    match (error.kind(), error.line()) {
        (ErrorKind::InvalidOperation, _) if error.detail().is_some() => detail,
        (_, Some(line)) => format!("{detail} (line {line} of the template)"),
        _ => detail,
    }
}

/// Jinja as transformers sets it up.
fn environment() -> Result<Environment<'static>> {
    let mut environment = Environment::new();
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
    environment.set_fuel(Some(FUEL));
    environment.set_syntax(syntax.map_err(|error| anyhow!("{error}"))?);
    environment.set_auto_escape_callback(|_| AutoEscape::None);
    environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    environment
        .set_formatter(|output, state, value| output.write_str(&python::print(state, value)?).map_err(Error::from));
    environment.add_filter("tojson", python::to_json);
    environment.add_filter("string", python::string);
    environment.add_filter("wordcount", python::word_count);
    environment.add_filter("onebyte_learned", |text: String| format!("{LEARNED_START}{text}{LEARNED_END}"));
    environment.add_function("raise_exception", |message: String| -> Result<Value, Error> {
        Err(Error::new(ErrorKind::InvalidOperation, message))
    });
    environment.add_function("namespace", namespace::namespace);
    environment.add_function("strftime_now", |format: String| python::strftime_now(&format));
    // In Jinja2 a string is a sequence, and so is whatever has a length.
    let has_length = |value: &Value| matches!(value.kind(), ValueKind::String | ValueKind::Seq | ValueKind::Map);
    environment.add_test("sequence", move |value: &Value| has_length(value));
    environment
        .add_test("iterable", move |value: &Value| has_length(value) || matches!(value.kind(), ValueKind::Iterable));
    Ok(environment)
}

/// `{% generation %}` … `{% endgeneration %}`, which transformers adds to Jinja, as a filter that marks what is inside,
/// and whether there is any; fields of namespaces set by calls.
fn rewritten(template: &str) -> (String, bool) {
    let (mut out, mut rest, mut found) = (String::with_capacity(template.len()), template, false);
    while let Some(at) = rest.find("{%") {
        let Some(end) = rest[at + 2..].find("%}").map(|end| at + 2 + end) else { break };
        let tag = &rest[at + 2..end];
        let name = tag.trim_matches(['-', '+']).trim();
        out.push_str(&rest[..at + 2]);
        match name {
            "generation" => out.push_str(&tag.replace("generation", " filter onebyte_learned ")),
            "endgeneration" => out.push_str(&tag.replace("endgeneration", " endfilter ")),
            _ => out.push_str(&namespace::assignment(tag).unwrap_or_else(|| tag.to_owned())),
        }
        found |= name == "generation";
        out.push_str("%}");
        rest = &rest[end + 2..];
    }
    out.push_str(rest);
    (out, found)
}
