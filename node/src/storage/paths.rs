//! Files of a state directory, and what to say of them.

use anyhow::{Result, bail};
use std::{fs, path::Path};

use super::durable;
use crate::system::name::program;

/// The base model.
pub const BASE: &str = "base";
/// The same while it is not complete.
pub const PART: &str = "base.part";
/// The same while it is written anew.
pub const NEW: &str = "base.new";
/// The latest ticket of this directory's node.
pub const TICKET: &str = "ticket";

pub fn no_state(path: &Path) -> String {
    format!(
        "{}: not a state directory; name the one that your node wrote to with --state (onebyte-state, where it was started, unless \
         told otherwise), or begin a run there with `{} --state {0}`",
        path.display(),
        program()
    )
}

/// What to say of a directory at `path` that has no run.
pub fn no_run(path: &Path) -> String {
    format!("{}: no run here yet; start one with {} --state {0}", path.display(), program())
}

pub fn unusable(path: &Path) -> String {
    format!(
        "{}: the state directory cannot be used; is the disk full or read-only? --state names another",
        path.display()
    )
}

/// Makes a rename in `directory` durable.
pub fn sync_directory(directory: &Path) -> Result<()> {
    durable::point();
    fs::File::open(directory)?.sync_all()?;
    durable::point();
    Ok(())
}

/// Fails unless the base at `path` is there.
pub fn refuse_missing(path: &Path) -> Result<()> {
    if !path.exists() {
        bail!(
            "{}: is missing; start the node on this state directory once: it takes the base from --model, or from other \
             machines of the run",
            path.display()
        );
    }
    Ok(())
}
