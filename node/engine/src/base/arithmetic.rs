//! The table of tensors: what comes from floating point, computed once, by the machine that starts the run.

use anyhow::{Context, Result, bail};
use candle_core::Tensor;
use protocol::{
    manifest::{Hyperparameters, Origin, TensorSpec, choose_arithmetic},
    perturbation::BLOCK,
    replay,
};
use rayon::prelude::*;
use std::collections::BTreeMap;

use super::groups::Cut;
use crate::{device, weights::tensor_digest};

/// Statistics of one base tensor, from which its arithmetic is chosen.
#[derive(Clone, Copy, Debug)]
pub struct TensorStatistics {
    /// max |B|.
    pub max_abs: f64,
    /// Root mean square of B.
    pub rms: f64,
}

/// The table of tensors, each of the group into which it was cut: integers from statistics (see
/// [`choose_arithmetic`]), tensors snapped in place. The direction scale of each is its root mean square times what
/// `emphasis` gives its name.
pub fn table(
    tensors: &BTreeMap<String, Tensor>,
    cut: &Cut,
    emphasis: &dyn Fn(&str) -> f64,
    settings: &Hyperparameters,
) -> Result<Vec<TensorSpec>> {
    let statistics: Vec<_> = tensors.iter().map(|(name, tensor)| statistics(name, tensor)).collect::<Result<_>>()?;
    let elements: usize = tensors.values().map(Tensor::elem_count).sum();
    let squares: f64 =
        tensors.values().zip(&statistics).map(|(tensor, s)| s.rms * s.rms * tensor.elem_count() as f64).sum();
    let rms_all = (squares / elements.max(1) as f64).sqrt();
    let spec = |((name, tensor), statistics): ((&String, &Tensor), &TensorStatistics)| {
        let TensorStatistics { max_abs, rms } = *statistics;
        let (group, scale) = (cut.group_of[name], settings.direction_scale.of(rms * emphasis(name), rms_all));
        let chosen = choose_arithmetic(max_abs, scale, &cut.groups, group, settings)
            .with_context(|| format!("tensor {name}"))?;
        snap(tensor, chosen.quantum())?;
        let shape = tensor.dims().iter().map(|dimension| *dimension as u64).collect();
        Ok(chosen.row(name, shape, group, Origin::Base { digest: tensor_digest(tensor)? }))
    };
    tensors.iter().zip(&statistics).map(spec).collect()
}

/// Snaps a starter's tensor to its grid, in place. The quantum must come from the tensor's own [`statistics`].
pub fn snap(tensor: &Tensor, quantum: f32) -> Result<()> {
    let apply = |values: &mut [f32]| {
        values.par_chunks_mut(BLOCK).for_each(|values| {
            values.iter_mut().for_each(|value| *value = replay::snap(*value, quantum));
        });
    };
    device::change(tensor, &apply)
}

/// Largest magnitude and root mean square of tensor `name`; refuses a value that is not finite.
pub fn statistics(name: &str, tensor: &Tensor) -> Result<TensorStatistics> {
    device::read(tensor, |values| {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::weights::Weights;
    use candle_core::Device;
    use protocol::manifest::combine_digests;

    #[test]
    fn a_starter_measures_and_snaps() {
        let tensor = Tensor::from_slice(&[3.0f32, -4.0, -1e-9, 0.3], 4, &Device::Cpu).unwrap();
        let measured = statistics("t", &tensor).unwrap();
        assert_eq!(measured.max_abs, 4.0);
        assert!((measured.rms - (25.09f64 / 4.0).sqrt()).abs() < 1e-6);
        snap(&tensor, 2f32.powi(-21)).unwrap();
        let digest = tensor_digest(&tensor).unwrap();
        let table = [TensorSpec {
            name: "t".into(),
            shape: vec![4],
            group: 0,
            range_log2: 3,
            epsilon: 3,
            unit: 1 << 32,
            shift: 2,
            origin: Origin::Base { digest },
        }];
        let weights = Weights::new(&table, BTreeMap::from([("t".into(), tensor)])).unwrap();
        assert_eq!(weights.digest(), combine_digests([digest]));
        let broken = Tensor::from_slice(&[1.0f32, f32::NAN], 2, &Device::Cpu).unwrap();
        assert!(statistics("t", &broken).unwrap_err().to_string().contains("tensor t has NaN at element 1"));
    }
}
