//! The base model on disk: made by the starter, checked by everyone, served to joiners.

use anyhow::{Context, Result, bail, ensure};
use candle_core::Tensor;
use protocol::manifest::{
    BASE_CHUNK_BYTES, BaseModel, Hyperparameters, Manifest, Membership, PROTOCOL_VERSION, Schedule, TensorSpec,
    choose_arithmetic,
};
use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{BufReader, BufWriter, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

use super::{StateDir, database::Database, durable, refuse_missing, sync_directory, unusable};
use crate::{
    model::Checkpoint,
    weights::{self, Weights},
};

/// Its file.
pub const FILE: &str = "base";
/// Name of the list of chunk digests in the database.
pub(super) const DIGESTS: &str = "base digests";

/// What the starter of a run decides beside the base.
pub struct BaseSettings {
    /// Learning rate, epsilon, range.
    pub hyperparameters: Hyperparameters,
    /// Learning-rate schedule.
    pub schedule: Schedule,
    /// Largest ledger of one machine.
    pub ledger_samples_max: u64,
    /// Whose withdrawals count.
    pub authority: Option<[u8; 32]>,
}

/// Snaps `checkpoint` in place, writes it as the base of a new run in `state`, and makes the manifest durable.
pub fn start_run(state: &StateDir, checkpoint: Checkpoint, settings: BaseSettings) -> Result<Manifest> {
    let tensors = arithmetic(&checkpoint.tensors, &settings.hyperparameters)?;
    let weights = Weights::new(&tensors, checkpoint.tensors)?;
    // Until the manifest is there, the file belongs to no run.
    let digests = write(state, &checkpoint.config, &checkpoint.tokenizer, &weights, |_| Ok(()))?;
    let mut nonce = [0u8; 16];
    getrandom::fill(&mut nonce).context("no random numbers from the system")?;
    let manifest = Manifest {
        protocol_version: PROTOCOL_VERSION,
        nonce,
        base: BaseModel {
            source: checkpoint.source,
            config_bytes: checkpoint.config.len() as u64,
            config_digest: *blake3::hash(&checkpoint.config).as_bytes(),
            tokenizer_bytes: checkpoint.tokenizer.len() as u64,
            tokenizer_digest: *blake3::hash(&checkpoint.tokenizer).as_bytes(),
            chunks_root: root(&digests),
        },
        tensors,
        hyperparameters: settings.hyperparameters,
        schedule: settings.schedule,
        levels: protocol::codec::LEVELS,
        ledger_samples_max: settings.ledger_samples_max,
        membership: Membership::Open,
        authority: settings.authority,
    };
    manifest.validate()?;
    state.database.put_all(&[(DIGESTS, &digests.concat()), ("manifest", &manifest.encode()?)])?;
    Ok(manifest)
}

/// The table of tensors: integers from statistics (see [`choose_arithmetic`]), tensors snapped in place.
fn arithmetic(tensors: &BTreeMap<String, Tensor>, settings: &Hyperparameters) -> Result<Vec<TensorSpec>> {
    let statistics: Vec<_> =
        tensors.iter().map(|(name, tensor)| weights::statistics(name, tensor)).collect::<Result<_>>()?;
    let elements: usize = tensors.values().map(Tensor::elem_count).sum();
    let squares: f64 =
        tensors.values().zip(&statistics).map(|(tensor, s)| s.rms * s.rms * tensor.elem_count() as f64).sum();
    let rms_all = (squares / elements.max(1) as f64).sqrt();
    let spec = |((name, tensor), statistics): ((&String, &Tensor), _)| {
        let chosen = choose_arithmetic(statistics, rms_all, settings).with_context(|| format!("tensor {name}"))?;
        let mut spec = TensorSpec {
            name: name.clone(),
            shape: tensor.dims().iter().map(|dimension| *dimension as u64).collect(),
            range_log2: chosen.range_log2,
            epsilon: chosen.epsilon,
            unit: chosen.unit,
            shift: chosen.shift,
            digest: [0; 32],
        };
        weights::snap(tensor, spec.quantum())?;
        spec.digest = weights::tensor_digest(tensor)?;
        Ok(spec)
    };
    tensors.iter().zip(&statistics).map(spec).collect()
}

/// Fails with everything in which `checkpoint` is not the base of `manifest`; snaps it in place.
pub fn check_same_base(manifest: &Manifest, checkpoint: &Checkpoint) -> Result<()> {
    let mut differences = Vec::new();
    if *blake3::hash(&checkpoint.config).as_bytes() != manifest.base.config_digest {
        differences.push("config.json differs".to_owned());
    }
    if *blake3::hash(&checkpoint.tokenizer).as_bytes() != manifest.base.tokenizer_digest {
        differences.push("tokenizer.json differs".to_owned());
    }
    for spec in &manifest.tensors {
        let Some(tensor) = checkpoint.tensors.get(&spec.name) else {
            differences.push(format!("tensor {} is missing", spec.name));
            continue;
        };
        let shape: Vec<u64> = tensor.dims().iter().map(|dimension| *dimension as u64).collect();
        if shape != spec.shape {
            differences.push(format!("tensor {} has shape {shape:?} instead of {:?}", spec.name, spec.shape));
            continue;
        }
        weights::statistics(&spec.name, tensor)?;
        weights::snap(tensor, spec.quantum())?;
        if weights::tensor_digest(tensor)? != spec.digest {
            differences.push(format!("tensor {} has other values", spec.name));
        }
    }
    let known = |name: &String| manifest.tensors.iter().any(|spec| spec.name == *name);
    differences.extend(
        checkpoint.tensors.keys().filter(|name| !known(name)).map(|name| format!("tensor {name} is not in the run")),
    );
    ensure!(differences.is_empty(), "{}", summary(&differences));
    Ok(())
}

/// The first few, and how many more.
fn summary(differences: &[String]) -> String {
    const SHOWN: usize = 5;
    let mut text = differences.iter().take(SHOWN).cloned().collect::<Vec<_>>().join("; ");
    if differences.len() > SHOWN {
        text.push_str(&format!("; and {} more", differences.len() - SHOWN));
    }
    text
}

impl StateDir {
    /// Writes a model that [`check_same_base`] has passed as the run's base.
    pub fn adopt_base(&self, manifest: &Manifest, checkpoint: Checkpoint) -> Result<()> {
        let weights = Weights::new(&manifest.tensors, checkpoint.tensors)?;
        // The list before the file: a restart believes a base that is there, and needs its list.
        let keep_list = |digests: &[[u8; 32]]| {
            ensure!(root(digests) == manifest.base.chunks_root, "the model passed its checks, but its bytes differ");
            self.database.put(DIGESTS, &digests.concat())
        };
        write(self, &checkpoint.config, &checkpoint.tokenizer, &weights, keep_list).map(drop)
    }
}

/// Writes the blob: temporary file, sync, `before_rename` with its chunks' digests, rename. Returns the digests.
fn write(
    state: &StateDir,
    config: &[u8],
    tokenizer: &[u8],
    weights: &Weights,
    before_rename: impl FnOnce(&[[u8; 32]]) -> Result<()>,
) -> Result<Vec<[u8; 32]>> {
    let temporary = state.path.join("base.new");
    let write = || -> Result<Vec<[u8; 32]>> {
        let file = BufWriter::with_capacity(1 << 16, File::create(&temporary)?);
        let mut blob = ChunkHasher { inner: file, hasher: blake3::Hasher::new(), filled: 0, digests: Vec::new() };
        blob.write_all(config)?;
        blob.write_all(tokenizer)?;
        weights.write_to(&mut blob)?;
        blob.flush()?;
        durable::point();
        blob.inner.get_ref().sync_all()?;
        durable::point();
        let digests = blob.finish();
        before_rename(&digests)?;
        fs::rename(&temporary, state.path.join(FILE))?;
        sync_directory(&state.path)?;
        Ok(digests)
    };
    write().with_context(|| unusable(&state.path))
}

/// Hashes what passes, chunk by chunk.
struct ChunkHasher<W> {
    inner: W,
    hasher: blake3::Hasher,
    filled: usize,
    digests: Vec<[u8; 32]>,
}

impl<W> ChunkHasher<W> {
    fn finish(mut self) -> Vec<[u8; 32]> {
        if self.filled > 0 {
            self.digests.push(*self.hasher.finalize().as_bytes());
        }
        self.digests
    }
}

impl<W: Write> Write for ChunkHasher<W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let taken = self.inner.write(&bytes[..bytes.len().min(BASE_CHUNK_BYTES - self.filled)])?;
        self.hasher.update(&bytes[..taken]);
        self.filled += taken;
        if self.filled == BASE_CHUNK_BYTES {
            self.digests.push(*self.hasher.finalize().as_bytes());
            self.hasher.reset();
            self.filled = 0;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.inner.flush()
    }
}

/// BLAKE3 of the concatenated digests.
pub(super) fn root(digests: &[[u8; 32]]) -> [u8; 32] {
    protocol::manifest::combine_digests(digests.iter().copied())
}

/// The base model, for loading and for serving.
pub struct BaseReader {
    path: PathBuf,
    manifest: Manifest,
    digests: Vec<[u8; 32]>,
}

impl BaseReader {
    pub(super) fn open(directory: &Path, database: &Database, manifest: &Manifest) -> Result<Self> {
        let path = directory.join(FILE);
        refuse_missing(&path)?;
        let digests = database.get(DIGESTS)?.unwrap_or_default();
        let digests: Vec<[u8; 32]> = digests.chunks_exact(32).filter_map(|digest| digest.try_into().ok()).collect();
        ensure!(
            root(&digests) == manifest.base.chunks_root,
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
            let digest = weights::tensor_digest(&weights.tensors()[&spec.name])?;
            ensure!(
                digest == spec.digest,
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
