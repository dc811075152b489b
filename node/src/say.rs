//! All that a running node says to people: facts come in, words go out. Nothing is decided here.

use engine::{model::ToldPath, objective::Evaluation};
use libp2p::{Multiaddr, PeerId};
use peer::{Load, NodeId, Notice, curve::STEP, leave::Waiting, limits::BAN_MS};
use protocol::{
    machine::MachineId,
    manifest::{Manifest, RunId},
    replica::{IncarnationCause, Replica, Report},
};
use std::path::Path;

use crate::{
    cli::settings::Settings,
    control::pause::Cause,
    network::{NO_ADDRESS, Nodes, RouterAnswer},
    system::{hex::hex, name::program},
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

/// What a base tells its joiners of the machines that it was on.
pub fn told_paths(told: &[ToldPath]) {
    if !told.is_empty() {
        tracing::warn!("{}", told_paths_words(told));
    }
}

fn told_paths_words(told: &[ToldPath]) -> String {
    const SAID: usize = 8;
    let say = |told: &ToldPath| {
        let value: String = told.value.chars().take(200).collect();
        format!("{}: {} is {value:?}", told.file, told.field)
    };
    let mut said: Vec<String> = told.iter().take(SAID).map(say).collect();
    said.extend((told.len() > SAID).then(|| format!("{} more", told.len() - SAID)));
    let remedy = match told.iter().any(|told| told.file.ends_with(".gguf")) {
        true => {
            "make a copy of the file without it (gguf-new-metadata --remove-metadata FIELD FILE COPY; pip install gguf)"
        }
        false => "take the field out of a copy of the file before you start the run, and name the copy's directory",
    };
    format!(
        "the base's files go to every joiner as they are, and tell what looks like a path of a machine: {}. If joiners are not to \
         see it, {remedy}",
        said.join("; ")
    )
}

/// A prompt of which a model does not see the beginning.
pub fn prompt_outgrows(tokens: usize, window: usize) {
    if let Some(words) = prompt_outgrows_words(tokens, window) {
        tracing::warn!("{words}");
    }
}

fn prompt_outgrows_words(tokens: usize, window: usize) -> Option<String> {
    let lost = tokens.checked_sub(window).filter(|lost| *lost > 0)?;
    Some(format!(
        "the prompt has {tokens} tokens, and the model's window {window}: the model sees the end of it, without the first {lost}; \
         shorten it"
    ))
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
        Notice::GivenUp { node, reason } => tracing::warn!("{} is done without: {reason}", names.peer_id(*node)),
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
        Notice::CaughtUp { after_ms } => caught_up(*after_ms, names.replica),
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
        Notice::Fetched { .. } | Notice::Weights { .. } | Notice::Point(_) => {}
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

/// The state directory was copied or restored.
pub fn copied(directory: &Path, is_renamed: bool) {
    let directory = directory.display();
    match is_renamed {
        true => tracing::warn!(
            "{directory}: this state directory was copied or restored: going on as a new machine, with a key of its own, so that \
             a node on the other copy is not taken for this one. What the old one made still counts"
        ),
        false => tracing::warn!(
            "{directory}: this state directory was copied or restored: going on as a new incarnation under the same key, which the \
             run knows, and under a name of its own in the network, so that peers hear both should the other copy run, too"
        ),
    }
}

/// Why a state directory cannot be used.
pub fn damaged(directory: &Path, machine: &MachineId, first: u64, reason: &str) -> String {
    format!(
        "{}: the ledger of {machine} is damaged at sample {first}: {reason}. Keep the directory, and join the run anew with another \
         --state; what peers hold of this machine is not lost",
        directory.display()
    )
}

/// What the home's router says to being asked for a port.
pub fn router(answer: &RouterAnswer) {
    match answer {
        RouterAnswer::Passes(address) => {
            tracing::info!("the router passes {address} on to this machine (UPnP): others can call it there");
        }
        RouterAnswer::PassesNoMore(address) => {
            tracing::warn!("the router passes {address} on no more (UPnP): relays take its place, if the run has any");
        }
        RouterAnswer::Refuses => tracing::info!(
            "the router was asked to pass this machine's port on (UPnP), and did not: allow that in its settings, or pass the port on \
             by hand (--announce)"
        ),
        RouterAnswer::IsInside => tracing::info!(
            "the router takes requests for ports (UPnP), but is behind another router itself, so none of its ports can be called"
        ),
        RouterAnswer::Silent => tracing::debug!("no router here takes requests for ports (UPnP)"),
    }
}

/// A file in the state directory says nothing that counts.
pub fn not_of_authority(file: &Path) {
    tracing::warn!("{}: not signed by this run's authority, so it changes nothing; removed", file.display());
}

/// The disk refuses writes.
pub fn storage_fails(error: &str) {
    tracing::error!(
        "the state directory takes no writes ({error}); own gradients wait unsent until it does. Free some space, or make it \
         writable"
    );
}

/// The disk refuses the name under which this machine is to go on.
pub fn no_incarnation(error: &anyhow::Error) {
    tracing::error!(
        "the state directory takes no new incarnation ({error:#}), and without one this machine makes no gradients; trying \
         again. Free some space, or make it writable"
    );
}

/// It takes them again.
pub fn storage_recovered() {
    tracing::info!("the state directory takes writes again");
}

/// A part of the base model cannot be sent to those who join.
pub fn base_damaged(error: &anyhow::Error) {
    tracing::error!(
        "the base model here is damaged ({error:#}): nobody can join from this machine alone, and a start that needs it \
         fails. Stop the node, remove that file, and start it again: it fetches the base anew, or takes it from --model"
    );
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
    if let Some(score) = evaluation.score {
        return format!("mean score {score:.4} of {} completions", evaluation.count);
    }
    match (evaluation.accuracy(), evaluation.bits_per_byte) {
        (Some(accuracy), _) if evaluation.is_wrong_share() => format!("accuracy {accuracy:.4}"),
        (Some(accuracy), _) => format!("accuracy {accuracy:.4}, loss {loss:.4} nats per row"),
        (None, Some(bits)) => format!("loss {loss:.4} nats per token, {bits:.4} bits per byte"),
        (None, None) => format!("loss {loss:.4} nats per token"),
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
        "best held-out point: {}, of {} looks; to have it: {} export --best --state {} --out <dir>. {CHOSEN}",
        figures(point),
        points.count(),
        program(),
        state.display()
    );
}

/// What choosing a point means.
pub const CHOSEN: &str =
    "It was chosen on that text, so its figure there flatters it: keep another text for the final word";

/// What a point measured, and after how many gradients.
pub fn figures(point: &Point) -> String {
    let (loss, unit, gradients) = (point.loss, &point.measure.unit, point.gradients());
    if let Some(score) = point.score {
        return format!("mean score {score:.4} after {gradients} gradients");
    }
    match (point.accuracy, point.bits_per_byte) {
        // A loss that is the share of what accuracy is not says nothing more.
        (Some(accuracy), _) if (loss + accuracy - 1.0).abs() < 1e-9 => {
            format!("accuracy {accuracy:.4} after {gradients} gradients")
        }
        (Some(accuracy), _) => format!("accuracy {accuracy:.4} ({loss:.4} {unit}) after {gradients} gradients"),
        (None, Some(bits)) => format!("{bits:.4} bits per byte ({loss:.4} {unit}) after {gradients} gradients"),
        (None, None) => format!("{loss:.4} {unit} after {gradients} gradients"),
    }
}

/// A machine that has no run yet, and where it looks for one.
pub fn looking_for_run(settings: &Settings) {
    match (settings.waits_for_lan(), settings.run) {
        (true, Some(run)) => tracing::info!("looking for run {run} on the local network (mDNS)"),
        (true, None) => tracing::info!("looking for a run on the local network (mDNS)"),
        (false, _) => tracing::info!("asking for the run's manifest"),
    }
}

/// There is a run now.
pub fn joined(run: &RunId, manifest: &Manifest) {
    tracing::info!("joined run {run} on {} ({} parameters)", manifest.base.source, manifest.parameters());
}

/// One of several addresses cannot be listened at.
pub fn not_listening(error: &str) {
    tracing::info!("{error}: going on without it");
}

/// A relay through which this machine was reached is gone.
pub fn relay_gone(relay: &PeerId) {
    tracing::info!("the relay {relay} is gone; another takes its place as soon as one is found");
}

/// Own gradients rest from now on, for this cause, or go on.
pub fn paused(cause: Option<Cause>, state: &Path) {
    let going_on = "this node goes on replaying and answering";
    match cause {
        Some(Cause::Asked) => {
            tracing::info!(
                "paused: no own gradients, {going_on}; `{} resume --state {}` ends it",
                program(),
                state.display()
            )
        }
        Some(Cause::Battery) => tracing::info!(
            "on battery, so paused (--pause-on-battery): no own gradients until the machine is fed again, {going_on}"
        ),
        None => tracing::info!("no longer paused: own gradients go on"),
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

    #[test]
    fn a_path_that_joiners_will_read_is_said_with_its_file_field_and_remedy() {
        let told = |file: &str, field: &str| ToldPath { file: file.into(), field: field.into(), value: "/a/b".into() };
        let words = told_paths_words(&[told("config.json", "_name_or_path"), told("tokenizer_config.json", "x")]);
        for part in ["config.json: _name_or_path is \"/a/b\"; tokenizer_config.json: x", "take the field out of a copy"]
        {
            assert!(words.contains(part), "{words}");
        }
        let words = told_paths_words(&vec![told("m.gguf", "quantize.imatrix.file"); 10]);
        assert!(words.contains("2 more") && words.contains("--remove-metadata"), "{words}");
    }
}
