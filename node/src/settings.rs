//! The settings of one training node: command line over file over defaults, checked.

use anyhow::{Context, Result, bail, ensure};
use engine::estimator::Estimator;
use libp2p::Multiaddr;
use protocol::{
    manifest::{Membership, REPLAY_BUDGET_MAX, RunId, SWARM_STEP_MAX},
    replica,
    segment::CHUNK_SAMPLES_MAX,
};
use std::{net::SocketAddr, path::PathBuf, time::Duration};

use crate::{
    cli::{LearningRate, RunArgs},
    hex::parse_key,
};

/// Port that a node listens on unless told otherwise.
pub const DEFAULT_PORT: u16 = 9713;
/// Where state lives unless told otherwise.
pub const DEFAULT_STATE: &str = "onebyte-state";

/// Own gradients wait no longer than this, whatever is asked for: a machine that fails loses those that were not sent.
const STALENESS_MS_MAX: u64 = 60_000;

/// Checked settings.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Machines to call first.
    pub bootstrap: Vec<String>,
    /// The only run to accept.
    pub run: Option<RunId>,
    /// Where to listen; empty: the default port, or any.
    pub listen: Vec<Multiaddr>,
    /// State directory.
    pub state: PathBuf,
    /// Where the base model comes from.
    pub model: ModelChoice,
    /// The tensors that a new run trains, if not all.
    pub train: Option<String>,
    /// Rank of the adapters that a new run trains in place of its base, if it does.
    pub lora: Option<u32>,
    /// What their product is multiplied by, times the rank.
    pub lora_alpha: Option<f64>,
    /// Own text.
    pub data: Option<PathBuf>,
    /// Held-out text.
    pub eval: Option<PathBuf>,
    /// Own gradients in all.
    pub samples: Option<u64>,
    /// End own gradients once the held-out curve is flat.
    pub stop_when_flat: bool,
    /// Leave after this much silence.
    pub exit_when_idle: Option<Duration>,
    /// Of a new run, if said.
    pub learning_rate: Option<LearningRate>,
    /// Gradients that a new run is planned for, if said.
    pub gradients: Option<u64>,
    /// Of a new run, if said.
    pub epsilon: Option<f64>,
    /// Of a new run, if said.
    pub planned_gradients: Option<u64>,
    /// Gradients a second of all machines of a new run, if said.
    pub replay_budget: Option<u32>,
    /// From losses to bytes.
    pub estimator: Estimator,
    /// Windows or rows per batch.
    pub batch_size: usize,
    /// Tokens per window.
    pub sequence_length: usize,
    /// Whether the log-probability of a choice is divided by its tokens.
    pub normalize: bool,
    /// Of the data order.
    pub seed: Option<u64>,
    /// Most own gradients in one message, if said.
    pub flush_samples: Option<usize>,
    /// How long own gradients wait for company, if said.
    pub staleness_ms: Option<u64>,
    /// Whether a new run has this node as its authority.
    pub authority: bool,
    /// Who may contribute to a new run.
    pub members: Membership,
    /// Look around in the local network.
    pub mdns: bool,
    /// Where to show the run.
    pub http: Option<SocketAddr>,
    /// Where to record what the peer is told.
    pub record: Option<PathBuf>,
}

/// Where the base model comes from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ModelChoice {
    /// Not said: embedded for a new run, whatever it takes for a joiner.
    Unsaid,
    /// The embedded default.
    Embedded,
    /// A directory, or the name of a model in the hub's cache.
    Directory(PathBuf),
}

impl Settings {
    /// Merges and checks.
    pub fn resolve(args: RunArgs) -> Result<Self> {
        let file = match &args.config {
            None => RunArgs::default(),
            Some(path) => {
                let text = std::fs::read_to_string(path)
                    .with_context(|| format!("--config {}: cannot be read", path.display()))?;
                toml::from_str(&text).with_context(|| format!("--config {}", path.display()))?
            }
        };
        let list = |first: Vec<String>, second: Vec<String>| if first.is_empty() { second } else { first };
        let members = parse_members(args.members.or(file.members).as_deref())?;
        let estimator = Estimator::new(
            args.estimator.or(file.estimator),
            args.probes.or(file.probes),
            args.projections.or(file.projections),
        )?;
        let settings = Self {
            bootstrap: list(args.bootstrap, file.bootstrap),
            run: args.run.or(file.run).map(|id| id.parse()).transpose().map_err(anyhow::Error::msg).context("--run")?,
            listen: list(args.listen, file.listen).iter().map(|text| parse_listen(text)).collect::<Result<_>>()?,
            state: args.state.or(file.state).unwrap_or_else(|| DEFAULT_STATE.into()),
            model: match args.model.or(file.model).as_deref() {
                None => ModelChoice::Unsaid,
                Some("embedded") => ModelChoice::Embedded,
                Some(directory) => ModelChoice::Directory(directory.into()),
            },
            train: args.train.or(file.train),
            lora: args.lora.or(file.lora),
            lora_alpha: args.lora_alpha.or(file.lora_alpha),
            data: args.data.or(file.data),
            eval: args.eval.or(file.eval),
            samples: args.samples.or(file.samples),
            stop_when_flat: args.stop_when_flat || file.stop_when_flat,
            exit_when_idle: args.exit_when_idle.or(file.exit_when_idle).map(parse_seconds).transpose()?,
            learning_rate: args.learning_rate.or(file.learning_rate),
            gradients: args.gradients.or(file.gradients),
            epsilon: args.epsilon.or(file.epsilon),
            planned_gradients: args.planned_gradients.or(file.planned_gradients),
            replay_budget: args.replay_budget.or(file.replay_budget),
            estimator,
            batch_size: args.batch_size.or(file.batch_size).unwrap_or(match estimator {
                Estimator::Projection { .. } => 8,
                _ => 2,
            }),
            sequence_length: args.sequence_length.or(file.sequence_length).unwrap_or(128),
            normalize: args.normalize || file.normalize,
            seed: args.seed.or(file.seed),
            flush_samples: args.flush_samples.or(file.flush_samples),
            staleness_ms: args.staleness_ms.or(file.staleness_ms),
            authority: args.authority || file.authority || members == Membership::ByAuthority,
            members,
            mdns: !(args.no_mdns || file.no_mdns),
            http: args.http.or(file.http),
            record: args.record.or(file.record),
        };
        settings.check()?;
        Ok(settings)
    }

    fn check(&self) -> Result<()> {
        let positive = |value: f64| value.is_finite() && value > 0.0;
        if let Some(LearningRate::Fixed(rate)) = self.learning_rate {
            ensure!(positive(rate), "--learning-rate {rate}: must be a positive number or `auto`, which measures it");
        }
        if let Some(gradients) = self.gradients {
            ensure!(
                (1..=SWARM_STEP_MAX).contains(&gradients),
                "--gradients {gradients}: must be 1 to 2^40, of all machines together"
            );
        }
        if let Some(budget) = self.replay_budget {
            ensure!(
                (1..=REPLAY_BUDGET_MAX).contains(&budget),
                "--replay-budget {budget}: must be 1 to 2^24 gradients a second, of all machines together"
            );
        }
        if let Some(size) = self.epsilon {
            ensure!(positive(size), "--epsilon {size}: must be a positive number, 1e-3 is usual");
        }
        ensure!((1..=65_536).contains(&self.batch_size), "--batch-size {}: must be 1 to 65536", self.batch_size);
        ensure!(
            (2..=1 << 20).contains(&self.sequence_length),
            "--sequence-length {}: must be at least 2, a token to read and one to predict",
            self.sequence_length
        );
        let flush_samples = self.replica().flush_samples;
        ensure!(
            (1..=CHUNK_SAMPLES_MAX).contains(&flush_samples),
            "--flush-samples {flush_samples}: must be 1 to {CHUNK_SAMPLES_MAX}"
        );
        if let Some(ms) = self.staleness_ms {
            ensure!(ms <= STALENESS_MS_MAX, "--staleness-ms {ms}: must be at most {STALENESS_MS_MAX}, a minute");
        }
        Ok(())
    }

    /// What the replica is told of them.
    pub fn replica(&self) -> replica::Settings {
        let defaults = replica::Settings::default();
        replica::Settings {
            flush_samples: self.flush_samples.unwrap_or(defaults.flush_samples),
            staleness_ms: self.staleness_ms.unwrap_or(defaults.staleness_ms),
            staleness_ms_max: self.staleness_ms.unwrap_or(defaults.staleness_ms_max),
            ..defaults
        }
    }
}

fn parse_listen(text: &str) -> Result<Multiaddr> {
    text.parse().map_err(|error| {
        anyhow::anyhow!("--listen {text}: not a multiaddr ({error}); for example /ip4/0.0.0.0/tcp/{DEFAULT_PORT}")
    })
}

/// What `--members` says.
fn parse_members(who: Option<&str>) -> Result<Membership> {
    let path = match who {
        None => return Ok(Membership::Open),
        Some("by-authority") => return Ok(Membership::ByAuthority),
        Some(path) => path,
    };
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("--members {path}: neither by-authority nor a file that can be read"))?;
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let mut keys = lines.map(parse_key).collect::<Result<Vec<_>>>().with_context(|| format!("--members {path}"))?;
    keys.sort_unstable();
    keys.dedup();
    ensure!(!keys.is_empty(), "--members {path}: names no key, so nobody could contribute");
    Ok(Membership::Keys(keys))
}

fn parse_seconds(seconds: f64) -> Result<Duration> {
    match Duration::try_from_secs_f64(seconds) {
        Ok(duration) => Ok(duration),
        Err(error) => bail!("--exit-when-idle {seconds}: {error}; give seconds, for example 10"),
    }
}
