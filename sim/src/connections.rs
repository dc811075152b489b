//! Connections between machines: how they come about, how their ends notice that they are dead, and who is cut off
//! though it need not be.

use anyhow::Result;

use crate::{
    event::{Event, Number},
    event_log::Kind,
    machine::Machine,
    router::Way,
    world::{LOOK_INTERVAL, World},
};

impl World {
    /// How a call gets through, if it does.
    fn way(&self, caller: Number, called: Number) -> Option<Way> {
        let (from, to) = (self.machines.get(caller as usize)?, self.machines.get(called as usize)?);
        if to.router.is_open() {
            return Some(Way::Direct);
        }
        let relay = from.running.as_ref()?.neighbours.ways().find(|(relay, through)| {
            let knows = |machine: &Machine| machine.running.as_ref().is_some_and(|r| r.neighbours.contains(called));
            through.is_none()
                && self.machines.get(*relay as usize).is_some_and(|machine| machine.router.is_open() && knows(machine))
                && !self.swarm.is_silent(*relay, called, None)
        });
        let (relay, _) = relay.filter(|(relay, _)| !self.swarm.is_silent(caller, *relay, None))?;
        Some(if from.router.meets(to.router) { Way::Direct } else { Way::Relayed(relay) })
    }

    /// A call ends.
    pub(crate) fn called(&mut self, caller: Number, session: u32, called: Number) -> Result<()> {
        // Of a connection that died without a word, the called end may have its half yet.
        let holds = |a: Number, b: Number| {
            let running = self.machines.get(a as usize).and_then(|machine| machine.running.as_ref());
            running.is_some_and(|running| running.neighbours.contains(b))
        };
        let way = self.way(caller, called).filter(|_| !self.swarm.is_cut(caller, called));
        if way.is_some() && holds(called, caller) && !holds(caller, called) {
            self.machines[called as usize].disconnected(caller, &mut self.swarm)?;
        }
        let takes = |a: Number, b: Number| self.machines.get(a as usize).is_some_and(|machine| machine.takes(b));
        let Some(way) = way.filter(|_| takes(caller, called) && takes(called, caller)) else {
            return self.with(caller, session, |machine, swarm| machine.not_reached(called, swarm));
        };
        if self.machines[caller as usize].session != session {
            return Ok(());
        }
        self.swarm.lines.connected(caller, called);
        self.swarm.note(Kind::Connected, caller, called, 0)?;
        self.machines[caller as usize].connected(called, true, way, &mut self.swarm)?;
        self.machines[called as usize].connected(caller, false, way, &mut self.swarm)
    }

    /// Closes a connection, at both ends, unless the other end does not hear of it.
    pub fn disconnect(&mut self, a: Number, b: Number) -> Result<()> {
        let is_silent = self.swarm.is_silent(a, b, None);
        self.machines[a as usize].disconnected(b, &mut self.swarm)?;
        match is_silent {
            true => Ok(()),
            false => self.machines[b as usize].disconnected(a, &mut self.swarm),
        }
    }

    /// All ends of all connections are looked at, and who is cut off.
    pub(crate) fn look(&mut self) -> Result<()> {
        let now = self.swarm.queue.now();
        for number in self.swarm.up.clone() {
            if self.swarm.lines.sleeps_until(number).is_some() {
                // Nobody can call while it sleeps.
                self.machines[number as usize].cut_off_since = None;
                continue;
            }
            let Some(running) = self.machines[number as usize].running.as_ref() else { continue };
            let ways: Vec<_> = running.neighbours.ways().collect();
            let mut is_connected = false;
            for (other, relay) in ways {
                let is_silent = self.swarm.is_silent(number, other, relay);
                let running = self.machines[other as usize].running.as_ref();
                let has_end = running.map(|running| running.neighbours.contains(number));
                let is_heard = has_end == Some(true) && !is_silent;
                is_connected |= is_heard;
                let Some(running) = self.machines[number as usize].running.as_mut() else { continue };
                // Whoever knows of no such connection says so; whoever is not there says nothing.
                let is_denied = has_end == Some(false) && !is_silent;
                if is_denied || running.neighbours.look(other, is_heard) {
                    self.machines[number as usize].disconnected(other, &mut self.swarm)?;
                }
            }
            let could_be = is_connected || self.could_be_connected(number);
            let machine = &mut self.machines[number as usize];
            match is_connected || !could_be {
                true => machine.cut_off_since = None,
                false => {
                    let since = *machine.cut_off_since.get_or_insert(now);
                    let longest = &mut self.swarm.truth.cut_off;
                    if longest.is_none_or(|(_, longest)| now - since > longest) {
                        *longest = Some((number, now - since));
                    }
                }
            }
        }
        self.swarm.queue.schedule(now + LOOK_INTERVAL, Event::Look);
        Ok(())
    }

    /// Whether a machine's link is up, and one that everyone can call is there.
    fn could_be_connected(&self, number: Number) -> bool {
        let is_open = |other: &Number| {
            let machine = &self.machines[*other as usize];
            machine.is_honest() && machine.router.is_open() && !self.swarm.is_cut(number, *other)
        };
        self.machines[number as usize].is_honest()
            && self.swarm.up.iter().filter(|other| **other != number).any(is_open)
    }
}
