//! Files of our own, which have no name and go with the program.

use anyhow::{Context, Result};
use std::{
    fs::File,
    io::{Read, Seek},
    path::Path,
};

/// All of `bytes` in a file. Errors if they cannot be read, or do not fit the disk of `directory`.
pub fn copy(bytes: &mut impl Read, directory: &Path) -> Result<File> {
    let cannot = || format!("cannot put a file that is read twice onto the disk of {}", directory.display());
    let mut file = tempfile::tempfile_in(directory).with_context(cannot)?;
    std::io::copy(bytes, &mut file).with_context(cannot)?;
    file.rewind()?;
    Ok(file)
}
