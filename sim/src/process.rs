//! This process: what it says, what it uses.

use anyhow::{Context, Result};
use std::{
    fmt::Display,
    io::{ErrorKind, Write, stdout},
};

/// Prints a line. That the reader has gone (`| head`) is no error: reports and exit status are worth the rest.
pub fn say(line: impl Display) -> Result<()> {
    match writeln!(stdout().lock(), "{line}") {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(error).context("standard output"),
        _ => Ok(()),
    }
}

/// Peak resident memory, bytes; 0 where the system does not tell.
pub fn peak_memory_bytes() -> u64 {
    let Ok(status) = std::fs::read_to_string("/proc/self/status") else { return 0 };
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.trim().trim_end_matches("kB").trim().parse::<u64>().ok()).map_or(0, |kib| kib * 1024)
}
