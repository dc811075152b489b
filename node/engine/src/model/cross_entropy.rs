//! Cross-entropy over many positions, without ever holding all logits.

use anyhow::{Result, ensure};
use candle_core::Tensor;
use rayon::prelude::*;

use super::{
    Model,
    vector::{LANES, VectorLoop, dispatch, exponential, larger, max_lanes},
};
use crate::device;

/// Bound on the logits that exist at once, bytes (one row, if a row is larger).
const LOGITS_BYTES_MAX: usize = 16 << 20;
/// Rows per parallel task.
const TASK_ROWS: usize = 8;
/// Elements that are summed in f32 before f64 takes over.
const PARTIAL: usize = 64 * LANES;

/// Sum of −log softmax(logits)\[target\] over N positions, nats. Not finite if a logit is not.
///
/// `rows`: [N, H], what [`Model::norm`] returns for these positions. Errors if a target is outside the vocabulary.
pub fn cross_entropy(model: &dyn Model, rows: &Tensor, targets: &[u32]) -> Result<f64> {
    let vocabulary = model.interface().vocabulary;
    ensure!(targets.iter().all(|t| (*t as usize) < vocabulary), "a target is outside the vocabulary of {vocabulary}");
    let chunk_rows = (LOGITS_BYTES_MAX / (vocabulary * size_of::<f32>())).max(1);
    let mut sum = 0f64;
    for (chunk, targets) in targets.chunks(chunk_rows).enumerate() {
        let logits = model.logits(&rows.narrow(0, chunk * chunk_rows, targets.len())?)?;
        sum += cross_entropy_of_logits(&logits, targets)?;
    }
    Ok(sum)
}

/// The same of logits [N, vocabulary]. Targets are within the vocabulary.
fn cross_entropy_of_logits(logits: &Tensor, targets: &[u32]) -> Result<f64> {
    let vocabulary = logits.dim(1)?;
    let partial: Vec<f64> = device::read(logits, |logits| {
        logits
            .par_chunks(TASK_ROWS * vocabulary)
            .zip(targets.par_chunks(TASK_ROWS))
            .map(|(logits, targets)| {
                let mut sum = 0f64;
                dispatch(CrossEntropyRows { logits, targets, vocabulary, sum: &mut sum });
                sum
            })
            .collect()
    })?;
    // Summed in order: the result does not depend on which thread did what.
    Ok(partial.iter().sum())
}

struct CrossEntropyRows<'a> {
    logits: &'a [f32],
    targets: &'a [u32],
    vocabulary: usize,
    sum: &'a mut f64,
}

impl VectorLoop for CrossEntropyRows<'_> {
    #[inline(always)]
    fn run<const FMA: bool>(self) {
        for (row, target) in self.logits.chunks_exact(self.vocabulary).zip(self.targets) {
            let (chunks, rest) = row.as_chunks::<LANES>();
            let mut lanes = [f32::NEG_INFINITY; LANES];
            for chunk in chunks {
                for lane in 0..LANES {
                    lanes[lane] = larger(chunk[lane], lanes[lane]);
                }
            }
            let max = rest.iter().fold(max_lanes(lanes), |max, v| larger(*v, max));
            let mut total = rest.iter().map(|v| f64::from(exponential::<FMA>(v - max))).sum::<f64>();
            for part in chunks.chunks(PARTIAL / LANES) {
                let mut sums = [0f32; LANES];
                for chunk in part {
                    for lane in 0..LANES {
                        sums[lane] += exponential::<FMA>(chunk[lane] - max);
                    }
                }
                total += sums.iter().map(|v| f64::from(*v)).sum::<f64>();
            }
            *self.sum += total.ln() + f64::from(max) - f64::from(row[*target as usize]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn cross_entropy_agrees_with_the_plain_formula() {
        for vocabulary in [1usize, 15, 16, 257, 512, 3001] {
            let logits = Tensor::randn(0f32, 5.0, (37, vocabulary), &Device::Cpu).unwrap();
            let targets: Vec<u32> = (0..37).map(|row| row * 7919 % vocabulary as u32).collect();
            let plain: f64 = logits
                .to_vec2::<f32>()
                .unwrap()
                .iter()
                .zip(&targets)
                .map(|(row, t)| row.iter().map(|v| f64::from(*v).exp()).sum::<f64>().ln() - f64::from(row[*t as usize]))
                .sum();
            let ours = cross_entropy_of_logits(&logits, &targets).unwrap();
            assert!((ours - plain).abs() < 1e-4, "{vocabulary}: {ours} and {plain}");
        }
    }

    #[test]
    fn a_logit_that_is_not_finite_makes_the_loss_not_finite() {
        for bad in [f32::NAN, f32::INFINITY] {
            let mut values = vec![0f32; 40];
            values[17] = bad;
            let logits = Tensor::from_vec(values, (1, 40), &Device::Cpu).unwrap();
            assert!(!cross_entropy_of_logits(&logits, &[3]).unwrap().is_finite());
        }
    }
}
