//! The tensors that a run trains, in an exact store that the model shares.
//!
//! They are plain candle tensors, so a model that is built on clones of them sees every sweep: perturbing and replaying
//! need no second copy. Only [`Weights::sweep`] changes a value, and only by whole quanta. Frozen tensors, which the
//! model needs as well and no sweep touches, are kept beside them.

use anyhow::{Context, Result, bail, ensure};
use candle_core::Tensor;
use protocol::manifest::{ADAPTER_ONE, Half, Manifest, TensorSpec};
use rayon::prelude::*;
use std::collections::BTreeMap;

use super::grid::{check_grid, check_layout, dimensions};
use crate::{
    device,
    kernel::Kernel,
    packed::{Frozen, Packed},
};

/// The trained tensors of a run: f32, contiguous, every value n · quantum with −2^24 ≤ n < 2^24, zero as +0.0.
pub struct Weights {
    pub(super) specs: Vec<TensorSpec>,
    /// Trained and frozen.
    pub(super) tensors: BTreeMap<String, Tensor>,
    /// Frozen, as they are stored.
    packed: BTreeMap<String, Packed>,
    kernel: Kernel,
}

impl Weights {
    /// Takes over `tensors`, which must be exactly those of `specs` (in canonical order), with values on their grids.
    pub fn new(specs: &[TensorSpec], tensors: BTreeMap<String, Tensor>) -> Result<Self> {
        ensure!(
            specs.is_sorted_by(|a, b| a.name < b.name),
            "the table of tensors is not in the order of its names; take it from a valid manifest"
        );
        if let Some(name) = tensors.keys().find(|name| specs.binary_search_by(|s| s.name.cmp(name)).is_err()) {
            bail!("tensor {name} is not one of the run's {} tensors; use the run's base model", specs.len());
        }
        for spec in specs {
            let tensor = tensors
                .get(&spec.name)
                .with_context(|| format!("tensor {} of the run is missing; use the run's base model", spec.name))?;
            check_layout(spec, tensor)?;
        }
        let weights = Self { specs: specs.to_vec(), tensors, packed: BTreeMap::new(), kernel: Kernel::best() };
        weights
            .specs
            .par_iter()
            .try_for_each(|spec| weights.read(spec, |values| check_grid(&spec.name, values, spec.quantum()))?)?;
        Ok(weights)
    }

    /// What the run of `manifest` starts from: the trained tensors of its base, on their grids, and its adapters as
    /// they begin.
    pub fn of_run(manifest: &Manifest, base: BTreeMap<String, Tensor>) -> Result<Self> {
        Self::begin(&manifest.tensors, base, &manifest.nonce)
    }

    /// The same from the table and the nonce of a manifest.
    pub fn begin(specs: &[TensorSpec], mut base: BTreeMap<String, Tensor>, nonce: &[u8; 16]) -> Result<Self> {
        for spec in specs {
            let Some(adapter) = spec.adapter() else { continue };
            let values = adapter.initial_values(&spec.name, spec.elements() as usize, spec.quantum(), nonce);
            base.insert(spec.name.clone(), device::tensor(values, dimensions(spec)?)?);
        }
        Self::new(specs, base)
    }

    /// Takes over the tensors that the run does not train. Errors if one of them is trained.
    pub fn with_frozen(mut self, frozen: BTreeMap<String, Frozen>) -> Result<Self> {
        for (name, tensor) in frozen {
            ensure!(!self.tensors.contains_key(&name), "tensor {name} is trained, and cannot be frozen");
            match tensor {
                Frozen::Plain(tensor) => drop(self.tensors.insert(name, tensor)),
                Frozen::Packed(packed) => drop(self.packed.insert(name, packed)),
            }
        }
        Ok(self)
    }

    /// The same values in storage of their own, which sweeps of these do not touch. What is frozen is shared.
    pub fn copy(&self) -> Result<Self> {
        let mut tensors = self.tensors.clone();
        for spec in &self.specs {
            tensors.insert(spec.name.clone(), self.tensors[&spec.name].copy()?);
        }
        Ok(Self { specs: self.specs.clone(), tensors, packed: self.packed.clone(), kernel: self.kernel })
    }

    /// Sweeps with `kernel` from now on; the bits are the same with any.
    pub fn set_kernel(&mut self, kernel: Kernel) {
        self.kernel = kernel;
    }

    /// The kernel that sweeps.
    pub fn kernel(&self) -> Kernel {
        self.kernel
    }

    /// The table of tensors, in canonical order.
    pub fn specs(&self) -> &[TensorSpec] {
        &self.specs
    }

    /// Frozen matrices by name, as they are stored.
    pub fn packed(&self) -> &BTreeMap<String, Packed> {
        &self.packed
    }

    /// The values of the tensor of this name, trained or frozen.
    pub fn values(&self, name: &str) -> Result<Tensor> {
        match (self.tensors.get(name), self.packed.get(name)) {
            (Some(tensor), _) => Ok(tensor.clone()),
            (None, Some(packed)) => packed.tensor(),
            (None, None) => bail!("tensor {name} is missing"),
        }
    }

    /// All tensors of the model by name, trained and frozen, but those of [`Self::packed`]. Clones share the storage
    /// and see every sweep.
    pub fn tensors(&self) -> &BTreeMap<String, Tensor> {
        &self.tensors
    }

    /// The trained tensors by name, as [`Self::tensors`].
    pub fn trained(&self) -> BTreeMap<String, Tensor> {
        self.specs.iter().map(|spec| (spec.name.clone(), self.tensors[&spec.name].clone())).collect()
    }

    /// Linear layers that have an adapter among the trained tensors, and what the product of its halves is multiplied
    /// by.
    pub fn adapters(&self) -> BTreeMap<String, f64> {
        let of = |spec: &TensorSpec| {
            let adapter = spec.adapter().filter(|adapter| adapter.half == Half::B)?;
            Some((adapter.linear(&spec.name)?.to_owned(), f64::from(adapter.scaling) / f64::from(ADAPTER_ONE)))
        };
        self.specs.iter().filter_map(of).collect()
    }

    /// Calls `f` on the values of one trained tensor.
    pub(super) fn read<T>(&self, spec: &TensorSpec, f: impl FnOnce(&[f32]) -> T) -> Result<T> {
        device::read(&self.tensors[&spec.name], f).with_context(|| format!("tensor {}", spec.name))
    }
}
