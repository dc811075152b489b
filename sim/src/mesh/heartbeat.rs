//! What a mesh does by the clock: degrees, announcements, forgetting.

use peer::mesh::{ANNOUNCED, DEGREE, DEGREE_HIGH, DEGREE_LOW, IDS_MAX, LAZY, LAZY_SHARE, OUTBOUND_MIN};
use std::rc::Rc;

use super::{Frame, Machine, Mesh, Message, Neighbour, Turn, UNWANTED_MS};
use crate::random::sample;

impl Mesh {
    /// Every [`super::HEARTBEAT_MS`].
    pub fn heartbeat(&mut self, turn: &mut Turn<'_>) {
        self.beats += 1;
        self.seen.forget(turn.now_ms);
        self.backoffs.retain(|_, backoff| backoff.until_beat > self.beats);
        for neighbour in &mut self.neighbours {
            (neighbour.ihaves, neighbour.asked) = (0, 0);
        }
        let degree = self.members.len();
        if degree < DEGREE_LOW {
            self.graft(DEGREE - degree, false, turn);
        }
        if self.members.len() >= DEGREE_HIGH {
            self.prune(turn);
        }
        let outbound = self.outbound_degree();
        if self.members.len() >= DEGREE_LOW && outbound < OUTBOUND_MIN {
            self.graft(OUTBOUND_MIN - outbound, true, turn);
        }
        self.announce(turn);
        self.shift();
        for neighbour in &mut self.neighbours {
            neighbour.unwanted.retain(|_, since_ms| turn.now_ms.saturating_sub(*since_ms) <= UNWANTED_MS);
        }
    }

    /// Puts up to `count` more neighbours into the mesh.
    fn graft(&mut self, count: usize, outbound_only: bool, turn: &mut Turn<'_>) {
        let may = |neighbour: &&Neighbour| {
            let fits = neighbour.outbound || !outbound_only;
            let machine = neighbour.machine;
            neighbour.subscribed && fits && !self.is_member(machine) && !self.backs_off(machine)
        };
        let pool: Vec<Machine> = self.neighbours.iter().filter(may).map(|neighbour| neighbour.machine).collect();
        for machine in sample(turn.random, &pool, count) {
            self.join(machine);
            turn.out.push((machine, Frame::Graft));
        }
    }

    /// Takes the excess out of the mesh, but leaves enough neighbours that this machine called.
    fn prune(&mut self, turn: &mut Turn<'_>) {
        let members = self.members.clone();
        let mut excess = members.len() - DEGREE;
        let mut outbound = self.outbound_degree();
        for machine in sample(turn.random, &members, members.len()) {
            let Some(neighbour) = self.neighbour(machine).filter(|_| excess > 0) else { continue };
            if neighbour.outbound {
                if outbound <= OUTBOUND_MIN {
                    continue;
                }
                outbound -= 1;
            }
            excess -= 1;
            self.part(machine);
            self.back_off(machine, turn.now_ms);
            turn.out.push((machine, Frame::Prune));
        }
    }

    /// `emit_gossip`.
    fn announce(&self, turn: &mut Turn<'_>) {
        let recent = self.history.iter().take(ANNOUNCED).flatten().copied();
        let recent: Vec<Message> = recent.filter(|message| self.validated.contains(*message)).collect();
        if recent.is_empty() {
            return;
        }
        let outside =
            self.neighbours.iter().filter(|neighbour| neighbour.subscribed && !self.is_member(neighbour.machine));
        let outside: Vec<Machine> = outside.map(|neighbour| neighbour.machine).collect();
        let count = LAZY.max((LAZY_SHARE * outside.len() as f64) as usize);
        let shared = Rc::new(sample(turn.random, &recent, recent.len()));
        for machine in sample(turn.random, &outside, count) {
            let ids =
                if shared.len() > IDS_MAX { Rc::new(sample(turn.random, &shared, IDS_MAX)) } else { shared.clone() };
            turn.out.push((machine, Frame::IHave(ids)));
        }
    }

    /// Moves the history on and forgets the oldest messages' content.
    fn shift(&mut self) {
        for message in self.history.pop_back().unwrap_or_default() {
            self.validated.remove(message);
            self.unvalidated.retain(|(waiting, _)| *waiting != message);
        }
        self.history.push_front(Vec::new());
        self.asked.retain(|(message, _), _| self.validated.contains(*message));
    }
}
