//! Looks at a running node once a second, for people: the snapshot, and the journal of what came when.

use anyhow::Result;
use peer::{Facts, facts, pace::LIVE_SECONDS};
use protocol::{
    machine::MachineId,
    replica::{Contained, LedgerRange, Replica},
    revocation::Revocation,
    segment::CHUNK_SAMPLES_MAX,
};
use std::{
    collections::{HashMap, HashSet},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::sync::watch::{Receiver, Sender, channel};

use super::{
    Bytes, Forecast, Gradients, Load, MACHINES_MAX, Machine, Neighbour, Phase, Points, RECENT_BYTES, Recorder, Session,
    Snapshot, VERSION,
    journal::{self, Line, Point, Sparse, now_ms},
    machines::{machine_count, new_machines, silent_machines, withheld},
    samples,
};
use crate::{network::Traffic, system::hex::hex, trainer::sampler::Sampled};

/// Between two snapshots.
const INTERVAL: Duration = Duration::from_secs(1);
/// Between two lines of heights in the journal: what came is known to this.
const JOURNAL_INTERVAL: Duration = Duration::from_secs(5);
/// Rates are means over about this long.
const RATE_INTERVAL: Duration = Duration::from_secs(5);
/// A machine that was silent for so long is not waited for.
const SILENT: Duration = Duration::from_secs(10);

/// After so much more people are told that a machine makes no more gradients.
const GONE: Duration = Duration::from_secs(LIVE_SECONDS as u64);

/// What one machine was seen to do in this session.
struct Seen {
    height: u64,
    journaled: u64,
    last: Option<Instant>,
    /// Samples that came together last.
    segment: u64,
    per_second: f64,
    /// Where the present rate is measured from.
    since: (Instant, u64),
    /// Whether people were told that no more comes of it.
    is_silent: bool,
}

impl Seen {
    fn new(height: u64) -> Self {
        let since = (Instant::now(), height);
        Self { height, journaled: 0, last: None, segment: 0, per_second: 0.0, since, is_silent: false }
    }

    fn look(&mut self, height: u64) {
        if height > self.height {
            self.last = Some(Instant::now());
            self.height = height;
            self.is_silent = false;
        }
        let (since, from) = self.since;
        if since.elapsed() >= RATE_INTERVAL {
            self.per_second = height.saturating_sub(from) as f64 / since.elapsed().as_secs_f64();
            self.since = (Instant::now(), height);
        }
    }
}

/// What there is to see of a node at one moment.
pub struct View<'a> {
    /// What the peer says of itself.
    pub facts: Facts,
    pub replica: &'a Replica,
    /// What was measured here.
    pub session: &'a Session,
    /// Held-out points.
    pub points: &'a Points,
    /// What went over the sockets.
    pub traffic: Traffic,
    /// Who is connected.
    pub neighbours: Vec<Neighbour>,
    /// How others join, if everybody may know that.
    pub ticket: Option<String>,
    /// Why no own gradients are made, if they rest.
    pub paused: Option<&'static str>,
}

/// What was seen so far, and who is told.
pub struct Observer {
    /// What does not change.
    template: Snapshot,
    snapshots: Sender<Arc<Snapshot>>,
    recorder: Recorder,
    begun: Instant,
    last: Option<Instant>,
    journaled: Option<Instant>,
    swarm: Option<Seen>,
    swarm_at_start: u64,
    machines: HashMap<MachineId, Seen>,
    /// Of these machines.
    keys: HashSet<[u8; 32]>,
    /// The first sample of a machine that does not count, as the journal has it.
    floors: HashMap<String, u64>,
    sparse: Sparse,
    /// Where samples of what the model writes go.
    samples: PathBuf,
}

impl Observer {
    /// `template` holds what does not change. Files go to `state`, whose journal has the lines `earlier`.
    pub fn new(state: &Path, earlier: &[Line], template: Snapshot) -> Result<Self> {
        let template = Snapshot { version: VERSION, ..template };
        Ok(Self {
            snapshots: channel(Arc::new(template.clone())).0,
            template,
            recorder: Recorder::start(state)?,
            begun: Instant::now(),
            last: None,
            journaled: None,
            swarm: None,
            swarm_at_start: 0,
            machines: HashMap::new(),
            keys: HashSet::new(),
            floors: journal::floors(earlier),
            sparse: Sparse::after(earlier, |line| matches!(line, Line::Weights { .. })),
            samples: state.join(samples::FILE),
        })
    }

    /// Sees every snapshot from now on.
    pub fn subscribe(&self) -> Receiver<Arc<Snapshot>> {
        self.snapshots.subscribe()
    }

    /// Samples of another machine came.
    pub fn arrived(&mut self, range: &LedgerRange) {
        let is_segment = !range.removed && range.samples() <= CHUNK_SAMPLES_MAX as u64;
        if let (true, Some(seen)) = (is_segment, self.machines.get_mut(&range.machine)) {
            seen.segment = range.samples();
        }
    }

    /// The weights' digest when they held just this.
    pub fn digested(&mut self, digest: &[u8; 32], contents: &[Contained]) {
        if !self.sparse.takes(now_ms()) {
            return;
        }
        let heights = journal::by_full_name(contents.iter().map(|contained| (contained.machine, contained.height)));
        self.recorder.journal(Line::Weights { at_ms: now_ms(), weights: hex(digest), heights });
    }

    /// A held-out point.
    pub fn measured(&self, point: Point) {
        self.recorder.journal(Line::Point(point));
    }

    /// Keeps what the model wrote when the weights held so many gradients.
    pub fn sampled(&self, samples: Vec<Sampled>, gradients: u64) {
        let look = samples::Look { at_ms: now_ms(), gradients, samples };
        if let Err(error) = samples::add(&self.samples, look) {
            tracing::warn!("what the model writes is not kept: {error:#}");
        }
    }

    /// Whether it is time for another look.
    pub fn is_due(&self) -> bool {
        self.last.is_none_or(|last| last.elapsed() >= INTERVAL)
    }

    /// Makes a snapshot.
    pub fn look(&mut self, view: &View<'_>) {
        let snapshot = self.snapshot(view, phase_of(view.facts.phase));
        self.recorder.snapshot(snapshot.clone());
        self.snapshots.send_replace(snapshot);
    }

    /// Makes the last snapshot, and waits until everything is written.
    pub async fn close(mut self, view: &View<'_>) {
        self.journaled = None;
        let snapshot = self.snapshot(view, Phase::Left);
        self.snapshots.send_replace(snapshot.clone());
        self.recorder.finish(snapshot).await;
    }

    fn snapshot(&mut self, view: &View<'_>, phase: Phase) -> Arc<Snapshot> {
        self.last = Some(Instant::now());
        let swarm = self.look_at_ledgers(view.replica);
        self.journal_heights();
        let own = view.replica.own_machine();
        let waiting = view.facts.owed;
        Arc::new(Snapshot {
            time_ms: now_ms(),
            uptime_seconds: self.begun.elapsed().as_secs_f64(),
            machine: format!("{own:#}"),
            phase,
            paused_because: view.paused.map(str::to_owned),
            vector: hex(&view.replica.root()),
            swarm,
            own: Gradients {
                total: view.replica.own_samples_elsewhere() + view.replica.own_next_sample(),
                session: view.session.own(),
                per_second: self.machines.get(&own).map_or(0.0, |seen| seen.per_second),
            },
            training_loss: view.session.loss(),
            held_out: view.session.held_out(),
            best: view.points.best_look(),
            forecast: forecast_of(&view.facts),
            staleness: Some(self.unseen(&own) + waiting),
            waiting,
            load: load_of(&view.facts, view.replica),
            traffic: bytes_of(&view.traffic),
            peers: view.neighbours.clone(),
            ticket: view.ticket.clone(),
            machine_count: machine_count(view.replica) as u64,
            machines: self.machines(view.replica),
            ..self.template.clone()
        })
    }

    /// What came since the last look. Returns the swarm's gradients.
    fn look_at_ledgers(&mut self, replica: &Replica) -> Gradients {
        let (total, is_first) = (replica.swarm_step(), self.swarm.is_none());
        let own = replica.own_machine();
        let mut new = Vec::new();
        for (machine, ledger, _) in replica.machines() {
            let height = ledger.height();
            if self.keys.insert(machine.key) && !is_first && machine.key != own.key {
                new.push(*machine);
            }
            let seen = self.machines.entry(*machine);
            seen.or_insert_with(|| Seen::new(if is_first { height } else { 0 })).look(height);
        }
        self.journal_floors(replica);
        new_machines(&new, machine_count(replica));
        silent_machines(&newly_silent(&mut self.machines, &own, Instant::now()));
        if is_first {
            self.swarm_at_start = total;
        }
        let seen = self.swarm.get_or_insert_with(|| Seen::new(total));
        seen.look(total);
        Gradients { total, session: total.saturating_sub(self.swarm_at_start), per_second: seen.per_second }
    }

    /// What no longer counts, by whatever statement, also one that came while no node was here to hear it. Before the
    /// heights of the same look, which it holds for.
    fn journal_floors(&mut self, replica: &Replica) {
        for machine in self.machines.keys() {
            let from = replica.floor(machine);
            if from == u64::MAX {
                continue;
            }
            let known = self.floors.entry(format!("{machine:#}")).or_insert(u64::MAX);
            if from < *known {
                *known = from;
                let (machine, fork) =
                    (format!("{machine:#}"), matches!(replica.revocation(machine), Some(Revocation::Fork(_))));
                self.recorder.journal(Line::Revoked { at_ms: now_ms(), machine, from, fork });
            }
        }
    }

    fn journal_heights(&mut self) {
        if self.journaled.is_some_and(|last| last.elapsed() < JOURNAL_INTERVAL) {
            return;
        }
        let is_first = self.journaled.replace(Instant::now()).is_none();
        let grown = self.machines.iter_mut().filter(|(_, seen)| seen.height > seen.journaled);
        let heights = journal::by_full_name(grown.map(|(machine, seen)| {
            seen.journaled = seen.height;
            (*machine, seen.height)
        }));
        // The first says that the node looked: what comes later was not there yet.
        if is_first || !heights.is_empty() {
            self.recorder.journal(Line::Heights { at_ms: now_ms(), heights });
        }
    }

    /// Half of what each active machine sends together is made and not here, on average.
    fn unseen(&self, own: &MachineId) -> u64 {
        let is_active = |seen: &&Seen| seen.last.is_some_and(|last| last.elapsed() < SILENT);
        let others = self.machines.iter().filter(|(machine, _)| *machine != own).map(|(_, seen)| seen);
        others.filter(is_active).map(|seen| seen.segment).sum::<u64>() / 2
    }

    /// The own machine first, then by when they were last heard of, then by name.
    fn machines(&self, replica: &Replica) -> Vec<Machine> {
        let own = replica.own_machine();
        let mut machines: Vec<_> = replica
            .machines()
            .map(|machine| (self.machines.get(machine.0).and_then(|seen| seen.last), machine))
            .collect();
        machines.sort_by_key(|(last, (machine, ..))| (**machine != own, std::cmp::Reverse(*last), **machine));
        let machines = machines.into_iter().take(MACHINES_MAX);
        machines
            .map(|(last, (machine, ledger, _))| {
                let height = ledger.height();
                let recent = ledger.entries(height.saturating_sub(RECENT_BYTES as u64), height);
                let recent: Vec<u8> = recent.map(|(_, byte, _)| byte as u8).collect();
                Machine {
                    machine: format!("{machine:#}"),
                    own: *machine == own,
                    height,
                    counted: replica.floor(machine).min(height),
                    per_second: self.machines.get(machine).map_or(0.0, |seen| seen.per_second),
                    last_seen_seconds: last.map(|last| last.elapsed().as_secs_f64()),
                    revoked: withheld(replica, machine),
                    recent: hex(&recent),
                }
            })
            .collect()
    }
}

/// Machines that made gradients in this session, and none for a while, as any incarnation. Each is told once.
fn newly_silent(machines: &mut HashMap<MachineId, Seen>, own: &MachineId, now: Instant) -> Vec<MachineId> {
    let rest = |seen: &Seen| seen.last.map(|last| now.saturating_duration_since(last));
    let heard = machines.iter().filter(|(_, seen)| rest(seen).is_some_and(|rest| rest < GONE));
    let heard: HashSet<[u8; 32]> = heard.map(|(machine, _)| machine.key).collect();
    let is_gone = |seen: &Seen| !seen.is_silent && rest(seen).is_some_and(|rest| rest >= GONE);
    let gone = machines.iter_mut().filter(|(_, seen)| is_gone(seen));
    gone.filter_map(|(machine, seen)| {
        seen.is_silent = true;
        (machine.key != own.key && !heard.contains(&machine.key)).then_some(*machine)
    })
    .collect()
}

/// What people are told that the node does.
fn phase_of(phase: facts::Phase) -> Phase {
    match phase {
        facts::Phase::Joining | facts::Phase::CatchingUp => Phase::CatchingUp,
        facts::Phase::Training => Phase::Training,
        facts::Phase::Paused => Phase::Paused,
        facts::Phase::Serving | facts::Phase::Leaving => Phase::Serving,
    }
}

fn forecast_of(facts: &Facts) -> Option<Forecast> {
    let peer::Forecast { gradients_to_next, is_flat } = facts.forecast?;
    Some(Forecast { gradients_to_next, is_flat, has_stopped: facts.stopped_flat })
}

fn load_of(facts: &Facts, replica: &Replica) -> Load {
    let load = facts.load;
    let per_gradient = replica.ledger_bytes() as f64 / replica.swarm_step().max(1) as f64;
    Load {
        budget: replica.manifest().replay_budget,
        live_machines: facts.live,
        waiting_per_minute: load.backlog_per_minute,
        seconds_behind: load.seconds_behind,
        ledger_bytes_per_day: (load.gradients_per_day as f64 * per_gradient) as u64,
        catch_up_seconds_per_day: load.catch_up_seconds_per_day(),
    }
}

fn bytes_of(traffic: &Traffic) -> Bytes {
    let known = traffic.gossip_frames_in + traffic.duplicates_in + traffic.exchange_in;
    Bytes {
        received: traffic.socket_in,
        sent: traffic.socket_out,
        received_gossip: traffic.gossip_frames_in,
        received_duplicates: traffic.duplicates_in,
        received_exchange: traffic.exchange_in,
        received_upkeep: traffic.socket_in.saturating_sub(known),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A machine that had been killed and went on was said to be gone a minute later.
    #[test]
    fn a_machine_that_goes_on_as_another_incarnation_is_not_silent() {
        let machine = |key: u8, incarnation| MachineId { key: [key; 32], incarnation };
        let (begun, own) = (Instant::now(), machine(1, 2));
        let later = begun + GONE;
        let seen = |last| Seen { last: Some(last), ..Seen::new(16) };
        let mut machines = HashMap::from([
            (machine(1, 1), seen(begun)),
            (machine(2, 1), seen(begun)),
            (machine(2, 2), seen(later)),
            (machine(3, 1), seen(begun)),
            (machine(4, 1), Seen::new(16)),
        ]);
        assert_eq!(newly_silent(&mut machines, &own, later), [machine(3, 1)]);
        assert!(newly_silent(&mut machines, &own, later).is_empty(), "once");
        assert_eq!(newly_silent(&mut machines, &own, later + GONE), [machine(2, 2)]);
    }
}
