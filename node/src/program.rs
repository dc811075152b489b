//! The program, under whatever name it was started.

use crate::{
    cli::{Cli, Command},
    commands,
    system::{clock::Wall, display::Display, name, output},
};
use anyhow::Result;
use clap::{CommandFactory, FromArgMatches};
use std::process::ExitCode;
use tracing_subscriber::EnvFilter;

/// Everything, from the command line to the exit code.
pub fn main() -> ExitCode {
    // SAFETY: nothing has run yet that starts a thread.
    unsafe { engine::threads::settle(None) };
    name::settle(std::env::args_os().next());
    let matches = name::renamed(Cli::command(), name::program()).get_matches();
    let cli = Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    let display = Display::new();
    let wanted = std::env::var("ONEBYTE_LOG").unwrap_or_else(|_| "error,libp2p_mdns=off,node=info".into());
    let filter = match EnvFilter::try_new(&wanted) {
        Ok(filter) => filter,
        Err(error) => {
            output::complain(format_args!("error: ONEBYTE_LOG={wanted}: {error}; an example that works is node=debug"));
            return ExitCode::FAILURE;
        }
    };
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(display.is_terminal() && std::env::var_os("NO_COLOR").is_none())
        .with_target(false)
        .with_timer(Wall)
        .with_writer(display.clone())
        .init();
    let outcome = run(cli, display.clone()).and_then(|()| Ok(output::flush()?));
    display.settle();
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        // `node log tail | head` is no failure.
        Err(error) if output::is_closed(&error) => ExitCode::SUCCESS,
        Err(error) => {
            output::complain(format_args!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli, display: Display) -> Result<()> {
    match &cli.command {
        None => commands::train::run(cli.run, display),
        Some(Command::Log(command)) => commands::log::run(command),
        Some(Command::Digest(args)) => commands::inspect::digest(args),
        Some(Command::Eval(args)) => commands::inspect::eval(args),
        Some(Command::Export(args)) => commands::inspect::export(args),
        Some(Command::Generate(args)) => commands::inspect::generate(args, &display),
        Some(Command::Chat(args)) => commands::chat::run(args, &display),
        Some(Command::Serve(args)) => commands::serve::run(args),
        Some(Command::Revoke(args)) => commands::authority::revoke(args),
        Some(Command::Admit(args)) => commands::authority::admit(args),
        Some(Command::Withdraw(args)) => commands::authority::withdraw(args),
        Some(Command::Top(args)) => commands::top::run(args),
        Some(Command::Ticket(args)) => commands::ticket::ticket(args),
        Some(Command::Key(args)) => commands::ticket::key(args),
        Some(Command::Doctor(args)) => commands::doctor::run(args),
        Some(Command::Relay(args)) => commands::relay::run(args),
        Some(Command::Pause(args)) => commands::pause::pause(args),
        Some(Command::Resume(args)) => commands::pause::resume(args),
    }
}
