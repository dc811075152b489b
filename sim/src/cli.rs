//! The command line.

use clap::{
    Args, Parser, Subcommand,
    builder::{PossibleValuesParser, TypedValueParser},
};
use engine::estimator::EstimatorName;
use std::{num::NonZeroU32, path::PathBuf};

/// A swarm of machines that train one model by exchanging one byte per gradient, under a virtual clock and a virtual
/// network. The same code as `node`, thousands of machines, seconds of time; one seed makes it all happen again.
///
/// Without a command: the demo, eight machines, a late joiner, a crash, a partition.
#[derive(Parser)]
#[command(name = "sim", version)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// What to do.
#[derive(Subcommand)]
pub enum Command {
    /// Run one scenario and write a report.
    Run(RunArgs),
    /// Run many seeds of all scenarios; stop at the first that breaks an invariant, and print the line that reproduces
    /// it.
    Explore(ExploreArgs),
    /// Predict a run: gradients per second, bytes per second and link, staleness, time to N gradients.
    Plan(PlanArgs),
    /// Replay what `node --record` wrote: the same inputs must lead to the same decisions.
    Replay(ReplayArgs),
}

impl Default for Command {
    fn default() -> Self {
        Self::Run(RunArgs::default())
    }
}

/// What may be changed about a scenario.
#[derive(Args, Clone, Default, Debug)]
pub struct Changes {
    /// Gradients that each machine makes; of several sizes, each machine of the largest swarm (the others make as many
    /// in all)
    #[arg(long, value_name = "N")]
    pub gradients: Option<u64>,
    /// Gradients per second of the middle machine
    #[arg(long, value_name = "N")]
    pub gradients_per_second: Option<f64>,
    /// Microseconds to replay one gradient of another machine (parameters / groups / 30,000 is usual)
    #[arg(long, value_name = "US")]
    pub replay_us: Option<f64>,
    /// Latency of a link, one way, milliseconds
    #[arg(long, value_name = "MS")]
    pub latency_ms: Option<f64>,
    /// Mean of an exponential delay on top, milliseconds
    #[arg(long, value_name = "MS")]
    pub jitter_ms: Option<f64>,
    /// Share of frames that are lost, 0 to 0.9
    #[arg(long, value_name = "SHARE")]
    pub loss: Option<f64>,
    /// Uplink of a machine, megabits per second
    #[arg(long, value_name = "MBPS")]
    pub up_mbps: Option<f64>,
    /// Downlink of a machine, megabits per second
    #[arg(long, value_name = "MBPS")]
    pub down_mbps: Option<f64>,
    /// Own bytes that are signed and sent together
    #[arg(long, value_name = "N")]
    pub flush_samples: Option<usize>,
    /// Own bytes wait no longer than this for company, milliseconds
    #[arg(long, value_name = "MS")]
    pub staleness_ms: Option<u64>,
    /// Learning rate of the run
    #[arg(long, value_name = "RATE")]
    pub learning_rate: Option<f64>,
    /// How a language model's gradients are measured, as with `node`
    #[arg(long, value_name = "NAME", value_parser = estimator_name())]
    pub estimator: Option<EstimatorName>,
    /// Bytes from one batch, as with `node`
    #[arg(long, value_name = "N")]
    pub probes: Option<NonZeroU32>,
    /// Bytes from one backward pass, as with `node`
    #[arg(long, value_name = "N")]
    pub projections: Option<NonZeroU32>,
    /// Weights of the quadratic
    #[arg(long, value_name = "N")]
    pub dimensions: Option<usize>,
    /// A language model of one's own (Hugging Face directory), or `embedded`, in place of the quadratic
    #[arg(long, value_name = "DIR|embedded")]
    pub model: Option<String>,
    /// A text to train it on
    #[arg(long, value_name = "PATH")]
    pub data: Option<PathBuf>,
}

/// `sim run`
#[derive(Args, Clone, Debug)]
#[command(allow_negative_numbers = true)]
pub struct RunArgs {
    /// demo, calm, home_internet, home_routers, churn, partition, flash_crowd, flaky_disks, hostile, members,
    /// slow_laptop, overspend, mixed, thousand, real_model, or a TOML file
    #[arg(default_value = "demo")]
    pub scenario: String,
    /// Everything random follows from it
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Machines; several sizes (1,4,16) are run one after another, with equal total gradients, and compared
    #[arg(long, value_name = "N,...", value_delimiter = ',')]
    pub nodes: Vec<usize>,
    /// Changes of the scenario
    #[command(flatten)]
    pub changes: Changes,
    /// Where report.html and report.json go
    #[arg(long, value_name = "DIR", default_value = "sim-report")]
    pub out: PathBuf,
    /// Write the event log, too (events.bin, or events-N.bin for each of several sizes; 32 bytes an event)
    #[arg(long)]
    pub event_log: bool,
}

impl Default for RunArgs {
    fn default() -> Self {
        Self {
            scenario: "demo".into(),
            seed: 1,
            nodes: Vec::new(),
            changes: Changes::default(),
            out: "sim-report".into(),
            event_log: false,
        }
    }
}

/// `sim explore`
#[derive(Args, Clone, Debug)]
pub struct ExploreArgs {
    /// Number of seeds; each runs one scenario after another
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..))]
    pub seeds: u64,
    /// The first seed
    #[arg(long, default_value_t = 1)]
    pub first_seed: u64,
    /// Only these scenarios (by default all but thousand, real_model and mixed)
    #[arg(long = "scenario", value_name = "NAME")]
    pub scenarios: Vec<String>,
}

/// `sim plan`
#[derive(Args, Clone, Debug)]
#[command(allow_negative_numbers = true)]
pub struct PlanArgs {
    /// Machines
    #[arg(long, value_name = "N", default_value_t = 8)]
    pub nodes: usize,
    /// Gradients to make in all
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..))]
    pub total: u64,
    /// Parameters of the model; they decide what replaying costs and what a joiner fetches
    #[arg(long, value_name = "N", default_value_t = 439_296, value_parser = clap::value_parser!(u64).range(1..))]
    pub parameters: u64,
    /// Groups that a gradient moves one of: a run makes one of each layer, and one of the embedding
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u64).range(1..))]
    pub groups: u64,
    /// Bytes that the model's files take for a parameter: 2 as f16 or bf16, 4 as f32
    #[arg(long, value_name = "N", default_value_t = 2.0)]
    pub bytes_per_parameter: f64,
    /// Speed, links and the rest
    #[command(flatten)]
    pub changes: Changes,
}

fn estimator_name() -> impl TypedValueParser<Value = EstimatorName> {
    PossibleValuesParser::new(EstimatorName::ALL.map(EstimatorName::as_str)).try_map(|name| name.parse())
}

/// `sim replay`
#[derive(Args, Clone, Debug)]
pub struct ReplayArgs {
    /// A recording
    pub file: PathBuf,
    /// Print every step with its input and its outputs
    #[arg(long)]
    pub outputs: bool,
}
