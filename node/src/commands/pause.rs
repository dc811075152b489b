//! `pause`, `resume`: whether the node of a state directory measures anything of its own.

use anyhow::Result;

use crate::{cli::PauseArgs, control::pause, outln, storage, system::name::program};

/// Asks it to rest.
pub fn pause(args: &PauseArgs) -> Result<()> {
    storage::ensure_state(&args.state)?;
    let (state, program) = (args.state.display(), program());
    match pause::ask(&args.state)? {
        true => outln!(
            "{state}: its node rests within a second, and after a restart, too, until `{program} resume --state {state}`; it goes on \
             replaying and answering"
        )?,
        false => outln!("{state}: its node was paused before; `{program} resume --state {state}` ends that")?,
    }
    Ok(())
}

/// Lets it go on.
pub fn resume(args: &PauseArgs) -> Result<()> {
    storage::ensure_state(&args.state)?;
    let state = args.state.display();
    match pause::take_back(&args.state)? {
        true => outln!("{state}: its node goes on within a second, unless --pause-on-battery keeps it")?,
        false => outln!("{state}: nobody had paused its node")?,
    }
    Ok(())
}
