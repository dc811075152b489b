//! A snapshot as Prometheus reads it.
//!
//! | metric | labels | what |
//! |---|---|---|
//! | `onebyte_run_info` | run, machine, peer, model | always 1 |
//! | `onebyte_phase` | phase | 1 for what the node is doing, 0 for the rest |
//! | `onebyte_uptime_seconds` | | since the program started |
//! | `onebyte_parameters` | | of the model |
//! | `onebyte_gradients_total` | scope: own, swarm | since the run began |
//! | `onebyte_gradients_per_second` | scope: own, swarm | over the last seconds |
//! | `onebyte_waiting_gradients` | | of others, that the weights lack |
//! | `onebyte_waiting_gradients_per_minute` | | by how much those grow |
//! | `onebyte_behind_seconds` | | that this node needs for them, once known |
//! | `onebyte_replay_budget_gradients_per_second` | | of all machines together |
//! | `onebyte_live_machines` | | that share it |
//! | `onebyte_day_ledger_bytes`, `onebyte_day_catch_up_seconds` | | what a day of the present rate costs; the latter once known |
//! | `onebyte_staleness_gradients` | | that exist and own probes do not know, estimated |
//! | `onebyte_training_loss_nats_per_token` | | once known |
//! | `onebyte_held_out_loss_nats_per_token`, `onebyte_held_out_bits_per_byte`, `onebyte_held_out_gradients` | | once known |
//! | `onebyte_held_out_accuracy` | | once known, in place of bits per byte, where rows have choices |
//! | `onebyte_best_held_out_bits_per_byte`, `onebyte_best_held_out_gradients` | | of the best point, once known |
//! | `onebyte_held_out_score` | | once known, in place of bits per byte, where a program gives scores |
//! | `onebyte_best_held_out_accuracy` | | of the best point, in place of bits per byte, where rows have choices |
//! | `onebyte_received_bytes_total` | cause: gossip, duplicates, exchange, upkeep | since the program had the base model |
//! | `onebyte_sent_bytes_total` | | since the program had the base model |
//! | `onebyte_machines`, `onebyte_peers` | | of the run; connected |
//! | `onebyte_machine_gradients` | machine | in its ledger; of at most [`MACHINES_MAX`](super::MACHINES_MAX) machines |
//! | `onebyte_machine_revoked` | machine | 1 if not all of them count |
//! | `onebyte_peer_round_trip_seconds` | peer | once known |
//!
//! A machine is named in full, key and incarnation, as in the journal and in `/api/status`: people are shown the
//! beginning.

use prometheus_client::{
    encoding::{EncodeMetric, text},
    metrics::{counter::Counter, family::Family, gauge::Gauge, info::Info},
    registry::{Registry, Unit},
};
use std::{fmt, sync::atomic::AtomicU64};

use super::{Load, Phase, Snapshot};

/// Of the text: OpenMetrics 1.0, which Prometheus asks for and takes.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

type Labels = Vec<(&'static str, String)>;
type Number = Gauge<f64, AtomicU64>;
type Count = Gauge<u64, AtomicU64>;

/// The text. Fails only if a metric cannot be written, which would be an error of this module.
pub fn encode(snapshot: &Snapshot) -> Result<String, fmt::Error> {
    let mut registry = Registry::with_prefix("onebyte");
    general(&mut registry, snapshot);
    learning(&mut registry, snapshot);
    traffic(&mut registry, snapshot);
    others(&mut registry, snapshot);
    let mut out = String::new();
    text::encode(&mut out, &registry)?;
    Ok(out)
}

fn general(registry: &mut Registry, snapshot: &Snapshot) {
    let named = |name, value: &str| (name, value.to_owned());
    let of_run: Labels = vec![
        named("run", &snapshot.run),
        named("machine", &snapshot.machine),
        named("peer", &snapshot.peer_id),
        named("model", &snapshot.model),
    ];
    registry.register("run", "Of what run these figures are", Info::new(of_run));
    let phases = [Phase::CatchingUp, Phase::Training, Phase::Serving, Phase::Paused, Phase::Left]
        .map(|phase| (named("phase", phase.name()), u64::from(phase == snapshot.phase)));
    counts(registry, "phase", "What the node is doing", None, phases.map(|(label, value)| (vec![label], value)));
    gauge(registry, "uptime", "Time since the program started", Some(Unit::Seconds), Some(snapshot.uptime_seconds));
    count(registry, "parameters", "Parameters of the model", Some(snapshot.parameters));
}

fn learning(registry: &mut Registry, snapshot: &Snapshot) {
    let scopes = [("own", &snapshot.own), ("swarm", &snapshot.swarm)];
    let totals = scopes.map(|(scope, gradients)| (vec![("scope", scope.to_owned())], gradients.total));
    counters(registry, "gradients", "Gradients since the run began", None, totals);
    let rates = Family::<Labels, Number>::default();
    for (scope, gradients) in scopes {
        rates.get_or_create(&vec![("scope", scope.to_owned())]).set(gradients.per_second);
    }
    registry.register("gradients_per_second", "Gradients per second over the last seconds", rates);
    count(registry, "waiting_gradients", "Gradients of others that the weights lack", Some(snapshot.waiting));
    keeping_up(registry, snapshot);
    let help = "Gradients of others that exist and that own probes do not know, estimated";
    count(registry, "staleness_gradients", help, snapshot.staleness);
    let help = "Mean loss of the last own batches";
    gauge(registry, "training_loss_nats_per_token", help, None, snapshot.training_loss);
    let look = snapshot.held_out;
    gauge(registry, "held_out_loss_nats_per_token", "Loss on the held-out text", None, look.map(|look| look.loss));
    let help = "Loss on the held-out text, bits per byte of text";
    gauge(registry, "held_out_bits_per_byte", help, None, look.and_then(|look| look.bits_per_byte));
    let help = "Share of held-out rows whose right choice was the likeliest";
    gauge(registry, "held_out_accuracy", help, None, look.and_then(|look| look.accuracy));
    let help = "Mean score of completions of held-out prompts";
    gauge(registry, "held_out_score", help, None, look.and_then(|look| look.score));
    let help = "Gradients of the swarm when the held-out text was looked at";
    count(registry, "held_out_gradients", help, look.map(|look| look.gradients));
    let help = "Loss of the best held-out point so far, bits per byte of text";
    gauge(registry, "best_held_out_bits_per_byte", help, None, snapshot.best.and_then(|best| best.bits_per_byte));
    let help = "Accuracy at the best held-out point so far, the one of the lowest loss";
    gauge(registry, "best_held_out_accuracy", help, None, snapshot.best.and_then(|best| best.accuracy));
    let help = "Gradients in the weights of the best held-out point so far";
    count(registry, "best_held_out_gradients", help, snapshot.best.map(|best| best.gradients));
}

fn keeping_up(registry: &mut Registry, snapshot: &Snapshot) {
    let Load { budget, live_machines, waiting_per_minute, .. } = snapshot.load;
    let help = "By how much the gradients that the weights lack grow";
    gauge(registry, "waiting_gradients_per_minute", help, None, Some(waiting_per_minute as f64));
    let behind = snapshot.load.seconds_behind.map(|seconds| seconds as f64);
    gauge(registry, "behind", "Time that this node needs for them", Some(Unit::Seconds), behind);
    let help = "Gradients that all machines are to make together";
    count(registry, "replay_budget_gradients_per_second", help, Some(budget.into()));
    count(registry, "live_machines", "Machines that share the replay budget", Some(live_machines));
    let help = "What a day of the present rate adds to the ledger";
    gauge(registry, "day_ledger", help, Some(Unit::Bytes), Some(snapshot.load.ledger_bytes_per_day as f64));
    let catch_up = snapshot.load.catch_up_seconds_per_day.map(|seconds| seconds as f64);
    gauge(registry, "day_catch_up", "Time to catch up with that", Some(Unit::Seconds), catch_up);
}

fn traffic(registry: &mut Registry, snapshot: &Snapshot) {
    let received = snapshot.traffic.causes().map(|(cause, bytes)| (vec![("cause", cause.to_owned())], bytes));
    let help = "Bytes that the sockets received since the program had the base model";
    counters(registry, "received", help, Some(Unit::Bytes), received);
    let sent: Counter = Counter::default();
    sent.inc_by(snapshot.traffic.sent);
    register(
        registry,
        "sent",
        "Bytes that the sockets sent since the program had the base model",
        Some(Unit::Bytes),
        sent,
    );
}

fn others(registry: &mut Registry, snapshot: &Snapshot) {
    count(registry, "machines", "Machines of the run", Some(snapshot.machine_count));
    count(registry, "peers", "Connected nodes", Some(snapshot.peers.len() as u64));
    let label = |machine: &super::Machine| vec![("machine", machine.machine.clone())];
    let heights = snapshot.machines.iter().map(|machine| (label(machine), machine.height));
    counts(registry, "machine_gradients", "Gradients in a machine's ledger", None, heights);
    let revoked = snapshot.machines.iter().map(|machine| (label(machine), u64::from(machine.revoked.is_some())));
    counts(registry, "machine_revoked", "Whether not all of a machine's gradients count", None, revoked);
    let times = Family::<Labels, Number>::default();
    for peer in &snapshot.peers {
        if let Some(ms) = peer.round_trip_ms {
            times.get_or_create(&vec![("peer", peer.peer_id.clone())]).set(ms / 1000.0);
        }
    }
    registry.register_with_unit("peer_round_trip", "The last ping there and back", Unit::Seconds, times);
}

fn register(registry: &mut Registry, name: &str, help: &str, unit: Option<Unit>, metric: impl Registered) {
    match unit {
        Some(unit) => registry.register_with_unit(name, help, unit, metric),
        None => registry.register(name, help, metric),
    }
}

trait Registered: EncodeMetric + Send + Sync + fmt::Debug + 'static {}
impl<T: EncodeMetric + Send + Sync + fmt::Debug + 'static> Registered for T {}

/// What is not known is not there.
fn gauge(registry: &mut Registry, name: &str, help: &str, unit: Option<Unit>, value: Option<f64>) {
    if let Some(value) = value {
        let metric = Number::default();
        metric.set(value);
        register(registry, name, help, unit, metric);
    }
}

fn count(registry: &mut Registry, name: &str, help: &str, value: Option<u64>) {
    if let Some(value) = value {
        let metric = Count::default();
        metric.set(value);
        register(registry, name, help, None, metric);
    }
}

fn counts(
    registry: &mut Registry,
    name: &str,
    help: &str,
    unit: Option<Unit>,
    values: impl IntoIterator<Item = (Labels, u64)>,
) {
    let family = Family::<Labels, Count>::default();
    for (labels, value) in values {
        family.get_or_create(&labels).set(value);
    }
    register(registry, name, help, unit, family);
}

fn counters(
    registry: &mut Registry,
    name: &str,
    help: &str,
    unit: Option<Unit>,
    values: impl IntoIterator<Item = (Labels, u64)>,
) {
    let family = Family::<Labels, Counter>::default();
    for (labels, value) in values {
        family.get_or_create(&labels).inc_by(value);
    }
    register(registry, name, help, unit, family);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::watch::{Bytes, Gradients, HeldOut, Machine, Neighbour};

    #[test]
    fn every_figure_has_a_line_with_help_and_unit() {
        let snapshot = Snapshot {
            run: "ab".into(),
            phase: Phase::Training,
            own: Gradients { total: 3, session: 3, per_second: 1.5 },
            swarm: Gradients { total: 7, session: 7, per_second: 2.5 },
            held_out: Some(HeldOut {
                loss: 2.0,
                bits_per_byte: Some(2.885),
                accuracy: None,
                score: None,
                gradients: 4,
            }),
            traffic: Bytes { received_gossip: 11, received_upkeep: 12, sent: 13, ..Bytes::default() },
            machines: vec![Machine { machine: "a\"b\n".into(), height: 5, ..Machine::default() }],
            peers: vec![Neighbour { peer_id: "p".into(), round_trip_ms: Some(1.5), ..Neighbour::default() }],
            load: Load { budget: 40, waiting_per_minute: -6, ledger_bytes_per_day: 9, ..Load::default() },
            ..Snapshot::default()
        };
        let text = encode(&snapshot).unwrap();
        for line in [
            "onebyte_replay_budget_gradients_per_second 40",
            "onebyte_waiting_gradients_per_minute -6.0",
            "onebyte_day_ledger_bytes 9.0",
            "onebyte_gradients_total{scope=\"own\"} 3",
            "onebyte_gradients_total{scope=\"swarm\"} 7",
            "onebyte_gradients_per_second{scope=\"own\"} 1.5",
            "onebyte_held_out_bits_per_byte 2.885",
            "onebyte_received_bytes_total{cause=\"gossip\"} 11",
            "onebyte_received_bytes_total{cause=\"upkeep\"} 12",
            "# HELP onebyte_received_bytes Bytes that the sockets received since the program had the base model.",
            "# UNIT onebyte_received_bytes bytes",
            "onebyte_sent_bytes_total 13",
            "onebyte_phase{phase=\"training\"} 1",
            "onebyte_phase{phase=\"paused\"} 0",
            "onebyte_machine_gradients{machine=\"a\\\"b\\n\"} 5",
            "onebyte_peer_round_trip_seconds{peer=\"p\"} 0.0015",
            "# EOF",
        ] {
            assert!(text.lines().any(|other| other == line), "no {line} in\n{text}");
        }
        for unknown in ["training_loss", "accuracy", "behind", "catch_up_seconds "] {
            assert!(!text.contains(unknown), "what is not known is not there:\n{text}");
        }
        let held_out =
            Some(HeldOut { loss: 0.5, bits_per_byte: None, accuracy: Some(0.75), score: None, gradients: 4 });
        let text = encode(&Snapshot { held_out, ..snapshot }).unwrap();
        assert!(text.contains("\nonebyte_held_out_accuracy 0.75\n") && !text.contains("bits_per_byte"), "{text}");
    }
}
