//! What an estimator asks for, and what it finds.

use anyhow::Result;

/// What an estimator may ask for: losses of one batch near θ.
pub(crate) trait Probe {
    /// At θ.
    fn loss(&mut self) -> Result<f64>;

    /// At θ + `multiple` · εz, where z is the direction of own sample `index`, counted from the next one.
    fn loss_along(&mut self, index: u64, multiple: i32) -> Result<f64>;

    /// The loss at θ, and its slopes along the directions of the next own samples, `count` of them or, of a small
    /// model, fewer, at least one: by one backward pass.
    fn slopes(&mut self, count: u64) -> Result<(f64, Vec<f64>)>;
}

/// What an estimator found on one batch.
pub(crate) struct Measured {
    /// Projected gradients of consecutive own samples: nats for a move by the direction. Not finite where a loss was
    /// not.
    pub gradients: Vec<f64>,
    /// Every loss that was measured.
    pub losses: Vec<f64>,
}
