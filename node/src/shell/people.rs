//! The people's side of a shell: what they hear, see and can read later.

use engine::objective::Evaluation;
use peer::{Notice, Peer};
use protocol::{
    manifest::RunId,
    replica::{Contained, LedgerRange, Replica},
    segment::Digest,
};
use std::{path::Path, time::Instant};

use super::Wire;
use crate::{
    control::pause::{self, Cause},
    join::invitation::Invitation,
    network::Nodes,
    say::{self, Names},
    system::display::Display,
    trainer::sampler::Sampled,
    watch::{LineParts, LiveLine, Neighbour, Observer, Points, Session, View},
};

/// So many gradients that were fetched and wait for the weights are worth a line of their own.
const OWED_SAID_MIN: u64 = 10_000;

/// Who is told what. Nothing is decided by it.
pub struct People {
    line: LiveLine,
    /// What was measured here.
    pub session: Session,
    /// Held-out points.
    points: Points,
    /// Once the node takes part.
    invitation: Option<Invitation>,
    observer: Option<Observer>,
    wished: Option<RunId>,
    /// Why no run is joined.
    refusal: Option<String>,
    arrival: Arrival,
}

impl People {
    /// Nothing was said yet. `wished`: what `--run` says.
    pub fn new(display: Display, wished: Option<RunId>) -> Self {
        let (line, session) = (LiveLine::new(display), Session::default());
        let (points, arrival) = (Points::default(), Arrival::default());
        Self { line, session, points, invitation: None, observer: None, wished, refusal: None, arrival }
    }

    /// Somebody looks at this node, and writes down what there is to see.
    pub fn set_observer(&mut self, observer: Option<Observer>) {
        self.observer = observer;
    }

    /// Points of earlier sessions, and what those of this one measure.
    pub fn set_points(&mut self, points: Points) {
        self.points = points;
    }

    /// Others may join this run, through this node.
    pub fn set_invitation(&mut self, invitation: Invitation) {
        self.invitation = Some(invitation);
    }

    /// Says a piece of news, and notes it down.
    pub fn hear(&mut self, notice: &Notice, nodes: &Nodes, peer: &Peer) {
        let replica = peer.replica();
        let names = Names { nodes, replica, wished: self.wished };
        say::news(notice, &names);
        match (notice, &mut self.observer) {
            (Notice::NotTheWishedRun { node, run, is_last: true }, _) => {
                self.refusal = Some(say::not_the_wished_run(*node, *run, &names));
            }
            (Notice::Point(point), observer) => {
                if let (Some(point), Some(observer)) = (self.points.add(point), observer) {
                    observer.measured(point);
                }
            }
            (Notice::Weights { digest, contents }, Some(observer)) => observer.digested(digest, contents),
            (Notice::CaughtUp { after_ms }, _) => {
                // Who begins a run has nothing to catch up with.
                if let Some(replica) = replica.filter(|replica| replica.swarm_step() > 0) {
                    self.arrival.fetched(*after_ms);
                    let owed = peer.facts().owed;
                    if owed >= OWED_SAID_MIN {
                        say::ledgers_fetched(replica, *after_ms, owed);
                    }
                }
            }
            _ => {}
        }
        if let (Notice::Report(_) | Notice::Point(_) | Notice::CaughtUp { .. }, Some(replica)) = (notice, replica) {
            self.points.compare(replica);
        }
    }

    /// Why no run is joined.
    pub fn refusal(&mut self) -> String {
        self.refusal.take().unwrap_or_else(|| "there is no run to join".into())
    }

    /// The digest of weights with this in them.
    pub fn digested(&mut self, digest: &[u8; 32], contents: &[Contained]) {
        if let Some(observer) = &mut self.observer {
            observer.digested(digest, contents);
        }
    }

    /// Samples of others are on their way into the weights.
    pub fn arrived(&mut self, ranges: &[LedgerRange]) {
        if let Some(observer) = &mut self.observer {
            ranges.iter().for_each(|range| observer.arrived(range));
        }
    }

    /// The held-out loss at weights of this digest is known.
    pub fn evaluated(&mut self, evaluation: &Evaluation, digest: Digest, peer: &Peer) {
        let gradients = in_weights(peer);
        self.session.evaluated(evaluation, gradients);
        self.points.looked(digest, *evaluation);
        say::evaluated(evaluation, gradients);
    }

    /// What the model writes now after a few prompts.
    pub fn sampled(&mut self, samples: Vec<Sampled>, peer: &Peer) {
        if let Some(observer) = &mut self.observer {
            observer.sampled(samples, in_weights(peer));
        }
    }

    /// Shows how things stand, if it is time. `pause`: why own gradients are to rest, if they are.
    pub fn look(&mut self, peer: &Peer, wire: &mut Wire, pause: Option<Cause>) {
        let Some(replica) = peer.replica() else { return };
        self.arrive(peer, replica);
        if let Some(invitation) = &mut self.invitation {
            wire.take_places().into_iter().for_each(|places| invitation.update(places));
            invitation.say();
        }
        let paused = pause::reason(peer.facts().phase, pause);
        if self.line.is_due() {
            let (facts, traffic) = (&peer.facts(), wire.traffic());
            self.line.refresh(&LineParts { facts, replica, session: &self.session, traffic, paused });
        }
        if let Some(observer) = self.observer.as_mut().filter(|observer| observer.is_due()) {
            let ticket = self.invitation.as_ref().and_then(Invitation::public);
            observer.look(&View { ticket, paused, ..view(peer, replica, &self.session, &self.points, wire) });
        }
    }

    /// Says once that the weights have what others had when this machine came.
    fn arrive(&mut self, peer: &Peer, replica: &Replica) {
        if let Some(after_ms) = self.arrival.ends(peer.facts().is_current) {
            say::caught_up(replica, after_ms);
        }
    }

    /// Takes the live line away.
    pub fn clear(&self) {
        self.line.clear();
    }

    /// Says that the node has left, and waits until everything that people may read later is written.
    pub async fn close(&mut self, peer: &Peer, wire: &Wire, state: &Path) {
        let (Some(observer), Some(replica)) = (self.observer.take(), peer.replica()) else { return };
        self.arrive(peer, replica);
        say::left(replica, &self.session);
        say::best(&self.points, state);
        observer.close(&view(peer, replica, &self.session, &self.points, wire)).await;
    }
}

/// From when what others had is here until it is in the weights.
#[derive(Default)]
struct Arrival {
    /// When it was here, and how long that had taken, ms.
    fetched: Option<(Instant, u64)>,
}

impl Arrival {
    /// It is here, after so long.
    fn fetched(&mut self, after_ms: u64) {
        self.fetched = Some((Instant::now(), after_ms));
    }

    /// How long it all took, once it is in the weights; once.
    fn ends(&mut self, is_current: bool) -> Option<u64> {
        let (since, after_ms) = self.fetched.take_if(|_| is_current)?;
        Some(after_ms + since.elapsed().as_millis() as u64)
    }
}

/// Gradients that the trainer's last words were of: all that are known, but those that wait for the weights.
fn in_weights(peer: &Peer) -> u64 {
    let known = peer.replica().map_or(0, |replica| replica.swarm_step() + replica.own_waiting());
    known.saturating_sub(peer.facts().owed)
}

fn view<'a>(peer: &Peer, replica: &'a Replica, session: &'a Session, points: &'a Points, wire: &Wire) -> View<'a> {
    View {
        facts: peer.facts(),
        replica,
        session,
        points,
        traffic: wire.traffic(),
        neighbours: neighbours(wire),
        ticket: None,
        paused: None,
    }
}

/// Connected nodes, by their names.
fn neighbours(wire: &Wire) -> Vec<Neighbour> {
    let Some(network) = wire.network() else { return Vec::new() };
    let neighbours = network.neighbours().map(|(peer, address, round_trip)| Neighbour {
        peer_id: peer.to_string(),
        address: address.map(ToString::to_string),
        round_trip_ms: round_trip.map(|time| time.as_secs_f64() * 1e3),
    });
    let mut neighbours: Vec<Neighbour> = neighbours.collect();
    neighbours.sort_by(|a, b| a.peer_id.cmp(&b.peer_id));
    neighbours
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A joiner had caught up in one second, and then replayed for twenty.
    #[test]
    fn who_fetched_has_not_caught_up_before_the_weights_have_it_and_does_so_once() {
        let mut arrival = Arrival::default();
        assert_eq!(arrival.ends(true), None, "nothing has come");
        arrival.fetched(1_100);
        assert_eq!(arrival.ends(false), None);
        assert!(arrival.ends(true).is_some_and(|after_ms| after_ms >= 1_100));
        assert_eq!(arrival.ends(true), None);
    }
}
