//! How a machine measures its own gradients: losses near θ → projected gradients → bytes.
//!
//! Nothing here is normative. What an entry does follows from its byte alone; how a machine came to it (estimator,
//! normaliser, the draw of the rounding) is its own business.
//!
//! With ±1 directions z and a probe at θ + εz, a projected gradient is the slope of the loss along z. ε is the
//! manifest's real-valued epsilon times the factor of the group that the round moves, the same for every tensor of it:
//! the per-tensor scale s_t is part of the direction. All samples of one measurement by forwards are of one round;
//! projection gets the slopes of any samples from one gradient.

mod fzoo;
mod mezo;
mod normalizer;
mod probe;
mod projection;
mod spsa;
mod trust;

use anyhow::{Result, bail, ensure};
use serde::{Deserialize, Serialize};
use std::{fmt, num::NonZeroU32, str::FromStr};

pub use normalizer::Normalizer;
pub(crate) use probe::{Measured, Probe};
pub(crate) use projection::{Company, Stride, TRIALS_MAX};
pub use projection::{direction_scale, gain};
pub use spsa::projected_gradient;
pub(crate) use trust::LOSS_NOISE;

/// Most probes on one batch: more learn little, and others' gradients wait for the last of them.
const PROBES_MAX: u32 = 256;
/// Most bytes of one backward pass: as many as may wait for their signature.
const PROJECTIONS_MAX: u32 = 4_096;

/// An estimator by name, as people write it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[allow(missing_docs)]
pub enum EstimatorName {
    Fzoo,
    Spsa,
    Mezo,
    Projection,
}

impl EstimatorName {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Fzoo, Self::Spsa, Self::Mezo, Self::Projection];

    /// As people write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Fzoo => "fzoo",
            Self::Spsa => "spsa",
            Self::Mezo => "mezo",
            Self::Projection => "projection",
        }
    }
}

impl fmt::Display for EstimatorName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for EstimatorName {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        match Self::ALL.into_iter().find(|name| name.as_str() == text) {
            Some(name) => Ok(name),
            None => bail!("no estimator is called {text}; there are {}", Self::ALL.map(Self::as_str).join(", ")),
        }
    }
}

/// How own gradients are estimated. Nobody else needs to know.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Estimator {
    /// `probes` bytes from probes + 1 forwards on one batch, fewer where a round ends; a single one as `Spsa` does.
    Fzoo {
        /// Bytes that share a batch and its baseline.
        probes: NonZeroU32,
    },
    /// One byte from two forwards.
    Spsa,
    /// One byte from two forwards, in units of the loss as the paper has it, not of the gradients' own size.
    Mezo,
    /// Many bytes from one backward pass, which takes memory for a layer's activations and gradients.
    Projection {
        /// Bytes of one batch.
        projections: NonZeroU32,
    },
}

impl Default for Estimator {
    fn default() -> Self {
        Self::Fzoo { probes: Self::PROBES }
    }
}

impl Estimator {
    /// Probes that share a baseline, unless told otherwise.
    pub const PROBES: NonZeroU32 = NonZeroU32::new(16).expect("is not zero");

    /// Bytes of one backward pass, unless told otherwise.
    pub const PROJECTIONS: NonZeroU32 = NonZeroU32::new(1024).expect("is not zero");

    /// What `--estimator`, `--probes` and `--projections` ask for; the errors name them. None if they leave it open.
    pub fn new(
        name: Option<EstimatorName>,
        probes: Option<NonZeroU32>,
        projections: Option<NonZeroU32>,
    ) -> Result<Option<Self>> {
        let implied = probes.map(|_| EstimatorName::Fzoo).or(projections.map(|_| EstimatorName::Projection));
        let Some(name) = name.or(implied) else { return Ok(None) };
        if let Some(probes) = probes {
            ensure!(
                name == EstimatorName::Fzoo,
                "--probes {probes}: only --estimator fzoo measures several bytes on one batch"
            );
            ensure!(probes.get() <= PROBES_MAX, "--probes {probes}: must be at most {PROBES_MAX}; 16 is usual");
        }
        if let Some(projections) = projections {
            ensure!(
                name == EstimatorName::Projection,
                "--projections {projections}: only --estimator projection takes bytes from a backward pass"
            );
            ensure!(
                projections.get() <= PROJECTIONS_MAX,
                "--projections {projections}: must be at most {PROJECTIONS_MAX}; {} is usual",
                Self::PROJECTIONS
            );
        }
        Ok(Some(match name {
            EstimatorName::Fzoo => Self::Fzoo { probes: probes.unwrap_or(Self::PROBES) },
            EstimatorName::Spsa => Self::Spsa,
            EstimatorName::Mezo => Self::Mezo,
            EstimatorName::Projection => Self::Projection { projections: projections.unwrap_or(Self::PROJECTIONS) },
        }))
    }

    /// Samples that are measured together.
    pub fn samples(self) -> u64 {
        match self {
            Self::Fzoo { probes } => probes.get().into(),
            Self::Spsa | Self::Mezo => 1,
            Self::Projection { projections } => projections.get().into(),
        }
    }

    /// Measures the gradients of the next own samples, at least one and at most `samples_max`.
    pub(crate) fn measure(self, probe: &mut dyn Probe, epsilon: f64, samples_max: u64) -> Result<Measured> {
        match self {
            // Alone, a probe has nobody to share the curvature's part with, and a baseline costs as much as going back.
            Self::Fzoo { probes } if u64::from(probes.get()).min(samples_max) >= 2 => {
                fzoo::measure(probe, epsilon, u64::from(probes.get()).min(samples_max))
            }
            Self::Fzoo { .. } | Self::Spsa | Self::Mezo => spsa::measure(probe, epsilon),
            Self::Projection { projections } => {
                projection::measure(probe, u64::from(projections.get()).min(samples_max.max(1)))
            }
        }
    }

    /// The bytes for projected gradients that were measured together, by forwards; `uniform` draws from [0, 1) for the
    /// stochastic rounding. `levels`: the manifest's.
    pub(crate) fn encode(
        self,
        gradients: &[f64],
        normalizer: &mut Normalizer,
        levels: u8,
        mut uniform: impl FnMut() -> f64,
    ) -> Vec<i8> {
        match self {
            Self::Mezo => gradients.iter().map(|g| mezo::encode(*g, levels, uniform())).collect(),
            _ => gradients.iter().map(|g| normalizer.encode(*g, uniform())).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_are_written() {
        for name in EstimatorName::ALL {
            assert_eq!(name.to_string().parse::<EstimatorName>().unwrap(), name);
            assert_eq!(serde_json::to_string(&name).unwrap(), format!("\"{name}\""));
        }
        assert!("sgd".parse::<EstimatorName>().unwrap_err().to_string().contains("fzoo, spsa, mezo, projection"));
    }

    #[test]
    fn probes_and_projections_are_for_their_estimators_and_not_too_many() {
        let count = |n: u32| Some(NonZeroU32::new(n).unwrap());
        assert_eq!(Estimator::new(None, None, None).unwrap(), None);
        let fzoo = Estimator::Fzoo { probes: count(256).unwrap() };
        assert_eq!(Estimator::new(None, count(256), None).unwrap(), Some(fzoo));
        assert!(Estimator::new(None, count(257), None).is_err());
        let projection = Some(EstimatorName::Projection);
        let most = Estimator::Projection { projections: count(4096).unwrap() };
        assert_eq!(Estimator::new(projection, None, count(4096)).unwrap(), Some(most));
        assert_eq!(Estimator::new(None, None, count(4096)).unwrap(), Some(most));
        assert!(Estimator::new(None, count(2), count(2)).is_err());
        assert!(Estimator::new(projection, None, count(4097)).is_err());
        for name in EstimatorName::ALL {
            assert!(Estimator::new(Some(name), None, None).is_ok());
            let has_probes = name == EstimatorName::Fzoo;
            assert_eq!(Estimator::new(Some(name), count(2), None).is_ok(), has_probes);
            assert_eq!(Estimator::new(Some(name), None, count(2)).is_ok(), name == EstimatorName::Projection);
        }
    }
}
