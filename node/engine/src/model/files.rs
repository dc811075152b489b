//! The original files of a model, wherever their bytes are: in a directory, within a larger file, or in memory.

use anyhow::{Context, Result, ensure};
use protocol::manifest::Role;
use std::{
    borrow::Cow,
    fs::File,
    io::{self, Cursor, Read, Seek, SeekFrom},
    path::PathBuf,
    sync::Arc,
};

/// One original file.
#[derive(Clone)]
pub struct OriginalFile {
    /// What it is for.
    pub role: Role,
    /// Its plain name.
    pub name: String,
    /// Its size.
    pub bytes: u64,
    place: Place,
}

#[derive(Clone)]
enum Place {
    /// Bytes that the program carries, or that someone made.
    Memory(Arc<Cow<'static, [u8]>>),
    /// From this byte of a file on.
    Disk { path: PathBuf, start: u64 },
}

impl OriginalFile {
    /// A file that is in memory.
    pub fn in_memory(role: Role, name: &str, bytes: impl Into<Cow<'static, [u8]>>) -> Self {
        let bytes = bytes.into();
        let name = name.to_owned();
        Self { role, name, bytes: bytes.len() as u64, place: Place::Memory(Arc::new(bytes)) }
    }

    /// A file of the one name of its role, which someone made.
    pub fn made(role: Role, bytes: Vec<u8>) -> Self {
        Self::in_memory(role, role.file_name().unwrap_or_default(), bytes)
    }

    /// The file at `path`. Errors if it cannot be looked at, or is larger than a run may carry.
    pub fn at(role: Role, path: PathBuf) -> Result<Self> {
        let metadata = std::fs::metadata(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let (bytes, limit) = (metadata.len(), role.bytes_max());
        ensure!(metadata.is_file(), "{} is not a file", path.display());
        ensure!(bytes <= limit, "{} has {bytes} bytes, a base may have {limit}", path.display());
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        Ok(Self { role, name, bytes, place: Place::Disk { path, start: 0 } })
    }

    /// `bytes` bytes of the file at `path`, from byte `start` on.
    pub fn within(role: Role, name: &str, path: PathBuf, start: u64, bytes: u64) -> Self {
        Self { role, name: name.to_owned(), bytes, place: Place::Disk { path, start } }
    }

    /// What to say of it.
    pub fn describe(&self) -> String {
        match &self.place {
            Place::Disk { path, start: 0 } if path.ends_with(&self.name) => path.display().to_string(),
            Place::Disk { path, .. } => format!("{} in {}", self.name, path.display()),
            Place::Memory(_) => self.name.clone(),
        }
    }

    /// Reads the bytes from the first to the last, wherever the file is.
    pub fn open(&self) -> Result<Section<'_>> {
        let inner = match &self.place {
            Place::Memory(bytes) => Source::Memory(Cursor::new(bytes)),
            Place::Disk { path, .. } => {
                Source::Disk(File::open(path).with_context(|| format!("cannot open {}", path.display()))?)
            }
        };
        let start = if let Place::Disk { start, .. } = self.place { start } else { 0 };
        let mut section = Section { inner, start, bytes: self.bytes, position: 0 };
        section.seek(SeekFrom::Start(0)).with_context(|| format!("cannot read {}", self.describe()))?;
        Ok(section)
    }

    /// BLAKE3 of it.
    pub fn digest(&self) -> Result<[u8; 32]> {
        let mut hasher = blake3::Hasher::new();
        hasher.update_reader(self.open()?).with_context(|| format!("cannot read {}", self.describe()))?;
        Ok(*hasher.finalize().as_bytes())
    }

    /// All of it. For files whose role bounds them: weights are read piece by piece.
    pub fn read(&self) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let read = self.open()?.read_to_end(&mut bytes);
        read.with_context(|| format!("cannot read {}", self.describe()))?;
        ensure!(bytes.len() as u64 == self.bytes, "{} ends early: it is incomplete", self.describe());
        Ok(bytes)
    }
}

/// The bytes of one file, from the first to the last.
pub struct Section<'a> {
    inner: Source<'a>,
    /// Where in `inner` the file begins.
    start: u64,
    /// Its size.
    bytes: u64,
    /// What is read next, counted from the file's beginning.
    position: u64,
}

enum Source<'a> {
    Memory(Cursor<&'a [u8]>),
    Disk(File),
}

impl Read for Section<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.bytes.saturating_sub(self.position)).unwrap_or(usize::MAX);
        let wanted = buffer.len().min(left);
        let read = match &mut self.inner {
            Source::Memory(bytes) => bytes.read(&mut buffer[..wanted])?,
            Source::Disk(file) => file.read(&mut buffer[..wanted])?,
        };
        self.position += read as u64;
        Ok(read)
    }
}

impl Seek for Section<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let position = match to {
            SeekFrom::Start(position) => Some(position),
            SeekFrom::End(offset) => self.bytes.checked_add_signed(offset),
            SeekFrom::Current(offset) => self.position.checked_add_signed(offset),
        };
        let place = position.and_then(|position| Some((position, self.start.checked_add(position)?)));
        let (position, place) = place.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        match &mut self.inner {
            Source::Memory(bytes) => bytes.seek(SeekFrom::Start(place))?,
            Source::Disk(file) => file.seek(SeekFrom::Start(place))?,
        };
        self.position = position;
        Ok(position)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_section_is_read_like_a_file_of_its_own() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("whole");
        std::fs::write(&path, b"before-config-after").unwrap();
        let within = OriginalFile::within(Role::Config, "config.json", path.clone(), 7, 6);
        let memory = OriginalFile::in_memory(Role::Config, "config.json", &b"config"[..]);
        for file in [within, memory] {
            assert_eq!(file.read().unwrap(), b"config", "{}", file.describe());
            let mut section = file.open().unwrap();
            let mut bytes = [0; 3];
            section.seek(SeekFrom::End(-2)).unwrap();
            assert_eq!(section.read(&mut bytes).unwrap(), 2);
            assert_eq!(&bytes[..2], b"ig");
            section.seek(SeekFrom::Start(9)).unwrap();
            assert_eq!(section.read(&mut bytes).unwrap(), 0, "what follows is not of this file");
        }
        let short = OriginalFile::within(Role::Config, "config.json", path, 14, 9);
        assert!(short.read().unwrap_err().to_string().contains("ends early"));
    }
}
