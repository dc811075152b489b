//! Messages as the usual data sets have them, in the one form that templates take: `role`, `content`, `tool_calls`.

use anyhow::{Context, Result, anyhow, bail, ensure};
use minijinja::{Value, value::ValueKind};

/// One message: OpenAI's and TRL's `role` and `content`, ShareGPT's `from` and `value`, or Gemini's `role` and `parts`.
///
/// Roles that mean `system`, `user`, `assistant` or `tool` become these. Content is a string, a list of parts of text,
/// or null beside calls; where it says nothing, OpenAI's `refusal` is what was said. Arguments of tool calls that are
/// JSON in a string become values, as templates expect. Errors name the field and what it may be.
pub fn message(value: &Value) -> Result<Value> {
    ensure!(value.kind() == ValueKind::Map, "a message is {}, not an object with role and content", kind(value));
    let field = |names: &[&str]| names.iter().find_map(|name| present(value, name));
    let role = field(&["role", "from"]).context("a message has no role")?;
    let role = role.as_str().with_context(|| format!("a message's role is {}, not a text", kind(&role)))?.to_owned();
    let says = |text: &Value| text.as_str().is_some_and(|text| !text.trim().is_empty());
    let refusal = present(value, "refusal").filter(says);
    let is_said = |content: &Value| content.is_true() || refusal.is_none();
    let content = field(&["content", "value", "parts", "text"]).filter(is_said).or(refusal);
    let calls = present(value, "tool_calls").map_or(Ok(None), |calls| tool_calls(&calls))?;
    let call = present(value, "function_call").filter(|call| call.as_str().is_none_or(|text| !text.trim().is_empty()));
    let calls = match (calls, call) {
        (Some(calls), _) => Some(calls),
        (None, Some(call)) => Some(Value::from(vec![tool_call(&call)?])),
        (None, None) if role == "function_call" => {
            let text = content.as_ref().and_then(Value::as_str).unwrap_or_default();
            let call = serde_json::from_str(text).context("a function_call's value is not JSON")?;
            Some(Value::from(vec![tool_call(&call)?]))
        }
        (None, None) => None,
    };
    let text = match content {
        _ if role == "function_call" => None,
        Some(content) => Some(text_of(&content)?),
        None => {
            ensure!(calls.is_some(), "a message of role {role} has no content");
            None
        }
    };
    let mut pairs = vec![
        ("role".to_owned(), Value::from(known_role(&role)?)),
        // As in transformers: templates ask whether there is any beside calls.
        ("content".to_owned(), text.map_or(Value::from(()), Value::from)),
    ];
    for name in ["name", "tool_call_id", "reasoning_content", "thinking", "weight"] {
        pairs.extend(present(value, name).map(|value| (name.to_owned(), value)));
    }
    pairs.extend(calls.map(|calls| ("tool_calls".to_owned(), calls)));
    Ok(Value::from_pairs(pairs))
}

/// The messages of a list, of JSON in a string, as tables have them, or of an object with a list for each field. At
/// least one.
pub fn messages(value: &Value) -> Result<Vec<Value>> {
    let list = match is_by_field(value) {
        true => by_field(value)?,
        false => list_of(value).context("the messages are not a list")?,
    };
    ensure!(!list.is_empty(), "the list of messages is empty");
    list.iter().enumerate().map(|(index, one)| message(one).with_context(|| format!("message {index}"))).collect()
}

/// Whether it is messages with a list for each field: `{"role": […], "content": […]}`, as `datasets` keeps a sequence.
pub fn is_by_field(value: &Value) -> bool {
    let is_list = |name: &&str| present(value, name).is_some_and(|list| list.kind() == ValueKind::Seq);
    value.kind() == ValueKind::Map && ["role", "from"].iter().any(is_list)
}

/// Those messages, one after the other.
fn by_field(fields: &Value) -> Result<Vec<Value>> {
    let names = fields.try_iter()?.map(|name| name.to_string());
    let lists: Vec<(String, Value)> =
        names.filter_map(|name| present(fields, &name).map(|list| (name, list))).collect();
    let count = lists.first().and_then(|(_, list)| list.len()).unwrap_or(0);
    ensure!(
        lists.iter().all(|(_, list)| list.kind() == ValueKind::Seq && list.len() == Some(count)),
        "the messages have their fields in lists, which are not all of one length; write a list of objects instead, \
         each with role and content"
    );
    let item = |list: &Value, index: usize| list.get_item_by_index(index).unwrap_or_default();
    let turn = |index| Value::from_pairs(lists.iter().map(|(name, list)| (name.clone(), item(list, index))));
    Ok((0..count).map(turn).collect())
}

/// Tools or, as older data has them, functions: a list, or JSON in a string. None if it is empty.
pub fn tools(value: &Value) -> Result<Option<Value>> {
    let list = list_of(value).context("the tools are not a list")?;
    let tool = |tool: &Value| match present(tool, "function") {
        Some(_) => tool.clone(),
        None => Value::from_pairs([("type", Value::from("function")), ("function", tool.clone())]),
    };
    Ok((!list.is_empty()).then(|| list.iter().map(tool).collect()))
}

/// The field, if it is there and not null.
pub fn present(value: &Value, name: &str) -> Option<Value> {
    value.get_attr(name).ok().filter(|field| !field.is_undefined() && !field.is_none())
}

/// The value that a cell of a table holds as JSON.
pub fn from_json(text: &str) -> Result<Value> {
    serde_json::from_str(text).map_err(|_| {
        let start = text.trim_start();
        let inner = start.trim_start_matches(['[', '{', '(']);
        match inner.len() < start.len() && inner.trim_start().starts_with('\'') {
            true => anyhow!(
                "it is written as Python shows it, and that is no JSON: write the rows as JSON Lines (pandas and datasets: \
                 to_json(\"rows.jsonl\", orient=\"records\", lines=True))"
            ),
            false => anyhow!("it is a text that is not JSON"),
        }
    })
}

/// A list, which may be JSON in a string; a string with nothing in it, or null, is a list of none.
fn list_of(value: &Value) -> Result<Vec<Value>> {
    match value.kind() {
        ValueKind::Seq => Ok(value.try_iter()?.collect()),
        ValueKind::String if matches!(value.as_str().unwrap_or_default().trim(), "" | "null") => Ok(Vec::new()),
        ValueKind::String => {
            let parsed = from_json(value.as_str().unwrap_or_default())?;
            ensure!(parsed.kind() == ValueKind::Seq, "it is {}", kind(&parsed));
            Ok(parsed.try_iter()?.collect())
        }
        _ => bail!("it is {}", kind(value)),
    }
}

fn known_role(role: &str) -> Result<&'static str> {
    Ok(match role.to_ascii_lowercase().as_str() {
        "system" | "developer" => "system",
        "user" | "human" | "prompter" => "user",
        "assistant" | "gpt" | "model" | "bot" | "ai" | "chatgpt" | "bing" | "bard" | "function_call" => "assistant",
        "tool" | "function" | "observation" | "ipython" | "function_response" => "tool",
        _ => bail!("a message's role is {role:?}; it must be system, user, assistant or tool"),
    })
}

/// The text of a message's content.
fn text_of(content: &Value) -> Result<String> {
    match content.kind() {
        ValueKind::String => Ok(content.as_str().unwrap_or_default().to_owned()),
        ValueKind::Seq => content.try_iter()?.map(|part| part_text(&part)).collect(),
        // A part that is alone.
        ValueKind::Map if is_part(content) => part_text(content),
        // What a tool returned, often.
        ValueKind::Map => Ok(serde_json::to_string(content)?),
        _ => bail!("a message's content is {}, not a text", kind(content)),
    }
}

/// Whether an object is a part of text, and no object that is content itself.
fn is_part(value: &Value) -> bool {
    match present(value, "type") {
        Some(name) => name.as_str().is_some_and(is_of_text),
        None => value.len() == Some(1) && present(value, "text").is_some_and(|text| text.as_str().is_some()),
    }
}

/// Whether a part of this type holds a text.
fn is_of_text(name: &str) -> bool {
    matches!(name, "text" | "refusal") || name.ends_with("_text")
}

fn part_text(part: &Value) -> Result<String> {
    if let Some(text) = part.as_str() {
        return Ok(text.to_owned());
    }
    ensure!(part.kind() == ValueKind::Map, "a message has a part that is {}, not an object with text", kind(part));
    let of_type = present(part, "type").map(|name| name.to_string());
    if let Some(name) = of_type.as_deref().filter(|name| !is_of_text(name)) {
        bail!("a message has a part of type {name:?}; only text can be read");
    }
    let field = if of_type.as_deref() == Some("refusal") { "refusal" } else { "text" };
    let Some(text) = present(part, field) else {
        ensure!(of_type.is_some(), "a message has a part without text; only text can be read");
        bail!("a message has a part of type {field}, and no text in it; write it as {field:?}, or leave the part out");
    };
    text.as_str()
        .map(str::to_owned)
        .with_context(|| format!("the text of a message's part is {}, not a text", kind(&text)))
}

/// None if there are none.
fn tool_calls(calls: &Value) -> Result<Option<Value>> {
    let list = list_of(calls).context("tool_calls is not a list")?;
    let calls = list.iter().map(tool_call).collect::<Result<Vec<_>>>()?;
    Ok((!calls.is_empty()).then(|| Value::from(calls)))
}

/// A call with its `function`, whose arguments are a value.
fn tool_call(call: &Value) -> Result<Value> {
    let function = present(call, "function").unwrap_or_else(|| call.clone());
    let name = present(&function, "name").context("a tool call has no name")?;
    let arguments = match present(&function, "arguments") {
        Some(arguments) if arguments.kind() == ValueKind::String => {
            let text = arguments.as_str().unwrap_or_default();
            serde_json::from_str(text).unwrap_or(arguments)
        }
        Some(arguments) => arguments,
        None => Value::from_pairs(Vec::<(String, Value)>::new()),
    };
    let function = Value::from_pairs([("name", name), ("arguments", arguments)]);
    let mut pairs: Vec<(&str, Value)> = present(call, "id").map(|id| ("id", id)).into_iter().collect();
    pairs.extend([("type", Value::from("function")), ("function", function)]);
    Ok(Value::from_pairs(pairs))
}

/// What kind of thing a value is, with it if it is short.
pub fn kind(value: &Value) -> String {
    match value.kind() {
        ValueKind::None => "null".into(),
        ValueKind::Undefined => "not there".into(),
        ValueKind::Bool => value.is_true().to_string(),
        ValueKind::Number => value.to_string(),
        ValueKind::String => {
            let text = value.as_str().unwrap_or_default();
            let short: String = text.chars().take(40).collect();
            if short.len() < text.len() { format!("{short:?}…") } else { format!("{short:?}") }
        }
        ValueKind::Seq => "a list".into(),
        ValueKind::Map => "an object".into(),
        _ => "something else".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(json: &str) -> String {
        match message(&serde_json::from_str(json).unwrap()) {
            Ok(message) => serde_json::to_string(&message).unwrap(),
            Err(error) => format!("{error:#}"),
        }
    }

    #[test]
    fn messages_of_all_kinds_become_one() {
        let user = r#"{"role":"user","content":"hi"}"#;
        for same in [
            r#"{"role": "user", "content": "hi", "id": 7}"#,
            r#"{"from": "human", "value": "hi"}"#,
            r#"{"role": "prompter", "text": "hi"}"#,
            r#"{"role": "user", "parts": [{"text": "h"}, {"text": "i"}]}"#,
            r#"{"role": "User", "content": [{"type": "text", "text": "hi"}]}"#,
            r#"{"role": "user", "content": ["h", {"type": "input_text", "text": "i"}]}"#,
            r#"{"role": "user", "content": {"type": "text", "text": "hi"}}"#,
            r#"{"role": "user", "content": {"text": "hi"}}"#,
        ] {
            assert_eq!(shown(same), user, "{same}");
        }
        let call = concat!(
            r#"{"role":"assistant","content":null,"tool_calls":[{"type":"function","#,
            r#""function":{"name":"f","arguments":{"b":1,"a":2}}}]}"#
        );
        for same in [
            r#"{"role": "assistant", "content": null, "tool_calls": [{"type": "function", "function": {"name": "f", "arguments": "{\"b\": 1, \"a\": 2}"}}]}"#,
            r#"{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": {"b": 1, "a": 2}}}]}"#,
            r#"{"role": "assistant", "content": null, "function_call": {"name": "f", "arguments": "{\"b\": 1, \"a\": 2}"}}"#,
            r#"{"from": "function_call", "value": "{\"name\": \"f\", \"arguments\": {\"b\": 1, \"a\": 2}}"}"#,
        ] {
            assert_eq!(shown(same), call, "{same}");
        }
        assert_eq!(shown(r#"{"from": "observation", "value": "4"}"#), r#"{"role":"tool","content":"4"}"#);
        assert_eq!(shown(r#"{"from": "AI", "value": "4"}"#), r#"{"role":"assistant","content":"4"}"#);
        let result = r#"{"role":"tool","content":"{\"text\":\"four\",\"sum\":4}"}"#;
        assert_eq!(shown(r#"{"role": "tool", "content": {"text": "four", "sum": 4}}"#), result);
        for refused in [
            r#"{"role": "assistant", "content": null, "refusal": "no"}"#,
            r#"{"role": "assistant", "content": "", "refusal": "no"}"#,
            r#"{"role": "assistant", "content": [], "refusal": "no"}"#,
            r#"{"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]}"#,
            r#"{"role": "assistant", "content": "no", "refusal": null}"#,
            r#"{"role": "assistant", "content": "no", "refusal": "what was not said"}"#,
        ] {
            assert_eq!(shown(refused), r#"{"role":"assistant","content":"no"}"#, "{refused}");
        }
    }

    #[test]
    fn what_is_no_message_is_named() {
        for (json, part) in [
            (r#""hi""#, "a message is \"hi\", not an object"),
            (r#"{"content": "hi"}"#, "no role"),
            (r#"{"role": 3, "content": "hi"}"#, "role is 3"),
            (r#"{"role": "narrator", "content": "hi"}"#, "\"narrator\"; it must be system"),
            (r#"{"role": "user"}"#, "of role user has no content"),
            (r#"{"role": "user", "content": 5}"#, "content is 5"),
            (r#"{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}"#, "\"image_url\"; only text"),
            (r#"{"role": "user", "content": [{"type": "text", "text": null}]}"#, "of type text, and no text in it"),
            (r#"{"role": "user", "content": [{"type": "input_text", "content": "a"}]}"#, "of type text, and no text"),
            (r#"{"role": "user", "content": [{"type": "text", "text": {"value": "a"}}]}"#, "is an object, not a text"),
            (r#"{"role": "user", "content": [{"type": "text", "text": 5}]}"#, "part is 5, not a text"),
            (r#"{"role": "user", "content": ["a", null]}"#, "a part that is null, not an object"),
            (r#"{"role": "user", "parts": [{"text": null, "inlineData": {}}]}"#, "a part without text; only text"),
            (r#"{"role": "assistant", "tool_calls": [{}]}"#, "has no name"),
        ] {
            assert!(shown(json).contains(part), "{json}: {}", shown(json));
        }
    }
}
