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

const HELP: &str = "A line is a turn; /new begins anew, /help says this, /bye or Ctrl-D ends.";

/// Whether a line looks like a command of this program: one word behind a slash, which no path is.
fn is_command(line: &str) -> bool {
    line.strip_prefix('/').is_some_and(|word| !word.is_empty() && word.chars().all(char::is_alphabetic))
}

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
        outln!("{}. {HELP}", speaker.name)?;
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
            "/help" => {
                outln!("{HELP}")?;
                continue;
            }
            text if is_command(text) => {
                tracing::warn!("{text}: no such command, so the model was not asked. {HELP}");
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_word_behind_a_slash_is_a_command_and_a_path_or_a_sentence_is_none() {
        for line in ["/help", "/exit", "/Hilfe"] {
            assert!(is_command(line), "{line}");
        }
        for line in ["/", "/etc/hosts", "/new day", "help", "// a comment", "/2"] {
            assert!(!is_command(line), "{line}");
        }
    }
}
