//! News of the peer.

use libp2p::Multiaddr;
use peer::{Load, NodeId, Notice, curve::STEP, limits::BAN_MS};
use protocol::{
    machine::MachineId,
    manifest::RunId,
    replica::{IncarnationCause, Replica, Report},
};

use super::leaving::in_words;
use crate::{
    network::{NO_ADDRESS, Nodes},
    system::{hex::hex, name::program},
    watch::machines_in_words,
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

    /// Where it is, in brackets.
    fn place(&self, node: NodeId) -> String {
        self.nodes.addresses(node).first().map_or_else(String::new, |address| format!(" ({address})"))
    }

    /// How to name it on the command line.
    fn by_address(&self, node: NodeId) -> String {
        let address = self.nodes.addresses(node).first();
        address.map_or_else(String::new, |address| format!(" --bootstrap {address}/p2p/{}", self.peer_id(node)))
    }
}

/// A piece of news of the peer. Some of it is for files, not for people.
pub fn news(news: &Notice, names: &Names<'_>) {
    match news {
        Notice::Unreachable { node, retry_in_ms } => unreachable(*node, *retry_in_ms, names),
        Notice::Fault { node, reason, banned: false } => {
            tracing::debug!(peer = names.peer_id(*node), reason, "a fault")
        }
        Notice::Fault { node, reason, banned: true } => {
            tracing::warn!("{} is banned for {} minutes: {reason}", names.peer_id(*node), BAN_MS / 60_000);
        }
        Notice::OtherRun { node, run, differences } => tracing::info!(
            "{}{} is of another run, {run} ({}), and is left alone. To join that one: {program} --run {run} --state <another directory>{}",
            names.peer_id(*node),
            names.place(*node),
            differences.join("; "),
            names.by_address(*node),
            program = program(),
        ),
        // The last one is the reason why the node ends, and is said as such.
        Notice::NotTheWishedRun { is_last: true, .. } => {}
        Notice::NotTheWishedRun { node, run, .. } => tracing::info!(
            "{}{} is of run {run}, not of the one looked for, and is left alone",
            names.peer_id(*node),
            names.place(*node)
        ),
        Notice::NoManifest { node, reason } => {
            tracing::warn!("{} sent no usable manifest: {reason}", names.peer_id(*node));
        }
        Notice::GivenUp { node, reason } => tracing::warn!("asking {} no more: {reason}", names.peer_id(*node)),
        Notice::NobodyHasRun { neighbours } => tracing::info!(
            "nobody of {} is found yet{}; still looking. A ticket (--join) names it from anywhere",
            names.wished.map_or_else(|| "a run".into(), |run| format!("run {run}")),
            match neighbours {
                0 => String::new(),
                count => format!(": {count} connected, which have none to join or are relays"),
            }
        ),
        Notice::NobodyHasBase { neighbours: 0 } => tracing::warn!(
            "no peer that could send the base model is connected; still trying. --model gives it from disk"
        ),
        Notice::NobodyHasBase { neighbours } => tracing::warn!(
            "{neighbours} connected, and for a while none of them has sent anything of the base model: their own may be \
             damaged, or the line too slow; still trying. --model gives it from disk"
        ),
        Notice::Behind(load) => tracing::warn!("{}", falls_behind(load)),
        Notice::NoMember { key } => no_member(key, names.replica),
        Notice::NewIncarnation { cause, machine } => new_incarnation(*cause, machine),
        Notice::Twin { machine } => twin(machine),
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
        // The last is said with what is known of the weights.
        Notice::Fetched { .. } | Notice::Weights { .. } | Notice::Point(_) | Notice::CaughtUp { .. } => {}
    }
}

fn unreachable(node: NodeId, retry_in_ms: u64, names: &Names<'_>) {
    let address = names.nodes.addresses(node).first().map(Multiaddr::to_string).unwrap_or_default();
    let error = names.nodes.error(node).unwrap_or("no answer");
    let question = match error.contains(NO_ADDRESS) {
        true => "Is the name right, and known to this machine?",
        false => "Is the node there running, and its port open?",
    };
    let seconds = (retry_in_ms / 1_000).max(1);
    tracing::warn!("{address} cannot be reached ({error}); trying again in {seconds} s. {question}");
}

/// Why a node is not joined.
pub fn not_the_wished_run(node: NodeId, run: RunId, names: &Names<'_>) -> String {
    let peer = names.peer_id(node);
    let wished = names.wished.map_or_else(String::new, |wished| format!(" {wished}"));
    format!(
        "{peer} is of run {run}, not of --run{wished}: check the address, or leave --run away to join whatever run it is of"
    )
}

/// What others had when this machine came is here, and so much of it waits for the weights.
pub fn ledgers_fetched(replica: &Replica, after_ms: u64, owed: u64) {
    tracing::info!(
        "fetched {} gradients of {}, in {:.1} s; {owed} of them are yet to be replayed",
        replica.swarm_step(),
        machines_in_words(replica),
        after_ms as f64 / 1e3
    );
}

/// It is in the weights.
pub fn caught_up(replica: &Replica, after_ms: u64) {
    tracing::info!(
        "caught up: {} gradients of {}, in {:.1} s",
        replica.swarm_step(),
        machines_in_words(replica),
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

fn no_member(key: &[u8; 32], replica: Option<&Replica>) {
    let is_withdrawn = replica.is_some_and(|replica| replica.member(key).is_some());
    let needs_admission = replica.is_some_and(|replica| replica.manifest().needs_admission(key));
    let why = match () {
        () if is_withdrawn => "the run's authority withdrew this machine's key, for good".to_owned(),
        () if needs_admission => format!(
            "this machine's key is not a member of the run yet; the run's authority admits it with `{} admit {}`",
            program(),
            hex(key)
        ),
        () => format!("this machine's key is not among the run's members ({})", hex(key)),
    };
    tracing::warn!("{why}. So this node replays and serves, and does not train");
}

/// A node on a copy of the state directory is alive.
fn twin(machine: &MachineId) {
    tracing::warn!(
        "another node makes gradients under this machine's key, as {machine}: it runs on a copy of this state directory. What both \
         make counts, but they have one machine's share of the run's budget, and withdrawing the key withdraws both. Stop one of \
         them and start it with a fresh --state; where the run admits its members, `{program} key --state <that directory>` prints \
         the key to admit",
        program = program()
    );
}

fn new_incarnation(cause: IncarnationCause, machine: &MachineId) {
    let (why, what_stays) = incarnation_words(cause);
    tracing::warn!("{why}. Going on as a new incarnation, {machine}; {what_stays}");
}

/// Why a machine goes on under another name, and what becomes of what it made under the last.
fn incarnation_words(cause: IncarnationCause) -> (&'static str, &'static str) {
    const ALL: &str = "nothing that others hold is lost";
    match cause {
        IncarnationCause::Behind => (
            "a peer holds samples of this machine that this disk does not: the state directory was rolled back, or copied and \
             run elsewhere",
            ALL,
        ),
        IncarnationCause::Unanswered => ("no peer could confirm this machine's ledger", ALL),
        IncarnationCause::Revoked => (
            "the run's authority revoked gradients of this machine",
            "those leave the weights everywhere, and what it made before them still counts",
        ),
        IncarnationCause::Forked => (
            "this machine's key signed two histories, so its ledger was revoked everywhere: make sure that no copy of the state \
             directory runs elsewhere",
            "what it made as the last one leaves the weights everywhere",
        ),
    }
}

fn of_replica(report: &Report) {
    match report {
        Report::HeadConfirmed => tracing::info!("peers confirm this machine's ledger: signing"),
        Report::Forked { machine, was } => tracing::warn!(
            "{machine} signed two histories: its ledger is revoked, {was} gradients left the weights, exactly"
        ),
        Report::Revoked { machine, from } => {
            tracing::warn!("the run's authority revoked {machine} from sample {from} on");
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_goes_on_under_another_name_hears_what_is_lost() {
        for (cause, is_all_kept) in [
            (IncarnationCause::Behind, true),
            (IncarnationCause::Unanswered, true),
            (IncarnationCause::Revoked, false),
            (IncarnationCause::Forked, false),
        ] {
            let (why, what_stays) = incarnation_words(cause);
            assert_eq!(what_stays.contains("nothing"), is_all_kept, "{why}");
            assert_eq!(what_stays.contains("leave"), !is_all_kept, "{why}");
        }
    }
}
