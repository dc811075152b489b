//! The name under which people started this program: `node`, or what else they call it (another program owns that
//! name on many machines). What they are told to type has that name.

use clap::Command;
use std::{ffi::OsString, path::Path, sync::OnceLock};

/// Unless something else is known.
const USUAL: &str = "node";

static NAME: OnceLock<String> = OnceLock::new();

/// Settles it, from the first word of the command line.
pub fn settle(typed: Option<OsString>) {
    // A second call changes nothing.
    let _ = NAME.set(typed.and_then(of).unwrap_or_else(|| USUAL.into()));
}

/// What to type for this program.
pub fn program() -> &'static str {
    NAME.get().map_or(USUAL, String::as_str)
}

/// The last part of a path, if it can be typed as it is.
fn of(typed: OsString) -> Option<String> {
    let name = Path::new(&typed).file_name()?.to_str()?;
    let is_plain = |letter: char| letter.is_ascii_alphanumeric() || "._-".contains(letter);
    (!name.is_empty() && name.chars().all(is_plain)).then(|| name.to_owned())
}

/// `command`, with all that it tells people to type under the name `program`.
pub fn renamed(command: Command, program: &'static str) -> Command {
    if program == USUAL {
        return command;
    }
    let mut command = command.name(program).bin_name(program);
    if let Some(examples) = command.get_after_help() {
        // In columns: the lines stay as wide.
        let examples = examples.to_string().replace("\n  node", &format!("\n  {program}"));
        command = command.after_help(examples);
    }
    worded(command, program)
}

/// All that the help of a command and of those below it tells people to type.
fn worded(mut command: Command, program: &'static str) -> Command {
    let in_words = |text: &dyn ToString| text.to_string().replace("`node", &format!("`{program}"));
    if let Some(about) = command.get_about().map(|text| in_words(text)) {
        command = command.about(about);
    }
    if let Some(about) = command.get_long_about().map(|text| in_words(text)) {
        command = command.long_about(about);
    }
    let command = command.mut_args(|argument| {
        let (short, long) =
            (argument.get_help().map(|text| in_words(text)), argument.get_long_help().map(|text| in_words(text)));
        let argument = short.into_iter().fold(argument, clap::Arg::help);
        long.into_iter().fold(argument, clap::Arg::long_help)
    });
    let names: Vec<String> = command.get_subcommands().map(|command| command.get_name().to_owned()).collect();
    names.into_iter().fold(command, |command, name| command.mut_subcommand(name, |command| worded(command, program)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Cli;
    use clap::CommandFactory;

    #[test]
    fn the_name_is_the_last_part_of_what_was_typed_if_it_can_be_typed() {
        let name = |typed: &str| of(typed.into());
        assert_eq!(name("/usr/bin/onebyte").as_deref(), Some("onebyte"));
        assert_eq!(name("./node").as_deref(), Some("node"));
        assert_eq!(name("one-byte_0.1").as_deref(), Some("one-byte_0.1"));
        for strange in ["", "/", "..", "a b", "$(rm)", "nöde"] {
            assert_eq!(name(strange).filter(|name| name != ".."), None, "{strange}");
        }
    }

    /// The help of a command and of all below it.
    fn helps(mut command: Command) -> Vec<String> {
        let mut texts = vec![command.render_long_help().to_string()];
        command.build();
        let below: Vec<Command> = command.get_subcommands().cloned().collect();
        texts.extend(below.into_iter().flat_map(helps));
        texts
    }

    #[test]
    fn help_says_what_to_type_under_the_name_that_was_typed() {
        let usual = helps(renamed(Cli::command(), "node")).concat();
        let other = helps(renamed(Cli::command(), "onebyte")).concat();
        assert!(usual.contains("`node ") && usual.contains("\n  node ") && usual.contains("Usage: node"));
        for wrong in ["`node", "\n  node ", "Usage: node"] {
            assert_eq!(other.split_once(wrong).map(|(_, rest)| rest.lines().next()), None, "{wrong}");
        }
        assert!(other.contains("`onebyte ") && other.contains("\n  onebyte ") && other.contains("Usage: onebyte"));
    }
}
