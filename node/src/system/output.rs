//! Standard output, whose reader may have gone and whose disk may be full.

use std::{
    fmt::Arguments,
    io::{self, ErrorKind, Write},
};

/// Why nothing more can be written.
#[derive(Debug, thiserror::Error)]
pub enum OutputError {
    /// Whoever read it has enough: no reason to complain.
    #[error("standard output is closed")]
    Closed,
    #[error("standard output takes no more")]
    Failed(#[source] io::Error),
}

impl From<io::Error> for OutputError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            ErrorKind::BrokenPipe => Self::Closed,
            _ => Self::Failed(error),
        }
    }
}

/// Prints a line as `println!` does; returns an `OutputError` where that would panic.
#[macro_export]
macro_rules! outln {
    ($($text:tt)*) => { $crate::system::output::line(format_args!($($text)*)) };
}

/// See [`outln!`](crate::outln).
pub fn line(text: Arguments<'_>) -> Result<(), OutputError> {
    Ok(writeln!(io::stdout().lock(), "{text}")?)
}

/// Prints `text` at once, whether or not a line ends.
pub fn piece(text: &str) -> Result<(), OutputError> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    Ok(out.flush()?)
}

/// Writes what is still held back.
pub fn flush() -> Result<(), OutputError> {
    Ok(io::stdout().lock().flush()?)
}

/// One line on standard error, if there is one.
pub fn complain(text: Arguments<'_>) {
    // Nobody is left who could be told.
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// Whether `error` only says that nobody reads any more.
pub fn is_closed(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(OutputError::Closed))
}
