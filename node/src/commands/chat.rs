//! `chat`: the model of a state directory, in the terminal.

use anyhow::{Context, Result};
use engine::{
    chat::Value,
    model::{Finish, Sampling},
};
use std::io::{self, BufRead, IsTerminal};

use crate::{
    cli::ChatArgs,
    commands::inspect::speaker,
    outln, say,
    serve::Speaker,
    system::{display::Display, name::program, output},
};

/// A turn a line, until the input ends. What is said on a terminal goes there; what is piped in is answered, and
/// nothing else is printed.
pub fn run(args: &ChatArgs, display: &Display) -> Result<()> {
    let speaker = speaker(&args.weights.state, args.weights.best)?;
    if !speaker.has_template() {
        tracing::info!(
            "the model has no chat template, so turns are written User: … and Assistant: …, as for rows of questions and answers. One \
             that learned plain text goes on with a text: {} generate --prompt '…'",
            program()
        );
    }
    let usual = Sampling { stop: speaker.turn_stops(), ..speaker.sampling() };
    let is_terminal = io::stdin().is_terminal() && io::stdout().is_terminal();
    if is_terminal {
        outln!("{}. A line is a turn; /new begins anew, /bye or Ctrl-D ends.", speaker.name)?;
    }
    let turn = |role: &str, text: &str| Value::from_pairs([("role", role), ("content", text)]);
    let first: Vec<Value> = args.system.iter().map(|text| turn("system", text)).collect();
    let (mut turns, mut seed) = (first.clone(), args.seed);
    let mut lines = io::stdin().lock().lines();
    loop {
        if is_terminal {
            // What was said before is above the prompt.
            display.settle();
            output::piece("> ")?;
        }
        let Some(line) = lines.next().transpose().context("standard input cannot be read as UTF-8")? else { break };
        match line.trim() {
            "" => continue,
            "/bye" => break,
            "/new" => {
                turns.clone_from(&first);
                continue;
            }
            text => turns.push(turn("user", text)),
        }
        let temperature = args.temperature.unwrap_or(usual.temperature);
        let sampling = Sampling { temperature, seed, tokens_max: args.tokens, ..usual.clone() };
        seed += 1;
        let answer = answer(&speaker, &mut turns, first.len(), &sampling, display)?;
        turns.push(turn("assistant", answer.trim()));
    }
    if is_terminal { Ok(outln!("")?) } else { Ok(()) }
}

/// Prints an answer as it comes. The oldest turns are forgotten if the model's window has no room for them; of the
/// first `kept` none is.
fn answer(
    speaker: &Speaker,
    turns: &mut Vec<Value>,
    kept: usize,
    sampling: &Sampling,
    display: &Display,
) -> Result<String> {
    let window = speaker.window()?;
    // Half of the window is for the answer, if it wants that much.
    let room = window.saturating_sub(sampling.tokens_max.min(window / 2));
    let mut forgotten = 0;
    let prompt = loop {
        let prompt = speaker.conversation(turns, None).context("the model's chat template refuses the conversation")?;
        if prompt.len() <= room || turns.len() <= kept + 2 {
            break prompt;
        }
        // A question and its answer.
        turns.drain(kept..kept + 2);
        forgotten += 2;
    };
    if forgotten > 0 {
        tracing::warn!("the oldest {forgotten} turns are forgotten: the model's window has {window} tokens");
    }
    say::prompt_outgrows(prompt.len(), window);
    display.settle();
    let mut answer = String::new();
    let spoken = speaker.speak(&prompt, sampling, |text| {
        // Templates end where some models put a space first.
        let text = if answer.is_empty() { text.trim_start() } else { text };
        answer.push_str(text);
        Ok(output::piece(text)?)
    })?;
    outln!("")?;
    if spoken.generated.finish == Finish::Length {
        tracing::warn!("the answer ends at {} tokens; --tokens allows more", spoken.generated.tokens);
    }
    Ok(answer)
}
