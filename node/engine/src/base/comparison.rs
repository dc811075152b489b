//! Whether a checkpoint is a run's base.

use anyhow::{Result, ensure};
use protocol::manifest::Manifest;

use super::arithmetic::{snap, statistics};
use crate::{model::Checkpoint, weights::tensor_digest};

/// Fails with everything in which `checkpoint` is not the base of `manifest`; snaps it in place.
pub fn check_same_base(manifest: &Manifest, checkpoint: &Checkpoint) -> Result<()> {
    let mut differences = Vec::new();
    if *blake3::hash(&checkpoint.config).as_bytes() != manifest.base.config_digest {
        differences.push("config.json differs".to_owned());
    }
    if *blake3::hash(&checkpoint.tokenizer).as_bytes() != manifest.base.tokenizer_digest {
        differences.push("tokenizer.json differs".to_owned());
    }
    for spec in manifest.tensors.iter().filter(|spec| spec.adapter().is_none()) {
        let Some(tensor) = checkpoint.tensors.get(&spec.name) else {
            differences.push(format!("tensor {} is missing", spec.name));
            continue;
        };
        let shape: Vec<u64> = tensor.dims().iter().map(|dimension| *dimension as u64).collect();
        if shape != spec.shape {
            differences.push(format!("tensor {} has shape {shape:?} instead of {:?}", spec.name, spec.shape));
            continue;
        }
        statistics(&spec.name, tensor)?;
        snap(tensor, spec.quantum())?;
        if Some(tensor_digest(tensor)?) != spec.base_digest() {
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
