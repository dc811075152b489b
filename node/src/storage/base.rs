//! The base model on disk: made by the starter, checked by everyone, served to joiners.
//!
//! One file, the string that the manifest describes: the original files, then the appendix. A node whose owner gave it
//! the same tensors in other files keeps those in the same way, with a list of its own in the database. It trains like
//! any other, and serves nothing of the base.

use anyhow::{Context, Result, bail, ensure};
use engine::{
    base::{Base, BaseSettings, Written, chunks_root, files_within, frozen},
    model::Checkpoint,
    weights::Weights,
};
use protocol::{
    encoding,
    manifest::{BASE_CHUNK_BYTES, BaseFile, BaseModel, MANIFEST_BYTES_MAX, Manifest, Membership, Role},
    secret::Secret,
};
use std::{
    fs::{self, File},
    io::{BufWriter, Read, Seek, SeekFrom},
    path::{Path, PathBuf},
};

use super::{
    database::Database,
    directory::{SECRET, StateDir},
    durable,
    paths::{BASE, NEW, PART, refuse_missing, sync_directory, unusable},
};

/// Name of the list of chunk digests in the database.
pub(super) const DIGESTS: &str = "base digests";
/// Name of the list of the base's files in the database, where they are not the run's. Empty where they are.
pub(super) const OWN_FILES: &str = "base files";

/// Writes `base`, that of a new run, to `state`, and makes the run's manifest durable.
/// A run with a `secret` is private.
pub fn start_run(
    state: &StateDir,
    base: &Base,
    settings: BaseSettings,
    membership: Membership,
    secret: Option<Secret>,
) -> Result<Manifest> {
    // Until the manifest is there, the file belongs to no run, and nobody may take back a part of what begins here.
    let mut begins = None;
    let (described, digests) = write(state, base, |_, _| {
        begins = Some(state.begin());
        Ok(())
    })?;
    let private = secret.map(|secret| secret.commitment());
    let manifest = Manifest { membership, private, ..base.manifest(settings, described)? };
    manifest.validate()?;
    let (digests, encoded) = (digests.concat(), manifest.encode()?);
    let mut values: Vec<(&str, &[u8])> = vec![(DIGESTS, &digests), (OWN_FILES, &[]), ("manifest", &encoded)];
    // With the manifest or not at all: a secret beside an open run would keep this node from it.
    values.extend(secret.as_ref().map(|secret| (SECRET, &secret.0[..])));
    state.database.put_all(&values)?;
    drop(begins);
    Ok(manifest)
}

impl StateDir {
    pub fn base(&self, manifest: &Manifest) -> Result<BaseReader> {
        BaseReader::open(&self.path, &self.database, manifest)
    }

    /// Keeps `base`, which has the run's tensors, whatever its files. Returns the first of the run's files that is not
    /// among them; none if all are the run's own, so that this node can serve them.
    pub fn adopt_base(&self, manifest: &Manifest, base: &Base) -> Result<Option<String>> {
        let mut other = None;
        // The lists before the file: a restart believes a base that is there, and needs them.
        let keep_lists = |described: &BaseModel, digests: &[[u8; 32]]| {
            other = first_other(&manifest.base, described);
            match other.is_none() {
                true => self.database.put_all(&[(DIGESTS, &digests.concat()), (OWN_FILES, &[])]),
                false => {
                    let files = encoding::encode::<_, MANIFEST_BYTES_MAX>(&described.files)?;
                    self.database.put_all(&[(DIGESTS, &[]), (OWN_FILES, &files)])
                }
            }
        };
        write(self, base, keep_lists)?;
        // What came from peers before is of no use any more, and may be gigabytes.
        self.remove(PART)?;
        Ok(other)
    }
}

/// The first file that the one base has, and the other has not or has otherwise.
fn first_other(of_run: &BaseModel, here: &BaseModel) -> Option<String> {
    if here.chunks_root == of_run.chunks_root && here.files == of_run.files {
        return None;
    }
    let lacking = of_run.files.iter().find(|file| !here.files.contains(file));
    let differing = lacking.or_else(|| here.files.iter().find(|file| !of_run.files.contains(file)));
    Some(differing.map_or("the list of tensors".into(), |file| file.name.clone()))
}

/// Writes the string: temporary file, sync, `before_rename`, rename. Returns what was written, and its chunks' digests.
fn write(
    state: &StateDir,
    base: &Base,
    before_rename: impl FnOnce(&BaseModel, &[[u8; 32]]) -> Result<()>,
) -> Result<(BaseModel, Vec<[u8; 32]>)> {
    let temporary = state.path.join(NEW);
    let write = || -> Result<_> {
        let file = BufWriter::with_capacity(1 << 16, File::create(&temporary)?);
        let Written { out, base, chunk_digests } = base.write_to(file)?;
        let file = out.into_inner().map_err(|error| error.into_error())?;
        durable::point();
        file.sync_all()?;
        durable::point();
        before_rename(&base, &chunk_digests)?;
        fs::rename(&temporary, state.path.join(BASE))?;
        sync_directory(&state.path)?;
        Ok((base, chunk_digests))
    };
    // A disk that had no room for it has none while it lies there.
    write().inspect_err(|_| drop(fs::remove_file(&temporary))).with_context(|| unusable(&state.path))
}

/// The base model, for loading and for serving.
pub struct BaseReader {
    path: PathBuf,
    manifest: Manifest,
    /// The files that are here: the run's, or others with the same tensors.
    files: Vec<BaseFile>,
    /// Of the run's chunks; none if other files are here.
    digests: Vec<[u8; 32]>,
}

impl BaseReader {
    pub(super) fn open(directory: &Path, database: &Database, manifest: &Manifest) -> Result<Self> {
        let path = directory.join(BASE);
        refuse_missing(&path)?;
        let own_files = database.get(OWN_FILES)?.unwrap_or_default();
        let unusable = || format!("{}: the list of its files is damaged; join anew in another --state", path.display());
        if !own_files.is_empty() {
            let files = encoding::decode::<Vec<BaseFile>, MANIFEST_BYTES_MAX>(&own_files).with_context(unusable)?;
            return Ok(Self { path, manifest: manifest.clone(), files, digests: Vec::new() });
        }
        let digests = database.get(DIGESTS)?.unwrap_or_default();
        let digests: Vec<[u8; 32]> = digests.chunks_exact(32).filter_map(|digest| digest.try_into().ok()).collect();
        ensure!(
            chunks_root(&digests) == manifest.base.chunks_root,
            "{}: the list of its chunks does not fit the run's manifest; join anew in another --state",
            path.display()
        );
        Ok(Self { path, manifest: manifest.clone(), files: manifest.base.files.clone(), digests })
    }

    /// Digests of the chunks; None if the run's files are not here.
    pub fn chunk_digests(&self) -> Option<&[[u8; 32]]> {
        (!self.digests.is_empty()).then_some(&self.digests)
    }

    /// Chunk number `index` of the run's files, checked.
    pub fn chunk(&self, index: u64) -> Result<Vec<u8>> {
        let Some(digest) = usize::try_from(index).ok().and_then(|index| self.digests.get(index)) else {
            bail!("{} chunks of the base are here, number {index} is not among them", self.digests.len());
        };
        let start = index * BASE_CHUNK_BYTES as u64;
        let length = (self.manifest.base.bytes() - start).min(BASE_CHUNK_BYTES as u64);
        let bytes = self.read(start, length)?;
        ensure!(blake3::hash(&bytes).as_bytes() == digest, "{}: damaged in chunk {index}", self.path.display());
        Ok(bytes)
    }

    /// The original files. All but the weights were checked.
    pub fn checkpoint(&self) -> Result<Checkpoint> {
        let here = files_within(&self.files, &self.path);
        let is_small = |role: Role| !matches!(role, Role::Weights | Role::Gguf);
        for (file, expected) in here.iter().zip(&self.files).filter(|(file, _)| is_small(file.role)) {
            ensure!(
                *blake3::hash(&file.read()?).as_bytes() == expected.digest,
                "{}: {} in it is damaged; join anew in another --state",
                self.path.display(),
                file.name
            );
        }
        Checkpoint::of_files(&self.manifest.base.source, here).with_context(|| self.path.display().to_string())
    }

    /// The base, each tensor compared with the manifest.
    pub fn load(&self) -> Result<Base> {
        Base::of_run(&self.manifest, self.checkpoint()?).with_context(|| self.is_not_it())
    }

    /// `trained`, those of a checkpoint, with the tensors that the run does not train, each compared with the appendix.
    pub fn complete(&self, trained: Weights) -> Result<Weights> {
        let start = self.files.iter().map(|file| file.bytes).sum();
        let appendix = self.manifest.appendix(&self.read(start, self.manifest.base.appendix_bytes)?);
        let appendix = appendix.with_context(|| self.is_not_it())?;
        trained.with_frozen(frozen(&appendix, &self.checkpoint()?).with_context(|| self.is_not_it())?)
    }

    fn is_not_it(&self) -> String {
        format!("{}: damaged, or not the base of this run; join anew in another --state", self.path.display())
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
}
