//! The gossip mesh of one machine: a model of libp2p-gossipsub 0.50.1 with one topic, set up as a node sets it
//! up (anonymous, messages validated by the application, no peer scores).
//!
//! Modelled: the subscription on connection and the graft that answers it; heartbeats (graft below the low mark, prune
//! from the high mark, enough outbound neighbours, backoff with its slack); own messages to the mesh, filled up from
//! outside; forwarding to the mesh after validation, except to all that sent the message meanwhile; the message cache's
//! windows, in which a message counts from its arrival and may be announced (IHAVE) and asked for (IWANT) once it is
//! validated; the limits of both; promises; IDONTWANT; and the size of every frame. Without scores nothing looks for
//! broken promises: what was asked for once and never came is not asked for again (`apply_iwant_penalties` does
//! nothing), so that `iwant_followup_time` has no effect, nor has `retain_scores` (all scores are equal: the prune is a
//! plain shuffle).
//!
//! Simplified: no scores, hence no opportunistic grafting; always subscribed, hence no fanout, no UNSUBSCRIBE and no
//! `unsubscribe_backoff`; the duplicate cache forgets up to a quarter of a second late; of more than ten thousand
//! unwanted messages the lowest number is forgotten instead of the oldest; the queues of a connection have no limits,
//! no time limits, no precedence of control over messages, and an IDONTWANT does not take messages out of them (the
//! caller may); a second connection of a neighbour does nothing.

use peer::{
    framing::gossip_protobuf,
    mesh::{DEGREE, DEGREE_HIGH, DEGREE_LOW, HEARTBEAT, IDS_MAX},
};
use protocol::replica::Verdict;
use rand_xoshiro::Xoshiro256PlusPlus;
use std::{
    collections::{BTreeMap, VecDeque},
    rc::Rc,
};

use crate::random::sample;

mod frame;
mod heartbeat;
mod seen;

pub use frame::{Frame, Machine, Message, Outbox, frame_bytes};
use seen::{Bits, Seen};

/// Time between heartbeats, ms.
pub const HEARTBEAT_MS: u64 = HEARTBEAT.as_millis() as u64;
/// Time before the first heartbeat, ms (`heartbeat_initial_delay`, config.rs).
pub const FIRST_HEARTBEAT_MS: u64 = 5_000;
/// Heartbeats that a message stays in the cache, its own included (`history_length`, config.rs).
const HISTORY: usize = 5;
/// Times that one neighbour is sent one message for the asking (`gossip_retransimission`, config.rs).
const RETRANSMISSIONS: u32 = 3;
/// Announcements heard from one neighbour between heartbeats (`max_ihave_messages_heartbeat`, config.rs).
const IHAVES_MAX: u32 = 10;
/// A GRAFT so soon after a PRUNE is refused, ms (`prune_backoff`, config.rs; a PRUNE carries it in seconds).
const BACKOFF_MS: u64 = 60_000;
/// Own GRAFTs wait for this heartbeat after a PRUNE: the backoff in heartbeats, `backoff_slack` of 1 and one for the
/// heartbeat that is under way (backoff.rs).
const BACKOFF_BEATS: u64 = BACKOFF_MS.div_ceil(HEARTBEAT_MS) + 2;
/// Messages with a longer protobuf are answered with IDONTWANT, bytes (`idontwant_message_size_threshold`, config.rs).
/// `idontwant_on_publish` is false.
const IDONTWANT_BYTES: usize = 1_000;
/// An IDONTWANT is remembered for so long, ms (`IDONTWANT_TIMEOUT`, behaviour.rs).
const UNWANTED_MS: u64 = 3_000;
/// Messages of one neighbour's IDONTWANTs that are remembered (`IDONTWANT_CAP`, behaviour.rs).
const UNWANTED_MAX: usize = 10_000;

struct Neighbour {
    machine: Machine,
    /// Whether this machine called it.
    outbound: bool,
    subscribed: bool,
    /// IHAVEs that came, and ids that it was asked for, since the last heartbeat.
    ihaves: u32,
    asked: usize,
    /// Messages it does not want, and since when (ms).
    unwanted: BTreeMap<Message, u64>,
}

struct Backoff {
    until_ms: u64,
    /// The first heartbeat that may graft again.
    until_beat: u64,
}

/// What a mesh acts with: the time, what it draws from, and where its frames go.
pub struct Turn<'a> {
    /// Virtual.
    pub now_ms: u64,
    pub random: &'a mut Xoshiro256PlusPlus,
    pub out: &'a mut Outbox,
}

/// See the module's documentation.
#[derive(Default)]
pub struct Mesh {
    /// In order of their numbers.
    neighbours: Vec<Neighbour>,
    /// Those in the mesh, in order of their numbers.
    members: Vec<Machine>,
    /// Outlive their neighbours' connections, as in the original.
    backoffs: BTreeMap<Machine, Backoff>,
    beats: u64,
    seen: Seen,
    /// Messages that wait for a verdict, and who sent them so far.
    unvalidated: Vec<(Message, Vec<Machine>)>,
    /// Messages that were accepted and are still in the history.
    validated: Bits,
    /// Messages by the heartbeat before which they came, the newest first.
    history: VecDeque<Vec<Message>>,
    /// How often a neighbour asked for a message of the history.
    asked: BTreeMap<(Message, Machine), u32>,
    /// Of whom a message that has not come was asked. One each: what is promised is asked of nobody else.
    promises: BTreeMap<Message, Machine>,
}

impl Mesh {
    /// Without neighbours.
    pub fn new() -> Self {
        Self { history: VecDeque::from([const { Vec::new() }; HISTORY]), ..Self::default() }
    }

    fn place(&self, machine: Machine) -> Result<usize, usize> {
        self.neighbours.binary_search_by_key(&machine, |neighbour| neighbour.machine)
    }

    fn neighbour(&mut self, machine: Machine) -> Option<&mut Neighbour> {
        let place = self.place(machine).ok()?;
        self.neighbours.get_mut(place)
    }

    fn outbound_degree(&self) -> usize {
        self.neighbours.iter().filter(|neighbour| neighbour.outbound && self.is_member(neighbour.machine)).count()
    }

    /// The neighbours in the mesh, in order of their numbers.
    pub fn members(&self) -> &[Machine] {
        &self.members
    }

    fn is_member(&self, machine: Machine) -> bool {
        self.members.binary_search(&machine).is_ok()
    }

    fn join(&mut self, machine: Machine) {
        if let Err(place) = self.members.binary_search(&machine) {
            self.members.insert(place, machine);
        }
    }

    fn part(&mut self, machine: Machine) {
        self.members.retain(|member| *member != machine);
    }

    /// Whether the message was seen (duplicate cache).
    pub fn seen(&self, message: Message) -> bool {
        self.seen.contains(message)
    }

    /// A connection stands; `outbound` if this machine called. Sends the subscription, with the first connection only.
    pub fn connected(&mut self, peer: Machine, outbound: bool, out: &mut Outbox) {
        let Err(place) = self.place(peer) else { return };
        let neighbour =
            Neighbour { machine: peer, outbound, subscribed: false, ihaves: 0, asked: 0, unwanted: BTreeMap::new() };
        self.neighbours.insert(place, neighbour);
        out.push((peer, Frame::Subscribe));
    }

    /// The (last) connection is gone.
    pub fn gone(&mut self, peer: Machine) {
        if let Ok(place) = self.place(peer) {
            self.neighbours.remove(place);
            self.part(peer);
        }
    }

    /// A frame of `peer`; `sizes` tells the bytes of a message's content. Returns a message that wants validation, if
    /// the frame carried one that was not seen before.
    pub fn receive(
        &mut self,
        peer: Machine,
        frame: &Frame,
        sizes: &dyn Fn(Message) -> usize,
        turn: &mut Turn<'_>,
    ) -> Option<Message> {
        match frame {
            Frame::Publish(message) => return self.published(peer, *message, sizes, turn),
            Frame::Subscribe => self.subscribed(peer, turn.out),
            Frame::Graft => self.grafted(peer, turn),
            Frame::Prune => {
                if self.is_member(peer) {
                    self.part(peer);
                    self.back_off(peer, turn.now_ms);
                }
            }
            Frame::IHave(messages) => self.announced(peer, messages, turn),
            Frame::IWant(messages) => self.wanted(peer, messages, turn.out),
            Frame::IDontWant(messages) => {
                if let Some(neighbour) = self.neighbour(peer) {
                    for message in messages.iter() {
                        neighbour.unwanted.insert(*message, turn.now_ms);
                        if neighbour.unwanted.len() > UNWANTED_MAX {
                            neighbour.unwanted.pop_first();
                        }
                    }
                }
            }
        }
        None
    }

    /// `handle_received_message`.
    fn published(
        &mut self,
        from: Machine,
        message: Message,
        sizes: &dyn Fn(Message) -> usize,
        turn: &mut Turn<'_>,
    ) -> Option<Message> {
        if self.seen(message) {
            let waiting = self.unvalidated.iter_mut().find(|(waiting, _)| *waiting == message);
            if let Some((_, sources)) = waiting.filter(|(_, sources)| !sources.contains(&from)) {
                sources.push(from);
            }
            return None;
        }
        let promised = self.promises.remove(&message);
        if gossip_protobuf(sizes(message)) > IDONTWANT_BYTES {
            let unwanted: Rc<Vec<Message>> = Rc::new(vec![message]);
            let asked = promised.filter(|machine| !self.is_member(*machine) && self.place(*machine).is_ok());
            let others = self.members.iter().copied().chain(asked).filter(|machine| *machine != from);
            turn.out.extend(others.map(|machine| (machine, Frame::IDontWant(unwanted.clone()))));
        }
        self.cache(message, turn.now_ms);
        self.unvalidated.push((message, vec![from]));
        Some(message)
    }

    fn cache(&mut self, message: Message, now_ms: u64) {
        self.seen.insert(message, now_ms);
        if let Some(newest) = self.history.front_mut() {
            newest.push(message);
        }
    }

    /// `handle_received_subscriptions`.
    fn subscribed(&mut self, from: Machine, out: &mut Outbox) {
        let may_graft = self.members.len() < DEGREE_LOW && !self.backs_off(from) && !self.is_member(from);
        let Some(neighbour) = self.neighbour(from) else { return };
        neighbour.subscribed = true;
        if may_graft {
            self.join(from);
            out.push((from, Frame::Graft));
        }
    }

    /// `handle_graft`.
    fn grafted(&mut self, from: Machine, turn: &mut Turn<'_>) {
        let (is_full, is_member) = (self.members.len() >= DEGREE_HIGH, self.is_member(from));
        let refused = self.backoffs.get(&from).is_some_and(|backoff| backoff.until_ms > turn.now_ms);
        let Some(neighbour) = self.neighbour(from) else { return };
        if is_member || !refused && !neighbour.subscribed {
            return;
        }
        if refused || is_full && !neighbour.outbound {
            self.back_off(from, turn.now_ms);
            return turn.out.push((from, Frame::Prune));
        }
        self.join(from);
    }

    fn back_off(&mut self, machine: Machine, now_ms: u64) {
        let backoff = Backoff { until_ms: now_ms + BACKOFF_MS, until_beat: self.beats + BACKOFF_BEATS };
        self.backoffs.insert(machine, backoff);
    }

    /// `is_backoff_with_slack`: entries leave at heartbeats.
    fn backs_off(&self, machine: Machine) -> bool {
        self.backoffs.contains_key(&machine)
    }

    /// `handle_ihave`.
    fn announced(&mut self, from: Machine, ids: &[Message], turn: &mut Turn<'_>) {
        let Some(neighbour) = self.neighbour(from) else { return };
        neighbour.ihaves += 1;
        let room = IDS_MAX.saturating_sub(neighbour.asked);
        if neighbour.ihaves > IHAVES_MAX || room == 0 {
            return;
        }
        let missing = |message: &Message| !self.seen(*message) && !self.promises.contains_key(message);
        let mut missing: Vec<Message> = ids.iter().copied().filter(missing).collect();
        if missing.is_empty() {
            return;
        }
        missing.sort_unstable();
        missing.dedup();
        let asked = sample(turn.random, &missing, room);
        if let Some(neighbour) = self.neighbour(from) {
            neighbour.asked += asked.len();
        }
        self.promises.extend(asked.iter().map(|message| (*message, from)));
        turn.out.push((from, Frame::IWant(Rc::new(asked))));
    }

    /// `handle_iwant`.
    fn wanted(&mut self, from: Machine, ids: &[Message], out: &mut Outbox) {
        let Ok(place) = self.place(from) else { return };
        for message in ids {
            if !self.validated.contains(*message) {
                continue;
            }
            let count = self.asked.entry((*message, from)).or_default();
            *count += 1;
            if *count <= RETRANSMISSIONS && !self.neighbours[place].unwanted.contains_key(message) {
                out.push((from, Frame::Publish(*message)));
            }
        }
    }

    /// The verdict on a message that [`Mesh::receive`] returned. What is accepted is sent to the mesh, except to all
    /// from which it came meanwhile and to those that do not want it. A verdict that comes after the message has left
    /// the history (five heartbeats) has no effect. Without scores, to reject is to ignore.
    pub fn validated(&mut self, message: Message, verdict: Verdict, out: &mut Outbox) {
        let Some(place) = self.unvalidated.iter().position(|(waiting, _)| *waiting == message) else { return };
        let (_, sources) = self.unvalidated.swap_remove(place);
        if verdict != Verdict::Accept {
            return;
        }
        self.validated.insert(message);
        for member in &self.members {
            let unwanted =
                self.place(*member).is_ok_and(|place| self.neighbours[place].unwanted.contains_key(&message));
            if !unwanted && !sources.contains(member) {
                out.push((*member, Frame::Publish(message)));
            }
        }
    }

    /// Whether any neighbour is subscribed (else `NoPeersSubscribedToTopic`).
    pub fn is_heard(&self) -> bool {
        self.neighbours.iter().any(|neighbour| neighbour.subscribed)
    }

    /// An own message goes to the mesh, and to others while the mesh has too few (`filter_publish_candidates`;
    /// `flood_publish` is false). False if nobody hears it; a message that was seen is not sent again.
    pub fn publish(&mut self, message: Message, turn: &mut Turn<'_>) -> bool {
        if self.seen(message) {
            return true;
        }
        if !self.is_heard() {
            return false;
        }
        self.promises.remove(&message);
        self.cache(message, turn.now_ms);
        self.validated.insert(message);
        let others = self.neighbours.iter().filter(|other| other.subscribed && !self.is_member(other.machine));
        let others: Vec<Machine> = others.map(|neighbour| neighbour.machine).collect();
        let extra = sample(turn.random, &others, DEGREE.saturating_sub(self.members.len()));
        turn.out.extend(self.members.iter().chain(&extra).map(|taker| (*taker, Frame::Publish(message))));
        true
    }
}

#[cfg(test)]
mod tests;
