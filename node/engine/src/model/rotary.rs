//! Rotary position embeddings (RoFormer, arXiv 2104.09864).

use anyhow::{Result, bail, ensure};
use serde::Deserialize;
use std::sync::{Arc, Mutex, PoisonError};

use super::architecture::POSITIONS_MAX;

/// The frequencies that a `config.json` asks for.
#[derive(Clone, PartialEq, Debug)]
pub struct RotaryConfig {
    /// Pair i of a head of size d turns by `theta^(−2i / d)` from each position to the next.
    pub theta: f64,
    /// Stretching of low frequencies, if any.
    pub scaling: Option<Llama3Scaling>,
}

/// `rope_type: llama3`: wavelengths above `original / low_frequency_factor` are stretched by `factor`, those
/// below `original / high_frequency_factor` kept, those between interpolated.
#[derive(Clone, PartialEq, Debug)]
pub struct Llama3Scaling {
    /// Stretching of long wavelengths.
    pub factor: f64,
    /// See above.
    pub low_frequency_factor: f64,
    /// See above.
    pub high_frequency_factor: f64,
    /// Window that the model was first trained for, tokens.
    pub original_window: usize,
}

/// `rope_scaling`, or `rope_parameters`, of a `config.json`.
#[derive(Deserialize)]
pub struct RotaryFields {
    #[serde(alias = "type")]
    rope_type: Option<String>,
    rope_theta: Option<f64>,
    factor: Option<f64>,
    low_freq_factor: Option<f64>,
    high_freq_factor: Option<f64>,
    original_max_position_embeddings: Option<usize>,
}

impl RotaryConfig {
    /// From the fields `rope_theta` and `rope_scaling` or `rope_parameters`. Errors name the field and the value.
    pub fn from_fields(theta: Option<f64>, fields: Option<&RotaryFields>) -> Result<Self> {
        let theta = theta.or(fields.and_then(|fields| fields.rope_theta)).unwrap_or(10_000.0);
        ensure!((1.0..=1e12).contains(&theta), "config.json: rope_theta is {theta}, supported are 1 to 1e12");
        Ok(Self { theta, scaling: fields.map(Llama3Scaling::from_fields).transpose()?.flatten() })
    }

    /// Frequencies of the head_dim / 2 pairs, stretched as transformers' `_compute_llama3_parameters` does.
    pub fn frequencies(&self, head_dim: usize) -> Vec<f32> {
        let frequency = |i: usize| 1.0 / self.theta.powf(2.0 * i as f64 / head_dim as f64);
        let scaled = |frequency: f64| self.scaling.as_ref().map_or(frequency, |scaling| scaling.stretch(frequency));
        (0..head_dim / 2).map(|i| scaled(frequency(i)) as f32).collect()
    }
}

impl Llama3Scaling {
    fn from_fields(fields: &RotaryFields) -> Result<Option<Self>> {
        match fields.rope_type.as_deref() {
            None | Some("default") => return Ok(None),
            Some("llama3") => {}
            Some(other) => bail!("config.json: rope scaling {other:?} is not supported, only \"llama3\" and none"),
        }
        let positive = |name: &str, value: Option<f64>| match value {
            Some(value) if value > 0.0 && value <= 1e6 => Ok(value),
            other => bail!("config.json: rope_scaling {name} is {other:?}, it must be above 0 and at most 1e6"),
        };
        let scaling = Self {
            factor: positive("factor", fields.factor)?,
            low_frequency_factor: positive("low_freq_factor", fields.low_freq_factor)?,
            high_frequency_factor: positive("high_freq_factor", fields.high_freq_factor)?,
            original_window: fields.original_max_position_embeddings.unwrap_or(0),
        };
        ensure!(
            scaling.high_frequency_factor > scaling.low_frequency_factor
                && (1..=POSITIONS_MAX).contains(&scaling.original_window),
            "config.json: rope_scaling {scaling:?} is not a valid llama3 scaling"
        );
        Ok(Some(scaling))
    }

    fn stretch(&self, frequency: f64) -> f64 {
        let rotations = self.original_window as f64 * frequency / std::f64::consts::TAU;
        if rotations < self.low_frequency_factor {
            return frequency / self.factor;
        }
        if rotations > self.high_frequency_factor {
            return frequency;
        }
        let smooth = (rotations - self.low_frequency_factor) / (self.high_frequency_factor - self.low_frequency_factor);
        (1.0 - smooth) * frequency / self.factor + smooth * frequency
    }
}

/// cos and sin of position × frequency, [T, head_dim / 2] each, row-major.
#[derive(Default)]
pub struct Rotary {
    pub cos: Vec<f32>,
    pub sin: Vec<f32>,
}

impl Rotary {
    /// Of positions 0..`length`.
    pub fn new(frequencies: &[f32], length: usize) -> Self {
        let angles = (0..length).flat_map(|position| frequencies.iter().map(move |f| (position as f32 * f).sin_cos()));
        let (sin, cos) = angles.unzip();
        Self { cos, sin }
    }

    /// cos and sin of one position; `half`: head_dim / 2.
    #[inline(always)]
    pub fn at(&self, position: usize, half: usize) -> (&[f32], &[f32]) {
        (&self.cos[position * half..][..half], &self.sin[position * half..][..half])
    }
}

/// The table of a model's frequencies, made once for all layers and kept for rows that are no longer.
pub struct RotaryTable {
    frequencies: Vec<f32>,
    last: Mutex<Arc<Rotary>>,
}

impl RotaryTable {
    /// Of [`RotaryConfig::frequencies`], at least one.
    pub fn new(frequencies: Vec<f32>) -> Self {
        Self { frequencies, last: Mutex::default() }
    }

    /// Of positions 0..`length`, at least.
    pub fn of_length(&self, length: usize) -> Arc<Rotary> {
        // A table is replaced whole: a thread that panicked meanwhile left a sound one.
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if last.cos.len() < length * self.frequencies.len() {
            *last = Arc::new(Rotary::new(&self.frequencies, length));
        }
        last.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_made_anew_for_longer_rows_only() {
        let frequencies = RotaryConfig { theta: 10_000.0, scaling: None }.frequencies(8);
        let table = RotaryTable::new(frequencies.clone());
        let (first, shorter, longer) = (table.of_length(5), table.of_length(3), table.of_length(6));
        assert!(Arc::ptr_eq(&first, &shorter) && !Arc::ptr_eq(&first, &longer));
        assert_eq!(longer.sin, Rotary::new(&frequencies, 6).sin);
        assert_eq!(first.at(4, 4).0[0], 4f32.cos());
    }
}
