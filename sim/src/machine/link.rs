//! Frames in and out, and connections.

use anyhow::Result;
use peer::{Answer, Input, Piece, config::CONNECTIONS_MAX, exchange, framing};
use protocol::{
    message::Response,
    replica::{Replica, Verdict},
};
use std::rc::Rc;

use super::{Machine, Request, identity::node_id};
use crate::{
    event::{Event, Frame, Letter, Number, QuestionId},
    event_log::Kind,
    mesh,
    queue::Micros,
    random::exponential,
    router::Way,
    swarm::{Sabotage, Swarm},
    wire,
};

/// What one machine has in its own uplink's queue at most, microseconds of sending: beyond, gossip is dropped.
const UPLINK_BACKLOG_MAX: Micros = 5_000_000;
/// TCP repeats what was lost after so long. Of joiners' frames only: another way to what they lack would take until the
/// question's time limit.
const REPEATED_AFTER_MS: f64 = 300.0;

impl Machine {
    /// Sends a frame, if its way is open: through the uplink, over the link, in order unless the link reorders.
    pub(super) fn send(&mut self, to: Number, frame: Frame, bytes: usize, swarm: &mut Swarm) -> Result<()> {
        let Some(running) = &mut self.running else { return Ok(()) };
        let Some((relay, last_arrival)) = running.neighbours.way_mut(to) else { return Ok(()) };
        let (now, link) = (swarm.queue.now(), &swarm.scenario.link);
        let depart = now.max(self.uplink_free);
        let is_gossip = matches!(frame, Frame::Gossip(_));
        if is_gossip && depart > now + UPLINK_BACKLOG_MAX {
            return swarm.note(Kind::Lost, self.number, to, bytes as u64);
        }
        self.uplink_free = depart + (bytes as f64 * 8.0 / link.up_mbps) as Micros;
        let (jitter_ms, reordering, duplication) = (link.jitter_ms, link.reordering, link.duplication);
        let mut repeated_ms = 0.0;
        if swarm.loses(self.number, to, relay) {
            let joins = matches!(&frame, Frame::Question(letter) | Frame::Answer(letter) if letter.joins);
            if !joins || swarm.is_silent(self.number, to, relay) {
                return swarm.note(Kind::Lost, self.number, to, bytes as u64);
            }
            repeated_ms = REPEATED_AFTER_MS;
        }
        let latency_ms = match relay {
            None => swarm.latency_ms(self.number, to),
            Some(relay) => swarm.latency_ms(self.number, relay) + swarm.latency_ms(relay, to),
        };
        let delay_us = 1000.0 * (repeated_ms + latency_ms + exponential(&mut swarm.random, jitter_ms));
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

    /// A frame is in; it waits while the machine does not read.
    pub fn receive(&mut self, from: Number, frame: Frame, bytes: u32, swarm: &mut Swarm) -> Result<()> {
        let Some(running) = self.running.as_mut().filter(|running| running.neighbours.contains(from)) else {
            return Ok(());
        };
        if !running.reads || !running.unread.is_empty() {
            running.unread.push_back((from, frame, bytes));
            return Ok(());
        }
        self.read(from, frame, bytes, swarm)
    }

    /// Takes up the frames that waited, until it is to stop again.
    pub fn read_on(&mut self, swarm: &mut Swarm) -> Result<()> {
        while let Some(running) = self.running.as_mut().filter(|running| running.reads)
            && let Some((from, frame, bytes)) = running.unread.pop_front()
        {
            if running.neighbours.contains(from) {
                self.read(from, frame, bytes, swarm)?;
            }
        }
        Ok(())
    }

    fn read(&mut self, from: Number, frame: Frame, bytes: u32, swarm: &mut Swarm) -> Result<()> {
        let Some(running) = &mut self.running else { return Ok(()) };
        running.known = running.peer.replica().map_or(0, Replica::swarm_step);
        self.bytes_in += u64::from(bytes);
        swarm.note(Kind::Arrived, self.number, from, u64::from(bytes))?;
        match frame {
            Frame::Gossip(frame) => self.read_gossip(from, &frame, u64::from(bytes), swarm),
            Frame::Question(letter) => {
                swarm.metrics.asked(letter.joins, u64::from(bytes));
                let request = running.next_request;
                running.next_request += 1;
                let content = letter.content.clone();
                running.requests.push(Request { number: request, from, letter });
                self.tell(Input::Request { from: node_id(from), request, bytes: content }, swarm)
            }
            Frame::Answer(letter) => {
                self.answered(letter.question, Some(&letter.content), swarm)?;
                let fresh = self.fresh().min(u64::from(bytes));
                match letter.joins {
                    true => swarm.metrics.bytes.joins += u64::from(bytes),
                    false => swarm.metrics.fetched(fresh, u64::from(bytes)),
                }
                Ok(())
            }
            Frame::Closed(question) => {
                swarm.metrics.asked(self.replica().is_none(), u64::from(bytes));
                self.answered(question, None, swarm)
            }
        }
    }

    fn read_gossip(&mut self, from: Number, frame: &mesh::Frame, bytes: u64, swarm: &mut Swarm) -> Result<()> {
        let Some(running) = &mut self.running else { return Ok(()) };
        let mut out = Vec::new();
        let (now, messages) = (swarm.queue.now(), &swarm.messages);
        let sizes = |message| messages.size(message);
        let mut turn = mesh::Turn { now_ms: now / 1000, random: &mut self.random, out: &mut out };
        let news = running.mesh.receive(from, frame, &sizes, &mut turn);
        let Some(message) = news else {
            swarm.metrics.mesh_frame(matches!(frame, mesh::Frame::Publish(_)), bytes);
            return self.send_all(out, swarm);
        };
        let content = messages.content(message).to_vec();
        if let Some(adversary) = &mut self.adversary {
            adversary.hear(&content);
        }
        self.send_all(out, swarm)?;
        self.tell(Input::Gossip { from: node_id(from), message: u64::from(message), bytes: content }, swarm)?;
        let fresh = self.fresh();
        swarm.metrics.gossiped(fresh.min(bytes), bytes);
        Ok(())
    }

    /// Gradients that the event under way brought.
    fn fresh(&self) -> u64 {
        let known = self.running.as_ref().map_or(0, |running| running.known);
        self.replica().map_or(0, Replica::swarm_step).saturating_sub(known)
    }

    /// A gossip message was looked at: what is accepted goes on.
    pub fn validated(&mut self, message: mesh::Message, verdict: Verdict, swarm: &mut Swarm) -> Result<()> {
        let Some(running) = &mut self.running else { return Ok(()) };
        let mut out = Vec::new();
        running.mesh.validated(message, verdict, &mut out);
        self.send_all(out, swarm)
    }

    /// Puts on the run's topic.
    pub(super) fn publish(&mut self, bytes: Vec<u8>, swarm: &mut Swarm) -> Result<()> {
        let Some(running) = &mut self.running else { return Ok(()) };
        if !running.mesh.is_heard() {
            running.inputs.push_back(Input::Unheard(bytes));
            return Ok(());
        }
        let length = bytes.len();
        let message = swarm.messages.intern(bytes);
        let mut out = Vec::new();
        let now_ms = swarm.queue.now() / 1000;
        running.mesh.publish(message, &mut mesh::Turn { now_ms, random: &mut self.random, out: &mut out });
        swarm.note(Kind::Published, self.number, length as u32, u64::from(message))?;
        self.send_all(out, swarm)
    }

    /// Sends a question.
    pub(super) fn ask(&mut self, to: Number, question: u64, content: Vec<u8>, swarm: &mut Swarm) -> Result<()> {
        let Some(running) = &mut self.running else { return Ok(()) };
        if !running.neighbours.contains(to) {
            running.inputs.push_back(Input::Answer { question, answer: Answer::None });
            return Ok(());
        }
        running.questions.insert(question, to);
        let joins = running.peer.replica().is_none();
        swarm.note(Kind::Asked, self.number, to, content.len() as u64)?;
        let (machine, session) = (self.number, self.session);
        let timeout = swarm.queue.now() + 1000 * exchange::ANSWER_MS_MAX;
        swarm.queue.schedule(timeout, Event::TimedOut { machine, session, question });
        let size = framing::exchange(content.len());
        let question = QuestionId { session, number: question };
        self.send(to, Frame::Question(Rc::new(Letter { question, joins, content })), size, swarm)
    }

    /// Takes a request whose answer is known now.
    fn take_request(&mut self, number: u64) -> Option<Request> {
        let requests = &mut self.running.as_mut()?.requests;
        let place = requests.iter().position(|request| request.number == number)?;
        Some(requests.swap_remove(place))
    }

    /// Sends an answer, or what an adversary makes of it.
    pub(super) fn respond(&mut self, request: u64, bytes: Vec<u8>, swarm: &mut Swarm) -> Result<()> {
        let Some(Request { from, letter, .. }) = self.take_request(request) else { return Ok(()) };
        let spoilt = swarm.sabotage == Some(Sabotage::Spoil) && self.number == 1;
        let content = if spoilt { vec![0xff; 9] } else { self.distorted(from, &letter, bytes, swarm) };
        let size = framing::exchange(content.len());
        let answer = Letter { question: letter.question, joins: letter.joins, content };
        self.send(from, Frame::Answer(Rc::new(answer)), size, swarm)
    }

    /// Sends a piece of the base.
    pub(super) fn serve(&mut self, request: u64, piece: Piece, swarm: &mut Swarm) -> Result<()> {
        let response = match swarm.objective.base() {
            Some(base) => exchange::serve(piece, base.digests(), |index| base.chunk(index).map(<[u8]>::to_vec)),
            None => Response::Unavailable,
        };
        self.respond(request, response.encode()?, swarm)
    }

    /// Closes the stream of a request, which the asker learns.
    pub(super) fn refuse(&mut self, request: u64, swarm: &mut Swarm) -> Result<()> {
        let Some(Request { from, letter, .. }) = self.take_request(request) else { return Ok(()) };
        self.send(from, Frame::Closed(letter.question), framing::exchange(0), swarm)
    }

    fn answered(&mut self, question: QuestionId, content: Option<&[u8]>, swarm: &mut Swarm) -> Result<()> {
        let session = self.session;
        let Some(running) = self.running.as_mut().filter(|_| question.session == session) else { return Ok(()) };
        if running.questions.remove(&question.number).is_none() {
            return Ok(());
        }
        let (answer, _) = exchange::read_answer(content);
        if let Answer::Chunk { digest, .. } = &answer {
            running.chunk = Some((question.number, *digest));
        }
        self.tell(Input::Answer { question: question.number, answer }, swarm)
    }

    /// A question has waited too long.
    pub fn timed_out(&mut self, question: u64, swarm: &mut Swarm) -> Result<()> {
        self.answered(QuestionId { session: self.session, number: question }, None, swarm)
    }

    /// A connection stands. Its other end tells where it is to be called.
    pub fn connected(&mut self, other: Number, outbound: bool, way: Way, swarm: &mut Swarm) -> Result<()> {
        let Some(running) = &mut self.running else { return Ok(()) };
        let relay = match way {
            Way::Direct => None,
            Way::Relayed(relay) => Some(relay),
        };
        running.neighbours.insert(other, relay, swarm.silence());
        running.discovery.connected(other);
        self.bytes_in += wire::CONNECTION_BYTES;
        swarm.metrics.bytes.upkeep += wire::CONNECTION_BYTES;
        let mut out = Vec::new();
        running.mesh.connected(other, outbound, &mut out);
        running.inputs.push_back(Input::Connected(node_id(other)));
        if relay.is_some() {
            running.inputs.push_back(Input::Way { node: node_id(other), is_relayed: true });
        }
        running.inputs.push_back(Input::Found(node_id(other)));
        self.send_all(out, swarm)?;
        self.drain(swarm)
    }

    /// A connection is gone, and with it what was asked over it.
    pub fn disconnected(&mut self, other: Number, swarm: &mut Swarm) -> Result<()> {
        let Some(running) = &mut self.running else { return Ok(()) };
        if !running.neighbours.remove(other) {
            return Ok(());
        }
        running.mesh.gone(other);
        let circuits = running.neighbours.ways().filter(|(_, relay)| *relay == Some(other));
        swarm.to_disconnect.extend(circuits.map(|(through, _)| (self.number, through)));
        running.inputs.push_back(Input::Disconnected(node_id(other)));
        for (question, _) in running.questions.extract_if(.., |_, asked| *asked == other) {
            running.inputs.push_back(Input::Answer { question, answer: Answer::None });
        }
        running.requests.retain(|request| request.from != other);
        swarm.note(Kind::Disconnected, self.number, other, 0)?;
        self.drain(swarm)
    }

    /// Whether it would take this connection.
    pub fn takes(&self, other: Number) -> bool {
        self.running.as_ref().is_some_and(|running| {
            running.neighbours.len() < CONNECTIONS_MAX
                && !running.neighbours.contains(other)
                && !running.banned.contains(&other)
        })
    }
}
