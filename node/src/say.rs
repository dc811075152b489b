//! All that a running node says to people: facts come in, words go out. Nothing is decided here.

use engine::{data::Dataset, estimator::Estimator, objective::Evaluation};
use libp2p::{Multiaddr, PeerId};
use peer::{Load, NodeId, Notice, curve::STEP, leave::Waiting, limits::BAN_MS};
use protocol::{
    machine::MachineId,
    manifest::RunId,
    replica::{IncarnationCause, Replica, Report},
};
use std::{
    path::Path,
    time::{Duration, Instant},
};

use crate::{
    hex::hex,
    network::Scope,
    shell::Nodes,
    watch::{Points, Session, journal::Point},
};

/// What names need to be found.
pub struct Names<'a> {
    /// Nodes by their numbers.
    pub nodes: &'a Nodes,
    /// The ledgers, once there are any.
    pub replica: Option<&'a Replica>,
    /// What `--run` says.
    pub wished: Option<RunId>,
}

impl Names<'_> {
    fn peer_id(&self, node: NodeId) -> String {
        self.nodes.peer_id(node).map_or_else(|| "a node that has gone".into(), |peer| peer.to_string())
    }
}

/// Bytes of a backward pass beside weights: logits, hidden states, gradients of one layer.
const BACKWARD_BYTES: u64 = 256 << 20;

/// Whether a backward pass fits beside the model, which has so many `parameters`; `available`: bytes, if the system
/// tells.
pub fn memory_for_projection(estimator: Estimator, parameters: u64, available: Option<u64>) {
    let Some(available) = available else { return };
    // An embedding's gradient is at most as large as the model.
    let needed = 4 * parameters + BACKWARD_BYTES;
    let (needed_mib, available_mib) = (needed >> 20, available >> 20);
    let projects = matches!(estimator, Estimator::Projection { .. });
    if projects && available < needed {
        tracing::warn!(
            "--estimator projection takes up to {needed_mib} MiB beside the model, and {available_mib} MiB are free: smaller \
             batches take less, --estimator fzoo takes none"
        );
    } else if !projects && available >= needed {
        tracing::info!(
            "there is memory for --estimator projection (up to {needed_mib} MiB more, {available_mib} MiB are free): a thousand \
             gradients from one backward pass, where forwards alone give one each"
        );
    }
}

/// A piece of news of the peer. Some of it is for files, not for people.
pub fn news(news: &Notice, names: &Names<'_>) {
    match news {
        Notice::Unreachable { node, retry_in_ms } => {
            let address = names.nodes.addresses(*node).first().map(Multiaddr::to_string).unwrap_or_default();
            let error = names.nodes.error(*node).unwrap_or("no answer");
            tracing::warn!(
                "{address} cannot be reached ({error}); trying again in {} s. Is the node there running, and its port open?",
                (retry_in_ms / 1_000).max(1)
            );
        }
        Notice::Fault { node, reason, banned: false } => {
            tracing::debug!(peer = names.peer_id(*node), reason, "a fault")
        }
        Notice::Fault { node, reason, banned: true } => {
            tracing::warn!("{} is banned for {} minutes: {reason}", names.peer_id(*node), BAN_MS / 60_000);
        }
        Notice::OtherRun { node, differences, .. } => tracing::warn!(
            peer = names.peer_id(*node),
            "refused: this peer is of another run ({}). To join its run, start a node with another --state and this peer as \
             --bootstrap",
            differences.join("; ")
        ),
        // The last one is the reason why the node ends, and is said as such.
        Notice::NotTheWishedRun { is_last: true, .. } => {}
        Notice::NotTheWishedRun { node, run, .. } => tracing::warn!("{}", not_the_wished_run(*node, *run, names)),
        Notice::NoManifest { node, reason } => {
            tracing::warn!("{} sent no usable manifest: {reason}", names.peer_id(*node));
        }
        Notice::GivenUp { node, reason } => tracing::warn!("{} is done without: {reason}", names.peer_id(*node)),
        Notice::NobodyHasBase => tracing::warn!(
            "no peer that could send the base model is connected; still trying. --model gives it from disk"
        ),
        Notice::CaughtUp { after_ms } => caught_up(*after_ms, names.replica),
        Notice::Behind(load) => tracing::warn!("{}", falls_behind(load)),
        Notice::NoMember { key } => no_member(key, names.replica),
        Notice::NewIncarnation { cause, machine } => new_incarnation(*cause, machine),
        Notice::Report(report) => of_replica(report),
        Notice::AtRest { root, digest } => {
            tracing::info!("at rest: version vector {} weights {}", hex(root), hex(digest));
        }
        Notice::Leaving => tracing::info!("leaving: signing and storing what is left"),
        Notice::StillLeaving(waiting) => {
            tracing::info!("still leaving: waiting for {}. Once more Ctrl-C gives that up", in_words(waiting));
        }
        Notice::Flat(_) => tracing::info!(
            "the held-out curve is flat: {STEP} less of its loss would take more gradients than there are so far, or never come. No \
             more own gradients (--stop-when-flat); this node replays and serves"
        ),
        Notice::Fetched { .. } | Notice::Weights { .. } | Notice::Point(_) => {}
    }
}

/// Why a node is not joined.
pub fn not_the_wished_run(node: NodeId, run: RunId, names: &Names<'_>) -> String {
    let peer = names.peer_id(node);
    let wished = names.wished.map_or_else(String::new, |wished| format!(" {wished}"));
    format!(
        "{peer} is of run {run}, not of --run{wished}: check the address, or leave --run away to join whatever run it is of"
    )
}

fn caught_up(after_ms: u64, replica: Option<&Replica>) {
    let Some(replica) = replica.filter(|replica| replica.swarm_step() > 0) else { return };
    tracing::info!(
        "caught up: {} gradients of {} machines, in {:.1} s",
        replica.swarm_step(),
        replica.vector().machines(),
        after_ms as f64 / 1e3
    );
}

/// More comes than this machine can replay.
fn falls_behind(load: &Load) -> String {
    let replays =
        load.replays_per_second.map_or_else(String::new, |rate| format!(" replays {rate} gradients a second and"));
    format!(
        "behind by {} gradients, growing by {} a minute: this machine{replays} keeps a quarter of its time for its own, all machines \
         together make {:.0} a second. Its weights are old, and so is what it measures. Give it more cores, or less to measure \
         (--samples); let machines that use projection make fewer (--projections); a new run can have a smaller --replay-budget",
        load.backlog,
        load.backlog_per_minute,
        load.gradients_per_second()
    )
}

/// A node of an earlier release is connected.
pub fn older(peer: &PeerId) {
    tracing::warn!(
        "{peer} runs an older release, which speaks protocol version 1: it cannot be of this run, and was told so. Update it, or \
         join its run with its own release"
    );
}

fn no_member(key: &[u8; 32], replica: Option<&Replica>) {
    let is_withdrawn = replica.is_some_and(|replica| replica.member(key).is_some());
    let needs_admission = replica.is_some_and(|replica| replica.manifest().needs_admission(key));
    let why = match () {
        () if is_withdrawn => "the run's authority withdrew this machine's key, for good".to_owned(),
        () if needs_admission => format!(
            "this machine's key is not a member of the run yet; the run's authority admits it with `node admit {}`",
            hex(key)
        ),
        () => format!("this machine's key is not among the run's members ({})", hex(key)),
    };
    tracing::warn!("{why}. So this node replays and serves, and does not train");
}

fn new_incarnation(cause: IncarnationCause, machine: &MachineId) {
    let why = match cause {
        IncarnationCause::Behind => {
            "a peer holds samples of this machine that this disk does not: the state directory was rolled back, or copied and \
             run elsewhere"
        }
        IncarnationCause::Unanswered => "no peer could confirm this machine's ledger",
        IncarnationCause::Forked => {
            "this machine's key signed two histories, so its ledger was revoked everywhere: make sure that no copy of the state \
             directory runs elsewhere"
        }
    };
    tracing::warn!("{why}. Going on as a new incarnation, {machine}; nothing that others hold is lost");
}

fn of_replica(report: &Report) {
    match report {
        Report::HeadConfirmed => tracing::info!("peers confirm this machine's ledger: signing"),
        Report::Forked { machine, was } => tracing::warn!(
            "{machine} signed two histories: its ledger is revoked, {was} gradients left the weights, exactly"
        ),
        Report::Revoked { machine, from } => {
            tracing::warn!("the run's authority withdrew {machine} from sample {from} on");
        }
        Report::Admitted => {
            tracing::info!("the run's authority admitted this machine's key: what it makes counts from now on");
        }
        Report::Withdrawn { is_own: true, .. } => tracing::warn!(
            "the run's authority withdrew this machine's key, for good: this node goes on replaying, and trains no more"
        ),
        Report::Withdrawn { key, is_own: false } => {
            tracing::warn!("the run's authority withdrew the key {}: what else it makes does not count", hex(key))
        }
        Report::Incomplete(reason) => tracing::error!("this node no longer holds all of the run: {reason}"),
    }
}

/// What leaving waits for.
fn in_words(waiting: &Waiting) -> String {
    let own = (waiting.own > 0).then(|| format!("{} own gradients to be stored", waiting.own));
    let writes = (waiting.writes > 0).then(|| format!("{} writes to the disk", waiting.writes));
    let checkpoint = waiting.checkpoint.then(|| "a checkpoint".to_owned());
    let parts: Vec<String> = [own, writes, checkpoint].into_iter().flatten().collect();
    if parts.is_empty() { "the last messages to go out".into() } else { parts.join(", ") }
}

/// What is lost when leaving is cut short.
fn given_up(waiting: &Waiting) -> String {
    let own = match waiting.own {
        0 => "no own gradient is lost".to_owned(),
        own => format!("{own} own gradients that were neither stored nor sent are lost"),
    };
    let writes = match waiting.writes {
        0 => String::new(),
        writes => format!("; writes not done: {writes}, and what they hold of others comes again from peers"),
    };
    format!("{own}{writes}")
}

/// Why the node ends with an error after the second Ctrl-C.
pub fn cut_short(waiting: &Waiting) -> String {
    format!("left at once: {}", given_up(waiting))
}

/// Why the node ends with an error when the disk takes nothing.
pub fn left_without(waiting: &Waiting, error: &str, directory: &Path) -> String {
    format!(
        "{}: the state directory takes no writes ({error}): {}. Free some space, or make it writable, and start the node again",
        directory.display(),
        given_up(waiting)
    )
}

/// Why a state directory cannot be used.
pub fn damaged(directory: &Path, machine: &MachineId, first: u64, reason: &str) -> String {
    format!(
        "{}: the ledger of {machine} is damaged at sample {first}: {reason}. Keep the directory, and join the run anew with another \
         --state; what peers hold of this machine is not lost",
        directory.display()
    )
}

/// The disk refuses writes.
pub fn storage_fails(error: &str) {
    tracing::error!(
        "the state directory takes no writes ({error}); own gradients wait unsent until it does. Free some space, or make it \
         writable"
    );
}

/// It takes them again.
pub fn storage_recovered() {
    tracing::info!("the state directory takes writes again");
}

/// No checkpoint file could be written.
pub fn checkpoint_failed(error: &anyhow::Error) {
    tracing::warn!(
        "no checkpoint this time ({error:#}); the ledger is safe, the next start replays more. Is the disk full?"
    );
}

/// A tensor, and how far of the way to its range's end one of its weights is; or none any more.
pub fn near_edge(near: Option<&(String, f64)>) {
    match near {
        Some((tensor, share)) => tracing::error!(
            "a weight is near the end of its range: own probes pause ({tensor}, {:.1}% of the way). A peer may be pushing it; a \
             revocation would heal it. Or the run outgrew its planned gradients",
            100.0 * share
        ),
        None => tracing::info!("all weights are well within their ranges again: probing goes on"),
    }
}

/// The held-out loss is known.
pub fn evaluated(evaluation: &Evaluation, gradients: u64) {
    tracing::info!("held-out {}, after {gradients} gradients", evaluation_words(evaluation));
}

/// What an evaluation says.
pub fn evaluation_words(evaluation: &Evaluation) -> String {
    let loss = evaluation.loss;
    match (evaluation.accuracy(), evaluation.bits_per_byte) {
        (Some(accuracy), _) => format!("accuracy {accuracy:.4}, loss {loss:.4} nats per row"),
        (None, Some(bits)) => format!("loss {loss:.4} nats per token, {bits:.4} bits per byte"),
        (None, None) => format!("loss {loss:.4} nats per token"),
    }
}

/// Rows of `data` lost the start of their prompts.
pub fn prompts_cut(data: &Dataset, path: &Path, sequence_length: usize) {
    if data.prompts_cut() > 0 {
        tracing::warn!(
            "{}: {} of {} prompts lost their start: with what follows them they have more than {sequence_length} tokens; \
             a longer --sequence-length keeps it",
            path.display(),
            data.prompts_cut(),
            data.windows(),
        );
    }
}

/// The base model is about to come from peers.
pub fn fetching(source: &str, bytes: u64, here: u64) {
    tracing::info!(
        "fetching the base model {source} from peers: {:.1} MB, {:.1} MB of it are here",
        bytes as f64 / 1e6,
        here as f64 / 1e6
    );
}

/// It has come.
pub fn fetched() {
    tracing::info!("the base model is complete");
}

/// The checkpoint is damaged, or does not fit the ledgers.
pub fn checkpoint_not_usable(error: &anyhow::Error) {
    tracing::warn!("the checkpoint is not usable ({error:#}): replaying the ledgers from the base");
}

/// The end.
pub fn left(replica: &Replica, session: &Session) {
    tracing::info!(
        "left with {} gradients of {} machines, {} of them made here in this session{}; version vector {}",
        replica.swarm_step(),
        replica.vector().machines(),
        session.own(),
        session.own_rate().map_or(String::new(), |rate| format!(" ({rate:.2} a second)")),
        hex(&replica.root())
    );
}

/// The best held-out point that a node which leaves knows, and what to do with it.
pub fn best(points: &Points, state: &Path) {
    let Some(point) = points.best() else { return };
    tracing::info!(
        "best held-out point: {}, of {} looks; to have it: node export --best --state {} --out <dir>. {CHOSEN}",
        figures(point),
        points.count(),
        state.display()
    );
}

/// What choosing a point means.
pub const CHOSEN: &str =
    "It was chosen on that text, so its figure there flatters it: keep another text for the final word";

/// What a point measured, and after how many gradients.
pub fn figures(point: &Point) -> String {
    let (loss, unit, gradients) = (point.loss, &point.measure.unit, point.gradients());
    match (point.accuracy, point.bits_per_byte) {
        (Some(accuracy), _) => format!("accuracy {accuracy:.4} ({loss:.4} {unit}) after {gradients} gradients"),
        (None, Some(bits)) => format!("{bits:.4} bits per byte ({loss:.4} {unit}) after {gradients} gradients"),
        (None, None) => format!("{loss:.4} {unit} after {gradients} gradients"),
    }
}

/// The line that another machine types, once the system has named this one's addresses.
pub struct JoinLine {
    run: String,
    peer_id: String,
    addresses: Vec<Multiaddr>,
    since: Option<Instant>,
    said: usize,
}

impl JoinLine {
    /// The system names an interface's addresses one after the other.
    const GATHER: Duration = Duration::from_millis(200);

    /// Without addresses yet.
    pub fn new(run: String, peer_id: String) -> Self {
        Self { run, peer_id, addresses: Vec::new(), since: None, said: 0 }
    }

    /// This node can be reached there.
    pub fn add(&mut self, address: Multiaddr) {
        if !self.addresses.contains(&address) {
            self.addresses.push(address);
            self.since = self.since.or_else(|| Some(Instant::now()));
        }
    }

    /// Says what was not said yet. Loopback is of use only if there is nothing else; link-local IPv6 without the other
    /// machine's name for the link is of none.
    pub fn say(&mut self) {
        if self.said == self.addresses.len() || self.since.is_none_or(|since| since.elapsed() < Self::GATHER) {
            return;
        }
        let widest = self.addresses.iter().filter_map(Scope::of).max();
        let is_of_use = |address: &&Multiaddr| {
            Scope::of(address).is_some_and(|scope| scope > Scope::Machine || widest == Some(Scope::Machine))
        };
        for address in self.addresses[self.said..].iter().filter(is_of_use) {
            tracing::info!(
                "to join from another machine: node --bootstrap {address}/p2p/{} --run {}",
                self.peer_id,
                self.run
            );
        }
        self.said = self.addresses.len();
    }
}
