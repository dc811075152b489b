//! Choosing: the cross-entropy of the right one among a row's choices.

use std::ops::Range;

use super::{LossSum, TokenObjective};
use crate::model::{Batch, Row};

/// −log softmax(scores)\[answer\] in nats, counted in rows, where a choice's score is the log-probability of its tokens
/// after the prompt. This is what MeZO (arXiv 2305.17333, section 3) trains and reports for classification and multiple
/// choice.
pub struct Choices {
    /// Whether a score is divided by the choice's tokens, so that long choices are not unlikely for their length alone.
    pub normalize: bool,
}

impl Choices {
    /// By what the sum of the log-probabilities of these targets is divided.
    fn length(&self, targets: &Range<usize>) -> f64 {
        if self.normalize { targets.len() as f64 } else { 1.0 }
    }

    fn scores(&self, row: &Row, token_losses: &[f64]) -> Vec<f64> {
        let score = |targets: &Range<usize>| -token_losses[targets.clone()].iter().sum::<f64>() / self.length(targets);
        row.choices.iter().map(score).collect()
    }
}

impl TokenObjective for Choices {
    fn unit(&self) -> &'static str {
        if self.normalize { "nats per row, scores per token" } else { "nats per row" }
    }

    fn row_losses(&self, batch: &Batch, token_losses: &[f64]) -> Vec<LossSum> {
        let loss = |row: &Row| {
            let scores = self.scores(row, token_losses);
            let own = scores[row.answer];
            // A tie is no choice: a model that finds all alike is not right by the order of its choices.
            let is_right = (0..scores.len()).all(|index| index == row.answer || scores[index] < own);
            LossSum { sum: log_sum(&scores) - own, count: 1, right: Some(u64::from(is_right)) }
        };
        batch.rows.iter().map(loss).collect()
    }

    fn weights(&self, batch: &Batch, token_losses: &[f64]) -> Vec<f64> {
        let mut weights = vec![0.0; token_losses.len()];
        for row in &batch.rows {
            let scores = self.scores(row, token_losses);
            let total = log_sum(&scores);
            for (index, targets) in row.choices.iter().enumerate() {
                let probability = (scores[index] - total).exp();
                let by_score = probability - f64::from(u8::from(index == row.answer));
                weights[targets.clone()].fill(-by_score / self.length(targets) / batch.rows.len() as f64);
            }
        }
        weights
    }
}

/// log Σ exp(score). Not finite if a score is not a number.
fn log_sum(scores: &[f64]) -> f64 {
    let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    max + scores.iter().map(|score| (score - max).exp()).sum::<f64>().ln()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Layout, Target};
    use candle_core::{Device, Tensor};

    /// Two rows of two and three choices, of one to three targets.
    fn batch() -> Batch {
        let rows = vec![Row::of_choices(vec![0..1, 1..3], 1), Row::of_choices(vec![3..6, 6..7, 7..9], 0)];
        let layout = Layout::of_rows([1]).unwrap();
        let targets = vec![Target { position: 0, token: 0 }; 9];
        Batch { tokens: Tensor::new(&[0u32], &Device::Cpu).unwrap(), layout, targets, rows }
    }

    const LOSSES: [f64; 9] = [1.0, 0.3, 0.4, 2.0, 0.5, 0.25, 3.0, 0.9, 1.3];

    #[test]
    fn the_loss_is_the_cross_entropy_of_the_scores() {
        let [first, second] = Choices { normalize: false }.row_losses(&batch(), &LOSSES)[..] else {
            panic!("two rows")
        };
        // Scores -1 and -0.7, then -2.75, -3 and -2.2.
        assert!((first.sum - (1.0 + (-0.3f64).exp()).ln()).abs() < 1e-12);
        let others = (-0.25f64).exp() + 0.55f64.exp();
        assert!((second.sum - (1.0 + others).ln()).abs() < 1e-12);
        assert_eq!((first.right, second.right, first.count, second.count), (Some(1), Some(0), 1, 1));
        let [first, second] = Choices { normalize: true }.row_losses(&batch(), &LOSSES)[..] else { panic!("two rows") };
        assert!((first.sum - (1.0 + (-0.65f64).exp()).ln()).abs() < 1e-12);
        assert_eq!((first.right, second.right), (Some(1), Some(1)));
    }

    #[test]
    fn a_tie_and_what_is_not_finite_are_not_right() {
        let right = |losses: [f64; 9]| Choices { normalize: false }.row_losses(&batch(), &losses)[0];
        assert_eq!(right([0.7, 0.3, 0.4, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]).right, Some(0));
        for bad in [f64::NAN, f64::INFINITY] {
            let loss = right([1.0, bad, 0.4, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]);
            assert!(loss.right == Some(0) && !loss.sum.is_finite(), "{loss:?}");
        }
    }

    #[test]
    fn weights_are_the_derivative_of_the_mean_loss() {
        for normalize in [false, true] {
            let objective = Choices { normalize };
            let mean = |losses: &[f64]| objective.row_losses(&batch(), losses).into_iter().sum::<LossSum>().mean();
            let weights = objective.weights(&batch(), &LOSSES);
            for (index, weight) in weights.into_iter().enumerate() {
                let shifted = |by: f64| {
                    let mut losses = LOSSES;
                    losses[index] += by;
                    mean(&losses)
                };
                let slope = (shifted(1e-5) - shifted(-1e-5)) / 2e-5;
                assert!((slope - weight).abs() < 1e-8, "target {index}: {slope} and {weight}");
            }
        }
    }
}
