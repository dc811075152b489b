//! `sim`: runs a swarm under a virtual clock.

use clap::Parser;
use sim::cli::{Cli, Command};
use std::{io::Write, process::ExitCode};

fn main() -> ExitCode {
    let cli = Cli::parse();
    let outcome = match cli.command.unwrap_or_default() {
        Command::Run(args) => sim::run::run(&args),
        Command::Explore(args) => sim::explore::explore(&args),
        Command::Plan(args) => sim::plan::plan(&args),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            // Nobody may be reading.
            let _ = writeln!(std::io::stderr(), "error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
