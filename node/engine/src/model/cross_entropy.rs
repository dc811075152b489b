//! Cross-entropy of many targets, without ever holding all logits.

use anyhow::{Result, ensure};
use candle_core::Tensor;
use rayon::prelude::*;

use super::{
    Batch, Model, Target,
    vector::{LANES, VectorLoop, dispatch, exponential, larger, max_lanes},
};
use crate::device;

/// Bound on the logits that exist at once, bytes (one row, if a row is larger).
const LOGITS_BYTES_MAX: usize = 16 << 20;
/// Rows per parallel task.
const TASK_ROWS: usize = 8;
/// Elements that are summed in f32 before f64 takes over.
const PARTIAL: usize = 64 * LANES;

/// The loss of each target of `batch`, −log softmax(logits)\[token\], nats. Not finite if a logit of its position is
/// not. Errors if there are no targets, if one lies outside the batch or the vocabulary, or if the batch does not fit
/// the model.
pub fn token_losses(model: &dyn Model, batch: &Batch) -> Result<Vec<f64>> {
    ensure!(!batch.targets.is_empty(), "the batch predicts nothing: it has no targets");
    let hidden = model.hidden(&batch.tokens, &batch.layout)?;
    losses_of_hidden(model, &hidden, &batch.targets)
}

/// The same from `hidden`, [N, H], what [`Model::norm`] returns for all tokens. A position that several targets share
/// costs its logits once.
pub(super) fn losses_of_hidden(model: &dyn Model, hidden: &Tensor, targets: &[Target]) -> Result<Vec<f64>> {
    let (tokens, vocabulary) = (hidden.dim(0)?, model.interface().vocabulary);
    ensure!(
        targets.iter().all(|target| (target.position as usize) < tokens && (target.token as usize) < vocabulary),
        "a target is outside the batch of {tokens} tokens or the vocabulary of {vocabulary}"
    );
    let order = order_by_position(targets);
    let by_position = by_position(&order, targets);
    let rows = match by_position.len() == tokens {
        true => hidden.clone(),
        false => {
            let positions: Vec<u32> = by_position.iter().map(|same| targets[same[0]].position).collect();
            let count = positions.len();
            hidden.index_select(&device::tensor(positions, count)?, 0)?
        }
    };
    let chunk_rows = (LOGITS_BYTES_MAX / (vocabulary * size_of::<f32>())).max(1);
    let mut losses = vec![0f64; targets.len()];
    for (chunk, by_position) in by_position.chunks(chunk_rows).enumerate() {
        let logits = model.logits(&rows.narrow(0, chunk * chunk_rows, by_position.len())?)?;
        let totals = log_sums(&logits)?;
        device::read(&logits, |logits| {
            for ((logits, total), same) in logits.chunks_exact(vocabulary).zip(&totals).zip(by_position) {
                for target in *same {
                    losses[*target] = total - f64::from(logits[targets[*target].token as usize]);
                }
            }
        })?;
    }
    Ok(losses)
}

/// Indices of the targets in the order of their positions.
pub(super) fn order_by_position(targets: &[Target]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..targets.len()).collect();
    order.sort_by_key(|index| targets[*index].position);
    order
}

/// [`order_by_position`], position by position.
pub(super) fn by_position<'a>(order: &'a [usize], targets: &[Target]) -> Vec<&'a [usize]> {
    order.chunk_by(|a, b| targets[*a].position == targets[*b].position).collect()
}

/// The gradient to `logits`, [rows, vocabulary], of `Σ weights · loss` over the targets of each row, whose indices
/// `by_position` has.
pub(super) fn logit_gradients(
    logits: &Tensor,
    by_position: &[&[usize]],
    targets: &[Target],
    weights: &[f64],
) -> Result<Tensor> {
    let vocabulary = logits.dim(1)?;
    let totals = log_sums(logits)?;
    let mut gradients = device::read(logits, <[f32]>::to_vec)?;
    let rows = totals.par_chunks(TASK_ROWS).zip(by_position.par_chunks(TASK_ROWS));
    gradients.par_chunks_mut(TASK_ROWS * vocabulary).zip(rows).for_each(|(rows, (totals, by_position))| {
        for ((row, total), same) in rows.chunks_exact_mut(vocabulary).zip(totals).zip(by_position) {
            let weight: f64 = same.iter().map(|target| weights[*target]).sum();
            dispatch(Softmax { row, log_sum: *total as f32, weight: weight as f32 });
            for target in *same {
                row[targets[*target].token as usize] -= weights[*target] as f32;
            }
        }
    });
    device::tensor(gradients, logits.shape())
}

/// Replaces logits by `weight` times their softmax.
struct Softmax<'a> {
    row: &'a mut [f32],
    log_sum: f32,
    weight: f32,
}

impl VectorLoop for Softmax<'_> {
    #[inline(always)]
    fn run<const FMA: bool>(self) {
        self.row.iter_mut().for_each(|logit| *logit = self.weight * exponential::<FMA>(*logit - self.log_sum));
    }
}

/// log Σ exp(logit) of each row of `logits`, [rows, vocabulary].
fn log_sums(logits: &Tensor) -> Result<Vec<f64>> {
    let (rows, vocabulary) = logits.dims2()?;
    let mut totals = vec![0f64; rows];
    device::read(logits, |logits| {
        let tasks = logits.par_chunks(TASK_ROWS * vocabulary).zip(totals.par_chunks_mut(TASK_ROWS));
        tasks.for_each(|(logits, totals)| dispatch(LogSumRows { logits, vocabulary, totals }));
    })?;
    Ok(totals)
}

struct LogSumRows<'a> {
    logits: &'a [f32],
    vocabulary: usize,
    totals: &'a mut [f64],
}

impl VectorLoop for LogSumRows<'_> {
    #[inline(always)]
    fn run<const FMA: bool>(self) {
        for (row, log_sum) in self.logits.chunks_exact(self.vocabulary).zip(self.totals) {
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
            *log_sum = total.ln() + f64::from(max);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn log_sums_agree_with_the_plain_formula() {
        for vocabulary in [1usize, 15, 16, 257, 512, 3001] {
            let logits = Tensor::randn(0f32, 5.0, (37, vocabulary), &Device::Cpu).unwrap();
            let ours = log_sums(&logits).unwrap();
            for (row, ours) in logits.to_vec2::<f32>().unwrap().iter().zip(ours) {
                let plain = row.iter().map(|v| f64::from(*v).exp()).sum::<f64>().ln();
                assert!((ours - plain).abs() < 3e-6, "{vocabulary}: {ours} and {plain}");
            }
        }
    }

    #[test]
    fn a_gradient_is_the_weighted_softmax_less_the_targets() {
        for vocabulary in [3usize, 15, 257, 3001] {
            let logits = Tensor::randn(0f32, 5.0, (19, vocabulary), &Device::Cpu).unwrap();
            // Two targets a row.
            let target = |i: usize| Target { position: i as u32 / 2, token: (i * 7919 % vocabulary) as u32 };
            let targets: Vec<Target> = (0..38).map(target).collect();
            let weights: Vec<f64> = (0..38).map(|i| f64::from(i) / 7.0 - 2.0).collect();
            let order = order_by_position(&targets);
            let ours = logit_gradients(&logits, &by_position(&order, &targets), &targets, &weights).unwrap();
            let (logits, ours) = (logits.to_vec2::<f32>().unwrap(), ours.to_vec2::<f32>().unwrap());
            for (row, (logits, ours)) in logits.iter().zip(&ours).enumerate() {
                let total: f64 = logits.iter().map(|v| f64::from(*v).exp()).sum();
                for (token, (logit, ours)) in logits.iter().zip(ours).enumerate() {
                    let expected: f64 = (2 * row..2 * row + 2)
                        .map(|i| {
                            let is_target = f64::from(u8::from(targets[i].token as usize == token));
                            weights[i] * (f64::from(*logit).exp() / total - is_target)
                        })
                        .sum();
                    assert!((f64::from(*ours) - expected).abs() < 1e-5, "{vocabulary}: {ours} and {expected}");
                }
            }
        }
    }

    #[test]
    fn a_logit_that_is_not_finite_makes_the_loss_not_finite() {
        for bad in [f32::NAN, f32::INFINITY] {
            let mut values = vec![0f32; 40];
            values[17] = bad;
            let logits = Tensor::from_vec(values, (1, 40), &Device::Cpu).unwrap();
            assert!(!log_sums(&logits).unwrap()[0].is_finite());
        }
    }
}
