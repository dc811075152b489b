//! Projection, generic over the vector unit: `Σ_j z_j · g_j` of many directions z and one gradient g.
//!
//! Where the sweep takes one direction and all lanes of a step together, projection takes one lane and eight or more
//! directions together: a vector then holds, for each direction, the signs of the same 64 elements. Those elements are
//! cut into runs of a few, and for each run a table has the sums of its ±g under every pattern of signs. So a direction
//! costs one look-up and one addition a run, and the tables serve all directions.
//!
//! Sums are in f32 over at most [`STEPS_MAX`] · 64 elements, then in f64, in an order that follows from the gradient's
//! length alone.

use protocol::{
    perturbation::{BLOCK, LANES, STEP},
    seed::TensorKey,
};

use super::vector::Vector;

/// Elements whose signs are one output of one lane.
pub(super) const RUN: usize = STEP / LANES;
/// Directions are handled so many at a time, on every unit.
const GROUP: usize = 16;
/// Steps of one lane whose tables exist at once: 16 KiB with AVX-512.
const STEPS_MAX: usize = 16;

/// What projection asks of a vector unit.
pub(super) trait Project: Vector {
    /// Sums of the ±g of [`RUN`] elements, run by run.
    type Tables: Copy;

    /// The tables of these elements.
    fn tables(elements: &[f32; RUN]) -> Self::Tables;

    /// Adds to `sums`, eight for each of `states`, what the directions' signs make of the elements of `tables`, a step
    /// of one lane each; leaves the generators behind them. `states` are whole groups.
    fn add_products(states: &mut [[Self; 4]], tables: &[Self::Tables], sums: &mut [f64]);
}

/// Adds `Σ_j z_ij · gradient_j` to `sums[i]` for the direction of each of `keys`; `gradient` starts at block
/// `first_block` of its tensor.
///
/// # Safety
/// The processor has every feature that `V` uses.
#[inline(always)]
pub(super) unsafe fn project<V: Project>(gradient: &[f32], keys: &[TensorKey], first_block: u64, sums: &mut [f64]) {
    assert_eq!(keys.len(), sums.len(), "a sum for each direction");
    let nobody = TensorKey { words: [0; 4], rounding: 0 };
    let mut padded = keys.to_vec();
    padded.resize(keys.len().next_multiple_of(GROUP), nobody);
    let mut padded_sums = vec![0f64; padded.len()];
    let mut states: Vec<[V; 4]> = Vec::with_capacity(padded.len() / LANES);
    let mut tables: Vec<V::Tables> = Vec::with_capacity(STEPS_MAX);
    for (block, elements) in (first_block..).zip(gradient.chunks(BLOCK)) {
        if elements.iter().all(|g| *g == 0.0) {
            continue;
        }
        for lane in 0..LANES {
            states.clear();
            for keys in padded.as_chunks::<LANES>().0 {
                states.push(V::states_of(keys, block, lane));
            }
            for steps in elements.chunks(STEPS_MAX * STEP) {
                tables.clear();
                for step in steps.chunks(STEP) {
                    let Some(run) = step.get(lane * RUN..).filter(|run| !run.is_empty()) else { break };
                    let mut full = [0f32; RUN];
                    let own = &run[..run.len().min(RUN)];
                    full[..own.len()].copy_from_slice(own);
                    tables.push(V::tables(&full));
                }
                V::add_products(&mut states, &tables, &mut padded_sums);
            }
        }
    }
    for (sum, own) in sums.iter_mut().zip(padded_sums) {
        *sum += own;
    }
}
