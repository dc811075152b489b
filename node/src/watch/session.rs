//! What this node measured since it started.

use engine::{objective::Evaluation, trainer::Step};
use std::time::Instant;

use super::HeldOut;

/// Counts own gradients and remembers losses. Nothing is decided by it.
#[derive(Default)]
pub struct Session {
    own: u64,
    loss: Option<f64>,
    held_out: Option<HeldOut>,
    /// Rows of the held-out text that were looked at, and those to look at, while a look is under way.
    looking: Option<(usize, usize)>,
    /// When the first own gradients came, and how many they were.
    first_own: Option<(Instant, u64)>,
    last_own: Option<Instant>,
}

impl Session {
    /// Own gradients came from the trainer.
    pub fn stepped(&mut self, step: &Step) {
        self.own += step.own.len() as u64;
        self.last_own = Some(Instant::now());
        self.first_own = self.first_own.or(self.last_own.map(|now| (now, self.own)));
        if step.loss.is_finite() {
            self.loss = Some(self.loss.map_or(step.loss, |loss| loss + (step.loss - loss) / 32.0));
        }
    }

    /// So many rows of the held-out text are looked at, of those to look at.
    pub fn looking(&mut self, done: usize, all: usize) {
        self.looking = (done < all).then_some((done, all));
    }

    /// The held-out text was looked at when the weights held so many gradients.
    pub fn evaluated(&mut self, evaluation: &Evaluation, gradients: u64) {
        let (Evaluation { loss, bits_per_byte, score, .. }, accuracy) = (*evaluation, evaluation.accuracy());
        self.held_out = Some(HeldOut { loss, bits_per_byte, accuracy, score, gradients });
    }

    /// Own gradients.
    pub fn own(&self) -> u64 {
        self.own
    }

    /// Running mean of the losses of own batches, nats per token; per row, where rows have choices.
    pub fn loss(&self) -> Option<f64> {
        self.loss
    }

    /// How far a look at the held-out text is, in rows, while one is under way.
    pub fn look(&self) -> Option<(usize, usize)> {
        self.looking
    }

    /// The last look at the held-out text.
    pub fn held_out(&self) -> Option<HeldOut> {
        self.held_out
    }

    /// Own gradients per second, from the first to the last.
    pub fn own_rate(&self) -> Option<f64> {
        let ((first, first_own), last) = (self.first_own?, self.last_own?);
        (last > first).then(|| self.own.saturating_sub(first_own) as f64 / last.duration_since(first).as_secs_f64())
    }
}
