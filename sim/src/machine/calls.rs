//! Whom a machine can find, and whether a call succeeds. Whom to call, and when again, is the peer's business; a walk
//! of the discovery opens connections of its own, as Kademlia's queries do.

use anyhow::Result;
use peer::{Input, config::CONNECTIONS_TARGET};

use super::{Machine, discovery::HELP_INTERVAL, discovery::WALK_INTERVAL, identity::node_id};
use crate::{
    event::{Event, Number},
    queue::Micros,
    random::sample,
    swarm::Swarm,
    wire,
};

/// Discovery looks around this often, and what keeps connections alive is counted.
const UPKEEP: Micros = 500_000;
/// While neighbours are few, others are found this often.
const SEARCH_INTERVAL: Micros = 1_500_000;
/// Machines that it learns of then.
const FOUND_BY_JOINER: usize = 20;
/// Machines that are met then.
const FOUND_BY_WALK: usize = 3;
/// A call takes four ways there and back: TCP, encryption, multiplexing, identification.
const CALL_WAYS: f64 = 8.0;

impl Machine {
    /// Discovery looks for others; what keeps connections alive is counted.
    pub fn upkeep(&mut self, swarm: &mut Swarm) -> Result<()> {
        self.search(swarm);
        self.drain(swarm)?;
        if let Some(running) = &self.running {
            let rate = match running.neighbours.len() < CONNECTIONS_TARGET {
                true => wire::SEARCHING_BYTES_PER_SECOND,
                false => wire::IDLE_BYTES_PER_SECOND,
            };
            let bytes = rate * UPKEEP as f64 / 1e6 * running.neighbours.len() as f64;
            self.bytes_in += bytes as u64;
            swarm.metrics.bytes.upkeep += bytes as u64;
        }
        let (machine, session) = (self.number, self.session);
        swarm.queue.schedule(swarm.queue.now() + UPKEEP, Event::Upkeep { machine, session });
        Ok(())
    }

    fn search(&mut self, swarm: &mut Swarm) {
        let now = swarm.queue.now();
        let Some(running) = &mut self.running else { return };
        let discovery = &mut running.discovery;
        let (mut found, mut met) = (Vec::new(), Vec::new());
        let neighbours = running.neighbours.len();
        if neighbours == 0 && running.peer.replica().is_none() && now >= discovery.next_help {
            discovery.next_help = now + HELP_INTERVAL;
            found.extend(sample(&mut self.random, &swarm.up, 2));
        }
        let few = CONNECTIONS_TARGET.saturating_sub(neighbours);
        if neighbours > 0 && now >= discovery.next_search {
            if !discovery.has_walked {
                met.extend(sample(&mut self.random, &swarm.up, FOUND_BY_JOINER));
            } else if few > 0 {
                found.extend(sample(&mut self.random, &swarm.up, few));
            }
            discovery.has_walked = true;
            discovery.next_search = now + SEARCH_INTERVAL;
        }
        if now >= discovery.next_walk {
            discovery.next_walk = now + WALK_INTERVAL;
            met.extend(sample(&mut self.random, &swarm.up, FOUND_BY_WALK));
        }
        if neighbours == 0 {
            let (far, near) = discovery.walk_alone(now);
            met.extend(far);
            // Such a call fails at once.
            running.inputs.extend(near.into_iter().map(|other| Input::DialFailed(node_id(other))));
        }
        running.inputs.extend(found.into_iter().chain(met.iter().copied()).map(|other| Input::Found(node_id(other))));
        for other in met {
            if self.takes(other) {
                self.call(other, false, swarm);
            }
        }
    }

    /// Calls a machine, for the peer or for the discovery.
    pub(super) fn call(&mut self, called: Number, is_dial: bool, swarm: &mut Swarm) {
        let Some(running) = self.running.as_mut().filter(|_| called != self.number) else { return };
        if is_dial && !running.discovery.dialed.insert(called) {
            return;
        }
        let at = swarm.queue.now() + (CALL_WAYS * 1000.0 * swarm.latency_ms(self.number, called)) as Micros;
        swarm.queue.schedule(at, Event::Called { caller: self.number, session: self.session, called });
    }

    /// A call has not come to a connection.
    pub fn not_reached(&mut self, called: Number, swarm: &mut Swarm) -> Result<()> {
        let Some(running) = &mut self.running else { return Ok(()) };
        if running.discovery.failed(called) && !running.neighbours.contains(called) {
            return self.tell(Input::DialFailed(node_id(called)), swarm);
        }
        Ok(())
    }
}
