//! Low-rank adapters of a new run: which layers have them, how they begin, and the model that they come to.

use anyhow::{Context, Result, bail, ensure};
use candle_core::Tensor;
use protocol::manifest::{
    ADAPTER_ONE, ADAPTER_RANK_MAX, Adapter, Half, Hyperparameters, Origin, TensorSpec, choose_arithmetic,
};
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fs,
    path::Path,
};

use super::{Trained, arithmetic::statistics, groups::Cut};
use crate::{
    model::{Architecture, Checkpoint, Part, TrainedTensors, new_directory},
    weights::Weights,
};

/// The adapters that a run trains in place of its base.
#[derive(Clone, PartialEq, Debug)]
pub struct AdapterSettings {
    /// Of each, at least 1.
    pub rank: u32,
    /// What the product of the halves is multiplied by: PEFT's alpha over the rank.
    pub scaling: f64,
    /// The linear layers, without `.weight`.
    pub layers: BTreeSet<String>,
}

/// One of the two matrices of an adapter.
pub struct AdapterHalf<'a> {
    /// Of the tensor.
    pub name: String,
    /// Which of the two.
    pub half: Half,
    /// [rank, inputs] of A, [outputs, rank] of B.
    pub shape: [usize; 2],
    /// Of the layer.
    pub inputs: usize,
    /// The linear layer, without `.weight`.
    pub layer: &'a str,
}

impl AdapterSettings {
    /// Adapters of those of `named` that are linear layers of attention or MLPs; `alpha` as PEFT has it, twice the rank
    /// if none is given. Errors if there are none, or if a number is out of bounds.
    pub fn new(rank: u32, alpha: Option<f64>, named: &Trained, architecture: &dyn Architecture) -> Result<Self> {
        ensure!((1..=ADAPTER_RANK_MAX).contains(&rank), "rank {rank}: must be 1 to {ADAPTER_RANK_MAX}, 8 is usual");
        let alpha = alpha.unwrap_or(2.0 * f64::from(rank));
        let scaling = alpha / f64::from(rank);
        ensure!(
            (1e-4..=1e4).contains(&scaling),
            "alpha {alpha} over rank {rank} is {scaling}: must be 1e-4 to 1e4, 2 is usual"
        );
        let is_linear = |name: &String| named.has(name) && linear_shape(name, architecture).is_some();
        let names = architecture.tensors().into_iter().map(|(name, _)| name).filter(is_linear);
        let layers = names.filter_map(|name| Some(name.strip_suffix(".weight")?.to_owned()));
        let layers: BTreeSet<String> = layers.collect();
        ensure!(
            !layers.is_empty(),
            "none of the tensors is a linear layer of attention or of an MLP, which adapters are of"
        );
        Ok(Self { rank, scaling, layers })
    }

    /// Both halves of each, in the order of their names.
    pub fn halves(&self, architecture: &dyn Architecture) -> Result<Vec<AdapterHalf<'_>>> {
        let mut halves = Vec::new();
        for layer in &self.layers {
            let shape = linear_shape(&format!("{layer}.weight"), architecture);
            let (outputs, inputs) = shape.with_context(|| format!("{layer} is no linear layer of the model"))?;
            let rank = self.rank as usize;
            for (half, shape) in [(Half::A, [rank, inputs]), (Half::B, [outputs, rank])] {
                halves.push(AdapterHalf { name: format!("{layer}{}", half.suffix()), half, shape, inputs, layer });
            }
        }
        halves.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(halves)
    }

    /// The table of them. A begins at the size of PEFT's first values, 1/√(3 · inputs); B at zero.
    ///
    /// Directions are scaled so that a learning rate means what it means for the layers themselves: a step of B moves a
    /// layer's output as far as a step of the layer would, one of A moves A by the same part of its size.
    pub(super) fn table(
        &self,
        checkpoint: &Checkpoint,
        architecture: &dyn Architecture,
        cut: &Cut,
        settings: &Hyperparameters,
    ) -> Result<Vec<TensorSpec>> {
        let mut sizes = BTreeMap::new();
        for layer in &self.layers {
            let name = format!("{layer}.weight");
            let tensor = checkpoint.tensor(&name)?;
            sizes.insert(layer.as_str(), statistics(&name, &tensor)?.rms);
        }
        let row = |AdapterHalf { name, half, shape, inputs, layer }: AdapterHalf<'_>| {
            let begins = 1.0 / (3.0 * inputs as f64).sqrt();
            let scale = match half {
                Half::A => begins,
                Half::B => sizes[layer] / (begins * self.scaling * f64::from(self.rank).sqrt()),
            };
            let scale = scale.clamp(1e-4, 1e3);
            let (group, first) = (cut.group_of[&name], if half == Half::A { begins } else { 0.0 });
            let chosen = choose_arithmetic(first, scale, &cut.groups, group, settings);
            let chosen = chosen.with_context(|| format!("adapter {name}"))?;
            let adapter = Adapter {
                half,
                rank: self.rank,
                scaling: fixed(self.scaling),
                direction_scale: fixed(scale),
                initial: (first / f64::from(chosen.quantum())).round() as u32,
            };
            let shape = shape.iter().map(|dimension| *dimension as u64).collect();
            Ok(chosen.row(&name, shape, group, Origin::Adapter(adapter)))
        };
        self.halves(architecture)?.into_iter().map(row).collect()
    }
}

/// Q16, at least the smallest number above 0.
fn fixed(value: f64) -> u32 {
    (value * f64::from(ADAPTER_ONE)).round().max(1.0) as u32
}

/// (outputs, inputs) of the linear layer whose weight is called `name`, if it is one of attention or of an MLP.
fn linear_shape(name: &str, architecture: &dyn Architecture) -> Option<(usize, usize)> {
    let is_within = matches!(architecture.part(name), Part::Attention | Part::Mlp) && name.ends_with(".weight");
    let (_, shape) = architecture.tensors().into_iter().find(|(found, _)| found == name).filter(|_| is_within)?;
    match (&shape[..], architecture.is_transposed()) {
        ([outputs, inputs], false) | ([inputs, outputs], true) => Some((*outputs, *inputs)),
        _ => None,
    }
}

/// Trained tensors under the names of the base: those of the base themselves, and the layers that adapters change, with
/// what the adapters add. Such a layer is made when it is asked for: all of them take more than the base does.
pub struct Merged<'a> {
    weights: &'a Weights,
    /// Of a layer's weight: the layer, and what its adapter's product is multiplied by.
    layers: BTreeMap<String, (String, f64)>,
    is_transposed: bool,
}

impl<'a> Merged<'a> {
    /// Those of `weights`, over `checkpoint`.
    pub fn of(checkpoint: &Checkpoint, weights: &'a Weights) -> Result<Self> {
        let is_transposed = checkpoint.architecture()?.is_transposed();
        let named = |(layer, scaling): (String, f64)| (format!("{layer}.weight"), (layer, scaling));
        Ok(Self { weights, layers: weights.adapters().into_iter().map(named).collect(), is_transposed })
    }
}

impl TrainedTensors for Merged<'_> {
    fn names(&self) -> BTreeSet<String> {
        let base = self.weights.specs().iter().filter(|spec| spec.adapter().is_none());
        base.map(|spec| spec.name.clone()).chain(self.layers.keys().cloned()).collect()
    }

    fn tensor(&self, name: &str) -> Result<Tensor> {
        let Some((layer, scaling)) = self.layers.get(name) else { return self.weights.values(name) };
        let [a, b] = [Half::A, Half::B].map(|half| self.weights.values(&format!("{layer}{}", half.suffix())));
        let product = (b?.matmul(&a?)? * *scaling)?;
        let product = if self.is_transposed { product.t()?.contiguous()? } else { product };
        Ok((self.weights.values(name)? + product)?)
    }
}

/// Writes the adapters of a run into `directory`, which is created if absent and must be empty, as PEFT does
/// (`adapter_config.json`, `adapter_model.safetensors`). Errors if the run trains anything else.
pub fn export_adapters(directory: &Path, checkpoint: &Checkpoint, weights: &Weights) -> Result<()> {
    let adapter = |spec: &TensorSpec| spec.adapter();
    let Some(all) = weights.specs().iter().map(adapter).collect::<Option<Vec<Adapter>>>() else {
        bail!("this run trains tensors of the base, which no adapter holds; export the whole model");
    };
    let first = all.first().context("this run trains nothing")?;
    new_directory(directory, |directory| write_adapters(directory, checkpoint, weights, first))
}

fn write_adapters(directory: &Path, checkpoint: &Checkpoint, weights: &Weights, first: &Adapter) -> Result<()> {
    let (name, revision) = match checkpoint.source.split_once('@') {
        Some((name, revision)) => (name, json!(revision)),
        None => (checkpoint.source.as_str(), Value::Null),
    };
    let layers: Vec<String> = weights.adapters().into_keys().collect();
    let config = json!({
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": name, "revision": revision,
        "r": first.rank, "lora_alpha": f64::from(first.scaling) / f64::from(ADAPTER_ONE) * f64::from(first.rank),
        "target_modules": layers, "lora_dropout": 0.0, "bias": "none", "inference_mode": true,
        "fan_in_fan_out": checkpoint.is_transposed()
    });
    let path = directory.join("adapter_config.json");
    fs::write(&path, serde_json::to_vec_pretty(&config)?)
        .with_context(|| format!("cannot write {}", path.display()))?;
    let named = |(name, tensor): (String, Tensor)| (format!("base_model.model.{name}"), tensor);
    let tensors: HashMap<String, Tensor> = weights.trained().into_iter().map(named).collect();
    let path = directory.join("adapter_model.safetensors");
    candle_core::safetensors::save(&tensors, &path).with_context(|| format!("cannot write {}", path.display()))
}
