//! Numbers that nobody can guess.

use anyhow::{Context, Result};

/// Random bytes from the system.
pub fn random<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).context("no random numbers from the system")?;
    Ok(bytes)
}
