//! Files of our own, which have no name and go with the program.

use anyhow::{Context, Result};
use std::{
    fs::File,
    io::{ErrorKind, Read, Seek, Write},
    path::Path,
};

/// Bytes that are copied at a time.
const COPY_BYTES: usize = 256 * 1024;

/// All of `bytes` in a file. Errors if they cannot be read, or do not fit the disk of `directory`.
pub fn copy(bytes: &mut impl Read, directory: &Path) -> Result<File> {
    let cannot = || format!("cannot put a file that is read twice onto the disk of {}", directory.display());
    let mut file = tempfile::tempfile_in(directory).with_context(cannot)?;
    let mut buffer = vec![0; COPY_BYTES];
    loop {
        // What cannot be read is no matter of the disk that it goes to.
        match bytes.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => file.write_all(&buffer[..count]).with_context(cannot)?,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
    }
    file.rewind()?;
    Ok(file)
}
