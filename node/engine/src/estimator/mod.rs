//! How a machine measures its own gradients: losses near θ → projected gradients → bytes.
//!
//! Nothing here is normative. What an entry does follows from its byte alone; how a machine came to it (estimator,
//! normaliser, the draw of the rounding) is its own business.
//!
//! With ±1 directions z and a probe at θ + εz, a projected gradient is the slope of the loss along z. ε is the
//! manifest's real-valued epsilon times the factor of the group that the round moves, the same for every tensor of it:
//! the per-tensor scale s_t is part of the direction. All samples of one measurement are of one round.

mod fzoo;
mod mezo;
mod normalizer;
mod probe;
mod spsa;

use anyhow::{Result, bail, ensure};
use serde::{Deserialize, Serialize};
use std::{fmt, num::NonZeroU32, str::FromStr};

pub use normalizer::Normalizer;
pub(crate) use probe::{Measured, Probe};
pub use spsa::projected_gradient;

/// Most probes on one batch: more learn little, and others' gradients wait for the last of them.
const PROBES_MAX: u32 = 256;

/// An estimator by name, as people write it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[allow(missing_docs)]
pub enum EstimatorName {
    Fzoo,
    Spsa,
    Mezo,
}

impl EstimatorName {
    /// All of them, the default first.
    pub const ALL: [Self; 3] = [Self::Fzoo, Self::Spsa, Self::Mezo];

    /// As people write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Fzoo => "fzoo",
            Self::Spsa => "spsa",
            Self::Mezo => "mezo",
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
}

impl Default for Estimator {
    fn default() -> Self {
        Self::Fzoo { probes: Self::PROBES }
    }
}

impl Estimator {
    /// Probes that share a baseline, unless told otherwise.
    pub const PROBES: NonZeroU32 = NonZeroU32::new(16).expect("is not zero");

    /// What `--estimator` and `--probes` ask for; the errors name them.
    pub fn new(name: Option<EstimatorName>, probes: Option<NonZeroU32>) -> Result<Self> {
        let name = name.unwrap_or(EstimatorName::Fzoo);
        if let Some(probes) = probes {
            ensure!(
                name == EstimatorName::Fzoo,
                "--probes {probes}: only --estimator fzoo measures several bytes on one batch"
            );
            ensure!(probes.get() <= PROBES_MAX, "--probes {probes}: must be at most {PROBES_MAX}; 16 is usual");
        }
        Ok(match name {
            EstimatorName::Fzoo => Self::Fzoo { probes: probes.unwrap_or(Self::PROBES) },
            EstimatorName::Spsa => Self::Spsa,
            EstimatorName::Mezo => Self::Mezo,
        })
    }

    /// Measures the gradients of the next own samples, at least one and at most `samples_max`.
    pub(crate) fn measure(self, probe: &mut dyn Probe, epsilon: f64, samples_max: u64) -> Result<Measured> {
        match self {
            // Alone, a probe has nobody to share the curvature's part with, and a baseline costs as much as going back.
            Self::Fzoo { probes } if u64::from(probes.get()).min(samples_max) >= 2 => {
                fzoo::measure(probe, epsilon, u64::from(probes.get()).min(samples_max))
            }
            Self::Fzoo { .. } | Self::Spsa | Self::Mezo => spsa::measure(probe, epsilon),
        }
    }

    /// The byte for projected gradient `g`; `uniform` in [0, 1) is for the stochastic rounding. `levels`: the
    /// manifest's.
    pub(crate) fn encode(self, g: f64, normalizer: &mut Normalizer, levels: u8, uniform: f64) -> i8 {
        match self {
            Self::Fzoo { .. } | Self::Spsa => normalizer.encode(g, uniform),
            Self::Mezo => mezo::encode(g, levels, uniform),
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
        assert!("sgd".parse::<EstimatorName>().unwrap_err().to_string().contains("fzoo, spsa, mezo"));
    }

    #[test]
    fn only_fzoo_has_probes_and_not_too_many() {
        let probes = |n: u32| Some(NonZeroU32::new(n).unwrap());
        assert_eq!(Estimator::new(None, None).unwrap(), Estimator::default());
        assert_eq!(Estimator::new(None, probes(256)).unwrap(), Estimator::Fzoo { probes: probes(256).unwrap() });
        assert!(Estimator::new(None, probes(257)).is_err());
        for name in [EstimatorName::Spsa, EstimatorName::Mezo] {
            assert!(Estimator::new(Some(name), None).is_ok());
            assert!(Estimator::new(Some(name), probes(2)).is_err());
        }
    }
}
