//! The base model on disk: made by the starter, checked by everyone, served to joiners.

use anyhow::{Context, Result, bail, ensure};
use engine::{
    base::{Base, BaseSettings, ChunkHasher, chunks_root},
    model::Checkpoint,
    weights::{Weights, tensor_digest},
};
use protocol::manifest::{BASE_CHUNK_BYTES, Manifest, Membership};
use std::{
    fs::{self, File},
    io::{BufReader, BufWriter, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

use super::{
    database::Database,
    directory::StateDir,
    durable,
    paths::{BASE, refuse_missing, sync_directory, unusable},
};

/// Name of the list of chunk digests in the database.
pub(super) const DIGESTS: &str = "base digests";

/// Snaps `checkpoint` in place, writes it as the base of a new run in `state`, and makes the manifest durable.
pub fn start_run(
    state: &StateDir,
    checkpoint: Checkpoint,
    settings: BaseSettings,
    membership: Membership,
) -> Result<Manifest> {
    let base = Base::of_new_run(checkpoint, &settings.hyperparameters)?;
    // Until the manifest is there, the file belongs to no run.
    let digests = write(state, &base, |_| Ok(()))?;
    let mut nonce = [0u8; 16];
    getrandom::fill(&mut nonce).context("no random numbers from the system")?;
    let manifest = Manifest { membership, ..base.manifest(settings, nonce, &digests)? };
    manifest.validate()?;
    state.database.put_all(&[(DIGESTS, &digests.concat()), ("manifest", &manifest.encode()?)])?;
    Ok(manifest)
}

impl StateDir {
    /// The base model.
    pub fn base(&self, manifest: &Manifest) -> Result<BaseReader> {
        BaseReader::open(&self.path, &self.database, manifest)
    }

    /// Writes a model that `engine::base::check_same_base` has passed as the run's base.
    pub fn adopt_base(&self, manifest: &Manifest, checkpoint: Checkpoint) -> Result<()> {
        let base = Base::of_run(manifest, checkpoint)?;
        // The list before the file: a restart believes a base that is there, and needs its list.
        let keep_list = |digests: &[[u8; 32]]| {
            ensure!(
                chunks_root(digests) == manifest.base.chunks_root,
                "the model passed its checks, but its bytes differ"
            );
            self.database.put(DIGESTS, &digests.concat())
        };
        write(self, &base, keep_list).map(drop)
    }
}

/// Writes the blob: temporary file, sync, `before_rename` with its chunks' digests, rename. Returns the digests.
fn write(
    state: &StateDir,
    base: &Base,
    before_rename: impl FnOnce(&[[u8; 32]]) -> Result<()>,
) -> Result<Vec<[u8; 32]>> {
    let temporary = state.path.join("base.new");
    let write = || -> Result<Vec<[u8; 32]>> {
        let file = BufWriter::with_capacity(1 << 16, File::create(&temporary)?);
        let mut blob = ChunkHasher::new(file);
        base.write_to(&mut blob)?;
        blob.flush()?;
        let (file, digests) = blob.finish();
        durable::point();
        file.get_ref().sync_all()?;
        durable::point();
        before_rename(&digests)?;
        fs::rename(&temporary, state.path.join(BASE))?;
        sync_directory(&state.path)?;
        Ok(digests)
    };
    write().with_context(|| unusable(&state.path))
}

/// The base model, for loading and for serving.
pub struct BaseReader {
    path: PathBuf,
    manifest: Manifest,
    digests: Vec<[u8; 32]>,
}

impl BaseReader {
    pub(super) fn open(directory: &Path, database: &Database, manifest: &Manifest) -> Result<Self> {
        let path = directory.join(BASE);
        refuse_missing(&path)?;
        let digests = database.get(DIGESTS)?.unwrap_or_default();
        let digests: Vec<[u8; 32]> = digests.chunks_exact(32).filter_map(|digest| digest.try_into().ok()).collect();
        ensure!(
            chunks_root(&digests) == manifest.base.chunks_root,
            "{}: the list of its chunks does not fit the run's manifest; join anew in another --state",
            path.display()
        );
        Ok(Self { path, manifest: manifest.clone(), digests })
    }

    /// Digests of the chunks.
    pub fn chunk_digests(&self) -> &[[u8; 32]] {
        &self.digests
    }

    /// Chunk number `index`, checked.
    pub fn chunk(&self, index: u64) -> Result<Vec<u8>> {
        let Some(digest) = usize::try_from(index).ok().and_then(|index| self.digests.get(index)) else {
            bail!("the base has {} chunks, number {index} is not among them", self.digests.len());
        };
        let start = index * BASE_CHUNK_BYTES as u64;
        let length = (self.manifest.base_bytes() - start).min(BASE_CHUNK_BYTES as u64);
        let bytes = self.read(start, length)?;
        ensure!(blake3::hash(&bytes).as_bytes() == digest, "{}: damaged in chunk {index}", self.path.display());
        Ok(bytes)
    }

    /// config.json.
    pub fn config(&self) -> Result<Vec<u8>> {
        let bytes = self.read(0, self.manifest.base.config_bytes)?;
        self.check("config.json", &bytes, &self.manifest.base.config_digest)?;
        Ok(bytes)
    }

    /// tokenizer.json.
    pub fn tokenizer(&self) -> Result<Vec<u8>> {
        let bytes = self.read(self.manifest.base.config_bytes, self.manifest.base.tokenizer_bytes)?;
        self.check("tokenizer.json", &bytes, &self.manifest.base.tokenizer_digest)?;
        Ok(bytes)
    }

    /// The snapped tensors, each checked against the manifest.
    pub fn weights(&self) -> Result<Weights> {
        let mut file = File::open(&self.path)?;
        file.seek(SeekFrom::Start(self.manifest.base.config_bytes + self.manifest.base.tokenizer_bytes))?;
        let weights = Weights::read_from(&self.manifest.tensors, &mut BufReader::with_capacity(1 << 16, file))
            .with_context(|| self.path.display().to_string())?;
        for spec in &self.manifest.tensors {
            let digest = tensor_digest(&weights.tensors()[&spec.name])?;
            ensure!(
                spec.base_digest() == Some(digest),
                "{}: tensor {} is damaged; join anew in another --state",
                self.path.display(),
                spec.name
            );
        }
        Ok(weights)
    }

    fn read(&self, start: u64, length: u64) -> Result<Vec<u8>> {
        let read = || -> Result<Vec<u8>> {
            let mut file = File::open(&self.path)?;
            file.seek(SeekFrom::Start(start))?;
            let mut bytes = Vec::new();
            file.take(length).read_to_end(&mut bytes)?;
            ensure!(bytes.len() as u64 == length, "it ends early");
            Ok(bytes)
        };
        read().with_context(|| format!("{}: reading the base model", self.path.display()))
    }

    fn check(&self, name: &str, bytes: &[u8], digest: &[u8; 32]) -> Result<()> {
        ensure!(
            blake3::hash(bytes).as_bytes() == digest,
            "{}: {name} in it is damaged; join anew in another --state",
            self.path.display()
        );
        Ok(())
    }
}
