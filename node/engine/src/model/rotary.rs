//! Rotary position embeddings (RoFormer, arXiv 2104.09864), and the ways to stretch them, as transformers'
//! `modeling_rope_utils.py` computes them.

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use std::{
    f64::consts::TAU,
    sync::{Arc, Mutex, PoisonError},
};

use super::{architecture::POSITIONS_MAX, fields::Fields};

/// The frequencies that a `config.json` asks for.
#[derive(Clone, PartialEq, Debug)]
pub struct RotaryConfig {
    /// Pair i of d elements that turn does so by `theta^(−2i / d)` from each position to the next.
    pub theta: f64,
    /// Which part of a head turns, from its first element on, above 0 to 1.
    pub part: f64,
    pub scaling: Scaling,
}

/// How frequencies are stretched for rows longer than those that a model was first trained on.
#[derive(Clone, PartialEq, Debug)]
pub enum Scaling {
    None,
    /// All of them, by a factor.
    Linear(f64),
    /// By a larger theta, for rows longer than `window`.
    Dynamic {
        factor: f64,
        window: usize,
    },
    Llama3(Llama3),
    Yarn(Yarn),
    LongRope(LongRope),
    /// All of them, by a factor; pairs behind the part that turns are there, and stand still.
    Proportional(f64),
}

/// Wavelengths above `window / low` are stretched by `factor`, those below `window / high` kept, those between
/// interpolated.
#[derive(Clone, PartialEq, Debug)]
pub struct Llama3 {
    pub factor: f64,
    pub low: f64,
    pub high: f64,
    /// Window that the model was first trained for, tokens.
    pub window: usize,
}

/// arXiv 2309.00071.
#[derive(Clone, PartialEq, Debug)]
pub struct Yarn {
    pub factor: f64,
    /// Turns within `window` above which a pair is not stretched, and below which it is in full.
    pub fast: f64,
    pub slow: f64,
    pub window: usize,
    /// Whether the two bounds are whole numbers of pairs.
    pub truncate: bool,
    /// Multiplies cos and sin.
    pub attention: f64,
}

/// arXiv 2402.13753: a factor for each pair, of one list for rows up to `window`, of another for longer ones.
#[derive(Clone, PartialEq, Debug)]
pub struct LongRope {
    pub short: Vec<f64>,
    pub long: Vec<f64>,
    pub window: usize,
    /// Multiplies cos and sin.
    pub attention: f64,
}

/// The theta that field `name` says, of whatever family; `usual` where it is absent.
pub fn theta_of(config: &Fields<'_>, name: &str, usual: f64) -> Result<f64> {
    let Some(value) = config.get(name) else { return Ok(usual) };
    let theta = value.as_f64().filter(|theta| (1.0..=1e12).contains(theta));
    theta.with_context(|| {
        format!(
            "config.json: {name} is {value}, supported are numbers from 1 to 1e12; take config.json as the model was \
             published"
        )
    })
}

impl RotaryConfig {
    /// From the fields of a config, as transformers 5 reads them: `rope_scaling` before `rope_parameters`; what they
    /// say of theta and the part that turns before what the config says of it beside them; `theta` where nobody says.
    /// Errors name the field and the value.
    pub fn read(config: &Fields<'_>, theta: f64, window_max: usize) -> Result<Self> {
        let nothing = Value::Null;
        let is_said =
            |name: &str| config.get(name).filter(|fields| fields.as_object().is_none_or(|map| !map.is_empty()));
        let fields = is_said("rope_scaling").or_else(|| is_said("rope_parameters")).unwrap_or(&nothing);
        Self::of_fields(fields, theta_of(config, "rope_theta", theta)?, config, window_max)
    }

    /// From one object of such parameters; `theta` and the `partial_rotary_factor` of `config` count where it says
    /// nothing.
    pub fn of_fields(fields: &Value, theta: f64, config: &Fields<'_>, window_max: usize) -> Result<Self> {
        ensure!(
            fields.is_object() || fields.is_null(),
            "config.json: rope_parameters is {fields}, it must be an object"
        );
        let own = Fields(fields);
        let theta = theta_of(&own, "rope_theta", theta)?;
        let part = own.number_or("partial_rotary_factor", config.number_or("partial_rotary_factor", 1.0)?)?;
        ensure!(
            part > 0.0 && part <= 1.0,
            "config.json: partial_rotary_factor is {part}, it must be above 0, at most 1"
        );
        let scaling = Scaling::read(&own, config, window_max)?;
        // Yarn divides by its logarithm.
        ensure!(
            theta > 1.0 || !matches!(scaling, Scaling::Yarn(_)),
            "config.json: rope_theta is {theta}, with yarn it must be above 1; take config.json as the model was \
             published"
        );
        Ok(Self { theta, part, scaling })
    }

    /// Of a family whose heads turn whole: transformers passes over a `partial_rotary_factor`, and cannot compute one
    /// together with scaling, which is refused here; but for the scaling that is made for it.
    pub fn turn_whole(&mut self) -> Result<()> {
        if let Scaling::Proportional(_) = self.scaling {
            return Ok(());
        }
        ensure!(
            self.part == 1.0 || self.scaling == Scaling::None,
            "config.json: partial_rotary_factor is {}, which this family has not together with rotary scaling",
            self.part
        );
        self.part = 1.0;
        Ok(())
    }

    /// Tokens of the longest row, where the config says `said`: frequencies that follow the length reach further.
    pub fn window_max(&self, said: usize) -> usize {
        match self.scaling {
            Scaling::Dynamic { factor, .. } => ((said as f64 * factor) as usize).clamp(said, POSITIONS_MAX),
            _ => said,
        }
    }

    /// Elements of a head in pairs that have a frequency, even.
    fn turning(&self, head_dim: usize) -> usize {
        match self.scaling {
            Scaling::Proportional(_) => head_dim,
            _ => (head_dim as f64 * self.part) as usize,
        }
    }

    /// Errors if a head of this size cannot turn in pairs.
    pub fn check(&self, head_dim: usize) -> Result<()> {
        let turning = self.turning(head_dim);
        ensure!(
            turning >= 2 && turning.is_multiple_of(2),
            "config.json: {turning} of a head's {head_dim} elements turn, it must be an even number"
        );
        if let Scaling::LongRope(long) = &self.scaling {
            for (name, list) in [("short_factor", &long.short), ("long_factor", &long.long)] {
                ensure!(
                    list.len() == turning / 2,
                    "config.json: {name} has {} numbers, it must have {}",
                    list.len(),
                    turning / 2
                );
            }
        }
        if let Scaling::Dynamic { .. } = self.scaling {
            ensure!(turning > 2, "config.json: heads of {head_dim} elements are too small for dynamic rotary scaling");
        }
        Ok(())
    }

    /// Frequencies of the pairs that turn, for rows of up to `length` tokens.
    fn frequencies(&self, head_dim: usize, length: usize) -> Vec<f32> {
        let turning = self.turning(head_dim);
        let of_theta = |theta: f64, pair: usize| theta.powf(-2.0 * pair as f64 / turning as f64);
        let frequency = |pair: usize| {
            let plain = of_theta(self.theta, pair);
            match &self.scaling {
                Scaling::None => plain,
                Scaling::Linear(factor) => plain / factor,
                Scaling::Dynamic { factor, window } => {
                    let stretch = factor * length.max(*window) as f64 / *window as f64 - (factor - 1.0);
                    of_theta(self.theta * stretch.powf(turning as f64 / (turning as f64 - 2.0)), pair)
                }
                Scaling::Llama3(llama3) => llama3.stretch(plain),
                Scaling::Yarn(yarn) => yarn.stretch(plain, pair, turning, self.theta),
                // transformers: int(part * head_dim // 2) pairs turn.
                Scaling::Proportional(factor) => {
                    let turns = (pair as f64) < (self.part * head_dim as f64 / 2.0).floor();
                    if turns { plain / factor } else { 0.0 }
                }
                Scaling::LongRope(long) => {
                    plain / if length > long.window { long.long[pair] } else { long.short[pair] }
                }
            }
        };
        (0..turning / 2).map(|pair| frequency(pair) as f32).collect()
    }

    /// What multiplies cos and sin.
    fn attention(&self) -> f32 {
        match &self.scaling {
            Scaling::Yarn(Yarn { attention, .. }) | Scaling::LongRope(LongRope { attention, .. }) => *attention as f32,
            _ => 1.0,
        }
    }

    /// Rows of lengths with equal marks have equal frequencies.
    fn mark(&self, length: usize) -> usize {
        match &self.scaling {
            Scaling::Dynamic { window, .. } => length.max(*window),
            Scaling::LongRope(long) => usize::from(length > long.window),
            _ => 0,
        }
    }
}

impl Scaling {
    fn read(own: &Fields<'_>, config: &Fields<'_>, window_max: usize) -> Result<Self> {
        let kind = own.text("rope_type")?.or(own.text("type")?).unwrap_or("default");
        let factor = || match own.some_positive("factor")? {
            Some(factor) if (1e-3..=1e6).contains(&factor) => Ok(factor),
            other => bail!("config.json: factor of {kind} rotary scaling is {other:?}, supported are 0.001 to 1e6"),
        };
        // As transformers: what stands beside the parameters comes first here, and only here.
        let window = || {
            let usual = own.size_or("original_max_position_embeddings", window_max, POSITIONS_MAX)?;
            config.size_or("original_max_position_embeddings", usual, POSITIONS_MAX)
        };
        Ok(match kind {
            "default" => Self::None,
            "linear" => Self::Linear(factor()?),
            "dynamic" => Self::Dynamic { factor: factor()?, window: window_max },
            "llama3" => {
                let (low, high) = (own.positive_or("low_freq_factor", 0.0)?, own.positive_or("high_freq_factor", 0.0)?);
                ensure!(high > low, "config.json: high_freq_factor is {high}, it must be above low_freq_factor, {low}");
                Self::Llama3(Llama3 { factor: factor()?, low, high, window: window()? })
            }
            "yarn" => Self::Yarn(Yarn::read(own, window()?, window_max)?),
            "proportional" => Self::Proportional(if own.get("factor").is_some() { factor()? } else { 1.0 }),
            "longrope" | "su" => Self::LongRope(LongRope::read(own, window()?, window_max)?),
            other => bail!(
                "config.json: rotary scaling {other:?} is not supported; supported are default, linear, dynamic, \
                 llama3, yarn, longrope and proportional"
            ),
        })
    }
}

impl Llama3 {
    fn stretch(&self, frequency: f64) -> f64 {
        let turns = self.window as f64 * frequency / TAU;
        let share = ((turns - self.low) / (self.high - self.low)).clamp(0.0, 1.0);
        (1.0 - share) * frequency / self.factor + share * frequency
    }
}

impl Yarn {
    fn read(own: &Fields<'_>, window: usize, window_max: usize) -> Result<Self> {
        let factor = own.some_positive("factor")?.unwrap_or(window_max as f64 / window as f64);
        ensure!((1e-3..=1e6).contains(&factor), "config.json: factor is {factor}, supported are 0.001 to 1e6");
        let scale = |by: f64| if factor <= 1.0 { 1.0 } else { 0.1 * by * factor.ln() + 1.0 };
        let (of_some, of_all) = (own.some_number("mscale")?, own.some_number("mscale_all_dim")?);
        let usual = match (of_some.filter(|scale| *scale != 0.0), of_all.filter(|scale| *scale != 0.0)) {
            (Some(some), Some(all)) => scale(some) / scale(all),
            _ => scale(1.0),
        };
        Ok(Self {
            factor,
            fast: own.positive_or("beta_fast", 32.0)?,
            slow: own.positive_or("beta_slow", 1.0)?,
            window,
            truncate: own.flag("truncate", true)?,
            attention: own.positive_or("attention_factor", usual)?,
        })
    }

    /// Of pair number `pair` of `turning` elements.
    fn stretch(&self, frequency: f64, pair: usize, turning: usize, theta: f64) -> f64 {
        let bound = |turns: f64| turning as f64 * (self.window as f64 / (turns * TAU)).ln() / (2.0 * theta.ln());
        let (low, high) = (bound(self.fast), bound(self.slow));
        let (low, high) = if self.truncate { (low.floor(), high.ceil()) } else { (low, high) };
        let (low, mut high) = (low.max(0.0), high.min(turning as f64 - 1.0));
        if low == high {
            high += 0.001;
        }
        let stretched = ((pair as f64 - low) / (high - low)).clamp(0.0, 1.0);
        frequency / self.factor * stretched + frequency * (1.0 - stretched)
    }
}

impl LongRope {
    fn read(own: &Fields<'_>, window: usize, window_max: usize) -> Result<Self> {
        let list = |name: &str| -> Result<Vec<f64>> {
            let list = own.get(name).and_then(Value::as_array).with_context(|| format!("config.json has no {name}"))?;
            let number = |value: &Value| value.as_f64().filter(|factor| (1e-6..=1e6).contains(factor));
            let numbers = list.iter().map(number).collect::<Option<Vec<f64>>>();
            numbers.with_context(|| format!("config.json: {name} must be a list of numbers above 0"))
        };
        let factor = own.some_positive("factor")?.unwrap_or(window_max as f64 / window as f64);
        let usual = if factor <= 1.0 { 1.0 } else { (1.0 + factor.ln() / (window as f64).ln()).sqrt() };
        let attention = own.positive_or("attention_factor", usual)?;
        Ok(Self { short: list("short_factor")?, long: list("long_factor")?, window, attention })
    }
}

/// cos and sin of position × frequency, [T, pairs] each, row-major. Element i of a head turns with element i + pairs;
/// those from 2 · pairs on do not turn.
#[derive(Default)]
pub struct Rotary {
    pub cos: Vec<f32>,
    pub sin: Vec<f32>,
    /// Pairs that turn; 0 where positions are told in another way.
    pub pairs: usize,
}

impl Rotary {
    /// Of positions 0..`length`; cos and sin are multiplied by `scale`.
    pub fn new(frequencies: &[f32], length: usize, scale: f32) -> Self {
        let angles = (0..length).flat_map(|position| frequencies.iter().map(move |f| (position as f32 * f).sin_cos()));
        let (sin, cos) = angles.map(|(sin, cos)| (sin * scale, cos * scale)).unzip();
        Self { cos, sin, pairs: frequencies.len() }
    }

    /// cos and sin of one position.
    #[inline(always)]
    pub fn at(&self, position: usize) -> (&[f32], &[f32]) {
        (&self.cos[position * self.pairs..][..self.pairs], &self.sin[position * self.pairs..][..self.pairs])
    }

    /// Whether it has as many positions.
    pub fn reaches(&self, length: usize) -> bool {
        self.cos.len() >= length * self.pairs && self.sin.len() == self.cos.len()
    }
}

/// The table of a model's frequencies, made once for all layers and kept for rows that are no longer.
pub struct RotaryTable {
    config: RotaryConfig,
    head_dim: usize,
    /// With the mark of the frequencies that it is of.
    last: Mutex<(usize, Arc<Rotary>)>,
}

impl RotaryTable {
    /// Of a config that was checked for heads of this size.
    pub fn new(config: RotaryConfig, head_dim: usize) -> Self {
        Self { config, head_dim, last: Mutex::default() }
    }

    /// Whether keys that were turned in a row of `length` tokens hold for one of `grown`. With dynamic scaling they do
    /// not really, but transformers keeps them; with longrope it reads the row anew
    /// (`Phi3ForCausalLM.prepare_inputs_for_generation`).
    pub fn keeps_past(&self, length: usize, grown: usize) -> bool {
        let is_longrope = matches!(self.config.scaling, Scaling::LongRope(_));
        !is_longrope || self.config.mark(length) == self.config.mark(grown)
    }

    /// Of positions 0..`length`, at least.
    pub fn of_length(&self, length: usize) -> Arc<Rotary> {
        // A table is replaced whole: a thread that panicked meanwhile left a sound one.
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let mark = self.config.mark(length);
        if last.0 != mark || last.1.pairs == 0 || !last.1.reaches(length) {
            let frequencies = self.config.frequencies(self.head_dim, length);
            // A row that is being written grows by a token at a time.
            let positions = length.next_power_of_two();
            *last = (mark, Arc::new(Rotary::new(&frequencies, positions, self.config.attention())));
        }
        last.1.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn config(value: Value) -> RotaryConfig {
        RotaryConfig::read(&Fields(&value), 10_000.0, 64).unwrap()
    }

    #[test]
    fn a_table_is_made_anew_for_much_longer_rows_only() {
        let table = RotaryTable::new(config(json!({})), 8);
        let [first, shorter, next, longer] = [5, 3, 8, 9].map(|length| table.of_length(length));
        assert!(Arc::ptr_eq(&first, &shorter) && Arc::ptr_eq(&first, &next) && !Arc::ptr_eq(&first, &longer));
        assert_eq!(first.at(4).0[0], 4f32.cos());
    }

    #[test]
    fn what_depends_on_the_length_follows_it_both_ways() {
        let table = RotaryTable::new(config(json!({"rope_scaling": {"type": "dynamic", "factor": 2.0}})), 8);
        let short = table.of_length(64).at(9).0.to_vec();
        assert_ne!(short, table.of_length(65).at(9).0);
        assert_eq!(short, table.of_length(12).at(9).0);
    }

    #[test]
    fn only_longrope_reads_a_row_anew_where_its_angles_change() {
        let of = |scaling: Value| RotaryTable::new(config(json!({ "rope_scaling": scaling })), 4);
        let long = of(json!({"type": "longrope", "short_factor": [1.0, 1.0], "long_factor": [1.0, 2.0], "factor": 2.0,
            "original_max_position_embeddings": 32}));
        assert!(long.keeps_past(31, 32) && !long.keeps_past(32, 33) && long.keeps_past(33, 64));
        assert!(of(json!({"type": "dynamic", "factor": 2.0})).keeps_past(64, 65));
    }

    /// transformers 5.24: `rope_scaling` before `rope_parameters`, and in either before what is beside it.
    #[test]
    fn parameters_come_before_what_is_said_beside_them() {
        assert_eq!(config(json!({"rope_theta": 5e5})).theta, 5e5);
        assert_eq!(config(json!({"rope_theta": 5e5, "rope_parameters": {"rope_theta": 1e6}})).theta, 1e6);
        let both = json!({"rope_parameters": {"rope_type": "linear", "factor": 2.0},
            "rope_scaling": {"type": "linear", "factor": 4.0}});
        assert_eq!(config(both).scaling, Scaling::Linear(4.0));
        assert_eq!(config(json!({"rope_scaling": null})).scaling, Scaling::None);
        assert_eq!(config(json!({"rope_scaling": {}, "rope_parameters": {"rope_theta": 7.0}})).theta, 7.0);
        assert_eq!(config(json!({"partial_rotary_factor": 0.5})).turning(16), 8);
    }

    /// transformers 5.24, `_compute_proportional_rope_parameters` with head_dim 8 and theta 10000:
    /// 1 / 10000^(2i / 8) / factor for the first int(part * 8 // 2) pairs, 0 for the others.
    #[test]
    fn pairs_behind_a_proportion_stand_still() {
        let frequencies = |fields: Value| {
            let mut read = config(json!({ "rope_parameters": fields }));
            read.turn_whole().unwrap();
            read.check(8).unwrap();
            read.frequencies(8, 64)
        };
        assert_eq!(frequencies(json!({"rope_type": "proportional"})), [1.0, 0.1, 0.01, 0.001]);
        let halved = json!({"rope_type": "proportional", "partial_rotary_factor": 0.5, "factor": 2.0});
        assert_eq!(frequencies(halved), [0.5, 0.05, 0.0, 0.0]);
        let odd = json!({"rope_type": "proportional", "partial_rotary_factor": 0.7});
        assert_eq!(frequencies(odd), [1.0, 0.1, 0.0, 0.0]);
    }

    #[test]
    fn what_cannot_be_computed_is_refused_by_name() {
        let cases = [
            (json!({"rope_theta": -1.0}), "rope_theta"),
            (
                json!({"rope_theta": 1.0, "rope_scaling": {"rope_type": "yarn", "factor": 2.0}}),
                "rope_theta is 1, with yarn",
            ),
            (json!({"rope_scaling": {"type": "axial"}}), "axial"),
            (json!({"rope_scaling": {"type": "linear"}}), "factor"),
            (json!({"rope_scaling": {"rope_type": "llama3", "factor": 0.0}}), "freq_factor"),
            (json!({"rope_scaling": {"rope_type": "longrope", "short_factor": [1.0]}}), "long_factor"),
            (json!({"rope_scaling": {"rope_type": "yarn", "factor": "much"}}), "factor"),
            (json!({"rope_scaling": [1]}), "rope_parameters"),
            (json!({"partial_rotary_factor": 0.0}), "partial_rotary_factor"),
        ];
        for (value, expected) in cases {
            let error = RotaryConfig::read(&Fields(&value), 1e4, 64).map(|_| ()).unwrap_err().to_string();
            assert!(error.starts_with("config.json") && error.contains(expected), "{value}: {error}");
        }
        assert!(config(json!({"partial_rotary_factor": 0.2})).check(8).is_err(), "an odd number of elements");
    }
}
