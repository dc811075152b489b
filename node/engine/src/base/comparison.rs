//! Whether a checkpoint is a run's base.

use anyhow::{Result, ensure};
use protocol::manifest::{Half, Manifest, Role, TensorSpec};
use std::collections::BTreeMap;

use super::{Base, appendix, arithmetic::snap};
use crate::{
    model::{Checkpoint, OriginalFile},
    weights::{Weights, tensor_digest},
};

impl Base {
    /// The base of the run of `manifest`, from a checkpoint that has its tensors, its config and its tokenizer.
    ///
    /// Tensors may lie in other files than the run's: [`Base::write_to`] tells whether they are the run's files. Fails
    /// with everything in which `checkpoint` differs.
    pub fn of_run(manifest: &Manifest, checkpoint: Checkpoint) -> Result<Self> {
        let mut differences = Vec::new();
        for (role, bytes) in [(Role::Config, &checkpoint.config), (Role::Tokenizer, &checkpoint.tokenizer)] {
            // A GGUF file holds both: whether it is the same is asked below.
            let Some(expected) = manifest.base.file(role) else { continue };
            if expected.digest != *blake3::hash(bytes).as_bytes() {
                differences.push(format!("{} differs", role.file_name().unwrap_or_default()));
            }
        }
        if let Some(expected) = manifest.base.file(Role::Gguf) {
            let own = checkpoint.files.iter().find(|file| file.role == Role::Gguf);
            match own.map(OriginalFile::digest).transpose()? {
                None => differences.push(format!("it is no GGUF file, as the run's {} is", expected.name)),
                Some(digest) if digest != expected.digest => differences.push("the GGUF file differs".into()),
                Some(_) => {}
            }
        }
        let shapes: BTreeMap<&str, &[usize]> = checkpoint.shapes().collect();
        let mut trained = BTreeMap::new();
        for spec in manifest.tensors.iter().filter(|spec| spec.adapter().is_none()) {
            let Some(shape) = shapes.get(spec.name.as_str()) else {
                differences.push(format!("tensor {} is missing", spec.name));
                continue;
            };
            let shape: Vec<u64> = shape.iter().map(|dimension| *dimension as u64).collect();
            if shape != spec.shape {
                differences.push(format!("tensor {} has shape {shape:?} instead of {:?}", spec.name, spec.shape));
                continue;
            }
            let tensor = checkpoint.tensor(&spec.name)?;
            snap(&tensor, spec.quantum())?;
            if Some(tensor_digest(&tensor)?) != spec.base_digest() {
                differences.push(format!("tensor {} has other values", spec.name));
            }
            trained.insert(spec.name.clone(), tensor);
        }
        differences.extend(manifest.tensors.iter().filter_map(|spec| misfit(spec, &shapes)));
        ensure!(differences.is_empty(), "{}", summary(&differences));
        // It follows from the table, the frozen tensors, and nothing else.
        let appendix = appendix(&checkpoint, &manifest.tensors)?.encode()?;
        ensure!(
            *blake3::hash(&appendix).as_bytes() == manifest.base.appendix_digest,
            "the tensors that the run does not train are others: their names, types, shapes or values differ"
        );
        let frozen = shapes.keys().filter(|name| !trained.contains_key(**name));
        let frozen = frozen.map(|name| Ok(((*name).to_owned(), checkpoint.frozen(name)?))).collect::<Result<_>>()?;
        let weights = Weights::of_run(manifest, trained)?.with_frozen(frozen)?;
        Ok(Self { appendix, weights, checkpoint, groups: manifest.groups.clone(), nonce: manifest.nonce })
    }
}

/// What is wrong with an adapter of the run beside layers of these shapes. Its own shape is whatever the run's starter
/// says, and its first values are made here.
fn misfit(spec: &TensorSpec, shapes: &BTreeMap<&str, &[usize]>) -> Option<String> {
    let adapter = spec.adapter()?;
    let layer = adapter.linear(&spec.name).and_then(|linear| shapes.get(format!("{linear}.weight").as_str()));
    let outer = spec.shape.get(if adapter.half == Half::A { 1 } else { 0 });
    let fits =
        |layer: &&[usize]| layer.len() == 2 && layer.iter().any(|dimension| Some(*dimension as u64) == outer.copied());
    (!layer.is_some_and(fits)).then(|| format!("{} of shape {:?} fits no layer", spec.name, spec.shape))
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
