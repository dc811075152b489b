//! Which files a path names.

use anyhow::{Context, Result, ensure};
use std::{
    collections::BTreeSet,
    fs::{self, File, FileType},
    io::{self, Read},
    os::unix::fs::{FileTypeExt, MetadataExt},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use super::report::Report;

/// Deepest directory that is searched.
const DEPTH_MAX: usize = 32;
/// Most files of a directory.
const FILES_MAX: usize = 1 << 20;
/// What a node's state directory holds: all else in it is the node's as well, a private run's secret among it, and no
/// text of anybody's.
const STATE_MARK: &str = "node.redb";

/// Where bytes come from.
pub enum Source {
    /// Standard input, or a pipe: it can be read once.
    Once(PathBuf),
    /// A file.
    File(PathBuf, u64),
}

impl Source {
    /// For people.
    pub fn path(&self) -> &Path {
        match self {
            Self::Once(path) | Self::File(path, _) => path,
        }
    }

    /// Bytes on the disk, if that can be known.
    pub fn size(&self) -> Option<u64> {
        match self {
            Self::Once(_) => None,
            Self::File(_, size) => Some(*size),
        }
    }

    /// Opens it. A pipe that nobody has opened for writing waits for somebody who does.
    pub fn open(&self) -> Result<Box<dyn Read + Send>> {
        let path = self.path();
        if path == Path::new("-") {
            return Ok(Box::new(io::stdin()));
        }
        Ok(Box::new(File::open(path).with_context(|| format!("cannot read {}", path.display()))?))
    }
}

/// The sources at `path`, in the order of their paths; `-` is standard input. `report` hears of all that a directory
/// has beside files.
pub fn find(path: &Path, report: &mut Report) -> Result<Vec<Source>> {
    if path == Path::new("-") {
        return Ok(vec![Source::Once(path.to_owned())]);
    }
    let metadata = fs::metadata(path).with_context(|| cannot_read(path))?;
    if metadata.is_file() {
        return Ok(vec![Source::File(path.to_owned(), metadata.len())]);
    }
    if !metadata.is_dir() {
        let kind = special(metadata.file_type());
        ensure!(kind == PIPE, "{} is {kind}; give a file, a directory, or a pipe", path.display());
        return Ok(vec![Source::Once(path.to_owned())]);
    }
    report.is_directory = true;
    let mut search = Search { root: path, files: Vec::new(), seen: BTreeSet::new(), report };
    search.directory(path, 0)?;
    let mut files = search.files;
    files.sort_by(|(a, _), (b, _)| a.cmp(b));
    Ok(files.into_iter().map(|(path, size)| Source::File(path, size)).collect())
}

/// Of a path at which nothing is, in words, with what to do.
pub fn cannot_read(path: &Path) -> String {
    let remedy = match path.to_string_lossy().contains("://") {
        true => "nothing is fetched from the web: download it, and name the file or directory",
        false => "give a file, a directory, or - for standard input",
    };
    format!("cannot read {}; {remedy}", path.display())
}

const PIPE: &str = "a pipe";

struct Search<'a> {
    root: &'a Path,
    files: Vec<(PathBuf, u64)>,
    /// Files by what the file system knows them by.
    seen: BTreeSet<(u64, u64)>,
    report: &'a mut Report,
}

impl Search<'_> {
    fn directory(&mut self, directory: &Path, depth: usize) -> Result<()> {
        ensure!(depth <= DEPTH_MAX, "{} lies more than {DEPTH_MAX} directories deep", directory.display());
        let cannot = || format!("cannot list {}", directory.display());
        let mut entries: Vec<fs::DirEntry> = match fs::read_dir(directory).and_then(Iterator::collect::<io::Result<_>>)
        {
            Ok(entries) => entries,
            Err(error) if depth > 0 => {
                let name = directory.strip_prefix(self.root).unwrap_or(directory).display().to_string();
                self.report.skip(name, format!("a directory that cannot be listed ({error})"));
                return Ok(());
            }
            Err(error) => return Err(error).with_context(cannot),
        };
        if entries.iter().any(|entry| entry.file_name() == STATE_MARK) {
            ensure!(
                depth > 0,
                "{} is a node's state directory, and no text; name the text's own path",
                directory.display()
            );
            let name = directory.strip_prefix(self.root).unwrap_or(directory).display().to_string();
            self.report.skip(name, "a node's state directory".into());
            return Ok(());
        }
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            let (path, kind) = (entry.path(), entry.file_type().with_context(cannot)?);
            if entry.file_name().as_encoded_bytes().starts_with(b".") {
                self.report.hidden += 1;
            } else if kind.is_dir() {
                self.directory(&path, depth + 1)?;
            } else {
                self.entry(&path, kind)?;
            }
        }
        Ok(())
    }

    fn entry(&mut self, path: &Path, kind: FileType) -> Result<()> {
        let name = path.strip_prefix(self.root).unwrap_or(path).display().to_string();
        match fs::metadata(path) {
            Err(error) if kind.is_symlink() => self.report.skip(name, format!("a link that leads nowhere ({error})")),
            Err(error) => self.report.skip(name, format!("cannot be read ({error})")),
            // It could lead in a circle, or out of what was named.
            Ok(metadata) if metadata.is_dir() => {
                self.report
                    .skip(name, "a link to a directory, which is not followed: name that directory itself".into());
            }
            Ok(metadata) if !metadata.is_file() => {
                self.report.skip(name, format!("{}, not a file", special(metadata.file_type())));
            }
            Ok(metadata) => {
                ensure!(self.files.len() < FILES_MAX, "{} has more than {FILES_MAX} files", self.root.display());
                match self.seen.insert((metadata.dev(), metadata.ino())) {
                    true => self.files.push((path.to_owned(), metadata.len())),
                    false => self.report.skip(name, "the same file as one before, under another name".into()),
                }
            }
        }
        Ok(())
    }
}

/// What is neither a file nor a directory.
fn special(kind: FileType) -> &'static str {
    match () {
        () if kind.is_fifo() => PIPE,
        () if kind.is_socket() => "a socket",
        // A terminal, or another device that gives bytes one after the other.
        () if kind.is_char_device() => "a device",
        () if kind.is_block_device() => "a disk",
        () => "something unknown",
    }
}

/// Counts what is read. A signal interrupts no reading: what takes a file apart above may be between two pieces of it,
/// and would lose its place.
pub struct Counted {
    pub raw: Box<dyn Read + Send>,
    pub progress: Arc<AtomicU64>,
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        loop {
            match self.raw.read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => {
                    let count = result?;
                    self.progress.fetch_add(count as u64, Ordering::Relaxed);
                    return Ok(count);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::compressed::decompressed;
    use std::io::{BufReader, Cursor, Write};

    /// Every other reading is interrupted, the first one, too.
    struct Interrupted {
        bytes: Cursor<Vec<u8>>,
        is_next: bool,
    }

    impl Read for Interrupted {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            self.is_next = !self.is_next;
            match self.is_next {
                true => Err(io::ErrorKind::Interrupted.into()),
                false => self.bytes.read(buffer),
            }
        }
    }

    /// A signal between two members of a gzip file was its end: what followed was not read, and nobody said so.
    #[test]
    fn a_signal_between_two_parts_of_a_compressed_file_is_not_its_end() {
        let gzip = |text: &str| {
            let mut part = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            part.write_all(text.as_bytes()).unwrap();
            part.finish().unwrap()
        };
        let zstd = |text: &str| zstd::stream::encode_all(text.as_bytes(), 1).unwrap();
        for (name, parts) in [("gzip", ["one", "two"].map(gzip)), ("zstd", ["one", "two"].map(zstd))] {
            let bytes = [&parts[0][..], &[0; 5][..], &parts[1][..]].concat();
            let (progress, length) = (Arc::<AtomicU64>::default(), bytes.len() as u64);
            let raw = Box::new(Interrupted { bytes: Cursor::new(bytes), is_next: false });
            let counted = BufReader::with_capacity(1, Counted { raw, progress: progress.clone() });
            let mut text = String::new();
            decompressed(name, counted).unwrap().read_to_string(&mut text).unwrap();
            assert_eq!((&*text, progress.load(Ordering::Relaxed)), ("onetwo", length), "{name}");
        }
    }
}
