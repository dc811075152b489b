//! `ticket`, `key`: what others need to let this machine in, or to come to it.

use anyhow::{Context, Result, bail};
use protocol::signature::{Ed25519Signer, Signer as _};
use std::{
    fs,
    io::{ErrorKind, IsTerminal},
};

use crate::{
    cli::{KeyArgs, TicketArgs},
    join::{scan, ticket::Ticket},
    outln,
    storage::{StateCopy, StateDir, TICKET, opened::Opened},
    system::{hex::hex, name::program, output},
};

/// Prints the latest ticket of a state directory's node.
pub fn ticket(args: &TicketArgs) -> Result<()> {
    // Unless its node runs: that a directory is a copy, whose ticket leads elsewhere, is found by opening it.
    let state = StateDir::open_if_free(&args.state)?;
    let file = args.state.join(TICKET);
    let word = match (fs::read_to_string(&file), state) {
        (Ok(word), _) => word.trim().to_owned(),
        // A node that never listened has no place to name; its run can be found on the local network.
        (Err(error), Some(state)) if error.kind() == ErrorKind::NotFound => {
            let opened = Opened::of(state)?;
            output::complain(format_args!(
                "this node has not run yet, so its ticket names no address: it works on the same local network"
            ));
            Ticket { run: opened.run, secret: opened.state.secret()?, machines: Vec::new() }.encode()
        }
        (Err(error), None) if error.kind() == ErrorKind::NotFound => bail!(
            "{}: its node runs, and has not found yet where others can come to it: ask again in a moment",
            args.state.display()
        ),
        (Err(error), _) => return Err(error).with_context(|| file.display().to_string()),
    };
    let ticket = Ticket::parse(&word).with_context(|| file.display().to_string())?;
    outln!("{word}")?;
    if std::io::stdout().is_terminal() && !args.plain {
        outln!("\n{}\nOn another machine: {} --join <this word>", scan::picture(&word)?, program())?;
        if ticket.secret.is_some() {
            outln!("The run is private: who has this word is in, for good. Pass it on as you would a password.")?;
        }
    }
    Ok(())
}

/// Prints this machine's key. A new directory is made if there is none.
pub fn key(args: &KeyArgs) -> Result<()> {
    let secret_key = match StateDir::create_or_open(&args.state) {
        Ok(state) => state.secret_key(),
        // A node that runs holds the directory.
        Err(error) => StateCopy::of(&args.state).map_err(|_| error)?.secret_key(),
    };
    outln!("{}", hex(&Ed25519Signer::from_seed(&secret_key).key()))?;
    Ok(())
}
