//! FZOO (arXiv 2506.09034): many gradients from one forward more than that, all on one batch.
//!
//! Of the paper it takes the one-sided probes that share a baseline. Their scale is the running RMS that all estimators
//! use, not the standard deviation of one batch's probes.

use anyhow::Result;

use super::probe::{Measured, Probe};

/// One-sided projected gradients of probes that share a batch and a baseline (FZOO, arXiv 2506.09034): `(L(θ + εz_i) −
/// L(θ)) / ε`, less their mean where there are at least two, since the curvature adds nearly the same to all of them. A
/// loss that is not finite gives a value that is not finite and leaves the others alone; so does, for all, the
/// baseline.
fn one_sided_gradients(baseline: f64, losses: &[f64], epsilon: f64) -> Vec<f64> {
    let slopes = losses.iter().map(|loss| (loss - baseline) / epsilon);
    let finite: Vec<f64> = slopes.clone().filter(|slope| slope.is_finite()).collect();
    let mean = if finite.len() < 2 { 0.0 } else { finite.iter().sum::<f64>() / finite.len() as f64 };
    slopes.map(|slope| slope - mean).collect()
}

/// Measures `probes` gradients.
pub fn measure(probe: &mut dyn Probe, epsilon: f64, probes: u64) -> Result<Measured> {
    let mut losses = vec![probe.loss()?];
    for index in 0..probes {
        losses.push(probe.loss_along(index, 1)?);
    }
    Ok(Measured { gradients: one_sided_gradients(losses[0], &losses[1..], epsilon), losses })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_sided_gradients_lose_what_all_probes_share() {
        let (baseline, epsilon, slopes) = (2.0, 0.25, [3.0, -1.0, -2.0]);
        for curvature in [0.0, 0.5] {
            let losses = slopes.map(|slope| baseline + epsilon * slope + curvature);
            assert_eq!(one_sided_gradients(baseline, &losses, epsilon), slopes);
        }
        assert_eq!(one_sided_gradients(baseline, &[2.5], epsilon), [2.0], "one probe has nobody to share with");
        assert!(one_sided_gradients(baseline, &[], epsilon).is_empty());
    }

    #[test]
    fn a_one_sided_loss_that_is_not_finite_is_void_alone() {
        let gradients = one_sided_gradients(1.0, &[1.5, f64::NAN, 0.5, f64::INFINITY], 0.5);
        assert_eq!((gradients[0], gradients[2]), (1.0, -1.0));
        assert!(!gradients[1].is_finite() && !gradients[3].is_finite());
        assert!(one_sided_gradients(f64::NAN, &[1.0, 2.0], 0.5).iter().all(|g| !g.is_finite()));
    }
}
