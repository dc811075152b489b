//! Every command that prints, with nobody there to read it.

use crate::support::Workshop;
use std::{
    fs::OpenOptions,
    io,
    process::{Command, Output, Stdio},
};

#[test]
fn closed_pipes_and_full_devices_end_every_command_without_a_panic() {
    let workshop = Workshop::new();
    let state = workshop.first("node", &["--samples", "20", "--exit-when-idle", "0"]).finish();
    let state = state.to_str().unwrap();
    // The model's window has 64 tokens, of a byte each.
    for (prompt, is_cut) in [("the ".repeat(400), true), ("the".to_owned(), false)] {
        let mut node = Command::new(env!("CARGO_BIN_EXE_node"));
        let output = node.args(["generate", "--tokens", "1", "--prompt", &prompt, "--state", state]).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && said.contains("the model's window 64") == is_cut, "{said}");
    }
    let commands: &[&[&str]] = &[
        &["--help"],
        &["--version"],
        &["digest"],
        &["eval", "--data", "Cargo.toml"],
        &["generate", "--prompt", "a", "--tokens", "4"],
        &["key"],
        &["ticket"],
        &["top", "--once"],
        &["doctor"],
        &["log", "show"],
        &["log", "show", "--json"],
        &["log", "tail"],
        &["log", "stat"],
        &["log", "verify"],
        &["log", "replay", "--until", "0.5"],
        &["log", "diff", state, state],
    ];
    for command in commands {
        let of_state = match command[0] {
            "--help" | "--version" => vec![],
            _ if command.contains(&"diff") => vec![],
            _ => vec!["--state", state],
        };
        let run = |stdout: Stdio| -> Output {
            let mut node = Command::new(env!("CARGO_BIN_EXE_node"));
            node.args(*command).args(&of_state).stdin(Stdio::null()).stdout(stdout).output().unwrap()
        };
        let said = |output: &Output| String::from_utf8_lossy(&output.stderr).into_owned();
        let (reader, writer) = io::pipe().unwrap();
        drop(reader);
        let output = run(writer.into());
        let is_quiet = !["error", "panicked"].iter().any(|word| said(&output).contains(word));
        assert!(output.status.success() && is_quiet, "node {command:?} | true: {}", said(&output));
        // Only where there is such a device.
        if let Ok(full) = OpenOptions::new().write(true).open("/dev/full") {
            let said = said(&run(full.into()));
            let complaints = said.lines().filter(|line| line.contains("error")).count();
            assert!(!said.contains("panicked") && complaints <= 1, "node {command:?} > /dev/full: {said}");
        }
    }
}

#[test]
fn people_are_told_to_type_the_name_that_they_typed() {
    let directory = tempfile::tempdir().unwrap();
    let said = |program: &str, arguments: &[&str]| {
        let output = Command::new(program).args(arguments).current_dir(directory.path()).output().unwrap();
        String::from_utf8([output.stdout, output.stderr].concat()).unwrap()
    };
    let programs =
        [(env!("CARGO_BIN_EXE_node"), "node", "onebyte "), (env!("CARGO_BIN_EXE_onebyte"), "onebyte", "node ")];
    for (program, name, wrong) in programs {
        let refused = said(program, &["digest"]);
        assert!(refused.contains(&format!("`{name} --state onebyte-state`")), "{refused}");
        let help = said(program, &["--help"]);
        assert!(help.contains(&format!("Usage: {name} [OPTIONS]")), "{help}");
        assert!(!help.contains(&format!("  {wrong}")) && !help.contains(&format!("`{wrong}")), "{help}");
        assert!(said(program, &["log", "entry"]).contains(&format!("{name} log entry")));
        assert!(said(program, &["--version"]).starts_with(&format!("{name} ")));
    }
}

/// Spinners that nobody turned were never drawn, and log lines were written into bars.
#[test]
fn long_work_is_seen_on_a_terminal_below_the_log() {
    let workshop = Workshop::new();
    // No search for a rate: what changes often uses up what is drawn in a second.
    let command = format!(
        "{} --state {} --model {} --data {} --batch-size 2 --sequence-length 32 --samples 16 --exit-when-idle 0 --no-mdns \
         --listen /ip4/127.0.0.1/tcp/0 --learning-rate 1e-3 --replay-budget 1000",
        env!("CARGO_BIN_EXE_node"),
        workshop.state("state").display(),
        workshop.model().display(),
        workshop.state("text.txt").display(),
    );
    let script = Command::new("script").args(["-qec", &command, "/dev/null"]).stdin(Stdio::null()).output();
    let Ok(output) = script else { return eprintln!("skipped: there is no `script` to make a terminal with") };
    let seen = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{seen}");
    for work in ["reading and hashing the base model", "reading the base model and the ledgers"] {
        assert!(seen.contains(work), "{work}: {seen}");
    }
    // What is below a line of the log is taken off the terminal before it: the line begins at its left edge.
    for line in seen.split("\r\n").filter(|line| line.contains(" INFO ")) {
        let drawn = line.rsplit(['\r', '\u{1b}']).next().unwrap_or_default();
        assert!(!drawn.contains("base model, "), "a bar is in front of a line: {line:?}");
    }
}
