//! What a node shows of itself while it runs. Nothing here changes the node.
//!
//! The [`Observer`] makes a [`Snapshot`] once a second. It goes to `status.json` in the state directory, and to whoever
//! holds the receiving end of the [`tokio::sync::watch`] channel. Field names are the keys of the JSON; they are
//! stable: fields are added, not renamed, as long as [`VERSION`] stays.
//!
//! [`http`] shows it to browsers and programs, `commands/top.rs` in a terminal; [`history`] is what curves are drawn
//! from.

use serde::{Deserialize, Serialize};
use std::fmt;

pub mod history;
pub mod http;
pub mod journal;
mod live_line;
mod machines;
mod marks;
mod observer;
mod points;
pub mod prometheus;
mod recorder;
pub mod samples;
mod session;
pub mod terminal;

pub use live_line::{LineParts, LiveLine};
pub use machines::{machine_count, machines_in_words, withheld};
pub use observer::{Observer, View};
pub use points::Points;
pub use recorder::{METRICS, METRICS_INTERVAL, Metrics, Recorder, STATUS};
pub use session::Session;

/// Of the snapshot's JSON.
pub const VERSION: u32 = 1;
/// Latest bytes of a machine in a snapshot.
pub const RECENT_BYTES: usize = 64;
/// With fewer gradients since the start, bytes per gradient say nothing but what connections cost.
pub const PER_GRADIENTS_MIN: u64 = 100;
/// Most machines in a snapshot: this node's own, then those heard of last.
pub const MACHINES_MAX: usize = 256;

/// One moment of a running node.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Snapshot {
    /// [`VERSION`].
    pub version: u32,
    /// Unix time, milliseconds.
    pub time_ms: u64,
    /// What people call this program on the command line.
    #[serde(default)]
    pub program: String,
    /// Since the program started.
    pub uptime_seconds: f64,
    /// The run's id, hexadecimal.
    pub run: String,
    /// This node's libp2p peer id.
    pub peer_id: String,
    /// This node's machine, by its name in full.
    pub machine: String,
    /// Where the base model came from.
    pub model: String,
    /// Of the model.
    pub parameters: u64,
    /// What the node is doing.
    pub phase: Phase,
    /// Why, if it is paused.
    #[serde(default)]
    pub paused_because: Option<String>,
    /// Hash of the version vector, hexadecimal: equal for nodes that hold the same.
    pub vector: String,
    /// Own gradients.
    pub own: Gradients,
    /// Everyone's, own ones included.
    pub swarm: Gradients,
    /// Mean loss of the last own batches, nats per token; per row, where rows have choices.
    pub training_loss: Option<f64>,
    /// The last look at the held-out text.
    pub held_out: Option<HeldOut>,
    /// The best one so far of which everything still counts: what `node export --best` writes.
    pub best: Option<HeldOut>,
    /// What the held-out curve says; none while it says nothing.
    pub forecast: Option<Forecast>,
    /// Estimate of others' gradients that exist and that own probes do not know: half of each active machine's last
    /// segment, and what waits for the weights.
    pub staleness: Option<u64>,
    /// Gradients of others that the weights lack.
    pub waiting: u64,
    /// Whether this node keeps up with the others.
    #[serde(default)]
    pub load: Load,
    /// Bytes on the sockets since the program had the base model.
    pub traffic: Bytes,
    /// What others join by. None before it is known, and in a private run, whose ticket holds its secret.
    #[serde(default)]
    pub ticket: Option<String>,
    /// Whether the run is private.
    #[serde(default)]
    pub private: bool,
    pub peers: Vec<Neighbour>,
    /// How many machines the run has, by their keys. `machines` has a row for each incarnation.
    pub machine_count: u64,
    /// At most [`MACHINES_MAX`].
    pub machines: Vec<Machine>,
}

impl Snapshot {
    /// What the node is doing, in a few words.
    pub fn doing(&self) -> String {
        let phase = self.phase.name().replace('_', " ");
        self.paused_because.as_ref().map_or_else(|| phase.clone(), |why| format!("{phase} ({why})"))
    }
}

/// What a node is doing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Fetching what the others have.
    #[default]
    CatchingUp,
    /// Making gradients.
    Training,
    /// Replaying and serving only: no data, or own samples are done.
    Serving,
    /// Not making gradients, for the reason that [`Snapshot::paused_because`] tells.
    Paused,
    /// It has stopped.
    Left,
}

impl Phase {
    /// As in the JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::CatchingUp => "catching_up",
            Self::Training => "training",
            Self::Serving => "serving",
            Self::Paused => "paused",
            Self::Left => "left",
        }
    }
}

/// A count that grows.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Gradients {
    /// In all, since the run began.
    pub total: u64,
    /// Since the program started.
    pub session: u64,
    /// Over the last seconds.
    pub per_second: f64,
}

/// A look at the held-out text.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct HeldOut {
    /// Nats per token; per row, where rows have choices.
    pub loss: f64,
    /// The same in bits per byte of text, where rows have no choices.
    pub bits_per_byte: Option<f64>,
    /// Share of rows whose right choice was the likeliest, where they have choices.
    #[serde(default)]
    pub accuracy: Option<f64>,
    /// Mean score of completions, where a program gives one.
    #[serde(default)]
    pub score: Option<f64>,
    /// In the weights when it was measured.
    pub gradients: u64,
}

/// What a look at the held-out text shows first.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Measured {
    /// Bits per byte of text.
    BitsPerByte,
    /// Share of rows whose right choice was the likeliest.
    Accuracy,
    /// Mean score of completions.
    Score,
}

impl Measured {
    /// Which of these a look has.
    pub fn of(accuracy: Option<f64>, score: Option<f64>) -> Self {
        match (score, accuracy) {
            (Some(_), _) => Self::Score,
            (None, Some(_)) => Self::Accuracy,
            (None, None) => Self::BitsPerByte,
        }
    }

    /// What a training loss is counted in then, in short.
    pub fn unit_of_loss(self) -> &'static str {
        match self {
            Self::BitsPerByte => "nats/token",
            Self::Accuracy => "nats/row",
            Self::Score => "(minus the score)",
        }
    }

    /// In words, with what the loss is then.
    pub fn words(self) -> [&'static str; 2] {
        match self {
            Self::BitsPerByte => ["held-out, bits per byte", "training loss, nats per token"],
            Self::Accuracy => ["held-out accuracy", "training loss, nats per row"],
            Self::Score => ["held-out, mean score", "training loss, minus the score"],
        }
    }
}

impl HeldOut {
    /// What it is a look at.
    pub fn measured(&self) -> Measured {
        Measured::of(self.accuracy, self.score)
    }

    /// What it shows first, if it has that.
    pub fn figure(&self) -> Option<f64> {
        self.score.or(self.accuracy).or(self.bits_per_byte)
    }
}

impl fmt::Display for HeldOut {
    /// What people ask for first, in a word or two.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(score) = self.score {
            return write!(f, "score {score:.4}");
        }
        match (self.accuracy, self.bits_per_byte) {
            (Some(accuracy), _) => write!(f, "{accuracy:.4} accuracy"),
            (None, Some(bits)) => write!(f, "{bits:.4} bits/byte"),
            (None, None) => write!(f, "{:.4} nats", self.loss),
        }
    }
}

/// What a fit of the held-out loss over the last doubling of gradients says.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Forecast {
    /// Gradients until the loss is 0.01 lower; none if it does not fall, or hardly.
    pub gradients_to_next: Option<u64>,
    /// Whether the curve is flat.
    pub is_flat: bool,
    /// Whether own gradients ended for that reason (`--stop-when-flat`).
    pub has_stopped: bool,
}

impl Forecast {
    /// In a few words.
    pub fn in_words(&self) -> String {
        let stopped = if self.has_stopped { ", so own gradients have ended" } else { "" };
        match (self.is_flat, self.gradients_to_next) {
            (true, _) => format!("flat{stopped}"),
            (false, Some(gradients)) => format!("the next 0.01 takes {gradients} gradients"),
            (false, None) => format!("not falling{stopped}"),
        }
    }
}

/// What the others' gradients cost this node, from the last ten seconds.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Load {
    /// Gradients a second that all machines of the run are to make together.
    pub budget: u32,
    /// Machines that share it: those that made something in the last minute, this one included.
    pub live_machines: u64,
    /// By how much the gradients that wait grow in a minute; they shrink where this is negative.
    pub waiting_per_minute: i64,
    /// Time that this node needs for those that wait. None before it is known.
    pub seconds_behind: Option<u64>,
    /// What a day of the present rate adds to the ledger, bytes.
    pub ledger_bytes_per_day: u64,
    /// How long a machine like this one needs to catch up with a day of the present rate. None before it is known.
    pub catch_up_seconds_per_day: Option<u64>,
}

impl Load {
    /// In a few words.
    pub fn in_words(&self) -> String {
        let behind = match (self.seconds_behind, self.waiting_per_minute) {
            (None | Some(0), _) => "up to date".to_owned(),
            (Some(seconds), 1..) => format!("{seconds} s behind, and more"),
            (Some(seconds), _) => format!("{seconds} s behind"),
        };
        let megabytes = self.ledger_bytes_per_day as f64 / 1e6;
        let catch_up = self.catch_up_seconds_per_day.map(|seconds| format!(", {seconds} s to catch up"));
        format!("{behind}; a day at this rate: {megabytes:.1} MB of ledger{}", catch_up.unwrap_or_default())
    }
}

/// Bytes on the sockets, TCP payload.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Bytes {
    /// Received, everything.
    pub received: u64,
    /// Sent, everything.
    pub sent: u64,
    /// Received: gossip that was new, with what is around it on the socket.
    pub received_gossip: u64,
    /// Received: the same gossip again.
    pub received_duplicates: u64,
    /// Received: questions and answers (anti-entropy, joiners).
    pub received_exchange: u64,
    /// Received: the rest (announcements, discovery, keeping connections).
    pub received_upkeep: u64,
}

impl Bytes {
    /// What was received, by cause.
    pub fn causes(&self) -> [(&'static str, u64); 4] {
        [
            ("gossip", self.received_gossip),
            ("duplicates", self.received_duplicates),
            ("exchange", self.received_exchange),
            ("upkeep", self.received_upkeep),
        ]
    }
}

/// A connected node.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Neighbour {
    /// Its libp2p peer id.
    pub peer_id: String,
    /// Where it is, if known.
    pub address: Option<String>,
    /// The last ping there and back, milliseconds.
    pub round_trip_ms: Option<f64>,
}

/// A machine's ledger as this node has it.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Machine {
    /// Its name in full; of it, people are shown what [`protocol::machine::short_name`] leaves.
    pub machine: String,
    /// Whether it is this node's.
    pub own: bool,
    pub height: u64,
    /// Of these, in the weights or on their way there: not withdrawn.
    pub counted: u64,
    /// Over the last seconds.
    pub per_second: f64,
    /// Since its last gradient came, in this session.
    pub last_seen_seconds: Option<f64>,
    /// Why not all of it counts.
    pub revoked: Option<String>,
    /// The latest bytes, oldest first, two hexadecimal digits each (two's complement; 80 is void). At most
    /// [`RECENT_BYTES`].
    pub recent: String,
}
