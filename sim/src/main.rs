//! `sim`: runs a swarm under a virtual clock.

use clap::Parser;
use sim::{
    cli::{Cli, Command},
    process::{INTERRUPTED, Interrupt, warn},
};
use std::process::ExitCode;

fn main() -> ExitCode {
    // SAFETY: nothing has run yet that starts a thread.
    unsafe { engine::threads::settle(None) };
    let cli = Cli::parse();
    let interrupt = match Interrupt::install() {
        Ok(interrupt) => interrupt,
        Err(error) => return failed(&error),
    };
    let outcome = match cli.command.unwrap_or_default() {
        Command::Run(args) => sim::run::run(&args, &interrupt),
        Command::Explore(args) => sim::explore::explore(&args, &interrupt),
        Command::Plan(args) => sim::plan::plan(&args, &interrupt),
        Command::Replay(args) => sim::replay::replay(&args, &interrupt),
    };
    match outcome {
        Err(error) => failed(&error),
        Ok(_) if interrupt.is_pressed() => {
            warn("stopped before the end");
            ExitCode::from(INTERRUPTED)
        }
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
    }
}

fn failed(error: &anyhow::Error) -> ExitCode {
    warn(format_args!("error: {error:#}"));
    ExitCode::FAILURE
}
