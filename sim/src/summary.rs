//! What one run leaves behind: the numbers that the report shows.

use serde::{Serialize, Serializer};
use std::collections::BTreeMap;

/// Bytes that arrived, summed over all machines, by what they were for. Framing and encryption are counted with what
/// they carry.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug, Serialize)]
pub struct BytesByCause {
    /// Gradients that were new where they arrived, one byte each.
    pub payload: u64,
    /// What is around them in a gossiped segment that was new: author, step, signature, framing.
    pub heads: u64,
    /// Gossiped messages that the machine had already, or had no use for.
    pub duplicates: u64,
    /// Subscriptions, grafts, prunes, announcements and requests of the gossip mesh.
    pub mesh_control: u64,
    /// Questions and answers of anti-entropy, less the gradients that they brought.
    pub anti_entropy: u64,
    /// Opening connections, finding peers, keep-alive.
    pub upkeep: u64,
    /// Manifest and base model for joiners.
    pub joins: u64,
}

impl BytesByCause {
    pub fn total(&self) -> u64 {
        self.named().iter().map(|(_, bytes)| bytes).sum()
    }

    /// Causes with their names, in the order of the report.
    pub fn named(&self) -> [(&'static str, u64); 7] {
        [
            ("payload", self.payload),
            ("heads", self.heads),
            ("gossip duplicates", self.duplicates),
            ("mesh control", self.mesh_control),
            ("anti-entropy", self.anti_entropy),
            ("upkeep", self.upkeep),
            ("joins", self.joins),
        ]
    }
}

/// Order statistics of a distribution.
#[derive(Clone, Copy, Default, PartialEq, Debug, Serialize)]
pub struct Quantiles {
    /// Half are below.
    pub median: f64,
    /// Nine of ten are below.
    pub p90: f64,
    /// Ninety-nine of a hundred are below.
    pub p99: f64,
    pub max: f64,
}

/// One look at the loss of one machine's weights.
#[derive(Clone, Copy, PartialEq, Debug, Serialize)]
pub struct CurvePoint {
    /// Virtual time, seconds.
    pub seconds: f64,
    /// Gradients in the weights.
    pub gradients: u64,
    /// Bytes that one machine received so far, mean over the machines.
    pub bytes: f64,
    /// Held-out loss.
    pub loss: f64,
}

/// How far the machines were apart at one time: gradients that each one holds.
#[derive(Clone, Copy, PartialEq, Debug, Serialize)]
pub struct SpreadPoint {
    /// Virtual time, seconds.
    pub seconds: f64,
    /// Gradients made in the whole swarm so far.
    pub made: u64,
    /// Held by the machine that holds fewest.
    pub least: u64,
    /// Held by the middle one.
    pub median: u64,
    /// Held by the machine that holds most.
    pub most: u64,
    /// Machines that are up.
    pub machines: usize,
}

/// Something that befell the swarm, as its curves show it.
#[derive(Clone, Copy, PartialEq, Debug, Serialize)]
pub struct Mark {
    /// Virtual time, seconds.
    pub seconds: f64,
    pub what: &'static str,
}

/// What one honest machine came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub struct SenderSummary {
    pub machine: u32,
    /// Gradients that it made.
    pub gradients: u64,
    /// The most of others' gradients that its weights lacked.
    pub backlog_max: u64,
    /// How often it said that it falls behind.
    pub said_behind: u32,
}

/// What a checker found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum CheckResult {
    /// The invariant held.
    Passed,
    /// It did not, and how.
    Failed(String),
    /// Nothing in this run could have broken it.
    NotTried,
}

impl CheckResult {
    /// Whether the run may go on.
    pub fn is_failure(&self) -> bool {
        matches!(self, Self::Failed(_))
    }
}

impl std::fmt::Display for CheckResult {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Passed => f.write_str("passed"),
            Self::Failed(how) => write!(f, "failed: {how}"),
            Self::NotTried => f.write_str("not tried"),
        }
    }
}

impl Serialize for CheckResult {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[derive(Clone, Debug, Serialize)]
pub struct Summary {
    /// Name of the scenario.
    pub scenario: String,
    /// What it is for, one sentence.
    pub purpose: String,
    /// Everything random follows from it.
    pub seed: u64,
    /// The command line that makes this run again.
    pub reproduce: String,
    /// BLAKE3 over every event in order, hexadecimal.
    pub event_log_hash: String,
    pub events: u64,
    /// Whether all honest machines that are up ended at one version vector and one weights digest.
    pub converged: bool,
    /// Machines that took part at any time, hostile ones too.
    pub machines: usize,
    /// Machines that are up at the end.
    pub machines_at_end: usize,
    /// Gradients made by honest machines.
    pub gradients: u64,
    /// What each honest machine came to.
    pub senders: Vec<SenderSummary>,
    /// Virtual time from the first event to the last gradient, seconds.
    pub virtual_seconds: f64,
    /// Virtual time from the last gradient, or the last fault, until all machines were equal, seconds.
    pub seconds_to_converge: Option<f64>,
    /// Time the simulation took, seconds.
    pub wall_seconds: f64,
    /// Peak resident memory of the process so far, bytes.
    pub peak_memory_bytes: u64,
    /// What the loss is: "quadratic", or "nats per token".
    pub loss_unit: &'static str,
    /// Time from a gradient's making to its arrival in another machine's weights, virtual milliseconds.
    pub delay_ms: Quantiles,
    /// Gradients that the swarm had made and a machine lacked when it began a probe.
    pub staleness_gradients: Quantiles,
    /// Bytes received, all machines.
    pub bytes: BytesByCause,
    /// Gradients received, all machines.
    pub deliveries: u64,
    pub curve: Vec<CurvePoint>,
    /// Spread of the version vectors.
    pub spread: Vec<SpreadPoint>,
    /// Joins, crashes, partitions, in order.
    pub marks: Vec<Mark>,
    /// Samples that machines signed again after their disks had lost what they acknowledged (see [`crate::checks`]).
    pub signed_after_loss: usize,
    /// Checkers by name.
    pub checks: BTreeMap<&'static str, CheckResult>,
}

impl Summary {
    /// Whether every checker is content and the swarm converged.
    pub fn passed(&self) -> bool {
        self.converged && !self.checks.values().any(CheckResult::is_failure)
    }

    /// Bytes received per gradient received.
    pub fn bytes_per_gradient(&self) -> f64 {
        self.bytes.total() as f64 / self.deliveries.max(1) as f64
    }

    /// Gradients of the whole swarm per virtual second.
    pub fn gradients_per_second(&self) -> f64 {
        self.gradients as f64 / self.virtual_seconds.max(1e-9)
    }
}
