//! One file of the hub on its way into the cache, as huggingface_hub lays it out: its content in `blobs`, under the
//! hub's own name for it, and a link in the snapshot of its commit. What broke off lies beside, and goes on.

use anyhow::{Context, Result, bail, ensure};
use indicatif::ProgressBar;
use sha2::{Digest, Sha256};
use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{ErrorKind, Read, Write},
    path::{Path, PathBuf},
    time::Duration,
};

use super::{
    client::{Client, Refusal},
    list::Sibling,
};
use crate::system::display::progress_bar;

/// A transfer goes on after so many breaks between which it came no further.
const RETRIES: u32 = 5;
/// What counts as further, bytes.
const FURTHER: u64 = 1 << 20;
/// The wait after the first break; it doubles.
const WAIT: Duration = Duration::from_millis(250);

/// Where one model's files go.
pub struct Place {
    /// `models--owner--name` of the cache.
    pub model: PathBuf,
    /// Where programs lock what they download of it.
    pub locks: PathBuf,
    pub commit: String,
}

impl Place {
    /// Where `file` is once it is here.
    pub fn link(&self, file: &str) -> PathBuf {
        self.model.join("snapshots").join(&self.commit).join(file)
    }

    /// Whether all of `file` is here.
    pub fn has(&self, file: &Sibling) -> bool {
        is_whole(file, &self.link(&file.rfilename))
    }

    /// Fetches `file` from `path` of the hub.
    pub fn fetch(&self, client: &Client, file: &Sibling, path: &str) -> Result<(), Failure> {
        let tag = match file.tag() {
            Some(tag) => tag.to_owned(),
            None => client.tag(path)?.unwrap_or_else(|| format!("{}-{}", self.commit, file.rfilename)),
        };
        let tag = plain(&tag);
        let blobs = self.model.join("blobs");
        let (blob, part) = (blobs.join(&tag), blobs.join(format!("{tag}.incomplete")));
        for directory in [&blobs, &self.locks, &self.model.join("snapshots").join(&self.commit)] {
            fs::create_dir_all(directory).with_context(|| format!("cannot make {}", directory.display()))?;
        }
        let _lock = lock(&self.locks.join(format!("{tag}.lock")))?;
        if !is_whole(file, &blob) {
            transfer(client, file, path, &part)?;
            check(file, &part)?;
            fs::rename(&part, &blob).with_context(|| format!("cannot name {}", blob.display()))?;
        }
        self.make_link(&file.rfilename, &tag)?;
        Ok(())
    }

    fn make_link(&self, file: &str, tag: &str) -> Result<()> {
        let link = self.link(file);
        let (below, name) = file.rsplit_once('/').unwrap_or(("", file));
        let up = "../".repeat(2 + below.split('/').filter(|part| !part.is_empty()).count());
        let new = link.with_file_name(format!(".{name}.{}", std::process::id()));
        let _ = fs::remove_file(&new);
        link.parent()
            .map_or(Ok(()), fs::create_dir_all)
            .and_then(|()| std::os::unix::fs::symlink(Path::new(&up).join("blobs").join(tag), &new))
            .and_then(|()| fs::rename(&new, &link))
            .with_context(|| format!("cannot make the link {}", link.display()))
    }

    /// Notes which commit `revision` is now.
    pub fn note(&self, revision: &str) -> Result<()> {
        if revision == self.commit {
            return Ok(());
        }
        let path = self.model.join("refs").join(revision);
        let new = path.with_extension(format!("{}.new", std::process::id()));
        path.parent()
            .map_or(Ok(()), fs::create_dir_all)
            .and_then(|()| fs::write(&new, &self.commit))
            .and_then(|()| fs::rename(&new, &path))
            .with_context(|| format!("cannot write {}", path.display()))
    }
}

/// What kept a file from coming.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error(transparent)]
    Ours(#[from] anyhow::Error),
}

/// Whether all of `file` is at `path`.
fn is_whole(file: &Sibling, path: &Path) -> bool {
    path.metadata().is_ok_and(|found| found.is_file() && file.size.is_none_or(|size| size == found.len()))
}

/// A name that is safe in a path, whatever the hub calls the content.
fn plain(tag: &str) -> String {
    let tag = tag.trim_start_matches("W/").trim_matches('"');
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    match !tag.is_empty() && tag.len() <= 128 && !tag.starts_with('.') && tag.bytes().all(is_plain) {
        true => tag.to_owned(),
        false => crate::system::hex::hex(&Sha256::digest(tag)),
    }
}

/// Keeps other programs, ours and Hugging Face's, from the same file.
fn lock(path: &Path) -> Result<File> {
    let file = File::create(path).with_context(|| format!("cannot make {}", path.display()))?;
    match file.try_lock() {
        Ok(()) => return Ok(file),
        Err(TryLockError::WouldBlock) => {
            tracing::info!("another program downloads the same file: waiting for it ({})", path.display());
        }
        Err(TryLockError::Error(error)) => {
            return Err(error).with_context(|| format!("cannot lock {}", path.display()));
        }
    }
    file.lock().with_context(|| format!("cannot lock {}", path.display()))?;
    Ok(file)
}

/// Brings `part` to its full length, over as many breaks as it takes while it comes further.
fn transfer(client: &Client, file: &Sibling, path: &str, part: &Path) -> Result<(), Failure> {
    let opened = OpenOptions::new().create(true).append(true).open(part);
    let mut out = opened.with_context(|| format!("cannot write {}", part.display()))?;
    let template = "{msg} {wide_bar} {binary_bytes} of {binary_total_bytes}, {binary_bytes_per_sec}, {eta} left";
    let bar = progress_bar(Some(file.size.unwrap_or(0)), file.rfilename.clone(), template);
    let (mut breaks, mut reached) = (0, 0);
    loop {
        let failed = match attempt(client, file, path, &mut out, &bar) {
            Ok(()) => {
                out.sync_all().with_context(|| format!("cannot write {}", part.display()))?;
                return Ok(());
            }
            Err(Failure::Refused(refusal)) if refusal.may_pass() => refusal,
            Err(failure) => return Err(failure),
        };
        let length = out.metadata().with_context(|| format!("cannot read {}", part.display()))?.len();
        if length >= reached + FURTHER {
            (breaks, reached) = (0, length);
        }
        if breaks == RETRIES {
            return Err(failed.into());
        }
        std::thread::sleep(WAIT * 2u32.pow(breaks));
        breaks += 1;
    }
}

/// Appends to `out` what one request brings.
fn attempt(client: &Client, file: &Sibling, path: &str, out: &mut File, bar: &ProgressBar) -> Result<(), Failure> {
    let ours = |error: std::io::Error| anyhow::Error::new(error).context("cannot store what comes");
    let mut at = out.metadata().map_err(ours)?.len();
    if file.size.is_some_and(|size| at > size) {
        out.set_len(0).map_err(ours)?;
        at = 0;
    }
    if file.size == Some(at) && at > 0 {
        return Ok(());
    }
    let answer = match client.get(path, Some(at)) {
        // Nothing behind what is here, of a file whose size nobody told: whether it is whole, nobody knows.
        Err(Refusal::Status { status: 416, .. }) if at > 0 => {
            out.set_len(0).map_err(ours)?;
            at = 0;
            client.get(path, Some(at))?
        }
        answer => answer?,
    };
    if answer.from != at {
        tracing::info!("{}: the server sends it whole: beginning anew", file.rfilename);
        out.set_len(0).map_err(ours)?;
        at = 0;
    }
    let end = file.size.or(answer.bytes.map(|bytes| at + bytes));
    let mut body = answer.body.into_reader();
    let mut buffer = vec![0; 1 << 18];
    loop {
        bar.set_position(at);
        let read = match body.read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => read,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => return Err(Refusal::Broken(error).into()),
        };
        at += read as u64;
        if end.is_some_and(|end| at > end) {
            let end = end.unwrap_or_default();
            return Err(anyhow::anyhow!("more comes than the {end} bytes that it has; try again later").into());
        }
        out.write_all(&buffer[..read]).map_err(ours)?;
    }
    match end {
        Some(end) if at < end => Err(Refusal::Broken(ErrorKind::UnexpectedEof.into()).into()),
        _ => Ok(()),
    }
}

/// Errors, and removes what came, if it is not what the hub says.
fn check(file: &Sibling, part: &Path) -> Result<()> {
    let bytes = part.metadata().with_context(|| format!("cannot read {}", part.display()))?.len();
    let is_sized = file.size.is_none_or(|size| size == bytes);
    let is_same = match file.sha256().filter(|_| is_sized) {
        None => is_sized,
        Some(expected) => {
            let (mut hasher, mut file, mut buffer) = (Sha256::new(), File::open(part)?, Vec::new());
            while Read::by_ref(&mut file).take(1 << 18).read_to_end(&mut buffer)? > 0 {
                hasher.update(&buffer);
                buffer.clear();
            }
            crate::system::hex::hex(&hasher.finalize()) == expected.to_lowercase()
        }
    };
    if !is_same {
        fs::remove_file(part).with_context(|| format!("cannot remove {}", part.display()))?;
        bail!("what came ({bytes} bytes) is not what the hub says it is; it was removed: try again");
    }
    ensure!(bytes > 0, "the file is empty");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_hub_calls_a_content_leaves_no_directory() {
        assert_eq!(plain("\"0f3e-2\""), "0f3e-2");
        assert_eq!(plain("W/\"0f3e\""), "0f3e");
        for odd in ["../../x", ".x", "", "a/b", "a\\b", "ä"] {
            let name = plain(odd);
            assert!(name.len() == 64 && name.bytes().all(|byte| byte.is_ascii_hexdigit()), "{odd}: {name}");
        }
    }
}
