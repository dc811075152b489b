//! `log`: ways to look at the gossip log.

use anyhow::Result;

use crate::cli::LogCommand;

mod entry;
mod exchange;
mod plot;
mod replay;
mod show;
mod stat;
mod tail;
mod verify;

pub fn run(command: &LogCommand) -> Result<()> {
    match command {
        LogCommand::Show(args) => show::run(args),
        LogCommand::Tail(args) => tail::run(args),
        LogCommand::Stat(args) => stat::run(args),
        LogCommand::Entry(args) => entry::run(args),
        LogCommand::Verify(args) => verify::run(args),
        LogCommand::Replay(args) => replay::run(args),
        LogCommand::Plot(args) => plot::run(args),
        LogCommand::Export(args) => exchange::export(args),
        LogCommand::Import(args) => exchange::import(args),
        LogCommand::Diff(args) => exchange::diff(args),
    }
}
