//! What a node that trains is told, on the command line or in a file.

use bytesize::ByteSize;
use clap::{
    Args,
    builder::{PossibleValuesParser, TypedValueParser},
};
use engine::estimator::EstimatorName;
use serde::Deserialize;
use std::{
    net::SocketAddr,
    num::{NonZeroU32, NonZeroUsize},
    path::PathBuf,
    str::FromStr,
};

use crate::system::priority::Priority;

/// Everything about training. The same names, in kebab case, are the keys of a `--config` file. The command line wins,
/// but cannot turn off what the file turns on.
#[derive(Args, Debug, Default, Clone, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct RunArgs {
    /// Join a run: by its ticket, the word that its machines print; or `lan`, whatever run is on the local network
    #[arg(long, value_name = "TICKET|lan")]
    pub join: Option<String>,
    /// Address of a machine of the run to join, with its peer id (…/p2p/12D3KooW…). Repeatable
    #[arg(long, value_name = "MULTIADDR")]
    pub bootstrap: Vec<String>,
    /// Accept only this run (64 hexadecimal digits, as printed by the node that started it). Without an address it is
    /// looked for on the local network
    #[arg(long, value_name = "ID")]
    pub run: Option<String>,
    /// Start a run that is private: only who has its ticket connects, hears or fetches anything of it. The ticket holds
    /// the secret; it cannot be taken back
    #[arg(long)]
    pub private: bool,
    /// Address to listen on [default: port 9713 of IPv4 and IPv6, or any free port if that is taken]. Repeatable
    #[arg(long, value_name = "MULTIADDR")]
    pub listen: Vec<String>,
    /// Address at which others reach this machine, where that is not one of its own: /ip4/…/tcp/… of a router that
    /// passes the port on, or /dns/NAME/tcp/…. Repeatable
    #[arg(long, value_name = "MULTIADDR")]
    pub announce: Vec<String>,
    /// Address of a relay with its peer id, as `node relay` prints it, through which others reach this machine if they
    /// cannot call it. Repeatable [default: found by itself among the machines of the run]
    #[arg(long, value_name = "MULTIADDR")]
    pub relay: Vec<String>,
    /// Directory for the ledger, the base model and the checkpoint [default: onebyte-state]
    #[arg(long, value_name = "DIR")]
    pub state: Option<PathBuf>,
    /// Hugging Face directory of a model (Llama, Mistral, Qwen2, Qwen3, Gemma 2 and 3, Phi-3, SmolLM3, OLMo 2, Granite,
    /// GPT-2, GPT-NeoX, OPT), a GGUF file of one (quantised: with --lora), its name on Hugging Face's hub (owner/name,
    /// owner/name@revision, owner/name:Q4_K_M for one GGUF file of several; or its page's address), from where it is
    /// downloaded if the hub's cache has it not, that cache at any level, or `embedded` [default: embedded; a joiner
    /// fetches the run's]
    #[arg(long, value_name = "PATH|NAME|embedded")]
    pub model: Option<String>,
    /// What a new run trains of it, the rest being frozen: a list, divided by commas, of `attention`, `mlp`, `norms`,
    /// `biases`, `embedding`, `head`, `last:N` (the last N layers and what follows them), and names of tensors or
    /// parts of them (`q_proj`), in which * stands for anything [default: all]
    #[arg(long, value_name = "WHAT")]
    pub train: Option<String>,
    /// Train adapters of this rank in a new run (LoRA), over a base that stays as it is: of all linear layers of
    /// attention and MLPs, or of those that --train names. An export has them merged, or alone with `node export
    /// --adapter`
    #[arg(long, value_name = "RANK")]
    pub lora: Option<u32>,
    /// The adapters' output is multiplied by ALPHA / RANK, as PEFT has it [default: twice the rank]
    #[arg(long, value_name = "ALPHA")]
    pub lora_alpha: Option<f64>,
    /// Text to train on: a file, a directory, a pipe, or `-` for standard input. It stays here. The content tells the
    /// form: text, JSON, JSON Lines, CSV or TSV with a header, Parquet, each as it is, gzip or zstd. Rows have `text`;
    /// `prompt` and `completion`; `messages` or `conversations`; `instruction` and `output`, or `question` and
    /// `answer`; or `prompt`, `choices` and `answer` (the right one: its index from 0, its letter or its text). Without
    /// it a node replays and serves; in a run on the embedded model it trains on a text that it generates
    #[arg(long, value_name = "PATH")]
    pub data: Option<PathBuf>,
    /// Held-out text [default: the last tenth of --data]
    #[arg(long, value_name = "PATH")]
    pub eval: Option<PathBuf>,
    /// Column of the rows of --data and --eval that is the text [default: told by the columns' names]
    #[arg(long, value_name = "NAME")]
    pub text_field: Option<String>,
    /// Text of a row, as a Jinja template over its columns: 'Q: {{ question }} A:{% generation %} {{ answer
    /// }}{% endgeneration %}'. What is between the generation marks is learned; without marks, everything
    #[arg(long, value_name = "JINJA")]
    pub template: Option<String>,
    /// Own gradients to contribute in all; then only serve and replay [default: no end]
    #[arg(long, value_name = "N")]
    pub samples: Option<u64>,
    /// End own gradients once the held-out curve is flat (a doubling of gradients would win less than 0.01); then only
    /// serve and replay. Needs a held-out text: --eval, or a part of --data
    #[arg(long)]
    pub stop_when_flat: bool,
    /// Leave once own gradients have ended (--samples, --stop-when-flat, or a node without a text) and nothing new has
    /// come for this long
    #[arg(long, value_name = "SECONDS", allow_negative_numbers = true)]
    pub exit_when_idle: Option<f64>,
    /// Step size of a new run, a share of each tensor's rms, or `auto`: measure what the model and the text can take,
    /// which takes up to a minute [default: auto]. Too high diverges, too low crawls
    #[arg(long, value_name = "RATE|auto", allow_negative_numbers = true)]
    pub learning_rate: Option<LearningRate>,
    /// Gradients that a new run is planned for, of all machines together: the learning rate falls over them [default:
    /// no end, the rate falls as an inverse square root]
    #[arg(long, value_name = "N")]
    pub gradients: Option<u64>,
    /// Size of the perturbation of a new run, as a share of each tensor's rms [default: 0.017]
    #[arg(long, value_name = "SIZE", allow_negative_numbers = true)]
    pub epsilon: Option<f64>,
    /// The weights of a new run have room for ten times so many gradients that all push one way; more make their grid
    /// coarser [default: --gradients, 1000 at least; else 100000]
    #[arg(long, value_name = "N")]
    pub planned_gradients: Option<u64>,
    /// Gradients a second that all machines of a new run are to make together, so that the slower ones can replay them
    /// [default: a quarter of what this machine replays, measured at the start]
    #[arg(long, value_name = "N")]
    pub replay_budget: Option<u32>,
    /// How own gradients are measured: `projection` (N bytes from one backward pass, in up to twice the memory), `fzoo`
    /// (N bytes from N + 1 forwards), `spsa` (one from two), `mezo` (the same, on the fixed scale of the paper), or
    /// `auto`: projection where the memory is there for it, else fzoo [default: auto]. Each machine may choose for
    /// itself
    #[arg(long, value_name = "NAME", value_parser = estimator_name())]
    pub estimator: Option<EstimatorChoice>,
    /// Memory that training may take in all, the model included, for example 3GiB or 800MB [default: what the model
    /// needs, and half of what is free beside it]. With less than a backward pass needs, gradients are measured by
    /// forwards alone
    #[arg(long, value_name = "BYTES")]
    pub memory: Option<ByteSize>,
    /// Bytes from one batch, with --estimator fzoo [default: 16]
    #[arg(long, value_name = "N")]
    pub probes: Option<NonZeroU32>,
    /// Bytes from one backward pass, with --estimator projection [default: 1024; at most one for a hundred weights]
    #[arg(long, value_name = "N")]
    pub projections: Option<NonZeroU32>,
    /// Windows of text, or rows, per own batch [default: 2; 8 by projection; of what has no derivative, 16 rows with
    /// choices, 8 prompts]. Larger is slower and less noisy; the time is that of the tokens in the rows
    #[arg(long, value_name = "N")]
    pub batch_size: Option<usize>,
    /// Tokens per window, or of the longest row [default: 128, or as many as the model can read]
    #[arg(long, value_name = "N")]
    pub sequence_length: Option<usize>,
    /// Of a new run on rows with choices: divide the log-probability of each choice by its tokens
    #[arg(long)]
    pub normalize: bool,
    /// What a new run makes better: `loss`, that of what is written or picked; `accuracy`, the share of rows with
    /// choices that are picked right; or 'command PROGRAM': the model completes the prompts of --data, PROGRAM (for the
    /// shell) reads the completions as JSON Lines on its standard input and prints one number for each, and their mean
    /// is what is climbed. Who joins such a run names a program of their own [default: loss]
    #[arg(long, value_name = "loss|accuracy|command …")]
    pub objective: Option<String>,
    /// Most tokens of a completion that the program of --objective scores [default: 64]
    #[arg(long, value_name = "N")]
    pub score_tokens: Option<usize>,
    /// How long that program may take for the completions of one batch [default: 60]
    #[arg(long, value_name = "SECONDS")]
    pub score_seconds: Option<f64>,
    /// Seed of the own data order [default: random, kept in the state directory]
    #[arg(long, value_name = "SEED")]
    pub seed: Option<u64>,
    /// Most own gradients that are signed and sent together [default: 256]. A message has some 140 bytes beside them
    #[arg(long, value_name = "N")]
    pub flush_samples: Option<usize>,
    /// Own gradients wait so long for others of their own before they are sent [default: 1000, or up to 4000 in a large
    /// swarm where a model is fast]. Longer costs fewer bytes, shorter keeps the others up to date. A model that is
    /// slower than this sends each gradient at once
    #[arg(long, value_name = "MILLISECONDS")]
    pub staleness_ms: Option<u64>,
    /// Start a run in which this machine may revoke others' samples (`node revoke`) and withdraw keys (`node withdraw`)
    #[arg(long)]
    pub authority: bool,
    /// Who may contribute to a new run: `by-authority` (this machine, and those that `node admit` names), or a file of
    /// keys, one a line, 64 hexadecimal digits each [default: everyone]
    #[arg(long, value_name = "WHO")]
    pub members: Option<String>,
    /// Stay off the local network: look for no machines of the run there, ask no router for a port
    #[arg(long)]
    pub no_mdns: bool,
    /// Show the run in a browser at this address, for example 127.0.0.1:8080 [default: off]. It only reads, and asks
    /// for no password: whoever reaches the address sees the run
    #[arg(long, value_name = "IP:PORT", value_parser = ip_and_port)]
    pub http: Option<SocketAddr>,
    /// Let people and programs talk with the model as it is at the moment, at this address, for example 127.0.0.1:8000
    /// [default: off]: a page, and the requests of OpenAI clients (base URL http://127.0.0.1:8000/v1). Training goes
    /// on; it takes memory for a second copy of the weights, and for a third while long answers are being made
    #[arg(long, value_name = "IP:PORT", value_parser = ip_and_port)]
    pub serve: Option<SocketAddr>,
    /// Token (API key) that who talks with the model must send [default: none on a loopback address, a random one
    /// elsewhere]
    #[arg(long, value_name = "TOKEN")]
    pub serve_token: Option<String>,
    /// Threads that compute [default: one for each core, or what RAYON_NUM_THREADS says]
    #[arg(long, value_name = "N")]
    pub threads: Option<NonZeroUsize>,
    /// How this node stands beside other programs of this machine: `background` lets them go first, `normal` does not
    /// [default: background]
    #[arg(long, value_name = "HOW", value_enum, hide_possible_values = true)]
    pub priority: Option<Priority>,
    /// Measure nothing of its own while this machine runs on its battery; replay and answer all the same
    #[arg(long)]
    pub pause_on_battery: bool,
    /// Send at most so many kilobytes a second of TCP payload, over all connections; 32 is the least [default: no
    /// limit]. What others fetch of this machine comes slower, and so does what they hear of it
    #[arg(long, value_name = "KB/S")]
    pub upload_limit: Option<u64>,
    /// Receive at most so many kilobytes a second, likewise [default: no limit]
    #[arg(long, value_name = "KB/S")]
    pub download_limit: Option<u64>,
    /// Write down what this node is told and when, so that its decisions can be replayed. It holds what any node of the
    /// run sees, no text and no secret; it ends at 256 MiB. The file must not be there yet
    #[arg(long, value_name = "FILE")]
    pub record: Option<PathBuf>,
    /// Read these settings from a TOML file. Its keys are the options without the dashes before them, as in
    /// `exit-when-idle = 60`. The command line goes before it, but cannot turn off a switch that it turns on
    #[arg(long, value_name = "FILE")]
    #[serde(skip)]
    pub config: Option<PathBuf>,
}

impl RunArgs {
    /// What is said here, and where nothing is said, what `file` says. A switch that the file turns on stays on.
    pub fn or(self, file: Self) -> Self {
        let list = |first: Vec<String>, second: Vec<String>| if first.is_empty() { second } else { first };
        Self {
            join: self.join.or(file.join),
            bootstrap: list(self.bootstrap, file.bootstrap),
            run: self.run.or(file.run),
            private: self.private || file.private,
            listen: list(self.listen, file.listen),
            announce: list(self.announce, file.announce),
            relay: list(self.relay, file.relay),
            state: self.state.or(file.state),
            model: self.model.or(file.model),
            train: self.train.or(file.train),
            lora: self.lora.or(file.lora),
            lora_alpha: self.lora_alpha.or(file.lora_alpha),
            data: self.data.or(file.data),
            eval: self.eval.or(file.eval),
            text_field: self.text_field.or(file.text_field),
            template: self.template.or(file.template),
            samples: self.samples.or(file.samples),
            stop_when_flat: self.stop_when_flat || file.stop_when_flat,
            exit_when_idle: self.exit_when_idle.or(file.exit_when_idle),
            learning_rate: self.learning_rate.or(file.learning_rate),
            gradients: self.gradients.or(file.gradients),
            epsilon: self.epsilon.or(file.epsilon),
            planned_gradients: self.planned_gradients.or(file.planned_gradients),
            replay_budget: self.replay_budget.or(file.replay_budget),
            estimator: self.estimator.or(file.estimator),
            memory: self.memory.or(file.memory),
            probes: self.probes.or(file.probes),
            projections: self.projections.or(file.projections),
            batch_size: self.batch_size.or(file.batch_size),
            sequence_length: self.sequence_length.or(file.sequence_length),
            normalize: self.normalize || file.normalize,
            objective: self.objective.or(file.objective),
            score_tokens: self.score_tokens.or(file.score_tokens),
            score_seconds: self.score_seconds.or(file.score_seconds),
            seed: self.seed.or(file.seed),
            flush_samples: self.flush_samples.or(file.flush_samples),
            staleness_ms: self.staleness_ms.or(file.staleness_ms),
            authority: self.authority || file.authority,
            members: self.members.or(file.members),
            no_mdns: self.no_mdns || file.no_mdns,
            http: self.http.or(file.http),
            serve: self.serve.or(file.serve),
            serve_token: self.serve_token.or(file.serve_token),
            threads: self.threads.or(file.threads),
            priority: self.priority.or(file.priority),
            pause_on_battery: self.pause_on_battery || file.pause_on_battery,
            upload_limit: self.upload_limit.or(file.upload_limit),
            download_limit: self.download_limit.or(file.download_limit),
            record: self.record.or(file.record),
            config: self.config.or(file.config),
        }
    }
}

/// What `--learning-rate` says.
#[derive(Clone, Copy, PartialEq, Debug, Deserialize)]
#[serde(try_from = "RateText")]
pub enum LearningRate {
    /// To be measured at the base.
    Auto,
    /// This rate.
    Fixed(f64),
}

/// As a `--config` file may write it.
#[derive(Deserialize)]
#[serde(untagged)]
enum RateText {
    Number(f64),
    Text(String),
}

impl TryFrom<RateText> for LearningRate {
    type Error = String;

    fn try_from(text: RateText) -> Result<Self, String> {
        match text {
            RateText::Number(rate) => Ok(Self::Fixed(rate)),
            RateText::Text(text) => text.parse(),
        }
    }
}

impl FromStr for LearningRate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            _ => text.parse().map(Self::Fixed).map_err(|_| format!("{text} is neither a number nor `auto`")),
        }
    }
}

/// What `--estimator` says.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EstimatorChoice {
    /// What this machine's memory allows.
    Auto,
    /// This one.
    #[serde(untagged)]
    Named(EstimatorName),
}

impl FromStr for EstimatorChoice {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        match text {
            "auto" => Ok(Self::Auto),
            name => name.parse().map(Self::Named),
        }
    }
}

/// Where to listen. Errors say what it may be, with the port that was meant.
pub(super) fn ip_and_port(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| {
        let last = text.trim_end_matches('/').rsplit(':').next().unwrap_or_default();
        let port: u16 = last.parse().unwrap_or(8080);
        format!(
            "that is no IP address with a port: 127.0.0.1:{port} is for this machine alone, 0.0.0.0:{port} for others, \
             too"
        )
    })
}

fn estimator_name() -> impl TypedValueParser<Value = EstimatorChoice> {
    let names = std::iter::once("auto").chain(EstimatorName::ALL.map(EstimatorName::as_str));
    PossibleValuesParser::new(names).try_map(|name| name.parse())
}
