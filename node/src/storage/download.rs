//! The base model on its way from peers: chunk by chunk, each checked, resumed after a break.

use anyhow::{Context, Result, ensure};
use engine::base::chunks_root;
use protocol::manifest::{BASE_CHUNK_BYTES, Manifest};
use std::{
    fs::{self, File, OpenOptions},
    io::{Read, Seek, SeekFrom, Write},
    path::PathBuf,
};

use super::{
    base,
    directory::StateDir,
    durable,
    paths::{BASE, PART, sync_directory, unusable},
};

/// Why a piece of the base model was not stored.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// It is not what the run's manifest says. Nothing was written.
    #[error("{0}")]
    Wrong(String),
    /// This machine could not store it.
    #[error(transparent)]
    Ours(#[from] anyhow::Error),
}

/// A base model that is not complete yet.
pub struct BaseDownload {
    directory: PathBuf,
    database: std::sync::Arc<super::database::Database>,
    root: [u8; 32],
    bytes: u64,
    chunks: u64,
    digests: Vec<[u8; 32]>,
    present: Vec<bool>,
    file: File,
}

impl BaseDownload {
    /// Opens what there is. Chunks from before a break are believed only if their hashes fit.
    pub fn open(state: &StateDir, manifest: &Manifest) -> Result<Self> {
        let path = state.path.join(PART);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .with_context(|| unusable(&state.path))?;
        let digests = state.database.get(base::DIGESTS)?.unwrap_or_default();
        let digests: Vec<[u8; 32]> = digests.chunks_exact(32).filter_map(|digest| digest.try_into().ok()).collect();
        let mut download = Self {
            directory: state.path.clone(),
            database: state.database.clone(),
            root: manifest.base.chunks_root,
            bytes: manifest.base.bytes(),
            chunks: manifest.base.chunks(),
            digests: Vec::new(),
            present: Vec::new(),
            file,
        };
        if download.fits(&digests) {
            download.present = vec![false; digests.len()];
            download.digests = digests;
            download.find_present()?;
        }
        Ok(download)
    }

    fn fits(&self, digests: &[[u8; 32]]) -> bool {
        digests.len() as u64 == self.chunks && chunks_root(digests) == self.root
    }

    fn find_present(&mut self) -> Result<()> {
        let stored = self.file.metadata()?.len();
        let mut chunk = Vec::new();
        for index in 0..self.digests.len() {
            let (start, length) = self.extent(index);
            if start + length > stored {
                break;
            }
            chunk.clear();
            self.file.seek(SeekFrom::Start(start))?;
            (&self.file).take(length).read_to_end(&mut chunk)?;
            self.present[index] = *blake3::hash(&chunk).as_bytes() == self.digests[index];
        }
        Ok(())
    }

    fn extent(&self, index: usize) -> (u64, u64) {
        let start = index as u64 * BASE_CHUNK_BYTES as u64;
        (start, (self.bytes - start).min(BASE_CHUNK_BYTES as u64))
    }

    /// The digests of the chunks; none until they have come.
    pub fn digests(&self) -> &[[u8; 32]] {
        &self.digests
    }

    /// Bytes in all, and bytes here.
    pub fn progress(&self) -> (u64, u64) {
        let here = self.present.iter().enumerate().filter(|(_, present)| **present);
        (self.bytes, here.map(|(index, _)| self.extent(index).1).sum())
    }

    /// Takes the whole list, if it is the run's.
    pub fn accept_digests(&mut self, digests: Vec<[u8; 32]>) -> Result<(), Refusal> {
        if !self.fits(&digests) {
            return Err(Refusal::Wrong("the list of chunks does not fit the run's manifest".into()));
        }
        self.database.put(base::DIGESTS, &digests.concat())?;
        self.present = vec![false; digests.len()];
        self.digests = digests;
        Ok(self.find_present()?)
    }

    /// Chunks that are missing, lowest first.
    pub fn missing(&self) -> impl Iterator<Item = u64> {
        self.present.iter().enumerate().filter(|(_, present)| !**present).map(|(index, _)| index as u64)
    }

    /// Takes a chunk, if it is right.
    pub fn accept_chunk(&mut self, index: u64, bytes: &[u8]) -> Result<(), Refusal> {
        let digest = usize::try_from(index).ok().and_then(|index| self.digests.get(index));
        if digest != Some(blake3::hash(bytes).as_bytes()) {
            return Err(Refusal::Wrong(format!("chunk {index} of the base model is wrong")));
        }
        let (start, _) = self.extent(index as usize);
        let mut store = || -> std::io::Result<()> {
            self.file.seek(SeekFrom::Start(start))?;
            self.file.write_all(bytes)
        };
        store().with_context(|| unusable(&self.directory))?;
        self.present[index as usize] = true;
        Ok(())
    }

    /// Makes the complete download the base.
    pub fn finish(self) -> Result<()> {
        ensure!(self.missing().next().is_none() && !self.digests.is_empty(), "the base model is not complete");
        durable::point();
        self.file.sync_all()?;
        durable::point();
        // An earlier attempt to keep other files was perhaps cut short.
        self.database.put(base::OWN_FILES, &[])?;
        fs::rename(self.directory.join(PART), self.directory.join(BASE))?;
        sync_directory(&self.directory)
    }
}
