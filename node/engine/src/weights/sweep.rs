//! Sweeps: whatever changes the trained tensors, in one pass over all of them.

use anyhow::{Context, Result};
use protocol::{
    manifest::WEIGHT_BITS,
    perturbation::BLOCK,
    replay::{Sweep, TensorSweep},
};
use rayon::prelude::*;
use std::sync::atomic::{AtomicU32, Ordering};

use super::Weights;
use crate::device;

/// Element·directions below which another thread costs more than it saves (about 20 µs of work).
const TASK_WORK_MIN: usize = 1 << 17;

/// Entries that are spelled out for one sweep: more of them gain nothing, and what waits for the weights would wait
/// long.
pub const ENTRIES_PER_SWEEP: usize = 8_192;

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

    /// Whether all weights are so far from the edge that one which was near it has left it behind.
    pub fn is_clear(&self) -> bool {
        self.share() < 0.9
    }
}

/// How many directions of a sweep are in each group.
struct Directions(Vec<u64>);

impl Directions {
    fn of(sweep: &Sweep) -> Self {
        let mut counts = Vec::new();
        let probed = sweep.probes.iter().map(|(seed, _)| seed.group);
        for group in probed.chain(sweep.contributions.iter().map(|contribution| contribution.seed.group)) {
            let group = usize::from(group);
            counts.resize(counts.len().max(group + 1), 0);
            counts[group] += 1;
        }
        Self(counts)
    }

    fn in_group(&self, group: u16) -> u64 {
        self.0.get(usize::from(group)).copied().unwrap_or(0)
    }
}

impl Weights {
    /// Adds probes and contributions to all weights of their groups in one pass, over the threads of the current rayon
    /// pool.
    ///
    /// An error is a bug or a foreign change of a tensor; the weights must then be loaded anew.
    pub fn sweep(&mut self, sweep: &Sweep) -> Result<SweepReport> {
        if sweep.is_empty() {
            return Ok(SweepReport::default());
        }
        let directions = Directions::of(sweep);
        let work: u64 = self.specs.iter().map(|spec| spec.elements() * directions.in_group(spec.group)).sum();
        let alone = rayon::current_num_threads() == 1 || work < 2 * TASK_WORK_MIN as u64;
        let one = |index: usize| -> Result<SweepReport> {
            if directions.in_group(self.specs[index].group) == 0 {
                return Ok(SweepReport::default());
            }
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
        let (kernel, scale) = (self.kernel(), spec.quantum());
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
        device::change(&self.tensors[&spec.name], &apply).with_context(|| format!("sweeping {}", spec.name))?;
        Ok(peak.into_inner())
    }

    /// The largest weight as it stands.
    pub fn peak(&self) -> Result<SweepReport> {
        let mut report = SweepReport::default();
        for tensor in 0..self.specs.len() {
            let own = self.peak_of(tensor)?;
            if own.peak > report.peak {
                report = own;
            }
        }
        Ok(report)
    }

    /// The largest weight of one tensor (canonical order) as it stands.
    pub fn peak_of(&self, tensor: usize) -> Result<SweepReport> {
        let spec = &self.specs[tensor];
        let largest = self.read(spec, |values| values.iter().fold(0f32, |largest, value| largest.max(value.abs())))?;
        Ok(SweepReport { peak: (largest / spec.quantum()) as u32, tensor })
    }
}
