//! Renders conversations by chat templates, for `scripts/compare_chat_templates.py`: one JSON object a line on standard
//! input (`template`, `special`, `messages`, `tools`, `asks`), `{"text": …}` or `{"error": …}` a line on standard
//! output.

use anyhow::Result;
use engine::chat::{ChatTemplate, Value};
use serde::Deserialize;
use std::{
    collections::BTreeMap,
    io::{self, BufRead, Write},
};

#[derive(Deserialize)]
struct Case {
    template: String,
    special: BTreeMap<String, String>,
    messages: Vec<Value>,
    tools: Option<Value>,
    asks: bool,
}

fn render(line: &str) -> Result<String> {
    let Case { template, special, messages, tools, asks } = serde_json::from_str(line)?;
    ChatTemplate::new(&[("default".into(), template)], special)?.render(&messages, tools.as_ref(), asks)
}

fn main() -> Result<()> {
    let mut out = io::stdout().lock();
    for line in io::stdin().lock().lines() {
        let answer = match render(&line?) {
            Ok(text) => serde_json::json!({ "text": text }),
            Err(error) => serde_json::json!({ "error": format!("{error:#}") }),
        };
        writeln!(out, "{answer}")?;
    }
    Ok(())
}
