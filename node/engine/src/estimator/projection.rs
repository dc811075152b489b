//! Projection: many gradients from one backward pass. Each is the slope of the loss along its direction, `⟨∇, s·z⟩`:
//! what SPSA measures as ε goes to zero, without the noise of the rounding and of the curvature.

use anyhow::Result;
use protocol::manifest::{Manifest, TensorSpec};

use super::probe::{Measured, Probe};

/// Bytes at one θ that count in full.
const FULL: f64 = 256.0;

/// Measures the slopes along `projections` directions, or fewer if the model is small.
pub fn measure(probe: &mut dyn Probe, projections: u64) -> Result<Measured> {
    let (loss, gradients) = probe.slopes(projections)?;
    Ok(Measured { gradients, losses: vec![loss] })
}

/// The scale s of a tensor's directions, as replay moves it: a byte of one standard deviation moves an element by the
/// learning rate times s.
pub fn direction_scale(spec: &TensorSpec, manifest: &Manifest) -> f64 {
    let byte_unit = spec.unit as f64 * 2f64.powi(i32::from(spec.shift) - 32) * f64::from(spec.quantum());
    byte_unit * f64::from(manifest.levels) / manifest.hyperparameters.learning_rate
}

/// What normalised slopes are multiplied with before they become bytes, at most 1, if so many `bytes` of the whole
/// swarm are measured at nearly the same θ: they add up to one large step, whoever made them.
pub fn gain(bytes: f64) -> f64 {
    (FULL / bytes).powf(2.0 / 3.0).min(1.0)
}

/// Most bytes of others that one own batch is taken to meet: more is what was late, after a partition perhaps.
const COMPANY_MAX: u64 = 1 << 16;

/// How many bytes others make while this machine measures a batch, from what came lately.
#[derive(Default)]
pub struct Company {
    /// Since the last own batch.
    now: u64,
    /// Running mean over own batches, once there were two.
    mean: Option<f64>,
    has_begun: bool,
}

impl Company {
    /// Others' bytes came.
    pub fn came(&mut self, bytes: u64) {
        self.now = self.now.saturating_add(bytes);
    }

    /// An own batch is complete; returns how many bytes of others come with one. What came before the first, a whole
    /// run's history perhaps, says nothing.
    pub fn batch(&mut self) -> f64 {
        let came = std::mem::take(&mut self.now).min(COMPANY_MAX) as f64;
        if std::mem::replace(&mut self.has_begun, true) {
            self.mean = Some(self.mean.map_or(came, |mean| mean + (came - mean) / 4.0));
        }
        self.mean.unwrap_or(0.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_bytes_count_in_full_and_many_together_grow_slowly() {
        assert_eq!((gain(1.0), gain(256.0)), (1.0, 1.0));
        assert!((gain(2048.0) - 0.25).abs() < 1e-12);
        assert!(gain(1e30) > 0.0);
    }

    #[test]
    fn company_is_what_comes_between_batches_but_not_before_the_first() {
        let mut company = Company::default();
        company.came(1_000_000);
        assert_eq!(company.batch(), 0.0);
        company.came(100);
        company.came(20);
        assert_eq!(company.batch(), 120.0);
        assert_eq!(company.batch(), 90.0);
        for _ in 0..200 {
            company.batch();
        }
        assert!(company.batch() < 1e-9);
    }
}
