//! Simultaneous perturbation stochastic approximation (Spall, 1992): one gradient from two forwards, at θ + εz and θ −
//! εz.

use anyhow::Result;

use super::probe::{Measured, Probe};

/// The projected gradient, `(loss_plus − loss_minus) / 2ε` (MeZO, arXiv 2305.17333, eq. 1). Not finite if either loss
/// is not.
pub fn projected_gradient(loss_plus: f64, loss_minus: f64, epsilon: f64) -> f64 {
    (loss_plus - loss_minus) / (2.0 * epsilon)
}

/// Measures one gradient.
pub fn measure(probe: &mut dyn Probe, epsilon: f64) -> Result<Measured> {
    let plus = probe.loss_along(0, 1)?;
    let minus = probe.loss_along(0, -1)?;
    Ok(Measured { gradients: vec![projected_gradient(plus, minus, epsilon)], losses: vec![plus, minus] })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_projected_gradient_of_a_line_is_its_slope() {
        assert_eq!(projected_gradient(2.0 + 3.0 * 0.25, 2.0 - 3.0 * 0.25, 0.25), 3.0);
        assert!(!projected_gradient(f64::NAN, 1.0, 1e-3).is_finite());
        assert!(!projected_gradient(1.0, f64::INFINITY, 1e-3).is_finite());
    }
}
