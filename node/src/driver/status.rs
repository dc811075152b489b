//! What people see: one live line on a terminal, plain log lines elsewhere.

use engine::{objective::Evaluation, trainer::Step};
use indicatif::{ProgressBar, ProgressStyle};
use libp2p::{Multiaddr, multiaddr::Protocol};
use protocol::{
    machine::MachineId,
    replica::{IncarnationCause, Replica, Report},
};
use std::{
    io::{IsTerminal, Write},
    time::{Duration, Instant},
};

use crate::{
    network::Network,
    watch::{HeldOut, Snapshot},
};

/// Off a terminal, a line this often.
const LINE_INTERVAL: Duration = Duration::from_secs(5);
/// On a terminal, the live line changes this often.
const REFRESH_INTERVAL: Duration = Duration::from_millis(250);

/// The live line, shared with the log writer so that log lines do not tear it.
#[derive(Clone)]
pub struct Display {
    bar: Option<ProgressBar>,
}

impl Display {
    /// Whether there is a live line.
    pub fn is_terminal(&self) -> bool {
        self.bar.is_some()
    }

    /// A live line if standard error is a terminal.
    pub fn new() -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new_spinner();
            if let Ok(style) = ProgressStyle::with_template("{spinner} {msg}") {
                bar.set_style(style);
            }
            bar
        });
        Self { bar }
    }
}

impl Default for Display {
    fn default() -> Self {
        Self::new()
    }
}

impl<'a> tracing_subscriber::fmt::MakeWriter<'a> for Display {
    type Writer = DisplayWriter;

    fn make_writer(&'a self) -> Self::Writer {
        DisplayWriter { display: self.clone(), line: Vec::new() }
    }
}

/// Writes one log event above the live line.
pub struct DisplayWriter {
    display: Display,
    line: Vec<u8>,
}

impl Write for DisplayWriter {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.line.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Drop for DisplayWriter {
    fn drop(&mut self) {
        let write = || {
            let _ = std::io::stderr().write_all(&self.line);
        };
        match &self.display.bar {
            Some(bar) => bar.suspend(write),
            None => write(),
        }
    }
}

/// Counters behind the display.
pub struct Status {
    display: Display,
    has_held_out: bool,
    run: String,
    own: u64,
    loss: Option<f64>,
    held_out: Option<HeldOut>,
    paused: bool,
    peers: usize,
    /// Entries that the weights lack, and the most of them since they lacked none.
    owed: usize,
    owed_most: usize,
    begun: Instant,
    /// When the first own gradients of this session came, and how many they were.
    first_own: Option<(Instant, u64)>,
    last_own: Option<Instant>,
    /// (time, own, swarm) at the last line.
    last: (Instant, u64, u64),
    swarm_at_start: Option<u64>,
    last_refresh: Instant,
    rates: (f64, f64),
    storage_failing: bool,
    /// Where this node listens, and when the first address came.
    addresses: Vec<Multiaddr>,
    listening_since: Option<Instant>,
    announced: usize,
    peer_suffix: String,
}

impl Status {
    /// `peer_suffix`: the peer id, for the line that another machine types.
    pub fn new(display: Display, run: String, peer_suffix: String, has_held_out: bool) -> Self {
        let now = Instant::now();
        Self {
            display,
            has_held_out,
            run,
            own: 0,
            loss: None,
            held_out: None,
            paused: false,
            peers: 0,
            owed: 0,
            owed_most: 0,
            begun: now,
            first_own: None,
            last_own: None,
            last: (now, 0, 0),
            swarm_at_start: None,
            last_refresh: now,
            rates: (0.0, 0.0),
            storage_failing: false,
            addresses: Vec::new(),
            listening_since: None,
            announced: 0,
            peer_suffix,
        }
    }

    pub(super) fn say(&self, text: &str) {
        tracing::info!("{text}");
    }

    pub(super) fn clear(&self) {
        if let Some(bar) = &self.display.bar {
            bar.finish_and_clear();
        }
    }

    pub(super) fn wants_evaluation(&self) -> bool {
        self.has_held_out
    }

    pub(super) fn listening(&mut self, address: &Multiaddr) {
        if !self.addresses.contains(address) {
            self.addresses.push(address.clone());
            self.listening_since = self.listening_since.or_else(|| Some(Instant::now()));
        }
    }

    /// Prints the line that another machine types, once the system has named its addresses. Loopback is of use only if
    /// there is nothing else.
    pub(super) fn announce(&mut self) {
        const GATHER: Duration = Duration::from_millis(200);
        if self.announced == self.addresses.len() || self.listening_since.is_none_or(|since| since.elapsed() < GATHER) {
            return;
        }
        let is_loopback = |address: &&Multiaddr| {
            address.iter().any(|part| match part {
                Protocol::Ip4(ip) => ip.is_loopback(),
                Protocol::Ip6(ip) => ip.is_loopback(),
                _ => false,
            })
        };
        let only_loopback = self.addresses.iter().all(|address| is_loopback(&address));
        for address in self.addresses[self.announced..].iter().filter(|a| only_loopback || !is_loopback(a)) {
            tracing::info!(
                "to join from another machine: node --bootstrap {address}/p2p/{} --run {}",
                self.peer_suffix,
                self.run
            );
        }
        self.announced = self.addresses.len();
    }

    pub(super) fn bootstrap_unreachable(&self, address: &Multiaddr, error: &str, retry_in: Duration) {
        tracing::warn!(
            "{address} cannot be reached ({error}); trying again in {} s. Is the node there running, and its port open?",
            retry_in.as_secs().max(1)
        );
    }

    pub(super) fn new_incarnation(&self, cause: IncarnationCause, machine: &MachineId) {
        let why = match cause {
            IncarnationCause::Behind => {
                "a peer holds samples of this machine that this disk does not: the state directory was rolled back, or copied and run elsewhere"
            }
            IncarnationCause::Unanswered => "no peer could confirm this machine's ledger",
            IncarnationCause::Forked => {
                "this machine's key signed two histories, so its ledger was revoked everywhere: make sure that no copy of the state directory runs elsewhere"
            }
        };
        tracing::warn!("{why}. Going on as a new incarnation, {machine}; nothing that others hold is lost");
    }

    pub(super) fn report(&self, report: &Report) {
        match report {
            Report::HeadConfirmed => tracing::info!("peers confirm this machine's ledger: signing"),
            Report::Forked { machine, was } => tracing::warn!(
                "{machine} signed two histories: its ledger is revoked, {was} gradients left the weights, exactly"
            ),
            Report::Revoked { machine, from } => {
                tracing::warn!("the run's authority withdrew {machine} from sample {from} on")
            }
            Report::Incomplete(reason) => tracing::error!("this node no longer holds all of the run: {reason}"),
        }
    }

    pub(super) fn storage_failed(&mut self, error: &str) {
        self.storage_failing = true;
        tracing::error!(
            "the state directory takes no writes ({error}); own gradients wait unsent until it does. Free some space, or make it writable"
        );
    }

    pub(super) fn checkpoint_failed(&self, error: &anyhow::Error) {
        tracing::warn!(
            "no checkpoint this time ({error:#}); the ledger is safe, the next start replays more. Is the disk full?"
        );
    }

    pub(super) fn near_edge(&mut self, near: Option<&(String, f64)>) {
        self.paused = near.is_some();
        if let Some((tensor, share)) = near {
            tracing::error!(
                "a weight is near the end of its range: own probes pause ({tensor}, {:.1}% of the way). A peer may be pushing it; a revocation would heal it. Or the run outgrew its planned gradients",
                100.0 * share
            );
        } else {
            tracing::info!("all weights are well within their ranges again: probing goes on");
        }
    }

    /// Whether probes rest because a weight is near its range's end.
    pub(super) fn is_paused(&self) -> bool {
        self.paused
    }

    /// Entries that the weights lack.
    pub(super) fn owed(&self) -> usize {
        self.owed
    }

    /// What this session measured.
    pub(super) fn describe(&self, snapshot: &mut Snapshot) {
        snapshot.own.session = self.own;
        snapshot.training_loss = self.loss;
        snapshot.held_out = self.held_out;
    }

    pub(super) fn peers(&mut self, peers: usize) {
        self.peers = peers;
    }

    pub(super) fn stepped(&mut self, step: &Step) {
        self.own += step.own.len() as u64;
        self.last_own = Some(Instant::now());
        self.first_own = self.first_own.or(self.last_own.map(|now| (now, self.own)));
        if step.loss.is_finite() {
            self.loss = Some(self.loss.map_or(step.loss, |loss| loss + (step.loss - loss) / 32.0));
        }
    }

    pub(super) fn evaluated(&mut self, evaluation: &Evaluation, gradients: u64) {
        self.held_out = Some(HeldOut { loss: evaluation.loss, bits_per_byte: evaluation.bits_per_byte, gradients });
        tracing::info!(
            "held-out loss {:.4} nats per token, {:.4} bits per byte, after {gradients} gradients",
            evaluation.loss,
            evaluation.bits_per_byte
        );
    }

    pub(super) fn replay_enqueued(&mut self, entries: usize) {
        self.owed += entries;
        self.owed_most = self.owed_most.max(self.owed);
    }

    pub(super) fn replayed(&mut self, entries: usize) {
        self.owed = self.owed.saturating_sub(entries);
        if self.owed == 0 {
            self.owed_most = 0;
        }
    }

    pub(super) fn joined(&self, replica: &Replica) {
        let (gradients, machines) = (replica.swarm_step(), replica.vector().machines());
        if gradients > 0 {
            tracing::info!(
                "caught up: {gradients} gradients of {machines} machines, in {:.1} s",
                self.begun.elapsed().as_secs_f64()
            );
        }
    }

    pub(super) fn at_rest(&self, root: [u8; 32], digest: [u8; 32]) {
        tracing::info!("at rest: version vector {} weights {}", hex(&root), hex(&digest));
    }

    pub(super) fn leaving(&self, replica: &mut Replica) {
        tracing::info!(
            "left with {} gradients of {} machines, {} of them made here in this session{}; version vector {}",
            replica.swarm_step(),
            replica.vector().machines(),
            self.own,
            self.own_rate().map_or(String::new(), |rate| format!(" ({rate:.2} a second)")),
            hex(&replica.root())
        );
    }

    /// Own gradients per second, from the first to the last of this session.
    fn own_rate(&self) -> Option<f64> {
        let ((first, first_own), last) = (self.first_own?, self.last_own?);
        (last > first).then(|| self.own.saturating_sub(first_own) as f64 / last.duration_since(first).as_secs_f64())
    }

    /// Redraws the line if it is time.
    pub(super) fn refresh(&mut self, replica: &mut Replica, network: &Network) {
        let interval = if self.display.bar.is_some() { REFRESH_INTERVAL } else { LINE_INTERVAL };
        if self.last_refresh.elapsed() < interval {
            return;
        }
        self.last_refresh = Instant::now();
        let swarm = replica.swarm_step();
        let start = *self.swarm_at_start.get_or_insert(swarm);
        let (time, own, before) = self.last;
        let seconds = time.elapsed().as_secs_f64();
        if seconds >= 2.0 {
            self.rates = ((self.own - own) as f64 / seconds, swarm.saturating_sub(before) as f64 / seconds);
            self.last = (Instant::now(), self.own, swarm);
        }
        let traffic = network.traffic();
        let gradients = swarm.saturating_sub(start).max(1) as f64;
        let loss = |loss: Option<f64>| loss.map_or("-".into(), |loss| format!("{loss:.4}"));
        let training = format!(
            "own {} ({:.1}/s)  swarm {swarm} ({:.1}/s)  loss {}  held-out {} bits/byte",
            self.own,
            self.rates.0,
            self.rates.1,
            loss(self.loss),
            loss(self.held_out.map(|held_out| held_out.bits_per_byte)),
        );
        let mut network = format!(
            "peers {}  bytes per gradient {:.1} in {:.1} out",
            self.peers,
            traffic.socket_in as f64 / gradients,
            traffic.socket_out as f64 / gradients,
        );
        if self.owed > 10_000 {
            let done = 100.0 - 100.0 * self.owed as f64 / self.owed_most as f64;
            network.push_str(&format!("  replaying: {done:.0}%, {} gradients to go", self.owed));
        }
        if replica.incomplete().next().is_some() {
            network.push_str("  INCOMPLETE");
        }
        match &self.display.bar {
            Some(bar) => {
                bar.set_message(format!("{training}\n  {network}"));
                bar.tick();
            }
            None => tracing::info!("{training}  {network}"),
        }
    }
}

/// Lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
