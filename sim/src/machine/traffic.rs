//! Frames in and out, and neighbours.

use anyhow::Result;
use node::network::{CONNECTIONS_MAX, CONNECTIONS_TARGET, Severity, conduct::Conduct, framing};
use protocol::{
    message::{Request, Response},
    replica::{NodeId, Verdict},
};
use std::rc::Rc;

use super::{Machine, join};
use crate::{
    event::{Event, Frame, Letter, Number},
    event_log::Kind,
    mesh,
    queue::Micros,
    random::{exponential, sample},
    swarm::{Sabotage, Swarm},
    wire,
};

/// What one machine has in its own uplink's queue at most, microseconds of sending: beyond, gossip is dropped.
const UPLINK_BACKLOG_MAX: Micros = 5_000_000;
/// TCP repeats what was lost after so long. Of joiners' frames only: another way to what they lack would take until the question's
/// time limit.
const REPEATED_AFTER_MS: f64 = 300.0;
/// A call to a bootstrap machine that failed is tried again after one second, then two, up to a minute.
const CALL_PAUSE_MAX: Micros = 60_000_000;
/// Machines that a joiner learns of and calls.
const FOUND_BY_JOINER: usize = 20;
/// Machines that are called in the course of the discovery's refresh, once a minute.
const FOUND_BY_REFRESH: usize = 3;

impl Machine {
    /// Sends a frame, if its way is open: through the uplink, over the link, in order unless the link reorders.
    pub(crate) fn send(&mut self, to: Number, frame: Frame, bytes: usize, swarm: &mut Swarm) -> Result<()> {
        let Some(running) = &mut self.running else { return Ok(()) };
        let Some(last_arrival) = running.neighbours.last_arrival(to) else { return Ok(()) };
        let (now, link) = (swarm.queue.now(), &swarm.scenario.link);
        let depart = now.max(self.uplink_free);
        let is_gossip = matches!(frame, Frame::Gossip(_));
        if is_gossip && depart > now + UPLINK_BACKLOG_MAX {
            return swarm.note(Kind::Lost, self.number, to, bytes as u64);
        }
        self.uplink_free = depart + (bytes as f64 * 8.0 / link.up_mbps) as Micros;
        let (jitter_ms, reordering, duplication) = (link.jitter_ms, link.reordering, link.duplication);
        let mut repeated_ms = 0.0;
        if swarm.loses(self.number, to) {
            let joins = matches!(&frame, Frame::Question(letter) | Frame::Answer(letter) if letter.joins);
            if !joins || swarm.is_cut(self.number, to) {
                return swarm.note(Kind::Lost, self.number, to, bytes as u64);
            }
            repeated_ms = REPEATED_AFTER_MS;
        }
        let delay_us =
            1000.0 * (repeated_ms + swarm.latency_ms(self.number, to) + exponential(&mut swarm.random, jitter_ms));
        let mut arrival = self.uplink_free + delay_us as Micros;
        if !swarm.draws(reordering) {
            arrival = arrival.max(*last_arrival);
            *last_arrival = arrival;
        }
        let arrived = Event::Arrived { to, from: self.number, frame, bytes: bytes as u32 };
        if is_gossip && swarm.draws(duplication) {
            swarm.queue.schedule(arrival, arrived.clone());
        }
        swarm.queue.schedule(arrival, arrived);
        Ok(())
    }

    pub(super) fn send_all(&mut self, out: mesh::Outbox, swarm: &mut Swarm) -> Result<()> {
        for (to, frame) in out {
            let bytes = mesh::frame_bytes(&frame, &|message| swarm.messages.size(message));
            self.send(to, Frame::Gossip(frame), bytes, swarm)?;
        }
        Ok(())
    }

    /// A frame is in.
    pub fn receive(&mut self, from: Number, frame: Frame, bytes: u32, swarm: &mut Swarm) -> Result<()> {
        let Some(running) = self.running.as_mut().filter(|running| running.neighbours.contains(from)) else {
            return Ok(());
        };
        running.fresh = 0;
        self.bytes_in += u64::from(bytes);
        swarm.note(Kind::Arrived, self.number, from, u64::from(bytes))?;
        match frame {
            Frame::Gossip(frame) => self.receive_gossip(from, &frame, u64::from(bytes), swarm),
            Frame::Question(letter) => {
                swarm.metrics.asked(letter.joins, u64::from(bytes));
                self.receive_question(from, &letter, swarm)
            }
            Frame::Answer(letter) if letter.joins => {
                swarm.metrics.bytes.joins += u64::from(bytes);
                self.piece(letter.question, Some(&letter.content), swarm)
            }
            Frame::Answer(letter) => {
                self.receive_answer(from, letter.question, &letter.content, swarm)?;
                let fresh = self.running.as_ref().map_or(0, |running| running.fresh).min(u64::from(bytes));
                swarm.metrics.fetched(fresh, u64::from(bytes));
                Ok(())
            }
        }
    }

    fn receive_gossip(&mut self, from: Number, frame: &mesh::Frame, bytes: u64, swarm: &mut Swarm) -> Result<()> {
        let Some(running) = &mut self.running else { return Ok(()) };
        let mut out = Vec::new();
        let now = swarm.queue.now();
        let messages = &swarm.messages;
        let news = running.mesh.receive(
            from,
            frame,
            &|message| messages.size(message),
            now / 1000,
            &mut self.random,
            &mut out,
        );
        let Some(message) = news else {
            swarm.metrics.mesh_frame(matches!(frame, mesh::Frame::Publish(_)), bytes);
            return self.send_all(out, swarm);
        };
        if let Some(hostility) = &mut self.hostility {
            hostility.heard(message);
        }
        let now_ms = running.now_ms(now);
        let content = messages.content(message);
        let conduct = running.conduct.entry(from).or_insert_with(|| Conduct::new(now_ms));
        let floods = !conduct.allow(content.len(), now_ms);
        // A joiner has nothing to judge it by yet.
        let verdict = match floods || running.download.is_some() {
            true => Verdict::Ignore,
            false => running.replica.gossip(NodeId(u64::from(from)), &content, now_ms),
        };
        let verdict = match verdict {
            Verdict::Accept if running.forwarding.take(content.len(), now_ms) => mesh::Verdict::Accept,
            Verdict::Accept | Verdict::Ignore => mesh::Verdict::Ignore,
            Verdict::Reject => mesh::Verdict::Reject,
        };
        // One at a time, behind those that came before.
        running.validated_at = running.validated_at.max(now) + (swarm.scenario.speed.validation_us) as Micros;
        let validated = Event::Validated { machine: self.number, life: self.life, message, verdict };
        swarm.queue.schedule(running.validated_at, validated);
        self.send_all(out, swarm)?;
        if floods {
            self.hold_against(from, Severity::Fault, "a flood of gossip", swarm)?;
        }
        self.carry_out(swarm)?;
        let fresh = self.running.as_ref().map_or(0, |running| running.fresh);
        swarm.metrics.gossiped(fresh.min(bytes), bytes);
        Ok(())
    }

    /// A gossip message was looked at: what is accepted goes on.
    pub fn validated(&mut self, message: mesh::Message, verdict: mesh::Verdict, swarm: &mut Swarm) -> Result<()> {
        let Some(running) = &mut self.running else { return Ok(()) };
        let mut out = Vec::new();
        running.mesh.validated(message, verdict, &mut out);
        self.send_all(out, swarm)
    }

    fn receive_question(&mut self, from: Number, letter: &Letter, swarm: &mut Swarm) -> Result<()> {
        let Some(running) = &mut self.running else { return Ok(()) };
        let now_ms = running.now_ms(swarm.queue.now());
        let conduct = running.conduct.entry(from).or_insert_with(|| Conduct::new(now_ms));
        if !conduct.allow(0, now_ms) {
            return self.hold_against(from, Severity::Fault, "a flood of questions", swarm);
        }
        let Ok(request) = Request::decode(&letter.content) else {
            return self.hold_against(from, Severity::Fault, "malformed request", swarm);
        };
        let response = match running.download {
            // `node` closes the stream unanswered, which the asker learns as soon.
            Some(_) => Response::Unavailable,
            None if letter.joins => join::answer(&request.question, &*swarm.objective)?,
            None => {
                let answer = running.replica.answer(NodeId(u64::from(from)), &request.question, now_ms);
                answer.unwrap_or(Response::Unavailable)
            }
        };
        let spoilt = swarm.sabotage == Some(Sabotage::Spoil) && self.number == 1;
        let content = match self.hostility.is_some() {
            _ if spoilt => Some(vec![0xff; 9]),
            true => self.hostile_answer(from, &request.question, response, swarm),
            false => response.encode().ok(),
        };
        if let Some(content) = content {
            let size = framing::exchange(content.len());
            self.send(from, Frame::Answer(Rc::new(Letter { content, ..*letter })), size, swarm)?;
        }
        self.carry_out(swarm)
    }

    fn receive_answer(&mut self, from: Number, question: u64, content: &[u8], swarm: &mut Swarm) -> Result<()> {
        let Some(running) = &mut self.running else { return Ok(()) };
        if running.questions.remove(&question).is_none() {
            return Ok(());
        }
        let peer = NodeId(u64::from(from));
        let now_ms = running.now_ms(swarm.queue.now());
        match Response::decode(content) {
            Ok(response) => running.replica.answered(peer, response, now_ms),
            Err(_) => {
                running.replica.no_answer(peer);
                self.hold_against(from, Severity::Fault, "malformed response", swarm)?;
            }
        }
        self.carry_out(swarm)
    }

    /// A question has waited too long.
    pub fn no_answer(&mut self, question: u64, swarm: &mut Swarm) -> Result<()> {
        let Some(running) = &mut self.running else { return Ok(()) };
        if let Some(peer) = running.questions.remove(&question) {
            running.replica.no_answer(NodeId(u64::from(peer)));
        }
        self.piece(question, None, swarm)?;
        self.carry_out(swarm)
    }

    /// A connection stands.
    pub fn connected(&mut self, peer: Number, outbound: bool, swarm: &mut Swarm) -> Result<()> {
        let Some(running) = &mut self.running else { return Ok(()) };
        running.neighbours.insert(peer);
        if peer == self.bootstrap {
            running.bootstrap_call.1 = 1_000_000;
        }
        self.bytes_in += wire::CONNECTION_BYTES;
        swarm.metrics.bytes.upkeep += wire::CONNECTION_BYTES;
        let mut out = Vec::new();
        running.mesh.connected(peer, outbound, &mut out);
        let now_ms = running.now_ms(swarm.queue.now());
        if running.download.is_none() {
            running.replica.peer_connected(NodeId(u64::from(peer)), now_ms);
        }
        self.send_all(out, swarm)?;
        self.download(swarm)?;
        self.carry_out(swarm)
    }

    /// A connection is gone.
    pub fn disconnected(&mut self, peer: Number, swarm: &mut Swarm) -> Result<()> {
        let Some(running) = &mut self.running else { return Ok(()) };
        if !running.neighbours.remove(peer) {
            return Ok(());
        }
        running.questions.retain(|_, asked| *asked != peer);
        running.mesh.gone(peer);
        match &mut running.download {
            Some(download) => download.gone(peer),
            None => running.replica.peer_gone(NodeId(u64::from(peer))),
        }
        swarm.note(Kind::Disconnected, self.number, peer, 0)?;
        self.carry_out(swarm)
    }

    /// Whether it would take this connection.
    pub fn takes(&self, peer: Number) -> bool {
        self.running.as_ref().is_some_and(|running| {
            running.neighbours.len() < CONNECTIONS_MAX as usize
                && !running.neighbours.contains(peer)
                && !running.conduct.get(&peer).is_some_and(Conduct::is_banned)
        })
    }

    /// Calls whom it should: its bootstrap machine for ever, others while it has few neighbours, and a few in the course of
    /// the discovery's refresh.
    pub fn look_after_connections(&mut self, swarm: &mut Swarm) -> Result<()> {
        let now = swarm.queue.now();
        let Some(running) = &mut self.running else { return Ok(()) };
        let now_ms = running.now_ms(now);
        running.conduct.retain(|_, conduct| {
            conduct.advance(now_ms);
            !conduct.ban_is_over(now_ms) && !conduct.is_spotless()
        });
        // A joiner that calls a machine which has gone, and knows no other, is given another address by people.
        if running.download.is_some()
            && running.neighbours.is_empty()
            && now >= running.bootstrap_call.0
            && swarm.up.binary_search(&self.bootstrap).is_err()
        {
            let other = sample(&mut self.random, &swarm.up, 2).into_iter().find(|other| *other != self.number);
            self.bootstrap = other.unwrap_or(self.bootstrap);
        }
        let mut calls = Vec::new();
        if self.bootstrap != self.number
            && !running.neighbours.contains(self.bootstrap)
            && now >= running.bootstrap_call.0
        {
            let pause = running.bootstrap_call.1;
            running.bootstrap_call = (now + pause, (2 * pause).min(CALL_PAUSE_MAX));
            calls.push(self.bootstrap);
        }
        let has_found_nobody = running.next_call == running.begun + 1_000_000;
        let few = CONNECTIONS_TARGET.saturating_sub(running.neighbours.len());
        if now >= running.next_call && !running.neighbours.is_empty() && (few > 0 || has_found_nobody) {
            running.next_call = now + 1_500_000;
            let wanted = if has_found_nobody { FOUND_BY_JOINER } else { few };
            calls.extend(sample(&mut self.random, &swarm.up, wanted));
        }
        if now >= running.next_walk {
            running.next_walk = now + 60_000_000;
            calls.extend(sample(&mut self.random, &swarm.up, FOUND_BY_REFRESH));
        }
        for called in calls {
            self.call(called, swarm);
        }
        Ok(())
    }

    /// A connection takes four ways there and back: TCP, encryption, multiplexing, identification.
    fn call(&mut self, called: Number, swarm: &mut Swarm) {
        if called == self.number || !self.takes(called) {
            return;
        }
        let at = swarm.queue.now() + (8000.0 * swarm.latency_ms(self.number, called)) as Micros;
        swarm.queue.schedule(at, Event::Connected { caller: self.number, called });
    }
}
