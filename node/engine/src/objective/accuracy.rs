//! Accuracy: the share of rows whose right choice is picked, itself.

use anyhow::Result;

use super::{Choices, LossSum, Objective, TokenObjective};
use crate::model::{Batch, Model, token_losses};

/// The share of rows whose right choice is not the likeliest, by the scores of [`Choices`]. It has steps and no slope:
/// what MeZO (arXiv 2305.17333, section 3.3) shows that zeroth-order estimators climb all the same.
pub struct Accuracy(pub Choices);

impl Accuracy {
    /// The loss of each row of `batch`, 0 or 1, from the losses of its targets. Not finite where those are not.
    fn row_losses(&self, batch: &Batch, token_losses: &[f64]) -> Vec<LossSum> {
        let wrong = |loss: LossSum| match loss.sum.is_finite() {
            true => LossSum { sum: 1.0 - loss.right.unwrap_or(0) as f64, ..loss },
            false => loss,
        };
        self.0.row_losses(batch, token_losses).into_iter().map(wrong).collect()
    }
}

impl Objective for Accuracy {
    fn unit(&self) -> &'static str {
        if self.0.normalize { "share of rows picked wrong, scores per token" } else { "share of rows picked wrong" }
    }

    fn measure(&self, model: &dyn Model, batch: &Batch) -> Result<LossSum> {
        Ok(self.row_losses(batch, &token_losses(model, batch)?).into_iter().sum())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Layout, Row, Target};
    use candle_core::{Device, Tensor};

    #[test]
    fn a_row_is_wrong_or_right_and_not_finite_where_the_model_is_not() {
        let rows = vec![Row::of_choices(vec![0..1, 1..2], 1), Row::of_choices(vec![2..3, 3..4], 0)];
        let layout = Layout::of_rows([1]).unwrap();
        let targets = vec![Target { position: 0, token: 0 }; 4];
        let batch = Batch { tokens: Tensor::new(&[0u32], &Device::Cpu).unwrap(), layout, targets, rows };
        let losses = |losses: [f64; 4]| Accuracy(Choices { normalize: false }).row_losses(&batch, &losses);
        let [first, second] = losses([1.0, 0.5, 0.7, 0.6])[..] else { panic!("two rows") };
        assert_eq!((first.sum, first.right, second.sum, second.right), (0.0, Some(1), 1.0, Some(0)));
        let tie = losses([0.5, 0.5, 0.6, 0.7]);
        assert_eq!((tie[0].sum, tie[1].sum), (1.0, 0.0), "a tie is no choice");
        assert!(!losses([f64::NAN, 0.5, 0.7, 0.6])[0].sum.is_finite());
    }
}
