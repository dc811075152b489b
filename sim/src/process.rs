//! This process: what it says, what it uses, and when it is told to stop.

use anyhow::{Context, Result};
use std::{
    fmt::Display,
    io::{ErrorKind, Write, stderr, stdout},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

/// Exit status after Ctrl-C, as shells have it.
pub const INTERRUPTED: u8 = 130;

/// Prints a line. That the reader has gone (`| head`) is no error: reports and exit status are worth the rest.
pub fn say(line: impl Display) -> Result<()> {
    say_while_read(line).map(|_| ())
}

/// Prints a line. False if nobody reads any more.
pub fn say_while_read(line: impl Display) -> Result<bool> {
    match writeln!(stdout().lock(), "{line}") {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(error).context("standard output"),
    }
}

/// Prints a line on standard error, where perhaps nobody reads.
pub fn warn(line: impl Display) {
    let _ = writeln!(stderr(), "{line}");
}

/// Peak resident memory, bytes; 0 where the system does not tell.
pub fn peak_memory_bytes() -> u64 {
    let Ok(status) = std::fs::read_to_string("/proc/self/status") else { return 0 };
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.trim().trim_end_matches("kB").trim().parse::<u64>().ok()).map_or(0, |kib| kib * 1024)
}

/// Whether Ctrl-C was pressed.
#[derive(Clone, Default)]
pub struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// Starts to listen, on a thread of its own. A second Ctrl-C ends the process at once.
    pub fn install() -> Result<Self> {
        let interrupt = Self::default();
        let pressed = interrupt.0.clone();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("signals")?;
        std::thread::Builder::new().name("signals".into()).spawn(move || {
            let wait = || runtime.block_on(tokio::signal::ctrl_c());
            // Without a handler Ctrl-C ends the process, as it does anyway.
            if wait().is_ok() {
                pressed.store(true, Ordering::SeqCst);
                warn("stopping; Ctrl-C again stops at once");
                let _ = wait();
                std::process::exit(i32::from(INTERRUPTED));
            }
        })?;
        Ok(interrupt)
    }

    pub fn is_pressed(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}
