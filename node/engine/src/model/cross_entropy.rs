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
fn losses_of_hidden(model: &dyn Model, hidden: &Tensor, targets: &[Target]) -> Result<Vec<f64>> {
    let (tokens, vocabulary) = (hidden.dim(0)?, model.interface().vocabulary);
    ensure!(
        targets.iter().all(|target| (target.position as usize) < tokens && (target.token as usize) < vocabulary),
        "a target is outside the batch of {tokens} tokens or the vocabulary of {vocabulary}"
    );
    let mut order: Vec<usize> = (0..targets.len()).collect();
    order.sort_by_key(|index| targets[*index].position);
    let by_position: Vec<&[usize]> = order.chunk_by(|a, b| targets[*a].position == targets[*b].position).collect();
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
    fn a_logit_that_is_not_finite_makes_the_loss_not_finite() {
        for bad in [f32::NAN, f32::INFINITY] {
            let mut values = vec![0f32; 40];
            values[17] = bad;
            let logits = Tensor::from_vec(values, (1, 40), &Device::Cpu).unwrap();
            assert!(!log_sums(&logits).unwrap()[0].is_finite());
        }
    }
}
