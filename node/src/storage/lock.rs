//! One node per state directory.

use anyhow::{Context, Result, bail};
use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{Seek, SeekFrom, Write},
    path::Path,
};

use super::paths::unusable;

pub(super) const FILE: &str = "lock";

/// Held as long as it lives; the system releases it when the process ends, however it ends.
pub struct Lock {
    _file: File,
}

impl Lock {
    /// Takes the lock, or says who has it.
    pub fn take(directory: &Path) -> Result<Self> {
        let Some(lock) = Self::take_if_free(directory)? else {
            let holder = fs::read_to_string(directory.join(FILE)).unwrap_or_default();
            bail!(
                "{}: in use by process {}; stop that node first, or name another directory with --state. One talks with the model of \
                 a node that runs if that was started with --serve <address>; chat, generate, eval and export take --best of any",
                directory.display(),
                holder.trim()
            );
        };
        Ok(lock)
    }

    /// Takes the lock, if nobody has it.
    pub fn take_if_free(directory: &Path) -> Result<Option<Self>> {
        let path = directory.join(FILE);
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .with_context(|| unusable(directory))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(error)) => {
                return Err(error).with_context(|| format!("locking {}", path.display()));
            }
        }
        // For people only, so a full disk does not matter.
        let _ = file.set_len(0);
        let _ = file.seek(SeekFrom::Start(0));
        let _ = writeln!(file, "{}", std::process::id());
        Ok(Some(Self { _file: file }))
    }
}
