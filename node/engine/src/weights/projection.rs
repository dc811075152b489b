//! Projections: what a gradient makes of directions.

use anyhow::{Context, Result};
use protocol::{
    manifest::TensorSpec,
    perturbation::BLOCK,
    seed::{EntrySeed, TensorKey},
};
use rayon::prelude::*;

use super::Weights;
use crate::{device, model::Gradient};

/// Blocks that are summed one after the other. The same whatever the thread count, and so are the sums.
const TASK_BLOCKS: usize = 4;

impl Weights {
    /// Adds to `sums`, one for each of `seeds`, the products of `gradients` with the seeds' directions: `Σ scale(t) ·
    /// z_tj · g_tj` over the elements j of each tensor t of the seed's group that has a gradient there. Errors if one
    /// is no trained tensor's.
    ///
    /// Sums are floating point; on one machine equal gradients give equal sums.
    pub fn project(
        &self,
        seeds: &[EntrySeed],
        gradients: &[Gradient],
        scale: impl Fn(&TensorSpec) -> f64,
        sums: &mut [f64],
    ) -> Result<()> {
        for (id, gradient) in gradients {
            let is_own = |spec: &TensorSpec| self.tensors[&spec.name].id() == *id;
            let index = self.specs.iter().position(is_own).context("a gradient of no trained tensor")?;
            let spec = &self.specs[index];
            let own: Vec<usize> = (0..seeds.len()).filter(|seed| seeds[*seed].group == spec.group).collect();
            let keys: Vec<TensorKey> = own.par_iter().map(|seed| seeds[*seed].tensor_key(index as u32)).collect();
            let kernel = self.kernel();
            let parts: Vec<Vec<f64>> = device::read(gradient, |gradient| {
                let tasks = gradient.par_chunks(TASK_BLOCKS * BLOCK).enumerate();
                let project = |(task, gradient): (usize, &[f32])| {
                    let mut sums = vec![0f64; keys.len()];
                    kernel.project(gradient, &keys, (task * TASK_BLOCKS) as u64, &mut sums);
                    sums
                };
                tasks.map(project).collect()
            })
            .with_context(|| format!("projecting {}", spec.name))?;
            let scale = scale(spec);
            for part in parts {
                own.iter().zip(part).for_each(|(seed, part)| sums[*seed] += scale * part);
            }
        }
        Ok(())
    }
}
