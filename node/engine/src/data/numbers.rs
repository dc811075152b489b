//! Whole numbers of one width, one after the other: in memory while they are few, then in a file.

use anyhow::{Context, Result, ensure};
use std::{
    fs::File,
    io::{Read, Seek, SeekFrom, Write},
    ops::Range,
    path::{Path, PathBuf},
    sync::Mutex,
};

/// Bytes that stay in memory.
const IN_MEMORY_BYTES: usize = 32 << 20;
/// Once there is a file, bytes that go into it at a time.
const BLOCK_BYTES: usize = 1 << 20;
/// Numbers that are read at a time.
const AT_ONCE: usize = 1 << 16;

/// See the module's documentation. A number is little-endian.
pub struct Numbers {
    /// Bytes of a number, at most 16.
    width: usize,
    len: usize,
    /// All that is not in `pending`. It has no name, and goes with the program.
    file: Option<Mutex<File>>,
    pending: Vec<u8>,
    /// Where the file is made.
    scratch: PathBuf,
}

impl Numbers {
    /// Of `width` bytes each, with a file in `scratch` if need be.
    pub fn new(width: usize, scratch: &Path) -> Self {
        Self { width, len: 0, file: None, pending: Vec::new(), scratch: scratch.to_owned() }
    }

    pub fn len(&self) -> usize {
        self.len
    }

    /// Appends numbers, which fit the width. Errors if they do not fit the disk.
    pub fn extend(&mut self, numbers: impl Iterator<Item = u128>) -> Result<()> {
        for number in numbers {
            self.pending.extend_from_slice(&number.to_le_bytes()[..self.width]);
            self.len += 1;
        }
        let most = if self.file.is_some() { BLOCK_BYTES } else { IN_MEMORY_BYTES };
        if self.pending.len() > most { self.flush() } else { Ok(()) }
    }

    /// Takes away all but the first `len`.
    pub fn truncate(&mut self, len: usize) -> Result<()> {
        ensure!(len <= self.len, "{len} of {} numbers", self.len);
        let in_file = self.in_file();
        self.pending.truncate(len.saturating_sub(in_file) * self.width);
        if let Some(file) = self.file.as_mut().filter(|_| len < in_file) {
            file.get_mut().unwrap_or_else(|broken| broken.into_inner()).set_len((len * self.width) as u64)?;
        }
        self.len = len;
        Ok(())
    }

    /// Those with an index in `range`. Errors if there are not so many, or the disk does not give them back.
    pub fn read(&self, range: Range<usize>) -> Result<Vec<u128>> {
        ensure!(range.start <= range.end && range.end <= self.len, "numbers {range:?} of {}", self.len);
        let in_file = self.in_file();
        let (first, last) = (range.start.min(in_file), range.end.min(in_file));
        let mut bytes = vec![0; (last - first) * self.width];
        if let Some(file) = self.file.as_ref().filter(|_| first < last) {
            let mut file = file.lock().unwrap_or_else(|broken| broken.into_inner());
            let read =
                file.seek(SeekFrom::Start((first * self.width) as u64)).and_then(|_| file.read_exact(&mut bytes));
            read.with_context(|| {
                format!("cannot read again what was put onto the disk of {}", self.scratch.display())
            })?;
        }
        let pending = range.start.max(in_file) - in_file..range.end.max(in_file) - in_file;
        bytes.extend_from_slice(&self.pending[pending.start * self.width..pending.end * self.width]);
        let number = |bytes: &[u8]| {
            let mut wide = [0; 16];
            wide[..bytes.len()].copy_from_slice(bytes);
            u128::from_le_bytes(wide)
        };
        Ok(bytes.chunks_exact(self.width).map(number).collect())
    }

    /// Appends those of `all` with an index in `range`.
    pub fn extend_from(&mut self, all: &Self, range: Range<usize>) -> Result<()> {
        let parts = range.clone().step_by(AT_ONCE).map(|first| first..range.end.min(first + AT_ONCE));
        parts.into_iter().try_for_each(|part| self.extend(all.read(part)?.into_iter()))
    }

    /// All of `range`, a part at a time.
    pub fn for_each(&self, range: Range<usize>, mut visit: impl FnMut(u128)) -> Result<()> {
        for first in range.clone().step_by(AT_ONCE) {
            self.read(first..range.end.min(first + AT_ONCE))?.into_iter().for_each(&mut visit);
        }
        Ok(())
    }

    /// Numbers that are in the file.
    fn in_file(&self) -> usize {
        self.len - self.pending.len() / self.width
    }

    fn flush(&mut self) -> Result<()> {
        let cannot = || {
            let (bytes, place) = (self.len * self.width, self.scratch.display());
            format!(
                "cannot put {bytes} bytes of tokens onto the disk of {place}: free some space, or give --state on another"
            )
        };
        if self.file.is_none() {
            self.file = Some(Mutex::new(tempfile::tempfile_in(&self.scratch).with_context(cannot)?));
        }
        if let Some(file) = &self.file {
            let mut file = file.lock().unwrap_or_else(|broken| broken.into_inner());
            file.seek(SeekFrom::End(0)).and_then(|_| file.write_all(&self.pending)).with_context(cannot)?;
        }
        self.pending = Vec::with_capacity(BLOCK_BYTES + BLOCK_BYTES / 4);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is read is what was put there, in memory, in the file, and across.
    #[test]
    fn numbers_come_back_from_memory_and_from_the_disk() {
        let directory = tempfile::tempdir().unwrap();
        let count = IN_MEMORY_BYTES / 3 + 1_000_000;
        let number = |index: usize| (index as u128).wrapping_mul(0x9E37_79B9) & 0xff_ffff;
        let mut numbers = Numbers::new(3, directory.path());
        for first in (0..count).step_by(1000) {
            numbers.extend((first..count.min(first + 1000)).map(number)).unwrap();
        }
        assert!(numbers.file.is_some() && !numbers.pending.is_empty() && numbers.len() == count);
        let border = numbers.in_file();
        for range in [0..3, 7..7, border - 5..border + 5, border..border + 1, count - 3..count] {
            assert_eq!(numbers.read(range.clone()).unwrap(), range.map(number).collect::<Vec<_>>());
        }
        let mut next = 0;
        numbers
            .for_each(0..count, |found| {
                assert_eq!(found, number(next));
                next += 1;
            })
            .unwrap();
        assert_eq!(next, count);
        for len in [border + 10, border - 10] {
            numbers.truncate(len).unwrap();
            numbers.extend([1, 2].into_iter()).unwrap();
            assert_eq!(numbers.read(len - 1..len + 2).unwrap(), [number(len - 1), 1, 2]);
            assert!(numbers.read(len..len + 3).is_err());
        }
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0, "the file has no name");
    }

    #[test]
    fn a_disk_that_takes_nothing_is_an_error_that_names_it() {
        let nowhere = Path::new("/nowhere/at/all");
        let mut numbers = Numbers::new(16, nowhere);
        numbers.extend(0..2).unwrap();
        let error = numbers.extend(0..(IN_MEMORY_BYTES / 16) as u128).unwrap_err();
        assert!(format!("{error:#}").contains("/nowhere/at/all"), "{error:#}");
    }
}
