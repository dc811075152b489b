//! `serve`: the model of a state directory, for programs and browsers, until Ctrl-C.

use anyhow::Result;

use crate::{
    cli::ServeArgs,
    commands::inspect::speaker,
    control::interrupt::{Interrupt, Wish},
    serve::Server,
};

/// Answers until somebody wishes to leave.
pub fn run(args: &ServeArgs) -> Result<()> {
    // The address first: loading takes longer.
    let server = Server::bind("--address", args.address, args.token.clone())?;
    let speaker = speaker(&args.weights.state, args.weights.best)?;
    let mut interrupt = Interrupt::install(|| {})?;
    interrupt.take_over();
    server.serve(speaker.into());
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    runtime.block_on(interrupt.wait(Wish::Stay));
    Ok(())
}
