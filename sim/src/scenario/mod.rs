//! What a run is made of, as TOML files write it.

use anyhow::{Context, Result, anyhow, bail, ensure};
use engine::estimator::EstimatorName;
use protocol::manifest::REPLAY_BUDGET_MAX;
use serde::{Deserialize, Serialize};
use std::{
    num::NonZeroU32,
    path::{Path, PathBuf},
};

use crate::router::{Home, Router};

mod fault;

pub use fault::{Adversaries, Fault, Strategy, What};

/// A swarm, its links, its work and its faults. Times are virtual seconds since the beginning.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// What the scenario is for, one sentence.
    pub purpose: String,
    /// Honest machines at the beginning. The first starts the run, the others join it.
    pub machines: usize,
    /// Gradients that each machine contributes in all.
    pub gradients: u64,
    /// Whether machines look at their held-out loss, and make no more once its curve is flat.
    #[serde(default)]
    pub stop_when_flat: bool,
    /// The machines join over this long.
    #[serde(default = "Defaults::joins_over_seconds")]
    pub joins_over_seconds: f64,
    /// Gradients a second for the whole swarm, as in the manifest.
    #[serde(default = "Defaults::replay_budget")]
    pub replay_budget: u32,
    /// Who may contribute.
    #[serde(default)]
    pub members: Members,
    /// How fast machines measure.
    #[serde(default)]
    pub speed: Speed,
    /// What lies between them.
    #[serde(default)]
    pub link: Link,
    #[serde(default)]
    pub disk: DiskSettings,
    /// Their choices, as in `protocol::replica::Settings`.
    #[serde(default)]
    pub replica: ReplicaSettings,
    /// What they learn: a quadratic, unless there is a language model.
    #[serde(default)]
    pub quadratic: QuadraticSettings,
    /// A real language model instead.
    pub language: Option<LanguageSettings>,
    /// Machines that measure in another way than the others.
    #[serde(default, rename = "sender")]
    pub senders: Vec<Sender>,
    /// Machines behind routers, from the second machine on; all others are open.
    #[serde(default, rename = "home")]
    pub homes: Vec<Home>,
    /// How many times as many bytes a gradient may cost after the last restart as before the first; not judged if not
    /// said.
    pub bytes_after_restart_max: Option<f64>,
    /// What goes wrong, in any order.
    #[serde(default, rename = "fault")]
    pub faults: Vec<Fault>,
    /// Who breaks the rules on purpose.
    #[serde(default, rename = "hostile")]
    pub adversaries: Vec<Adversaries>,
    /// After the last gradient and the last fault, machines have this long to become equal, seconds.
    #[serde(default = "Defaults::converge_seconds_max")]
    pub converge_seconds_max: f64,
}

/// Who may contribute.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Members {
    /// Everyone.
    #[default]
    Open,
    /// The first machine, and those that it admits.
    ByAuthority,
}

struct Defaults;

impl Defaults {
    fn joins_over_seconds() -> f64 {
        2.0
    }

    /// So many that nobody ever waits.
    fn replay_budget() -> u32 {
        REPLAY_BUDGET_MAX
    }

    fn converge_seconds_max() -> f64 {
        300.0
    }
}

/// How fast machines measure.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Speed {
    /// Gradients per second of the middle machine.
    pub gradients_per_second: f64,
    /// The fastest and the slowest machine are this factor away from the middle, the others evenly between on a log
    /// scale.
    pub spread: f64,
    /// Time that replaying one gradient of another machine takes, microseconds.
    pub replay_us: f64,
    /// Time that looking at one gossip message takes before it is passed on, microseconds.
    pub validation_us: f64,
}

impl Default for Speed {
    fn default() -> Self {
        Self { gradients_per_second: 8.0, spread: 1.5, replay_us: 0.0, validation_us: 100.0 }
    }
}

/// Links. Every pair has its own latency: the one given, times something between a half and one and a half.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Link {
    /// One way, milliseconds.
    pub latency_ms: f64,
    /// Mean of an exponential delay on top, milliseconds.
    pub jitter_ms: f64,
    /// Share of frames that never arrive. Harsher than TCP, where they arrive late.
    pub loss: f64,
    /// Share of gossip frames that arrive twice.
    pub duplication: f64,
    /// Share of frames that others may overtake.
    pub reordering: f64,
    /// Sent by one machine at most, megabits per second.
    pub up_mbps: f64,
    /// Received by one machine at most, megabits per second.
    pub down_mbps: f64,
}

impl Default for Link {
    fn default() -> Self {
        Self {
            latency_ms: 30.0,
            jitter_ms: 5.0,
            loss: 0.0,
            duplication: 0.0,
            reordering: 0.0,
            up_mbps: 20.0,
            down_mbps: 100.0,
        }
    }
}

/// Disks.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DiskSettings {
    /// One synced transaction, milliseconds.
    pub sync_ms: f64,
    /// Checkpoints are this far apart, seconds.
    pub checkpoint_seconds: f64,
}

impl Default for DiskSettings {
    fn default() -> Self {
        Self { sync_ms: 4.0, checkpoint_seconds: peer::goals::CHECKPOINT_INTERVAL_MS as f64 / 1e3 }
    }
}

/// See `protocol::replica::Settings`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ReplicaSettings {
    /// Own bytes per segment.
    pub flush_samples: usize,
    /// Own bytes wait at most so long, milliseconds.
    pub staleness_ms_max: u64,
    /// Between two rounds of anti-entropy, milliseconds.
    pub anti_entropy_interval_ms: u64,
}

impl Default for ReplicaSettings {
    fn default() -> Self {
        let defaults = protocol::replica::Settings::default();
        Self {
            flush_samples: defaults.flush_samples,
            staleness_ms_max: defaults.staleness_ms_max,
            anti_entropy_interval_ms: defaults.anti_entropy_interval_ms,
        }
    }
}

/// See `objective::Quadratic`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct QuadraticSettings {
    /// Number of weights, at least 8.
    pub dimensions: usize,
    /// Standard deviation of a batch's own slope, per weight.
    pub noise: f64,
    /// How far apart the machines' own optima are, in units of the weights' size.
    pub heterogeneity: f64,
    /// As in the manifest.
    pub learning_rate: f64,
    /// As in the manifest.
    pub epsilon: f64,
}

impl Default for QuadraticSettings {
    fn default() -> Self {
        Self { dimensions: 64, noise: 0.02, heterogeneity: 0.05, learning_rate: 1e-3, epsilon: 1e-3 }
    }
}

impl Scenario {
    /// Whether a machine measures by backward passes.
    pub fn projects(&self, sender: &Sender) -> bool {
        let estimator = sender.estimator.or(self.language.as_ref().and_then(|language| language.estimator));
        estimator == Some(EstimatorName::Projection)
    }

    /// What machine `number` is behind. The one that starts the run is open.
    pub fn router(&self, number: u32) -> Router {
        let mut end = 1;
        let has_place = |home: &&Home| {
            end += home.machines;
            (number as usize) < end
        };
        match number {
            0 => Router::Open,
            _ => self.homes.iter().find(has_place).map_or(Router::Open, |home| home.router),
        }
    }

    /// How machine `number` measures: the groups of senders take the first machines, in their order.
    pub fn sender(&self, number: u32) -> Sender {
        let mut end = 0;
        let has_place = |sender: &&Sender| {
            end += sender.machines;
            (number as usize) < end
        };
        self.senders.iter().find(has_place).cloned().unwrap_or_default()
    }
}

/// Machines that measure in another way than the others.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Sender {
    pub machines: usize,
    /// As `node --estimator` has it. For a language model.
    pub estimator: Option<EstimatorName>,
    /// As `node --projections` has it; on a quadratic, gradients that are measured together.
    pub projections: Option<NonZeroU32>,
    /// Gradients a second, as a multiple of what the machine would make otherwise.
    pub speed: f64,
    /// Replay, likewise.
    pub replay_speed: f64,
    /// Gradients that it contributes in all, if not as many as the others.
    pub gradients: Option<u64>,
}

impl Default for Sender {
    fn default() -> Self {
        let (estimator, projections, gradients) = (None, None, None);
        Self { machines: 1, estimator, projections, speed: 1.0, replay_speed: 1.0, gradients }
    }
}

/// A real language model.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LanguageSettings {
    /// Hugging Face directory; none: the embedded model.
    pub model: Option<PathBuf>,
    /// Text to train on; none: the embedded task.
    pub data: Option<PathBuf>,
    /// As `node --estimator` has it.
    pub estimator: Option<EstimatorName>,
    /// As `node --probes` has it.
    pub probes: Option<NonZeroU32>,
    /// As `node --projections` has it.
    pub projections: Option<NonZeroU32>,
    /// Windows per batch.
    pub batch_size: usize,
    /// Tokens per window.
    pub sequence_length: usize,
    /// As in the manifest.
    pub learning_rate: f64,
    /// As in the manifest.
    pub epsilon: f64,
}

impl Default for LanguageSettings {
    fn default() -> Self {
        Self {
            model: None,
            data: None,
            estimator: None,
            probes: None,
            projections: None,
            batch_size: 8,
            sequence_length: 128,
            learning_rate: 2.2e-3,
            epsilon: 1.1e-2,
        }
    }
}

/// Machines of one run; their memory grows with the square (ARCHITECTURE.md).
pub const MACHINES_MAX: usize = 100_000;

/// The default scenario and those with a name.
const BUILT_IN: [(&str, &str); 15] = [
    ("demo", include_str!("../../scenarios/demo.toml")),
    ("calm", include_str!("../../scenarios/calm.toml")),
    ("home_internet", include_str!("../../scenarios/home_internet.toml")),
    ("home_routers", include_str!("../../scenarios/home_routers.toml")),
    ("churn", include_str!("../../scenarios/churn.toml")),
    ("partition", include_str!("../../scenarios/partition.toml")),
    ("members", include_str!("../../scenarios/members.toml")),
    ("flash_crowd", include_str!("../../scenarios/flash_crowd.toml")),
    ("flaky_disks", include_str!("../../scenarios/flaky_disks.toml")),
    ("hostile", include_str!("../../scenarios/hostile.toml")),
    ("slow_laptop", include_str!("../../scenarios/slow_laptop.toml")),
    ("overspend", include_str!("../../scenarios/overspend.toml")),
    ("mixed", include_str!("../../scenarios/mixed.toml")),
    ("thousand", include_str!("../../scenarios/thousand.toml")),
    ("real_model", include_str!("../../scenarios/real_model.toml")),
];

impl Scenario {
    /// Names of the scenarios that come with the program.
    pub fn names() -> impl Iterator<Item = &'static str> {
        BUILT_IN.iter().map(|(name, _)| *name)
    }

    /// A scenario by name, or from a file that ends with `.toml`. Returns its name, too.
    pub fn load(asked: &str) -> Result<(String, Self)> {
        let (name, text) = match BUILT_IN.iter().find(|(known, _)| *known == asked) {
            Some((name, text)) => ((*name).to_owned(), (*text).to_owned()),
            None if asked.ends_with(".toml") => {
                let path = Path::new(asked);
                let text = std::fs::read_to_string(path).with_context(|| format!("{asked} cannot be read"))?;
                (path.file_stem().map_or(asked.into(), |stem| stem.to_string_lossy().into_owned()), text)
            }
            None => {
                let names: Vec<&str> = Self::names().collect();
                bail!(
                    "no scenario is called {asked}; there are {}, or give a file that ends with .toml",
                    names.join(", ")
                )
            }
        };
        let read =
            toml::from_str(&text).map_err(|error| anyhow!("{asked} is not a scenario: {}", error.to_string().trim()));
        let scenario: Self = read?;
        scenario.check().with_context(|| asked.to_owned())?;
        Ok((name, scenario))
    }

    /// Refuses what cannot be simulated, in words.
    pub fn check(&self) -> Result<()> {
        ensure!((1..=MACHINES_MAX).contains(&self.machines), "machines is {}: 1 to {MACHINES_MAX}", self.machines);
        ensure!(
            self.language.is_none() || self.members == Members::Open,
            "members: with a language model, everyone contributes"
        );
        ensure!(self.gradients >= 1, "gradients is 0: every machine must contribute at least one");
        ensure!(self.gradients <= 10_000_000, "gradients is {}: at most 10,000,000 each", self.gradients);
        let budget = self.replay_budget;
        ensure!((1..=REPLAY_BUDGET_MAX).contains(&budget), "replay_budget is {budget}: 1 to 2^24 gradients a second");
        let dimensions = self.quadratic.dimensions;
        ensure!((8..=1 << 24).contains(&dimensions), "quadratic.dimensions is {dimensions}: 8 to 2^24");
        if let Some(bytes) = self.bytes_after_restart_max {
            ensure!((0.0..=1e9).contains(&bytes), "bytes_after_restart_max is {bytes}: it must be between 0 and 10^9");
        }
        let spread = self.speed.spread;
        ensure!((1.0..=1e6).contains(&spread), "speed.spread is {spread}: it must be between 1 and 10^6");
        let flush = self.replica.flush_samples;
        ensure!((1..=4096).contains(&flush), "replica.flush_samples is {flush}: 1 to 4096");
        if let Some(language) = &self.language {
            let (batch, length) = (language.batch_size, language.sequence_length);
            ensure!(batch >= 1, "language.batch_size is 0: at least 1");
            ensure!(length >= 2, "language.sequence_length is {length}: at least 2");
        }
        for sender in &self.senders {
            for (name, value) in [("sender.speed", sender.speed), ("sender.replay_speed", sender.replay_speed)] {
                ensure!((1e-3..=1e6).contains(&value), "{name} is {value}: it must be between 0.001 and 10^6");
            }
        }
        self.faults.iter().try_for_each(Fault::check)?;
        self.check_sizes()?;
        let ms = self.replica.anti_entropy_interval_ms;
        ensure!(ms >= 100, "replica.anti_entropy_interval_ms is {ms}: at least 100");
        Ok(())
    }

    /// Rates, times and shares within what is simulated.
    fn check_sizes(&self) -> Result<()> {
        let positive = [
            ("speed.gradients_per_second", self.speed.gradients_per_second),
            ("link.up_mbps", self.link.up_mbps),
            ("link.down_mbps", self.link.down_mbps),
            ("disk.sync_ms", self.disk.sync_ms),
            ("disk.checkpoint_seconds", self.disk.checkpoint_seconds),
            ("converge_seconds_max", self.converge_seconds_max),
            ("quadratic.learning_rate", self.quadratic.learning_rate),
            ("quadratic.epsilon", self.quadratic.epsilon),
        ];
        let language = self.language.iter().flat_map(|language| {
            [("language.learning_rate", language.learning_rate), ("language.epsilon", language.epsilon)]
        });
        for (name, value) in positive.into_iter().chain(language) {
            ensure!(value > 0.0 && value <= 1e9, "{name} is {value}: it must be positive, and at most 10^9");
        }
        let not_negative = [
            ("joins_over_seconds", self.joins_over_seconds),
            ("speed.replay_us", self.speed.replay_us),
            ("speed.validation_us", self.speed.validation_us),
            ("link.latency_ms", self.link.latency_ms),
            ("link.jitter_ms", self.link.jitter_ms),
            ("quadratic.noise", self.quadratic.noise),
            ("quadratic.heterogeneity", self.quadratic.heterogeneity),
        ];
        let arrivals = self.adversaries.iter().map(|group| ("hostile.at_seconds", group.at_seconds));
        for (name, value) in not_negative.into_iter().chain(arrivals) {
            ensure!((0.0..=1e7).contains(&value), "{name} is {value}: it must be between 0 and 10^7");
        }
        let shares = [
            ("link.loss", self.link.loss),
            ("link.duplication", self.link.duplication),
            ("link.reordering", self.link.reordering),
        ];
        for (name, value) in shares {
            ensure!((0.0..=0.9).contains(&value), "{name} is {value}: a share between 0 and 0.9");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_scenario_that_comes_along_can_be_read() {
        for name in Scenario::names() {
            let (_, scenario) = Scenario::load(name).unwrap();
            assert!(scenario.purpose.len() > 20, "{name} says what it is for");
        }
    }

    #[test]
    fn what_is_wrong_with_a_scenario_is_said() {
        let (_, calm) = Scenario::load("calm").unwrap();
        let complaint = |change: &dyn Fn(&mut Scenario)| {
            let mut scenario = calm.clone();
            change(&mut scenario);
            scenario.check().unwrap_err().to_string()
        };
        assert!(complaint(&|s| s.machines = 0).contains("machines is 0"));
        assert!(complaint(&|s| s.link.loss = 1.5).contains("link.loss is 1.5"));
        assert!(complaint(&|s| s.speed.spread = 0.5).contains("speed.spread"));
        assert!(complaint(&|s| s.speed.spread = f64::INFINITY).contains("speed.spread"));
        let back = || Fault { at_seconds: 5.0, what: What::ClockJump { machines: 1, by_seconds: -6.0 } };
        assert!(complaint(&|s| s.faults.push(back())).contains("by_seconds is -6"));
        assert!(complaint(&|s| s.link.latency_ms = f64::NAN).contains("link.latency_ms"));
        let split = |parts| Fault { at_seconds: 1.0, what: What::Partition { parts, lasts_seconds: 1.0 } };
        assert!(complaint(&|s| s.faults.push(split(1))).contains("fault.parts is 1"));
        let churn = || What::Churn { machines: 1, times: 1, every_seconds: f64::INFINITY };
        assert!(complaint(&|s| s.faults.push(Fault { at_seconds: 1.0, what: churn() })).contains("inf seconds"));
        assert!(Scenario::load("clam").unwrap_err().to_string().contains("calm"));
    }
}
