//! The settings of one training node: command line over file over defaults, checked.

use anyhow::{Context, Result, bail, ensure};
use engine::estimator::Estimator;
use libp2p::{Multiaddr, PeerId, multiaddr::Protocol};
use protocol::{
    manifest::{Membership, REPLAY_BUDGET_MAX, RunId, SWARM_STEP_MAX},
    replica,
    segment::CHUNK_SAMPLES_MAX,
};
use std::{
    net::SocketAddr,
    num::NonZeroUsize,
    path::{Path, PathBuf},
    time::Duration,
};

use super::{DEFAULT_STATE, EstimatorChoice, LearningRate, RunArgs};
use crate::{
    join::ticket::Ticket,
    network::{Limits, check_callable, check_listen, is_relayed, parse_bootstrap},
    system::{hex::parse_key, priority::Priority},
};

/// Port that a node listens on unless told otherwise.
pub const DEFAULT_PORT: u16 = 9713;

/// Most tokens of a completion that a program scores, unless told otherwise, and at all.
const SCORE_TOKENS: usize = 64;
const SCORE_TOKENS_MAX: usize = 65_536;
/// How long it may take for a batch, unless told otherwise.
const SCORE_SECONDS: f64 = 60.0;

/// Own gradients wait no longer than this, whatever is asked for: a machine that fails loses those that were not sent.
const STALENESS_MS_MAX: u64 = 60_000;

/// Kilobytes a second; with less, chunks of the base model take longer than peers wait for them.
const LIMIT_KB_MIN: u64 = 32;
/// The same, in bytes a second, must be a number of them.
const LIMIT_KB_MAX: u64 = 1_000_000_000;
/// More threads than any machine has.
const THREADS_MAX: usize = 4_096;

/// Checked settings.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Machines to call first, as people named them.
    pub bootstrap: Vec<String>,
    /// Machines to call first, as a ticket names them.
    pub ticket: Option<Ticket>,
    /// Join whatever run, or the one that was named, of the local network.
    pub lan: bool,
    /// The only run to accept, also that of the ticket.
    pub run: Option<RunId>,
    /// Whether a new run is private.
    pub private: bool,
    /// Where others reach this machine, as people say.
    pub announce: Vec<Multiaddr>,
    /// Relays that people named.
    pub relays: Vec<(PeerId, Multiaddr)>,
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
    /// Column of rows that is the text, if said.
    pub text_field: Option<String>,
    /// Template over a row's columns, if said.
    pub template: Option<String>,
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
    /// From losses to bytes, if said.
    pub estimator: Option<Estimator>,
    /// Bytes that training may take in all, if said.
    pub memory: Option<u64>,
    /// Windows or rows per batch, if said.
    pub batch_size: Option<usize>,
    /// Tokens per window.
    pub sequence_length: Option<usize>,
    /// Whether the log-probability of a choice is divided by its tokens.
    pub normalize: bool,
    /// What is made better, if said.
    pub objective: Option<ObjectiveChoice>,
    /// Most tokens of a completion that is scored.
    pub score_tokens: usize,
    /// How long a program may take for the scores of a batch.
    pub score_patience: Duration,
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
    /// Where to answer who talks with the model.
    pub serve: Option<SocketAddr>,
    /// What they need to say there.
    pub serve_token: Option<String>,
    /// Where to record what the peer is told.
    pub record: Option<PathBuf>,
    /// Threads that compute, if said.
    pub threads: Option<NonZeroUsize>,
    /// Beside other programs of this machine.
    pub priority: Priority,
    /// Rest while this machine runs on its battery.
    pub pause_on_battery: bool,
    /// What the network may have.
    pub limits: Limits,
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

/// What is made better.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ObjectiveChoice {
    /// The loss of what is written, or picked.
    Loss,
    /// The share of rows that are picked right.
    Accuracy,
    /// The score that this program gives, a command for the shell.
    Command(String),
}

impl Settings {
    /// Merges and checks.
    pub fn resolve(args: RunArgs) -> Result<Self> {
        let args = match &args.config {
            None => args,
            Some(path) => {
                let file = read_config(path)?;
                args.or(file)
            }
        };
        needs_company(&args)?;
        let settings = Self::of(args)?;
        settings.check()?;
        Ok(settings)
    }

    fn of(args: RunArgs) -> Result<Self> {
        let join = args.join;
        let lan = join.as_deref() == Some("lan");
        let ticket = join.as_deref().filter(|_| !lan).map(parse_ticket).transpose()?;
        let run = args.run.map(|id| id.parse()).transpose().map_err(anyhow::Error::msg).context("--run")?;
        let members = parse_members(args.members.as_deref())?;
        let named = match args.estimator {
            Some(EstimatorChoice::Named(name)) => Some(name),
            Some(EstimatorChoice::Auto) | None => None,
        };
        let estimator = Estimator::new(named, args.probes, args.projections)?;
        let objective = args.objective.as_deref().map(parse_objective).transpose()?;
        let score_seconds = args.score_seconds.unwrap_or(SCORE_SECONDS);
        Ok(Self {
            bootstrap: args.bootstrap,
            run: run.or(ticket.as_ref().map(|ticket| ticket.run)),
            ticket,
            lan,
            private: args.private,
            announce: args.announce.iter().map(|text| parse_announced(text)).collect::<Result<_>>()?,
            relays: args.relay.iter().map(|text| parse_relay(text)).collect::<Result<_>>()?,
            listen: args.listen.iter().map(|text| parse_listen(text)).collect::<Result<_>>()?,
            state: args.state.unwrap_or_else(|| DEFAULT_STATE.into()),
            model: match args.model.as_deref() {
                None => ModelChoice::Unsaid,
                Some("embedded") => ModelChoice::Embedded,
                Some(directory) => ModelChoice::Directory(directory.into()),
            },
            train: args.train,
            lora: args.lora,
            lora_alpha: args.lora_alpha,
            data: args.data,
            eval: args.eval,
            text_field: args.text_field,
            template: args.template,
            samples: args.samples,
            stop_when_flat: args.stop_when_flat,
            exit_when_idle: args.exit_when_idle.map(parse_seconds).transpose()?,
            learning_rate: args.learning_rate,
            gradients: args.gradients,
            epsilon: args.epsilon,
            planned_gradients: args.planned_gradients,
            replay_budget: args.replay_budget,
            estimator,
            memory: args.memory.map(|size| size.as_u64()),
            batch_size: args.batch_size,
            sequence_length: args.sequence_length,
            normalize: args.normalize,
            objective,
            score_tokens: args.score_tokens.unwrap_or(SCORE_TOKENS),
            score_patience: Duration::try_from_secs_f64(score_seconds)
                .with_context(|| format!("--score-seconds {score_seconds}: give seconds, for example 60"))?,
            seed: args.seed,
            flush_samples: args.flush_samples,
            staleness_ms: args.staleness_ms,
            authority: args.authority || members == Membership::ByAuthority,
            members,
            mdns: !args.no_mdns,
            http: args.http,
            serve: args.serve,
            serve_token: args.serve_token,
            record: args.record,
            threads: args.threads,
            priority: args.priority.unwrap_or_default(),
            pause_on_battery: args.pause_on_battery,
            limits: parse_limits(args.upload_limit, args.download_limit)?,
        })
    }

    /// Whether people named a run to join, or a machine of one.
    pub fn joins(&self) -> bool {
        self.lan || self.run.is_some() || !self.bootstrap.is_empty()
    }

    /// Whether the local network is all there is to look for a run in.
    pub fn waits_for_lan(&self) -> bool {
        let names_nobody = |ticket: &Ticket| ticket.machines.iter().all(|(_, addresses)| addresses.is_empty());
        self.joins() && self.bootstrap.is_empty() && self.ticket.as_ref().is_none_or(names_nobody)
    }

    /// What people want of a run to join, where there is none on the disk, must be possible.
    pub fn check_joining(&self) -> Result<()> {
        ensure!(
            self.mdns || !self.waits_for_lan(),
            "--no-mdns: the run to join would be looked for on the local network; give its ticket with --join, or one of its \
             machines with --bootstrap"
        );
        ensure!(
            !(self.private && self.joins()),
            "--private is for the machine that starts a run: its ticket says what is private to those who join"
        );
        Ok(())
    }

    fn check(&self) -> Result<()> {
        if let (Some(ticket), Some(run)) = (&self.ticket, self.run) {
            ensure!(ticket.run == run, "--run {run}: the ticket is of run {}; leave --run away", ticket.run);
        }
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
            ensure!(positive(size), "--epsilon {size}: must be a positive number, 0.017 is usual");
        }
        if let Some(size) = self.batch_size {
            ensure!((1..=65_536).contains(&size), "--batch-size {size}: must be 1 to 65536");
        }
        if let Some(length) = self.sequence_length {
            ensure!(
                (2..=1 << 20).contains(&length),
                "--sequence-length {length}: must be 2, a token to read and one to predict, to 2^20"
            );
        }
        if let Some(threads) = self.threads {
            ensure!(threads.get() <= THREADS_MAX, "--threads {threads}: must be 1 to {THREADS_MAX}");
        }
        ensure!(
            (1..=SCORE_TOKENS_MAX).contains(&self.score_tokens),
            "--score-tokens {}: must be 1 to {SCORE_TOKENS_MAX}",
            self.score_tokens
        );
        ensure!(!self.score_patience.is_zero(), "--score-seconds 0: no program answers in no time; give it 60");
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

/// What a `--config` file says.
fn read_config(path: &Path) -> Result<RunArgs> {
    let text = std::fs::read_to_string(path).with_context(|| format!("--config {}: cannot be read", path.display()))?;
    toml::from_str(&text).with_context(|| format!("--config {}", path.display()))
}

/// Flags that say something about another one must not come without it: they would be left aside in silence.
fn needs_company(args: &RunArgs) -> Result<()> {
    let scores = args.objective.as_deref().is_some_and(|objective| objective.trim_start().starts_with("command"));
    let has_text = args.data.is_some() || args.eval.is_some();
    let pairs = [
        (args.lora_alpha.is_some(), "--lora-alpha", args.lora.is_some(), "--lora RANK, the adapters that it scales"),
        (args.serve_token.is_some(), "--serve-token", args.serve.is_some(), "--serve IP:PORT, where it is asked for"),
        (
            args.score_tokens.is_some(),
            "--score-tokens",
            scores,
            "--objective 'command PROGRAM', whose completions it bounds",
        ),
        (args.score_seconds.is_some(), "--score-seconds", scores, "--objective 'command PROGRAM', which it bounds"),
        (
            args.text_field.is_some(),
            "--text-field",
            has_text,
            "--data PATH or --eval PATH, a column of whose rows it names",
        ),
        (args.template.is_some(), "--template", has_text, "--data PATH or --eval PATH, whose rows it makes texts of"),
    ];
    for (is_said, flag, has_company, needed) in pairs {
        ensure!(!is_said || has_company, "{flag}: says nothing without {needed}");
    }
    Ok(())
}

/// Where a node is to listen.
pub fn parse_listen(text: &str) -> Result<Multiaddr> {
    let example = format!("an example that works is /ip4/0.0.0.0/tcp/{DEFAULT_PORT}");
    let address: Multiaddr =
        text.parse().map_err(|error| anyhow::anyhow!("--listen {text}: not a multiaddr ({error}); {example}"))?;
    check_listen(&address)
        .map_err(|error| anyhow::anyhow!("--listen {text}: cannot listen there ({error}); {example}"))?;
    Ok(address)
}

/// What the network may have, in kilobytes a second.
pub fn parse_limits(upload: Option<u64>, download: Option<u64>) -> Result<Limits> {
    let parse = |flag: &str, limit: Option<u64>| {
        let Some(limit) = limit else { return Ok(None) };
        ensure!(
            (LIMIT_KB_MIN..=LIMIT_KB_MAX).contains(&limit),
            "{flag} {limit}: must be {LIMIT_KB_MIN} to {LIMIT_KB_MAX} kilobytes a second; with less, other machines take this one for \
             gone. Leave it away for no limit"
        );
        Ok(Some(limit * 1_000))
    };
    Ok(Limits { upload: parse("--upload-limit", upload)?, download: parse("--download-limit", download)? })
}

/// Where others reach this machine.
pub fn parse_announced(text: &str) -> Result<Multiaddr> {
    let wrong = |error: String| anyhow::anyhow!("--announce {text}: {error}; for example /ip4/203.0.113.5/tcp/9713");
    let mut address: Multiaddr = text.parse().map_err(|error| wrong(format!("not a multiaddr ({error})")))?;
    if let Some(Protocol::P2p(_)) = address.iter().last() {
        address.pop();
    }
    check_callable(&address).map_err(wrong)?;
    if is_relayed(&address) {
        return Err(wrong("leads through a relay, which is named with --relay".into()));
    }
    Ok(address)
}

/// A relay with its peer id.
fn parse_relay(text: &str) -> Result<(PeerId, Multiaddr)> {
    let (peer, address) = parse_bootstrap(text).map_err(|error| anyhow::anyhow!("{}", error.of_flag("--relay")))?;
    ensure!(!is_relayed(&address), "--relay {text}: leads through another relay; give the address of the relay itself");
    Ok((peer, address))
}

/// What `--join` says.
pub fn parse_ticket(text: &str) -> Result<Ticket> {
    if !Ticket::is_meant(text) {
        bail!(
            "--join {}: neither `lan` nor a ticket, which begins with `onebyte1`; an address goes with --bootstrap, a run's id with \
             --run",
            shortened(text)
        );
    }
    Ticket::parse(text).with_context(|| format!("--join {}", shortened(text)))
}

/// A ticket may hold a secret: what is wrong with it is said without it.
fn shortened(text: &str) -> String {
    text.chars().take(16).chain("…".chars()).collect()
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

/// What `--objective` says.
fn parse_objective(text: &str) -> Result<ObjectiveChoice> {
    let command = text.strip_prefix("command").filter(|rest| rest.is_empty() || rest.starts_with(char::is_whitespace));
    Ok(match (text.trim(), command.map(str::trim)) {
        ("loss", _) => ObjectiveChoice::Loss,
        ("accuracy", _) => ObjectiveChoice::Accuracy,
        (_, Some("")) => bail!("--objective command: which? For example --objective 'command python3 score.py'"),
        (_, Some(command)) => ObjectiveChoice::Command(command.to_owned()),
        _ => bail!("--objective {text}: must be loss, accuracy, or 'command PROGRAM', a program that prints scores"),
    })
}

fn parse_seconds(seconds: f64) -> Result<Duration> {
    match Duration::try_from_secs_f64(seconds) {
        Ok(duration) => Ok(duration),
        Err(error) => bail!("--exit-when-idle {seconds}: {error}; give seconds, for example 10"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The ticket of a node that never listened names nobody, and its joiner was not told where it looks.
    #[test]
    fn with_a_ticket_that_names_no_machine_the_local_network_is_all_there_is() {
        let with = |machines| {
            let join = Some(Ticket { run: RunId([9; 32]), secret: None, machines }.encode());
            Settings::of(RunArgs { join, ..RunArgs::default() }).unwrap()
        };
        let peer = crate::network::peer_id([1; 32]).unwrap();
        assert!(with(Vec::new()).waits_for_lan());
        assert!(!with(vec![(peer, vec!["/ip4/203.0.113.5/tcp/9713".parse().unwrap()])]).waits_for_lan());
    }

    #[test]
    fn a_flag_that_says_something_about_another_one_does_not_come_alone() {
        let none = RunArgs::default;
        let (data, eval) = (Some(PathBuf::from("rows.csv")), Some(PathBuf::from("held_out.csv")));
        let field = || RunArgs { text_field: Some("body".into()), ..none() };
        let template = || RunArgs { template: Some("{{ body }}".into()), ..none() };
        for (args, flag, company) in [
            (field(), "--text-field", RunArgs { data: data.clone(), ..field() }),
            (field(), "--text-field", RunArgs { eval: eval.clone(), ..field() }),
            (template(), "--template", RunArgs { data, ..template() }),
            (template(), "--template", RunArgs { eval, ..template() }),
            (
                RunArgs { lora_alpha: Some(16.0), ..none() },
                "--lora-alpha",
                RunArgs { lora_alpha: Some(16.0), lora: Some(8), ..none() },
            ),
        ] {
            let error = needs_company(&args).unwrap_err().to_string();
            assert!(error.starts_with(&format!("{flag}: says nothing without --")), "{error}");
            needs_company(&company).unwrap();
        }
    }
}
