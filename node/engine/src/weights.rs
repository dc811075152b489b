//! The exact, in-place weight store that the model shares.
//!
//! The tensors are plain candle tensors, so a model that is built on clones of them sees every sweep: perturbing and replaying need no
//! second copy. Only [`Weights::sweep`] changes a value, and only by whole quanta.

use anyhow::{Context, Result, bail, ensure};
use candle_core::{CpuStorage, DType, Device, InplaceOp1, Layout, Storage, Tensor};
use protocol::{
    manifest::{self, TensorSpec, TensorStatistics, WEIGHT_BITS, combine_digests},
    perturbation::BLOCK,
    replay::{self, Sweep, TensorSweep},
};
use rayon::prelude::*;
use std::{
    collections::BTreeMap,
    io::{Read, Write},
    sync::atomic::{AtomicU32, Ordering},
};

use crate::kernel::Kernel;

/// Element·directions below which another thread costs more than it saves (about 20 µs of work).
const TASK_WORK_MIN: usize = 1 << 17;
/// Values that are converted to bytes at a time.
const COPY_VALUES: usize = 1 << 14;

/// The trained tensors of a run: f32, on the CPU, contiguous, every value n · quantum with −2^24 ≤ n < 2^24, zero as +0.0.
pub struct Weights {
    specs: Vec<TensorSpec>,
    tensors: BTreeMap<String, Tensor>,
    kernel: Kernel,
}

/// What a sweep saw.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct SweepReport {
    /// Largest |n| among the weights that were swept, also on their way: a sweep of many directions goes in rounds.
    pub peak: u32,
    /// Index (canonical order) of the tensor that holds it.
    pub tensor: usize,
}

impl SweepReport {
    /// The largest weight as a share of its range (1 is the end).
    pub fn share(&self) -> f64 {
        f64::from(self.peak) / f64::from(1 << WEIGHT_BITS)
    }

    /// Whether a weight is within 5% of the edge of its range, where the next moves may wrap around.
    pub fn near_edge(&self) -> bool {
        self.share() > 0.95
    }
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
        let weights = Self { specs: specs.to_vec(), tensors, kernel: Kernel::best() };
        weights
            .specs
            .par_iter()
            .try_for_each(|spec| weights.read(spec, |values| check_grid(&spec.name, values, spec.quantum()))?)?;
        Ok(weights)
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

    /// The tensors by name. Clones share the storage and see every sweep.
    pub fn tensors(&self) -> &BTreeMap<String, Tensor> {
        &self.tensors
    }

    /// Adds probes and contributions to all weights in one pass, over the threads of the current rayon pool.
    ///
    /// An error is a bug or a foreign change of a tensor; the weights must then be loaded anew.
    pub fn sweep(&mut self, sweep: &Sweep) -> Result<SweepReport> {
        if sweep.is_empty() {
            return Ok(SweepReport::default());
        }
        let elements: u64 = self.specs.iter().map(TensorSpec::elements).sum();
        let directions = sweep.probes.len() + sweep.contributions.len();
        let alone = rayon::current_num_threads() == 1 || elements as usize * directions < 2 * TASK_WORK_MIN;
        let one = |index: usize| -> Result<SweepReport> {
            let resolved = sweep.for_tensor(index as u32, &self.specs[index]);
            let peak = self.sweep_tensor(index, &resolved, alone)?;
            Ok(SweepReport { peak, tensor: index })
        };
        let higher = |a: SweepReport, b: SweepReport| if b.peak > a.peak { b } else { a };
        if alone {
            return (0..self.specs.len())
                .try_fold(SweepReport::default(), |report, index| Ok(higher(report, one(index)?)));
        }
        (0..self.specs.len()).into_par_iter().map(one).try_reduce(SweepReport::default, |a, b| Ok(higher(a, b)))
    }

    /// One tensor's part of a sweep; returns its largest |n|.
    fn sweep_tensor(&self, index: usize, sweep: &TensorSweep, alone: bool) -> Result<u32> {
        let spec = &self.specs[index];
        let directions = sweep.wide.len() + sweep.narrow.len();
        if directions == 0 {
            return Ok(0);
        }
        let (kernel, scale) = (self.kernel, spec.quantum());
        let blocks = TASK_WORK_MIN.div_ceil(BLOCK * directions);
        let peak = AtomicU32::new(0);
        let apply = |values: &mut [f32]| {
            if alone || values.len() <= blocks * BLOCK {
                peak.fetch_max(kernel.sweep(values, scale, sweep, 0), Ordering::Relaxed);
                return;
            }
            values.par_chunks_mut(blocks * BLOCK).enumerate().for_each(|(task, values)| {
                peak.fetch_max(kernel.sweep(values, scale, sweep, (task * blocks) as u64), Ordering::Relaxed);
            });
        };
        self.tensors[&spec.name].inplace_op1(&InPlace(&apply)).with_context(|| format!("sweeping {}", spec.name))?;
        Ok(peak.into_inner())
    }

    /// The largest weight as it stands.
    pub fn peak(&self) -> Result<SweepReport> {
        let mut report = SweepReport::default();
        for (tensor, spec) in self.specs.iter().enumerate() {
            let largest =
                self.read(spec, |values| values.iter().fold(0f32, |largest, value| largest.max(value.abs())))?;
            let peak = (largest / spec.quantum()) as u32;
            if peak > report.peak {
                report = SweepReport { peak, tensor };
            }
        }
        Ok(report)
    }

    /// BLAKE3 of the concatenated BLAKE3 digests of the tensors (f32 LE, row-major) in canonical order.
    pub fn digest(&self) -> [u8; 32] {
        let digest = |spec: &TensorSpec| tensor_digest(&self.tensors[&spec.name]);
        let digests: Result<Vec<_>> = self.specs.par_iter().map(digest).collect();
        combine_digests(digests.expect("type and layout were checked when the tensors were taken over"))
    }

    /// Writes all tensors, f32 LE, row-major, in canonical order.
    pub fn write_to(&self, out: &mut dyn Write) -> Result<()> {
        for spec in &self.specs {
            let written = self.read(spec, |values| for_each_bytes(values, |bytes| out.write_all(bytes)))?;
            written.with_context(|| format!("writing tensor {}", spec.name))?;
        }
        Ok(())
    }

    /// Reads what [`Self::write_to`] wrote, one tensor at a time, and checks every value. Leaves what follows unread.
    pub fn read_from(specs: &[TensorSpec], input: &mut dyn Read) -> Result<Self> {
        let mut tensors = BTreeMap::new();
        for spec in specs {
            let values = read_values(spec, input).with_context(|| format!("reading tensor {}", spec.name))?;
            let tensor = Tensor::from_vec(values, dimensions(spec)?, &Device::Cpu)?;
            tensors.insert(spec.name.clone(), tensor);
        }
        Self::new(specs, tensors)
    }

    fn read<T>(&self, spec: &TensorSpec, f: impl FnOnce(&[f32]) -> T) -> Result<T> {
        with_values(&self.tensors[&spec.name], f).with_context(|| format!("tensor {}", spec.name))
    }
}

/// Snaps a starter's tensor to its grid, in place. The quantum must come from the tensor's own [`statistics`].
pub fn snap(tensor: &Tensor, quantum: f32) -> Result<()> {
    let apply = |values: &mut [f32]| {
        values.par_chunks_mut(BLOCK).for_each(|values| {
            values.iter_mut().for_each(|value| *value = replay::snap(*value, quantum));
        });
    };
    Ok(tensor.inplace_op1(&InPlace(&apply))?)
}

/// Largest magnitude and root mean square of tensor `name`; refuses a value that is not finite.
pub fn statistics(name: &str, tensor: &Tensor) -> Result<TensorStatistics> {
    with_values(tensor, |values| {
        if let Some(at) = values.iter().position(|value| !value.is_finite()) {
            bail!("tensor {name} has {} at element {at}; repair or replace the checkpoint", values[at]);
        }
        // Fixed chunks: the sums do not depend on the number of threads.
        let parts: Vec<(f64, f64)> = values
            .par_chunks(BLOCK)
            .map(|values| {
                values.iter().fold((0.0, 0.0), |(max, sum): (f64, f64), value| {
                    let value = f64::from(value.abs());
                    (max.max(value), sum + value * value)
                })
            })
            .collect();
        let (max_abs, squares) = parts.into_iter().fold((0.0f64, 0.0), |a, b| (a.0.max(b.0), a.1 + b.1));
        Ok(TensorStatistics { max_abs, rms: (squares / values.len().max(1) as f64).sqrt() })
    })?
}

/// BLAKE3 of a tensor's values, f32 LE, row-major: the digest of a [`TensorSpec`].
pub fn tensor_digest(tensor: &Tensor) -> Result<[u8; 32]> {
    with_values(tensor, |values| {
        let mut hasher = blake3::Hasher::new();
        let Ok(()) = for_each_bytes(values, |bytes| {
            hasher.update(bytes);
            Ok::<_, std::convert::Infallible>(())
        });
        *hasher.finalize().as_bytes()
    })
}

/// Runs a closure on the values of a contiguous f32 tensor, in place.
struct InPlace<'a>(&'a (dyn Fn(&mut [f32]) + Sync));

impl InplaceOp1 for InPlace<'_> {
    fn name(&self) -> &'static str {
        "sweep"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> candle_core::Result<()> {
        let CpuStorage::F32(values) = storage else { candle_core::bail!("not f32") };
        match layout.contiguous_offsets().and_then(|(start, end)| values.get_mut(start..end)) {
            Some(values) => (self.0)(values),
            None => candle_core::bail!("not contiguous"),
        }
        Ok(())
    }
}

/// Reads the values of a contiguous f32 tensor on the CPU.
fn with_values<T>(tensor: &Tensor, f: impl FnOnce(&[f32]) -> T) -> Result<T> {
    let (storage, layout) = tensor.storage_and_layout();
    let Storage::Cpu(CpuStorage::F32(values)) = &*storage else { bail!("not an f32 tensor on the CPU") };
    let values = layout.contiguous_offsets().and_then(|(start, end)| values.get(start..end));
    Ok(f(values.context("not contiguous")?))
}

/// Hands out the values' bytes (f32 LE) piece by piece.
fn for_each_bytes<E>(values: &[f32], mut f: impl FnMut(&[u8]) -> Result<(), E>) -> Result<(), E> {
    let mut buffer = vec![0u8; 4 * values.len().min(COPY_VALUES)];
    for values in values.chunks(COPY_VALUES) {
        for (bytes, value) in buffer.as_chunks_mut().0.iter_mut().zip(values) {
            *bytes = value.to_le_bytes();
        }
        f(&buffer[..4 * values.len()])?;
    }
    Ok(())
}

fn read_values(spec: &TensorSpec, input: &mut dyn Read) -> Result<Vec<f32>> {
    let elements: usize = dimensions(spec)?.iter().product();
    let mut values = Vec::new();
    values
        .try_reserve_exact(elements)
        .with_context(|| format!("{elements} values do not fit this machine's memory"))?;
    let mut buffer = vec![0u8; 4 * elements.min(COPY_VALUES)];
    while values.len() < elements {
        let bytes = &mut buffer[..4 * (elements - values.len()).min(COPY_VALUES)];
        input.read_exact(bytes).with_context(|| format!("after {} of {elements} values", values.len()))?;
        values.extend(bytes.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)));
    }
    Ok(values)
}

fn dimensions(spec: &TensorSpec) -> Result<Vec<usize>> {
    let dimensions: Result<Vec<usize>, _> = spec.shape.iter().map(|dimension| usize::try_from(*dimension)).collect();
    dimensions
        .ok()
        .filter(|dimensions| dimensions.iter().try_fold(1usize, |product, d| product.checked_mul(*d)).is_some())
        .with_context(|| format!("tensor {} of shape {:?} is too large for this machine", spec.name, spec.shape))
}

fn check_layout(spec: &TensorSpec, tensor: &Tensor) -> Result<()> {
    let name = &spec.name;
    ensure!(
        tensor.dims() == dimensions(spec)?,
        "tensor {name} has shape {:?}, the run has {:?}; use the run's base model",
        tensor.dims(),
        spec.shape
    );
    ensure!(tensor.dtype() == DType::F32, "tensor {name} is {:?}; convert it to f32", tensor.dtype());
    ensure!(tensor.device().is_cpu() && tensor.is_contiguous(), "tensor {name} is not contiguous on the CPU");
    ensure!(!tensor.is_variable(), "tensor {name} is a variable, which records a graph; pass a plain tensor");
    Ok(())
}

/// Checks that every value is n · `quantum` with −2^24 ≤ n < 2^24, and no −0.0.
fn check_grid(name: &str, values: &[f32], quantum: f32) -> Result<()> {
    let edge = (1i32 << manifest::WEIGHT_BITS) as f32;
    let on_grid = |value: &f32| {
        let n = value / quantum;
        n.trunc() == n && -edge <= n && n < edge && value.to_bits() != (-0.0f32).to_bits()
    };
    // Without a branch per value first, then the place of the offender.
    if values.iter().fold(true, |all, value| all & on_grid(value)) {
        return Ok(());
    }
    let at = values.iter().position(|value| !on_grid(value)).unwrap_or_default();
    bail!(
        "tensor {name} has {:?} at element {at}, which is not a multiple of {quantum:e} within ±{:e}; snap it, or fetch the \
         run's own base",
        values[at],
        edge * quantum
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(name: &str, shape: &[u64], range_log2: u8) -> TensorSpec {
        let shape = shape.to_vec();
        TensorSpec { name: name.into(), shape, range_log2, epsilon: 3, unit: 1 << 32, shift: 2, digest: [0; 32] }
    }

    fn specs() -> Vec<TensorSpec> {
        vec![spec("a", &[2, 3], 0), spec("b", &[4], 1)]
    }

    fn tensors(a: [f32; 6]) -> BTreeMap<String, Tensor> {
        let a = Tensor::from_slice(&a, (2, 3), &Device::Cpu).unwrap();
        let b = Tensor::from_slice(&[0.0f32, 1.5, -2.0, 0.25], 4, &Device::Cpu).unwrap();
        BTreeMap::from([("a".into(), a), ("b".into(), b)])
    }

    const GOOD: [f32; 6] = [0.0, 0.5, -1.0, 0.25, -0.125, 5.9604645e-8];

    fn refusal(specs: &[TensorSpec], tensors: BTreeMap<String, Tensor>) -> String {
        format!("{:#}", Weights::new(specs, tensors).err().expect("must be refused"))
    }

    #[test]
    fn a_clone_of_a_tensor_sees_every_sweep() {
        let mut weights = Weights::new(&specs(), tensors(GOOD)).unwrap();
        let shared = weights.tensors()["a"].clone();
        let before = weights.digest();
        let sweep = Sweep { probes: vec![(protocol::seed::EntrySeed([7; 32]), 1)], contributions: vec![] };
        let report = weights.sweep(&sweep).unwrap();
        assert_eq!(report, SweepReport { peak: (1 << 24) - 3, tensor: 0 }, "-1 wraps or moves inwards by 3 quanta");
        let moved: Vec<f32> = shared.flatten_all().unwrap().to_vec1().unwrap();
        assert!(moved.iter().zip(GOOD).all(|(now, was)| (now - was).abs() == 3.0 * 2f32.powi(-24) || was == -1.0));
        assert_ne!(weights.digest(), before);
        weights
            .sweep(&Sweep { probes: vec![(protocol::seed::EntrySeed([7; 32]), -1)], contributions: vec![] })
            .unwrap();
        assert_eq!(weights.digest(), before);
    }

    #[test]
    fn values_off_the_grid_are_refused_by_name_and_place() {
        for bad in [f32::NAN, f32::INFINITY, -0.0, 1.0, -1.0000001, 2.9802322e-8] {
            let mut values = GOOD;
            values[4] = bad;
            let message = refusal(&specs(), tensors(values));
            assert!(message.contains("tensor a") && message.contains("element 4"), "{bad}: {message}");
        }
    }

    #[test]
    fn missing_foreign_and_misshapen_tensors_are_refused() {
        let mut missing = tensors(GOOD);
        missing.remove("b");
        assert!(refusal(&specs(), missing).contains("tensor b of the run is missing"));
        let mut foreign = tensors(GOOD);
        foreign.insert("c".into(), Tensor::zeros(1, DType::F32, &Device::Cpu).unwrap());
        assert!(refusal(&specs(), foreign).contains("tensor c is not one"));
        let mut misshapen = specs();
        misshapen[0].shape = vec![3, 2];
        assert!(refusal(&misshapen, tensors(GOOD)).contains("shape [2, 3]"));
        let mut half = tensors(GOOD);
        half.insert("b".into(), Tensor::zeros(4, DType::F16, &Device::Cpu).unwrap());
        assert!(refusal(&specs(), half).contains("convert it to f32"));
        let mut transposed = tensors(GOOD);
        transposed.insert("a".into(), Tensor::zeros((3, 2), DType::F32, &Device::Cpu).unwrap().t().unwrap());
        assert!(refusal(&specs(), transposed).contains("not contiguous"));
        let swapped: Vec<TensorSpec> = specs().into_iter().rev().collect();
        assert!(refusal(&swapped, tensors(GOOD)).contains("order"));
    }

    #[test]
    fn what_is_written_reads_back_and_a_short_or_spoiled_file_does_not() {
        let weights = Weights::new(&specs(), tensors(GOOD)).unwrap();
        let mut bytes = Vec::new();
        weights.write_to(&mut bytes).unwrap();
        assert_eq!(bytes.len(), 40);
        let again = Weights::read_from(&specs(), &mut bytes.as_slice()).unwrap();
        assert_eq!(again.digest(), weights.digest());
        for length in 0..bytes.len() {
            assert!(Weights::read_from(&specs(), &mut &bytes[..length]).is_err(), "{length} bytes");
        }
        bytes[3] = 0x80; // the first value becomes -0.0
        assert!(Weights::read_from(&specs(), &mut bytes.as_slice()).is_err());
    }

    #[test]
    fn a_starter_measures_and_snaps() {
        let tensor = Tensor::from_slice(&[3.0f32, -4.0, -1e-9, 0.3], 4, &Device::Cpu).unwrap();
        let measured = statistics("t", &tensor).unwrap();
        assert_eq!(measured.max_abs, 4.0);
        assert!((measured.rms - (25.09f64 / 4.0).sqrt()).abs() < 1e-6);
        snap(&tensor, 2f32.powi(-21)).unwrap();
        let mut table = vec![spec("t", &[4], 3)];
        table[0].digest = tensor_digest(&tensor).unwrap();
        let weights = Weights::new(&table, BTreeMap::from([("t".into(), tensor)])).unwrap();
        assert_eq!(weights.digest(), combine_digests([table[0].digest]));
        let broken = Tensor::from_slice(&[1.0f32, f32::NAN], 2, &Device::Cpu).unwrap();
        assert!(statistics("t", &broken).unwrap_err().to_string().contains("tensor t has NaN at element 1"));
    }
}
